//! What an engine counts.

use crate::draft::DraftSource;

/// Gauges and counters of an engine, for metrics. Counters only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Requests that wait.
    pub n_waiting: usize,
    /// Requests that run.
    pub n_running: usize,
    /// Pages of the key/value cache that hold something, for a running request or a later one.
    pub n_pages_used: u32,
    /// Those of them that running requests hold.
    pub n_pages_running: u32,
    /// Pages of the key/value cache.
    pub n_pages: u32,
    /// Tokens of prompts that were submitted and begun.
    pub n_prompt_tokens: u64,
    /// Those of them that were found in the cache: prefix hits.
    pub n_reused_tokens: u64,
    /// Tokens that steps computed, prompts and answers.
    pub n_computed_tokens: u64,
    /// Tokens that were generated.
    pub n_generated_tokens: u64,
    /// Drafts by prompt lookup.
    pub lookup_drafts: DraftStats,
    /// Drafts by the head of multi-token prediction.
    pub mtp_drafts: DraftStats,
    /// Steps run.
    pub n_steps: u64,
    /// Pages on the device that the cache gave up for others.
    pub n_evicted_pages: u64,
    /// Checkpoints on the device that the cache gave up for others.
    pub n_evicted_checkpoints: u64,
    /// Pages that were brought back from the host's memory.
    pub n_restored_pages: u64,
    /// Bytes of the cache in the host's memory.
    pub n_host_bytes: u64,
    /// Times that a running request had to wait again because the cache had no room for all that
    /// run.
    pub n_preempted: u64,
    /// Requests that ended, failed and cancelled ones included.
    pub n_finished: u64,
}

/// What was drafted and verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DraftStats {
    /// Drafts.
    pub n_drafts: u64,
    /// Their tokens.
    pub n_drafted_tokens: u64,
    /// Those of them that were accepted.
    pub n_accepted_tokens: u64,
}

impl Stats {
    /// What `source` drafted.
    pub fn drafts(&self, source: DraftSource) -> DraftStats {
        match source {
            DraftSource::Lookup => self.lookup_drafts,
            DraftSource::Mtp => self.mtp_drafts,
        }
    }

    pub(crate) fn drafts_by(&mut self, source: DraftSource) -> &mut DraftStats {
        match source {
            DraftSource::Lookup => &mut self.lookup_drafts,
            DraftSource::Mtp => &mut self.mtp_drafts,
        }
    }
}

impl DraftStats {
    /// Counts a draft, if it has tokens.
    pub(crate) fn add(&mut self, n_drafted: usize, n_accepted: usize) {
        self.n_drafts += u64::from(n_drafted > 0);
        self.n_drafted_tokens += n_drafted as u64;
        self.n_accepted_tokens += n_accepted as u64;
    }
}
