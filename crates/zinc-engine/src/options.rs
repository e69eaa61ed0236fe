//! What an engine is built for.

use zinc_backend::Device;
use zinc_quant::GgmlType;

use crate::cache_shape::CacheShape;
use crate::draft::{DraftSource, N_DRAFT_MAX, Speculation};
use crate::kv::PAGE_SIZE;
use crate::memory::{Estimate, MemoryNeed};
use crate::runner::Block;
use crate::{EngineError, Model};

/// Context length when none is asked for, unless the model was trained for less. Long enough for a
/// conversation, short enough that its cache fits beside the weights of any model that fits at all.
pub const DEFAULT_N_CTX: u32 = 8192;

/// Element types of a key/value cache. A device may have fewer; its caps say which.
pub const KV_TYPES: [GgmlType; 6] = {
    use GgmlType::{BF16, F8_E4M3, F16, F32, Q4_0, Q8_0};
    [F32, F16, BF16, F8_E4M3, Q8_0, Q4_0]
};

/// Sizes of an engine; none of them changes results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Longest sequence in tokens, prompt and answer; `None` is [`DEFAULT_N_CTX`] or what the model
    /// was trained for, whichever is less.
    pub n_ctx: Option<u32>,
    /// Most tokens of one step: the chunk size of prefill.
    pub chunk: u32,
    /// Element type of the key/value cache, one of [`KV_TYPES`] that the device has. The one size
    /// that does change results.
    pub kv_type: GgmlType,
    /// Most tokens of prompts in a step in which others decode, so that their answers do not stall
    /// while a long prompt is read. At least 1.
    pub busy_chunk: u32,
    /// Sequences computed at the same time.
    pub max_seqs: u32,
    /// Room for checkpoints for each of them, in models with recurrent layers (each takes a copy of
    /// their states) or sliding windows: lengths at which a prompt can go on after an earlier text.
    /// With 0 such models reuse nothing.
    pub checkpoints: u32,
    /// Most bytes of the caches on the device. `None` is what `max_seqs` sequences of `n_ctx` tokens
    /// take, with their checkpoints. With less, sequences that have no room wait for others; with
    /// more, more of earlier texts is kept. At least one sequence of `n_ctx` tokens.
    pub cache_bytes: Option<u64>,
    /// Most bytes of the host's memory for what the caches on the device have no room for; 0 is
    /// none. Only for devices whose caches can be copied.
    pub host_cache_bytes: u64,
    /// Rows of logits that a step may give beyond one for every sequence. Prompts whose tokens are
    /// all scored ([`Request::prompt_logprobs`](crate::Request::prompt_logprobs)) go on by at most
    /// that many tokens in a step, and one.
    pub extra_rows: u32,
    /// Whether prompts can be embedded: [`Request::pooling`](crate::Request::pooling). Takes a plan
    /// of its own.
    pub embeddings: bool,
    /// Most requests that wait; others are refused.
    pub max_waiting: u32,
    /// Whether tokens are drafted ahead and verified together. Takes rows of logits, for recurrent
    /// layers states, and for the head of multi-token prediction its weights and caches, which the
    /// memory need counts.
    pub speculation: Speculation,
}

impl Default for EngineOptions {
    /// One sequence with three checkpoints, chunks of 512 tokens, cache in f16, no embeddings.
    fn default() -> Self {
        EngineOptions {
            n_ctx: None,
            chunk: 512,
            kv_type: GgmlType::F16,
            busy_chunk: 128,
            max_seqs: 1,
            checkpoints: 3,
            cache_bytes: None,
            host_cache_bytes: 0,
            extra_rows: 0,
            embeddings: false,
            max_waiting: 1024,
            speculation: Speculation::Off,
        }
    }
}

/// Largest [`EngineOptions::chunk`].
const CHUNK_MAX: u32 = 1 << 16;
/// Largest [`EngineOptions::max_seqs`].
const MAX_SEQS_MAX: u32 = 1024;
/// Largest [`EngineOptions::checkpoints`].
const CHECKPOINTS_MAX: u32 = 64;
/// Largest [`EngineOptions::extra_rows`].
const EXTRA_ROWS_MAX: u32 = 4096;
/// Largest [`EngineOptions::max_waiting`].
const MAX_WAITING_MAX: u32 = 1 << 16;
/// Rows of a cache are numbered by the plan's `i32` inputs.
const CACHE_ROWS_MAX: u64 = i32::MAX as u64;

impl EngineOptions {
    /// Context length for `model`.
    ///
    /// # Errors
    /// One that is 0 or longer than the model was trained for.
    pub fn n_ctx(&self, model: &Model) -> Result<u32, EngineError> {
        let n_ctx_train = model.config().n_ctx_train;
        let n_ctx = self.n_ctx.unwrap_or(DEFAULT_N_CTX.min(n_ctx_train));
        check("context length", n_ctx, n_ctx_train)?;
        Ok(n_ctx)
    }

    /// Most tokens that are drafted ahead of a sequence of `model`; 0 is none.
    pub(crate) fn n_draft(&self, model: &Model) -> u32 {
        if self.speculation.source(model).is_some() { N_DRAFT_MAX } else { 0 }
    }

    /// The parts of `model` that an engine needs.
    pub(crate) fn blocks(&self, model: &Model) -> &'static [Block] {
        match self.speculation.source(model) {
            Some(DraftSource::Mtp) => &[Block::Trunk, Block::Mtp],
            Some(DraftSource::Lookup) | None => &[Block::Trunk],
        }
    }

    /// What `model` would take on `device`, without loading it.
    ///
    /// # Errors
    /// An option outside its range, or an operation the device lacks.
    pub fn memory_need(
        &self,
        model: &Model,
        device: &dyn Device,
    ) -> Result<MemoryNeed, EngineError> {
        let need = Estimate::new(model, device, self)?.need(self.cache_shape(model)?)?;
        Ok(MemoryNeed { host_cache: self.host_cache_bytes, ..need })
    }

    /// The longest context, up to the one asked for, with which what `model` takes on `device` is
    /// `accepted`; `None` if that is not even so for one token.
    ///
    /// # Errors
    /// As [`EngineOptions::memory_need`].
    pub fn longest_context(
        &self,
        model: &Model,
        device: &dyn Device,
        accepted: impl Fn(&MemoryNeed) -> bool,
    ) -> Result<Option<u32>, EngineError> {
        let mut estimate = Estimate::new(model, device, self)?;
        let mut fits = |n_ctx: u32| -> Result<bool, EngineError> {
            let options = EngineOptions { n_ctx: Some(n_ctx), ..*self };
            match options.cache_shape(model) {
                Ok(shape) => Ok(accepted(&estimate.need(shape)?)),
                Err(EngineError::CacheBudget { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        };
        let n_ctx = self.n_ctx(model)?;
        // Memory grows with the context, in whole pages.
        let (mut fitting, mut too_long) = (0, n_ctx.div_ceil(PAGE_SIZE) + 1);
        while fitting + 1 < too_long {
            let middle = fitting + (too_long - fitting) / 2;
            match fits((middle * PAGE_SIZE).min(n_ctx))? {
                true => fitting = middle,
                false => too_long = middle,
            }
        }
        match fitting {
            // Less than a page takes less for a step.
            0 => Ok(fits(1)?.then_some(1)),
            n_pages => Ok(Some((n_pages * PAGE_SIZE).min(n_ctx))),
        }
    }

    /// Checks the options and gives the cache they ask for.
    pub(crate) fn cache_shape(&self, model: &Model) -> Result<CacheShape, EngineError> {
        check("chunk", self.chunk, CHUNK_MAX)?;
        check("chunk beside answers", self.busy_chunk, CHUNK_MAX)?;
        check("number of sequences", self.max_seqs, MAX_SEQS_MAX)?;
        check_least("checkpoints", self.checkpoints, 0, CHECKPOINTS_MAX)?;
        check_least("extra rows of logits", self.extra_rows, 0, EXTRA_ROWS_MAX)?;
        check("number of waiting requests", self.max_waiting, MAX_WAITING_MAX)?;
        if !KV_TYPES.contains(&self.kv_type) {
            return Err(EngineError::Option {
                option: "cache type",
                value: self.kv_type.to_string(),
                allowed: "f32, f16, bf16, f8_e4m3, q8_0 or q4_0".into(),
            });
        }
        if self.speculation == Speculation::Mtp && model.config().n_mtp_layers == 0 {
            return Err(EngineError::NoMtpHead { arch: model.config().arch.clone() });
        }
        let n_ctx = self.n_ctx(model)?;
        let n_seqs = if self.cache_bytes.is_some() { 1 } else { self.max_seqs };
        let n_rows = u64::from(n_ctx).next_multiple_of(PAGE_SIZE.into()) * u64::from(n_seqs);
        if n_rows > CACHE_ROWS_MAX {
            return Err(EngineError::Option {
                option: "context length times number of sequences",
                value: n_rows.to_string(),
                allowed: format!("up to {CACHE_ROWS_MAX}"),
            });
        }
        CacheShape::new(model, self, n_ctx)
    }
}

fn check(option: &'static str, value: u32, max: u32) -> Result<(), EngineError> {
    check_least(option, value, 1, max)
}

fn check_least(option: &'static str, value: u32, min: u32, max: u32) -> Result<(), EngineError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let allowed = format!("{min} to {max}");
    Err(EngineError::Option { option, value: value.to_string(), allowed })
}
