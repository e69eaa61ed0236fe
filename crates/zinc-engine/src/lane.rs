//! One sequence on plans of its own: its caches, step inputs, and how much a step may return.

use zinc_backend::{StepInputs, StepOutputs};
use zinc_plan::{Dim, Plan};

use crate::cache::{Cache, SeqCache};
use crate::draft::Speculation;
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
    cache: Cache,
    /// What the sequence holds of the cache, between two calls of [`Lane::keep`] always something.
    seq: Option<SeqCache>,
    /// What is computed.
    tokens: Vec<u32>,
    inputs: StepInputs,
}

/// How much a step may compute and return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StepLimits {
    n_tokens: u32,
    n_out_rows: u32,
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
        let model = loaded.model();
        let options = EngineOptions {
            max_seqs: 1,
            embeddings: false,
            cache_bytes: None,
            speculation: Speculation::Off,
            ..*options
        };
        let chunk = options.cache_shape(model)?.max_tokens;
        let limits = StepLimits::new(model, block, chunk, all_logits, &taps)?;
        let shape = EngineOptions { chunk: limits.n_tokens, ..options }.cache_shape(model)?;
        let shape = block.shape(shape);
        let out_rows = Some(limits.n_out_rows);
        let wanted = Wanted { block, out_rows, taps, ..Wanted::default() };
        Ok(Lane {
            runner: Runner::new(loaded, shape, &wanted)?,
            limits,
            n_ctx: shape.n_ctx,
            // Going back to any length needs pages that nobody else has; where it needs checkpoints,
            // they are in the tree.
            cache: match shape.needs_checkpoints() {
                true => Cache::new(shape, None),
                false => Cache::forgetful(shape),
            },
            seq: None,
            tokens: Vec::new(),
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

    /// The plans and what runs them.
    pub fn runner(&mut self) -> &mut Runner {
        &mut self.runner
    }

    /// Keeps the first `n` tokens, or fewer if they cannot be gone back to with this row of the rope
    /// table, and returns how many.
    ///
    /// # Errors
    /// The device failed.
    pub fn keep(&mut self, n: usize, rope_variant: i32) -> Result<usize, EngineError> {
        let n = n.min(self.tokens.len());
        let same = |seq: &SeqCache| seq.rope_variant == rope_variant && seq.can_go_back(n);
        if let Some(seq) = self.seq.as_mut().filter(|seq| same(seq)) {
            let n_kept = self.cache.go_back(seq, n);
            if seq.can_go_back(n_kept) {
                self.tokens.truncate(n_kept);
                return Ok(n_kept);
            }
        }
        self.seq.take().into_iter().for_each(|seq| self.cache.close(seq));
        let seq = self.cache.open(&self.tokens, n, rope_variant)?;
        let n_kept = seq.n_tokens();
        self.seq = Some(seq);
        self.tokens.truncate(n_kept);
        Ok(n_kept)
    }

    /// Makes a checkpoint at the last whole block of this length, when it is computed.
    pub fn want(&mut self, n: usize) {
        if let Some(seq) = &mut self.seq {
            self.cache.want(seq, &[n]);
        }
    }

    /// End of the longest step that begins at `begin`, ends by `end` and gives logits of the tokens
    /// from `logits_from` on.
    pub fn step_end(&self, begin: usize, end: usize, logits_from: usize) -> usize {
        let by_tokens = begin + self.limits.n_tokens as usize;
        let by_rows = logits_from.max(begin).saturating_add(self.limits.n_out_rows as usize);
        end.min(by_tokens).min(by_rows)
    }

    /// Computes the next tokens; `hidden` are the hidden states of the tokens before them, for plans
    /// that read them.
    pub fn step(
        &mut self,
        tokens: &[u32],
        hidden: &[f32],
        out_rows: OutRows,
    ) -> Result<&StepOutputs, EngineError> {
        if let Some(profiler) = self.runner.profiler() {
            profiler.begin();
        }
        self.inputs.clear();
        let seq = match &mut self.seq {
            Some(seq) => seq,
            None => self.seq.insert(self.cache.open(&[], 0, 0)?),
        };
        self.cache.begin_step(seq, tokens.len() as u32, 0)?;
        let share = Share { tokens, cache: seq, out_rows, hidden };
        let pages_per_seq = self.runner.largest_plan().limits.pages_per_seq;
        push_share(&mut self.inputs, &share, pages_per_seq);
        let (outputs, profiler) = self.runner.run(&self.inputs)?;
        if let Some(profiler) = profiler {
            profiler.end();
        }
        self.tokens.extend_from_slice(tokens);
        self.cache.end_step(seq, &self.tokens, tokens.len() as u32);
        Ok(outputs)
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
