//! Who runs, and which tokens of which sequences the next step computes.
//!
//! Pure functions of what they are told: the same sequences give the same batch, so a run can be
//! simulated and repeated.
//!
//! **Admission.** Waiting requests begin in order of arrival, but no client takes more than its share
//! of the places while another waits with less: the places divided by the clients there are. A
//! request is passed over only for clients that have less than their share, and each of them comes to
//! it sooner or later, so nobody waits for ever.
//!
//! **A step.** Sequences that decode take one token each, so that a long prompt of one never stalls
//! the answer of another; and while any does, prompts take no more than [`Limits::busy_prompt`]
//! tokens in all, so that a step stays short. Of what prompts may take, the oldest takes half at
//! least; the rest goes to the one with the fewest tokens left, so that a short question need not
//! wait for a long document; what is left then goes by arrival.
//!
//! **Pages.** When pages run out, prompts wait with what they have; where a sequence that decodes
//! finds none, or nothing can go on, the youngest sequence gives its place up and waits again. Its
//! tokens stay, and so do its pages until others need them.

use crate::kv::n_pages_for;

/// What the scheduler looks at of a running sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Whether the only token to compute is the newest one.
    pub is_decoding: bool,
    /// Whether it waits for another sequence to compute what both begin with.
    pub is_held: bool,
    /// Tokens that are computed.
    pub n_computed: u32,
    /// Tokens to compute before another can be chosen.
    pub n_pending: u32,
    /// How many of them, from the first on, need no logits.
    pub n_silent: u32,
}

/// One sequence's share of a step: its next `n_tokens` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchEntry {
    /// Whose tokens: index among the running sequences.
    pub idx: usize,
    /// How many of its pending tokens.
    pub n_tokens: u32,
    /// Rows of logits that are wanted: those of the last tokens.
    pub n_rows: u32,
}

/// Bounds of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens.
    pub max_tokens: u32,
    /// Most tokens of prompts while a sequence decodes.
    pub busy_prompt: u32,
    /// Most rows of logits.
    pub max_rows: u32,
}

/// What is left of a step's bounds.
struct Left {
    tokens: u32,
    rows: u32,
    pages: u32,
}

impl Left {
    /// Gives a sequence up to `n_max` tokens more in this step.
    fn grant(&mut self, pending: &Pending, entry: &mut BatchEntry, n_max: u32) {
        let n_before = entry.n_tokens;
        let n_silent_left = pending.n_silent.saturating_sub(n_before);
        let end = pending.n_computed + n_before;
        let room = n_pages_for(end) * crate::kv::PAGE_SIZE - end;
        let by_pages = self.pages.saturating_mul(crate::kv::PAGE_SIZE).saturating_add(room);
        let by_rows = n_silent_left.saturating_add(self.rows);
        let n =
            (pending.n_pending - n_before).min(n_max).min(self.tokens).min(by_pages).min(by_rows);
        let n_rows = n.saturating_sub(n_silent_left);
        self.tokens -= n;
        self.rows -= n_rows;
        self.pages -= n_pages_for(end + n) - n_pages_for(end);
        entry.n_tokens += n;
        entry.n_rows += n_rows;
    }
}

/// Fills `batch` with the next step's shares, in the order of `running`, which is that of arrival,
/// with `n_pages` pages to take. False if a running sequence has to give its place up first: see
/// [`schedule`'s module](self). With `max_tokens` and `max_rows` at least the number of sequences,
/// every decoding sequence has its share.
pub fn schedule(
    running: &[Pending],
    limits: &Limits,
    n_pages: u32,
    batch: &mut Vec<BatchEntry>,
) -> bool {
    batch.clear();
    batch.extend((0..running.len()).map(|idx| BatchEntry { idx, n_tokens: 0, n_rows: 0 }));
    let mut left = Left { tokens: limits.max_tokens, rows: limits.max_rows, pages: n_pages };
    let mut is_busy = false;
    for (pending, entry) in running.iter().zip(batch.iter_mut()) {
        if pending.is_decoding {
            is_busy = true;
            left.grant(pending, entry, 1);
            if entry.n_tokens == 0 && left.pages == 0 {
                return false;
            }
        }
    }
    if is_busy {
        left.tokens = left.tokens.min(limits.busy_prompt);
    }
    let prompts = |pending: &&Pending| !pending.is_decoding && !pending.is_held;
    let oldest = running.iter().position(|pending| prompts(&pending));
    let shortest = (running.iter().enumerate())
        .filter(|(_, pending)| prompts(pending))
        .min_by_key(|(_, pending)| pending.n_pending)
        .map(|(idx, _)| idx);
    if let (Some(oldest), Some(shortest)) = (oldest, shortest) {
        let half = left.tokens.div_ceil(2);
        left.grant(&running[oldest], &mut batch[oldest], half);
        left.grant(&running[shortest], &mut batch[shortest], u32::MAX);
    }
    for (pending, entry) in running.iter().zip(batch.iter_mut()) {
        if prompts(&pending) {
            left.grant(pending, entry, u32::MAX);
        }
    }
    batch.retain(|entry| entry.n_tokens > 0);
    !batch.is_empty() || running.is_empty()
}

/// Which of the waiting requests begins next, by the clients that wait, in order of arrival, and
/// those that run, on `n_places` places.
pub fn next_waiting(
    waiting: impl Iterator<Item = u64> + Clone,
    running: impl Iterator<Item = u64> + Clone,
    n_places: usize,
) -> Option<usize> {
    if running.clone().count() >= n_places {
        return None;
    }
    let mut clients: Vec<u64> = waiting.clone().chain(running.clone()).collect();
    clients.sort_unstable();
    clients.dedup();
    let share = n_places.div_ceil(clients.len().max(1));
    let has_less = |client: u64| running.clone().filter(|other| *other == client).count() < share;
    let first = waiting.clone().next().map(|_| 0);
    waiting.clone().position(has_less).or(first)
}

#[cfg(test)]
mod tests;
