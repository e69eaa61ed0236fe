//! What a family needs to know of a model: the glossary of the project's names for it.

mod keys;
mod parts;
mod rope;

use zinc_gguf::Metadata;
use zinc_plan::RopeMode;

pub(crate) use self::keys::Keys;
pub use self::parts::{DeltaNetConfig, ExpertConfig, LatentConfig, LayerConfig, LocalRope};
pub use self::rope::RopeScaling;
use crate::ModelError;
use crate::registry::Family;

/// Sizes and constants of a transformer, under the names used everywhere in zinc.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// GGUF architecture, such as `qwen3`; the prefix of the metadata keys.
    pub arch: String,
    /// Tokens in the vocabulary: rows of the embedding.
    pub n_vocab: u32,
    /// Context length the model was trained for.
    pub n_ctx_train: u32,
    /// Transformer blocks, without those of multi-token prediction.
    pub n_layers: u32,
    /// Blocks of multi-token prediction; they follow the others.
    pub n_mtp_layers: u32,
    /// Width of the residual stream.
    pub d_model: u32,
    /// Width of the widest dense feed-forward block; 0 when all layers have experts.
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
    /// Rotation of the layers that have one of their own, never scaled.
    pub rope_local: Option<LocalRope>,
    /// Factor on the attention scores.
    pub attn_scale: f32,
    /// Attention scores are `c * tanh(score / c)` with this c.
    pub attn_softcap: Option<f32>,
    /// Logits are `c * tanh(logit / c)` with this c.
    pub logit_softcap: Option<f32>,
    /// What may differ between blocks, in order, those of multi-token prediction included.
    pub layers: Vec<LayerConfig>,
    /// Mixture of experts.
    pub experts: Option<ExpertConfig>,
    /// Multi-head latent attention.
    pub latent: Option<LatentConfig>,
    /// Gated DeltaNet of the recurrent layers.
    pub delta_net: Option<DeltaNetConfig>,
    /// Width of the inputs that each layer gets from a token table of its own (Gemma 4).
    pub d_per_layer: Option<u32>,
}

/// What the configuration takes from the file's tensors instead of its metadata.
pub(crate) struct FileFacts {
    /// Rows of the embedding.
    pub n_vocab: u64,
    /// The file holds the divisors of longrope; Phi-3 files say so in no other way.
    pub has_long_factors: bool,
}

/// Far above any model there is; keeps products of sizes inside u32 and plans inside memory.
const MAX_LAYERS: u32 = 4096;
const MAX_WIDTH: u32 = 1 << 20;
const MAX_HEADS: u32 = 1 << 14;
pub(crate) const MAX_HEAD_DIM: u32 = 1 << 14;
const MAX_EXPERTS: u32 = 1 << 11;
const MAX_VOCAB: u32 = 1 << 26;
const MAX_CONTEXT: u32 = 1 << 27;

/// Keys that change the arithmetic in some architecture but not in any that zinc runs, with the
/// values that change nothing. A file that says anything else means another model.
const NEUTRAL: [(&str, &[f32]); 6] = [
    ("attention.scale", &[0.0]),
    ("attention.clamp_kqv", &[0.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("rope.scaling.yarn_ext_factor", &[-1.0, 1.0]),
];

/// Of the families that cap their scores.
pub(crate) const ATTN_SOFTCAP: &str = "attn_logit_softcapping";

impl ModelConfig {
    /// Refuses what would be left out of the computation.
    fn check_neutral(&self, keys: &Keys<'_>) -> Result<(), ModelError> {
        let uncapped = self.attn_softcap.is_none().then_some((ATTN_SOFTCAP, &[0.0][..]));
        for (name, neutral) in NEUTRAL.into_iter().chain(uncapped) {
            if let Some(value) = keys.f32(name)?.filter(|value| !neutral.contains(value)) {
                return Err(keys.error(name, format!("is {value}, which zinc does not compute")));
            }
        }
        if keys.bool("attention.causal")? == Some(false) {
            return Err(keys.error("attention.causal", "is false; zinc runs causal models"));
        }
        Ok(())
    }

    /// Reads the keys that all transformer families share, then those of `family`.
    pub(crate) fn read(
        metadata: &Metadata,
        family: &Family,
        facts: &FileFacts,
    ) -> Result<Self, ModelError> {
        let keys = Keys::new(metadata, family.arch);
        let mut config = Self::read_shared(&keys, family.rope_mode, facts)?;
        (family.configure)(&keys, &mut config)?;
        config.check_neutral(&keys)?;
        if config.experts.is_none()
            && let Some(n_experts) = keys.u32("expert_count")?.filter(|n| *n > 0)
        {
            let reason = format!("is {n_experts}: {} with experts is not supported", family.arch);
            return Err(keys.error("expert_count", reason));
        }
        let n_mtp = config.n_mtp_layers;
        if n_mtp > u32::from(family.build_mtp.is_some()) {
            let reason = format!("is {n_mtp}: not supported for {}", family.arch);
            return Err(keys.error("nextn_predict_layers", reason));
        }
        for layer in &config.layers {
            layer.check(&keys, config.n_heads)?;
        }
        Ok(config)
    }

    fn read_shared(
        keys: &Keys<'_>,
        rope_mode: RopeMode,
        facts: &FileFacts,
    ) -> Result<Self, ModelError> {
        let n_heads = keys.count("attention.head_count", MAX_HEADS)?;
        let d_model = keys.count("embedding_length", MAX_WIDTH)?;
        let n_blocks = keys.count("block_count", MAX_LAYERS)?;
        let n_mtp_layers = keys.u32("nextn_predict_layers")?.unwrap_or(0);
        if n_mtp_layers >= n_blocks {
            let reason = format!("is {n_mtp_layers} of {n_blocks} blocks");
            return Err(keys.error("nextn_predict_layers", reason));
        }
        let dim = |name| match keys.optional_count(name, MAX_HEAD_DIM)? {
            Some(value) => Ok(value),
            None => keys.check_count("embedding_length", d_model / n_heads, MAX_HEAD_DIM),
        };
        let (head_dim, v_head_dim) = (dim("attention.key_length")?, dim("attention.value_length")?);
        let rope_dims = keys.u32("rope.dimension_count")?.unwrap_or(head_dim);
        let window = keys.u32("attention.sliding_window")?.filter(|window| *window > 0);
        let layers = LayerConfig::read(
            keys,
            n_blocks,
            LayerConfig {
                n_kv_heads: n_heads,
                head_dim,
                v_head_dim,
                rope_dims,
                d_ff: 0,
                window,
                local_rope: false,
                recurrent: false,
                kv_layer: None,
            },
        )?;
        let widest = |field: fn(&LayerConfig) -> u32| layers.iter().map(field).max().unwrap_or(0);
        let n_vocab = u32::try_from(facts.n_vocab).unwrap_or(u32::MAX);
        Ok(Self {
            arch: keys.arch().to_owned(),
            n_vocab: keys.check_count("vocab_size", n_vocab, MAX_VOCAB)?,
            n_ctx_train: keys.count("context_length", MAX_CONTEXT)?,
            n_layers: n_blocks - n_mtp_layers,
            n_mtp_layers,
            d_model,
            d_ff: widest(|layer| layer.d_ff),
            n_heads,
            n_kv_heads: widest(|layer| layer.n_kv_heads),
            head_dim,
            v_head_dim,
            rms_eps: keys
                .positive("attention.layer_norm_rms_epsilon")?
                .ok_or_else(|| keys.error("attention.layer_norm_rms_epsilon", "is missing"))?,
            window,
            rope_mode,
            rope_dims,
            rope_theta: keys.positive("rope.freq_base")?.unwrap_or(10_000.0),
            rope_scaling: RopeScaling::read(keys, facts.has_long_factors)?,
            rope_local: None,
            attn_scale: 1.0 / (head_dim as f32).sqrt(),
            attn_softcap: None,
            logit_softcap: None,
            layers,
            experts: None,
            latent: None,
            delta_net: None,
            d_per_layer: None,
        })
    }

    /// The longest window of any layer; caches of layers with one keep no more than it.
    pub fn longest_window(&self) -> Option<u32> {
        self.layers.iter().filter_map(|layer| layer.window).max()
    }

    /// The block `layer`; there is one for every block of the file.
    pub(crate) fn layer(&self, layer: u32) -> LayerConfig {
        self.layers[layer as usize]
    }
}
