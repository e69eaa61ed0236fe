//! One sequence on plans of its own: pages, step inputs, and how much a step may return.

use zinc_backend::{StepInputs, StepOutputs};
use zinc_plan::{Dim, Plan};

use crate::kv::{PagePool, PageTable};
use crate::options::EngineOptions;
use crate::runner::{Block, LoadedModel, Runner, Wanted};
use crate::step::{OutRows, Share, push_share};
use crate::{EngineError, Model};

/// Most bytes of outputs of a step. Outputs lie in the device's memory and in the host's while the
/// step is looked at, and all logits of a long chunk would be larger than many a model. Large
/// enough that matrix products stay long.
const OUTPUT_BYTES_MAX: u64 = 1 << 28;

/// One sequence on the plans of a block of the model.
pub(crate) struct Lane {
    runner: Runner,
    limits: StepLimits,
    n_ctx: u32,
    pool: PagePool,
    table: PageTable,
    inputs: StepInputs,
}

/// How much a step may compute and return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StepLimits {
    n_tokens: u32,
    n_out_rows: u32,
}

/// The tokens of a step.
pub(crate) struct LaneStep<'a> {
    /// Token ids.
    pub tokens: &'a [u32],
    /// Hidden states of the tokens before them, for plans that read them; else empty.
    pub hidden: &'a [f32],
    /// Position of the first token.
    pub position: usize,
    /// Row of the rope table.
    pub rope_variant: i32,
    /// Rows that give logits.
    pub out_rows: OutRows,
}

impl Lane {
    /// Compiles the plans that return `taps` after the logits; of those, of every row if
    /// `all_logits`, otherwise of one row of a step.
    pub fn new(
        loaded: &LoadedModel,
        options: &EngineOptions,
        block: Block,
        all_logits: bool,
        taps: Vec<String>,
    ) -> Result<Lane, EngineError> {
        let options = EngineOptions { max_seqs: 1, ..*options };
        let shape = options.cache_shape(loaded.model())?;
        let chunk = options.step_tokens(&shape);
        let limits = StepLimits::new(loaded.model(), block, chunk, all_logits, &taps)?;
        let wanted = Wanted { block, out_rows: Some(limits.n_out_rows), taps };
        Ok(Lane {
            runner: Runner::new(loaded, shape, limits.n_tokens, &wanted)?,
            limits,
            n_ctx: shape.n_ctx,
            pool: PagePool::new(shape.n_pages()),
            table: PageTable::with_capacity(shape.pages_per_seq()),
            inputs: StepInputs::default(),
        })
    }

    /// Longest sequence in tokens.
    pub fn n_ctx(&self) -> u32 {
        self.n_ctx
    }

    /// The plan of the longest steps.
    pub fn plan(&self) -> &Plan {
        self.runner.largest_plan()
    }

    /// Whether the plans carry recurrent states, which cannot be taken back.
    pub fn has_states(&self) -> bool {
        self.plan().find("state_slots").is_some()
    }

    /// Makes room for the first `n_tokens` tokens.
    pub fn grow(&mut self, n_tokens: usize) -> Result<(), EngineError> {
        Ok(self.table.grow(&mut self.pool, n_tokens as u32)?)
    }

    /// Gives back the room behind the first `n_tokens` tokens.
    pub fn truncate(&mut self, n_tokens: usize) {
        // Pages are not shared here, so as many are kept as are asked for.
        self.table.truncate(&mut self.pool, n_tokens as u32);
    }

    /// End of the longest step that begins at `begin`, ends by `end` and gives logits of the tokens
    /// from `logits_from` on.
    pub fn step_end(&self, begin: usize, end: usize, logits_from: usize) -> usize {
        let by_tokens = begin + self.limits.n_tokens as usize;
        let by_rows = logits_from.max(begin).saturating_add(self.limits.n_out_rows as usize);
        end.min(by_tokens).min(by_rows)
    }

    /// Computes a step for which there is room.
    pub fn step(&mut self, step: &LaneStep<'_>) -> Result<&StepOutputs, EngineError> {
        self.inputs.clear();
        let share = Share {
            tokens: step.tokens,
            position: step.position as u32,
            table: &self.table,
            rope_variant: step.rope_variant,
            state_slot: 0,
            out_rows: step.out_rows,
            hidden: step.hidden,
        };
        let pages_per_seq = self.runner.largest_plan().limits.pages_per_seq;
        push_share(&mut self.inputs, &share, pages_per_seq);
        self.runner.run(&self.inputs)
    }
}

impl StepLimits {
    /// The largest steps of at most `chunk` tokens whose outputs stay below [`OUTPUT_BYTES_MAX`].
    fn new(
        model: &Model,
        block: Block,
        chunk: u32,
        all_logits: bool,
        taps: &[String],
    ) -> Result<StepLimits, EngineError> {
        let mut plan = block.smallest_plan(model)?;
        plan.add_outputs(taps)?;
        let row_bytes = |is_out_row: bool| -> u64 {
            let tensors = plan.outputs.iter().map(|id| plan.tensor(*id));
            let wanted = tensors.filter(|tensor| (tensor.shape.rows == Dim::OutRows) == is_out_row);
            wanted.map(|tensor| tensor.row_bytes() as u64).sum()
        };
        let rows = |row_bytes: u64| {
            let n_rows = OUTPUT_BYTES_MAX / row_bytes.max(1);
            u32::try_from(n_rows).unwrap_or(u32::MAX).clamp(1, chunk)
        };
        let n_tokens = rows(row_bytes(false));
        let n_out_rows = if all_logits { rows(row_bytes(true)).min(n_tokens) } else { 1 };
        Ok(StepLimits { n_tokens, n_out_rows })
    }
}
