//! Sizes and types of a model's caches.

use zinc_models::PlanOptions;
use zinc_plan::{Dim, Limits};
use zinc_quant::GgmlType;

use crate::draft::N_SEQS_MAX;
use crate::kv::{PAGE_SIZE, WindowTable, n_pages_for};
use crate::options::EngineOptions;
use crate::runner::Block;
use crate::{EngineError, Model};

/// Size and type of the caches, the same for all plans that share them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheShape {
    /// Longest sequence in tokens.
    pub n_ctx: u32,
    /// Sequences that run at the same time.
    pub max_seqs: u32,
    /// Most tokens of one step: the chunk, but at least a token for every decoding sequence, and no
    /// more than the sequences can have.
    pub max_tokens: u32,
    /// Element type.
    pub kv_type: GgmlType,
    /// Rows of logits that a step gives by default.
    pub n_out_rows: u32,
    /// Most tokens that are drafted ahead of a sequence.
    pub n_draft: u32,
    /// The head of multi-token prediction drafts them, with a cache in the same pages.
    pub has_head: bool,
    /// There is a plan for hidden states.
    pub embeddings: bool,
    /// Longest window of the layers that have one.
    window: Option<u32>,
    /// There are recurrent layers.
    has_states: bool,
    /// Checkpoints that there is room for in all, where going back needs any.
    n_checkpoints: u32,
    /// Pages of the caches that keep everything.
    n_pages: u32,
}

/// Rows of the caches of a model's layers, by what the layers keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheRows {
    /// Of a layer that keeps all positions.
    pub full: u64,
    /// Of a layer with a window.
    pub window: u64,
    /// Copies of the states of recurrent layers.
    pub states: u64,
}

impl CacheRows {
    /// With these options and a context of `n_ctx` tokens, for a model of which nothing is known but
    /// the longest window of its layers and whether it has recurrent ones. Nothing is drafted.
    pub fn of(
        options: &EngineOptions,
        n_ctx: u32,
        window: Option<u32>,
        has_states: bool,
    ) -> CacheRows {
        let shape = CacheShape::of(options, n_ctx, window, has_states);
        let rows = |n_pages: u32| u64::from(n_pages) * u64::from(PAGE_SIZE);
        CacheRows {
            full: rows(shape.n_pages()),
            window: rows(shape.n_window_pages()),
            states: shape.n_state_rows().into(),
        }
    }
}

/// Tokens that a checkpoint is expected for, where a budget of bytes is divided among pages and
/// checkpoints: a turn of a conversation leaves two or three.
const TOKENS_PER_CHECKPOINT: u32 = 512;

impl CacheShape {
    /// What `options`, which have been checked, ask for.
    ///
    /// # Errors
    /// A budget that is too small for one sequence, or larger than rows can be numbered.
    pub fn new(
        model: &Model,
        options: &EngineOptions,
        n_ctx: u32,
    ) -> Result<CacheShape, EngineError> {
        let config = model.config();
        let has_states = config.layers.iter().any(|layer| layer.recurrent);
        let shape = CacheShape {
            has_head: options.blocks(model).contains(&Block::Mtp),
            embeddings: options.embeddings,
            ..CacheShape::of(options, n_ctx, config.longest_window(), has_states)
        };
        let shape = shape.with_drafts(options.n_draft(model));
        match options.cache_bytes {
            Some(budget) => shape.within(budget, &RowBytes::of(model, options)?),
            None => Ok(shape),
        }
    }

    /// For a model of which nothing is known but the longest window of its layers and whether it has
    /// recurrent ones; without drafts, embeddings and a budget.
    fn of(
        options: &EngineOptions,
        n_ctx: u32,
        window: Option<u32>,
        has_states: bool,
    ) -> CacheShape {
        let max_seqs = options.max_seqs;
        let mut shape = CacheShape {
            n_ctx,
            max_seqs,
            max_tokens: options.chunk.clamp(max_seqs, n_ctx.saturating_mul(max_seqs)),
            kv_type: options.kv_type,
            n_out_rows: max_seqs.saturating_add(options.extra_rows),
            n_draft: 0,
            has_head: false,
            embeddings: false,
            window,
            has_states,
            n_checkpoints: 0,
            n_pages: n_pages_for(n_ctx).saturating_mul(max_seqs),
        };
        if shape.needs_checkpoints() {
            shape.n_checkpoints = options.checkpoints.saturating_mul(max_seqs);
        }
        shape
    }

    /// The same with so many tokens drafted ahead of a sequence.
    fn with_drafts(self, n_draft: u32) -> CacheShape {
        let n_rows = self.max_seqs.min(N_SEQS_MAX as u32) * n_draft;
        CacheShape { n_draft, n_out_rows: self.n_out_rows.saturating_add(n_rows), ..self }
    }

    /// The shape that takes no more than `budget` bytes: room for one sequence of full length and
    /// the windows and states of all, and what is left in pages and checkpoints.
    fn within(self, budget: u64, rows: &RowBytes) -> Result<CacheShape, EngineError> {
        let page = rows.full * u64::from(PAGE_SIZE);
        let window_page = rows.window * u64::from(PAGE_SIZE);
        let per_seq = u64::from(self.ring_pages()) * window_page + rows.state;
        let drafts = u64::from(self.n_draft_states()) * rows.state;
        let least =
            u64::from(self.pages_per_seq()) * page + u64::from(self.max_seqs) * per_seq + drafts;
        let Some(rest) = budget.checked_sub(least) else {
            return Err(EngineError::CacheBudget { budget, least });
        };
        let checkpoint = match self.n_checkpoints {
            0 => 0,
            _ => u64::from(self.pinned_pages()) * window_page + rows.state,
        };
        let unit = (u64::from(TOKENS_PER_CHECKPOINT / PAGE_SIZE) * page + checkpoint).max(1);
        let as_u32 = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let n_checkpoints = if self.n_checkpoints == 0 { 0 } else { as_u32(rest / unit) };
        let for_pages = rest - u64::from(n_checkpoints) * checkpoint;
        // Rows are numbered by i32.
        let most = i32::MAX as u32 / PAGE_SIZE - self.pages_per_seq();
        let n_more = as_u32(for_pages / page.max(1)).min(most);
        Ok(CacheShape { n_pages: self.pages_per_seq() + n_more, n_checkpoints, ..self })
    }

    /// The caches of the head of multi-token prediction beside a trunk with these: it keeps everything,
    /// whatever the layers of the trunk do, and embeds nothing.
    pub fn of_head(self) -> CacheShape {
        let embeddings = false;
        CacheShape { window: None, has_states: false, n_checkpoints: 0, embeddings, ..self }
    }

    /// Whether going back to a prefix needs a checkpoint.
    pub fn needs_checkpoints(&self) -> bool {
        self.window.is_some() || self.has_states
    }

    /// Whether there is room for any.
    pub fn has_checkpoints(&self) -> bool {
        self.n_checkpoints > 0
    }

    /// Whether there are recurrent layers.
    pub fn has_states(&self) -> bool {
        self.has_states
    }

    /// Pages of one sequence.
    pub fn pages_per_seq(&self) -> u32 {
        n_pages_for(self.n_ctx)
    }

    /// Pages of the caches that keep everything.
    pub fn n_pages(&self) -> u32 {
        self.n_pages
    }

    /// Entries of a sequence's ring in the window group; a ring as long as the sequence never comes
    /// round.
    fn ring_pages(&self) -> u32 {
        let pages = |window| Limits::ring_pages(PAGE_SIZE, window, self.max_tokens);
        self.window.map_or(0, pages).min(self.pages_per_seq())
    }

    /// Pages of the window that a checkpoint holds on to.
    fn pinned_pages(&self) -> u32 {
        let pages = |window| Limits::ring_pages(PAGE_SIZE, window, 1);
        self.window.map_or(0, pages).min(self.pages_per_seq())
    }

    /// Pages of the window group: the rings, and what checkpoints hold on to.
    pub fn n_window_pages(&self) -> u32 {
        let rings = self.ring_pages().saturating_mul(self.max_seqs);
        rings.saturating_add(self.n_checkpoints.saturating_mul(self.pinned_pages()))
    }

    /// Recurrent states: one of each sequence, one of each checkpoint, and those to go back to from
    /// drafts.
    pub fn n_state_rows(&self) -> u32 {
        let n_rows = self.max_seqs.saturating_add(self.n_checkpoints);
        if self.has_states { n_rows.saturating_add(self.n_draft_states()) } else { 0 }
    }

    /// States after the tokens of a step that may be refused, and of the last step the one that a
    /// sequence goes on from.
    fn n_draft_states(&self) -> u32 {
        let n_seqs = self.max_seqs.min(N_SEQS_MAX as u32);
        if self.n_draft > 0 { n_seqs * self.n_draft + self.max_seqs } else { 0 }
    }

    /// Limits and types of a plan for steps of `max_tokens`.
    pub fn plan_options(&self, max_tokens: u32, max_out_rows: u32) -> PlanOptions {
        let limits = Limits {
            max_tokens,
            max_seqs: self.max_seqs,
            max_out_rows,
            page_size: PAGE_SIZE,
            pages_per_seq: self.pages_per_seq(),
            n_pages: self.n_pages,
            window_pages_per_seq: self.ring_pages(),
            n_window_pages: self.n_window_pages(),
            n_state_slots: self.n_state_rows(),
        };
        PlanOptions { limits, kv_type: self.kv_type }
    }

    /// An empty window of a sequence.
    pub fn window_table(&self) -> Option<WindowTable> {
        self.window.map(|window| WindowTable::new(self.ring_pages(), window))
    }
}

#[cfg(test)]
impl CacheShape {
    /// Of a model with these caches, for tests.
    pub fn for_tests(n_ctx: u32, max_seqs: u32, n_pages: u32) -> CacheShape {
        CacheShape {
            n_ctx,
            max_seqs,
            max_tokens: PAGE_SIZE,
            kv_type: GgmlType::F16,
            n_out_rows: max_seqs,
            n_draft: 0,
            has_head: false,
            embeddings: false,
            window: None,
            has_states: false,
            n_checkpoints: 0,
            n_pages,
        }
    }

    /// With windows, states and room for checkpoints.
    pub fn with(self, window: Option<u32>, has_states: bool, n_checkpoints: u32) -> CacheShape {
        CacheShape { window, has_states, n_checkpoints, ..self }
    }
}

/// Bytes of one row of all caches of each kind.
struct RowBytes {
    full: u64,
    window: u64,
    state: u64,
}

impl RowBytes {
    fn of(model: &Model, options: &EngineOptions) -> Result<RowBytes, EngineError> {
        let one_token = PlanOptions { kv_type: options.kv_type, ..PlanOptions::ONE_TOKEN };
        let blocks = options.blocks(model).iter();
        let plans =
            blocks.map(|block| block.plan(model, &one_token)).collect::<Result<Vec<_>, _>>()?;
        let bytes = |dim| plans.iter().map(|plan| plan.state_row_bytes(dim)).sum();
        Ok(RowBytes {
            full: bytes(Dim::CacheRows),
            window: bytes(Dim::WindowRows),
            state: bytes(Dim::StateSlots),
        })
    }
}
