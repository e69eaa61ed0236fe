//! Sizes and types of a model's caches.

use zinc_models::PlanOptions;
use zinc_plan::Limits;
use zinc_quant::GgmlType;

use crate::Model;
use crate::cache_slot::{CacheSlot, Pools, StateSlots};
use crate::kv::{PAGE_SIZE, PagePool, WindowTable, n_pages_for};
use crate::options::EngineOptions;

/// Size and type of the caches, the same for all plans that share them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheShape {
    /// Longest sequence in tokens.
    pub n_ctx: u32,
    /// Sequences with a cache of that length.
    pub max_seqs: u32,
    /// Most tokens of one step: the chunk, but at least a token for every decoding sequence, and no
    /// more than the sequences can have.
    pub max_tokens: u32,
    /// Element type.
    pub kv_type: GgmlType,
    /// Rows of logits that a step gives by default.
    pub n_out_rows: u32,
    /// There is a plan for hidden states.
    pub embeddings: bool,
    /// Longest window of the layers that have one.
    window: Option<u32>,
    /// There are recurrent layers.
    has_states: bool,
    /// Checkpoints of each sequence, where going back needs any.
    n_checkpoints: u32,
}

impl CacheShape {
    /// What `options`, which have been checked, ask for.
    pub fn new(model: &Model, options: &EngineOptions, n_ctx: u32) -> CacheShape {
        let config = model.config();
        let max_seqs = options.max_seqs;
        let mut shape = CacheShape {
            n_ctx,
            max_seqs,
            max_tokens: options.chunk.clamp(max_seqs, n_ctx.saturating_mul(max_seqs)),
            kv_type: options.kv_type,
            n_out_rows: max_seqs.saturating_add(options.extra_rows),
            embeddings: options.embeddings,
            window: config.longest_window(),
            has_states: config.layers.iter().any(|layer| layer.recurrent),
            n_checkpoints: 0,
        };
        let slides = shape.ring_pages() > 0 && shape.ring_pages() < shape.pages_per_seq();
        if slides || shape.has_states {
            shape.n_checkpoints = options.checkpoints;
        }
        shape
    }

    /// The caches of a block whose layers all keep everything, whatever the others of the model do.
    pub fn without_windows_and_states(self) -> CacheShape {
        CacheShape { window: None, has_states: false, n_checkpoints: 0, ..self }
    }

    /// Pages of one sequence.
    pub fn pages_per_seq(&self) -> u32 {
        n_pages_for(self.n_ctx)
    }

    fn n_pages(&self) -> u32 {
        self.pages_per_seq() * self.max_seqs
    }

    /// Entries of a sequence's ring in the window group; a ring as long as the sequence never comes
    /// round.
    fn ring_pages(&self) -> u32 {
        let pages = |window| Limits::ring_pages(PAGE_SIZE, window, self.max_tokens);
        self.window.map_or(0, pages).min(self.pages_per_seq())
    }

    /// Pages of the window group: the rings, and what checkpoints hold on to. A sequence never has
    /// two pages for one stretch of positions, so no more than all of them.
    fn n_window_pages(&self) -> u32 {
        let pinned = self.window.map_or(0, |window| Limits::ring_pages(PAGE_SIZE, window, 1));
        let per_seq = self.ring_pages().saturating_add(self.n_checkpoints.saturating_mul(pinned));
        per_seq.min(self.pages_per_seq()) * self.max_seqs
    }

    /// Recurrent states of one sequence: its own, and one of each checkpoint.
    fn states_per_seq(&self) -> u32 {
        if self.has_states { 1 + self.n_checkpoints } else { 0 }
    }

    /// Limits and types of a plan for steps of `max_tokens`.
    pub fn plan_options(&self, max_tokens: u32, max_out_rows: u32) -> PlanOptions {
        let limits = Limits {
            max_tokens,
            max_seqs: self.max_seqs,
            max_out_rows,
            page_size: PAGE_SIZE,
            pages_per_seq: self.pages_per_seq(),
            n_pages: self.n_pages(),
            window_pages_per_seq: self.ring_pages(),
            n_window_pages: self.n_window_pages(),
            n_state_slots: self.states_per_seq() * self.max_seqs,
        };
        PlanOptions { limits, kv_type: self.kv_type }
    }

    /// All pages, free.
    pub fn pools(&self) -> Pools {
        Pools { full: PagePool::new(self.n_pages()), window: PagePool::new(self.n_window_pages()) }
    }

    /// The slot `idx` of up to [`CacheShape::max_seqs`], empty.
    pub fn slot(&self, idx: u32) -> CacheSlot {
        let window = self.window.map(|window| WindowTable::new(self.ring_pages(), window));
        let own = (idx * self.states_per_seq()) as i32;
        let states = self.has_states.then(|| StateSlots::new(own, self.n_checkpoints as i32));
        CacheSlot::new(self.n_ctx, self.pages_per_seq(), window, states, self.n_checkpoints)
    }
}
