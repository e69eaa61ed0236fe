//! What a family needs to know of a model: the glossary of the project's names for it.

use zinc_gguf::Metadata;
use zinc_plan::RopeMode;

use crate::ModelError;

/// Sizes and constants of a transformer, under the names used everywhere in zinc.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// GGUF architecture, such as `qwen3`; the prefix of the metadata keys.
    pub arch: String,
    /// Tokens in the vocabulary: rows of the embedding.
    pub n_vocab: u32,
    /// Context length the model was trained for.
    pub n_ctx_train: u32,
    /// Transformer blocks.
    pub n_layers: u32,
    /// Width of the residual stream.
    pub d_model: u32,
    /// Width of the feed-forward block.
    pub d_ff: u32,
    /// Query heads.
    pub n_heads: u32,
    /// Key/value heads.
    pub n_kv_heads: u32,
    /// Elements of a query or key head.
    pub head_dim: u32,
    /// Elements of a value head.
    pub v_head_dim: u32,
    /// Epsilon of the RMS norms.
    pub rms_eps: f32,
    /// A query sees this many keys, itself included; all when absent.
    pub window: Option<u32>,
    /// Which elements the rotation pairs.
    pub rope_mode: RopeMode,
    /// Rotated elements of each head.
    pub rope_dims: u32,
    /// Base of the rotation frequencies.
    pub rope_theta: f32,
    /// How the frequencies are stretched for long contexts.
    pub rope_scaling: RopeScaling,
}

/// Frequency scaling of the rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as they are, divided by `rope_freqs.weight` where the file has it (Llama 3).
    None,
    /// All frequencies divided by the factor.
    Linear {
        /// Stretch of the context.
        factor: f32,
    },
    /// YaRN (arXiv 2309.00071): low frequencies stretched, high ones kept, a ramp between, and
    /// cos and sin scaled.
    Yarn {
        /// Stretch of the context.
        factor: f32,
        /// Context length before stretching.
        n_ctx_orig: u32,
        /// Rotations over the original context above which a frequency is kept.
        beta_fast: f32,
        /// Rotations below which a frequency is stretched in full.
        beta_slow: f32,
        /// Further factor on cos and sin.
        attn_factor: f32,
    },
    /// Phi-3's longrope: per-frequency divisors, one set up to the original context length and
    /// another beyond, and cos and sin scaled.
    LongRope {
        /// Longest sequence that uses the short divisors.
        n_ctx_orig: u32,
        /// Factor on cos and sin.
        attn_factor: f32,
    },
}

/// What the configuration takes from the file's tensors instead of its metadata.
pub(crate) struct FileFacts {
    /// Rows of the embedding.
    pub n_vocab: u64,
    /// The file holds the divisors of longrope; Phi-3 files say so in no other way.
    pub has_long_factors: bool,
}

/// Reads keys below the architecture's prefix.
pub(crate) struct Keys<'a> {
    metadata: &'a Metadata,
    arch: &'a str,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(metadata: &'a Metadata, arch: &'a str) -> Self {
        Self { metadata, arch }
    }

    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    pub(crate) fn error(&self, name: &str, reason: impl Into<String>) -> ModelError {
        ModelError::Config { key: self.key(name), reason: reason.into() }
    }

    pub(crate) fn u32(&self, name: &str) -> Result<Option<u32>, ModelError> {
        Ok(self.metadata.u32(&self.key(name))?)
    }

    pub(crate) fn f32(&self, name: &str) -> Result<Option<f32>, ModelError> {
        let value = self.metadata.f32(&self.key(name))?;
        match value {
            Some(value) if !value.is_finite() => Err(self.error(name, "is not finite")),
            other => Ok(other),
        }
    }

    fn str(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        Ok(self.metadata.str(&self.key(name))?)
    }

    /// A count that must be there and lie in `1 ..= max`.
    fn count(&self, name: &str, max: u32) -> Result<u32, ModelError> {
        let value = self.metadata.require_u32(&self.key(name))?;
        self.check_count(name, value, max)
    }

    fn check_count(&self, name: &str, value: u32, max: u32) -> Result<u32, ModelError> {
        if (1..=max).contains(&value) {
            return Ok(value);
        }
        Err(self.error(name, format!("is {value}, must be 1 to {max}")))
    }
}

/// Far above any model there is; keeps products of sizes inside u32 and plans inside memory.
const MAX_LAYERS: u32 = 4096;
const MAX_WIDTH: u32 = 1 << 20;
const MAX_HEADS: u32 = 1 << 14;
const MAX_HEAD_DIM: u32 = 1 << 14;
const MAX_VOCAB: u32 = 1 << 26;
const MAX_CONTEXT: u32 = 1 << 27;

impl ModelConfig {
    /// Reads the keys that all dense transformer families share.
    pub(crate) fn read(
        metadata: &Metadata,
        arch: &str,
        rope_mode: RopeMode,
        facts: &FileFacts,
    ) -> Result<Self, ModelError> {
        let keys = Keys::new(metadata, arch);
        let n_heads = keys.count("attention.head_count", MAX_HEADS)?;
        let d_model = keys.count("embedding_length", MAX_WIDTH)?;
        let n_kv_heads = match keys.u32("attention.head_count_kv")? {
            Some(value) => keys.check_count("attention.head_count_kv", value, n_heads)?,
            None => n_heads,
        };
        if !n_heads.is_multiple_of(n_kv_heads) {
            let reason = format!("{n_heads} query heads cannot share {n_kv_heads}");
            return Err(keys.error("attention.head_count_kv", reason));
        }
        let dim = |name| match keys.u32(name)? {
            Some(value) => keys.check_count(name, value, MAX_HEAD_DIM),
            None => keys.check_count("embedding_length", d_model / n_heads, MAX_HEAD_DIM),
        };
        let head_dim = dim("attention.key_length")?;
        let rope_dims = keys.u32("rope.dimension_count")?.unwrap_or(head_dim);
        if rope_dims == 0 || rope_dims > head_dim || !rope_dims.is_multiple_of(2) {
            let reason = format!("is {rope_dims}, must be even and at most {head_dim}");
            return Err(keys.error("rope.dimension_count", reason));
        }
        if let Some(n_experts) = keys.u32("expert_count")?.filter(|n| *n > 0) {
            let reason = format!("is {n_experts}: {arch} with experts is not supported");
            return Err(keys.error("expert_count", reason));
        }
        let n_vocab = u32::try_from(facts.n_vocab).unwrap_or(u32::MAX);
        Ok(Self {
            arch: arch.to_owned(),
            n_vocab: keys.check_count("vocab_size", n_vocab, MAX_VOCAB)?,
            n_ctx_train: keys.count("context_length", MAX_CONTEXT)?,
            n_layers: keys.count("block_count", MAX_LAYERS)?,
            d_model,
            d_ff: keys.count("feed_forward_length", MAX_WIDTH)?,
            n_heads,
            n_kv_heads,
            head_dim,
            v_head_dim: dim("attention.value_length")?,
            rms_eps: positive(&keys, "attention.layer_norm_rms_epsilon")?
                .ok_or_else(|| keys.error("attention.layer_norm_rms_epsilon", "is missing"))?,
            window: keys.u32("attention.sliding_window")?.filter(|window| *window > 0),
            rope_mode,
            rope_dims,
            rope_theta: positive(&keys, "rope.freq_base")?.unwrap_or(10_000.0),
            rope_scaling: RopeScaling::read(&keys, facts.has_long_factors)?,
        })
    }
}

fn positive(keys: &Keys<'_>, name: &str) -> Result<Option<f32>, ModelError> {
    match keys.f32(name)? {
        Some(value) if value <= 0.0 => {
            Err(keys.error(name, format!("is {value}, must be positive")))
        }
        other => Ok(other),
    }
}

impl RopeScaling {
    fn read(keys: &Keys<'_>, has_long_factors: bool) -> Result<Self, ModelError> {
        let factor = positive(keys, "rope.scaling.factor")?;
        let legacy_factor = positive(keys, "rope.scale_linear")?;
        let n_ctx_orig = keys.u32("rope.scaling.original_context_length")?.filter(|n| *n > 0);
        let need_orig = || {
            n_ctx_orig
                .ok_or_else(|| keys.error("rope.scaling.original_context_length", "is missing"))
        };
        let attn_factor = positive(keys, "rope.scaling.attn_factor")?;
        let name = keys.str("rope.scaling.type")?.unwrap_or(match legacy_factor {
            _ if has_long_factors => "longrope",
            Some(_) => "linear",
            None => "none",
        });
        match name {
            "none" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: factor.or(legacy_factor).unwrap_or(1.0) }),
            "yarn" => Ok(RopeScaling::Yarn {
                factor: factor.ok_or_else(|| keys.error("rope.scaling.factor", "is missing"))?,
                n_ctx_orig: need_orig()?,
                beta_fast: positive(keys, "rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: positive(keys, "rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                attn_factor: match attn_factor {
                    Some(value) => value,
                    None => positive(keys, "rope.scaling.yarn_attn_factor")?.unwrap_or(1.0),
                },
            }),
            "longrope" => Ok(RopeScaling::LongRope {
                n_ctx_orig: need_orig()?,
                attn_factor: attn_factor.unwrap_or(1.0),
            }),
            other => {
                let reason =
                    format!("{other} is not supported; known: none, linear, yarn, longrope");
                Err(keys.error("rope.scaling.type", reason))
            }
        }
    }
}
