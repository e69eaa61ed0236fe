//! The parts of a configuration that only some families have, or that differ between layers.

use zinc_plan::{ExpertGroups, Gating, GroupScore, HeadOrder};

use super::keys::Keys;
use super::{MAX_EXPERTS, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_WIDTH};
use crate::ModelError;

/// What may differ between the blocks of a model.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LayerConfig {
    /// Key/value heads.
    pub n_kv_heads: u32,
    /// Elements of a query or key head.
    pub head_dim: u32,
    /// Elements of a value head.
    pub v_head_dim: u32,
    /// Rotated elements of each head.
    pub rope_dims: u32,
    /// Width of the dense feed-forward block; 0 when there is none.
    pub d_ff: u32,
    /// A query sees this many keys, itself included; all when absent.
    pub window: Option<u32>,
    /// Rotates by [`ModelConfig::rope_local`](super::ModelConfig::rope_local).
    pub local_rope: bool,
    /// A gated DeltaNet stands in for the attention.
    pub recurrent: bool,
    /// The layer whose keys and values this one reads, when it has none of its own.
    pub kv_layer: Option<u32>,
}

impl LayerConfig {
    /// One entry for each block: `base` with what the file says of each.
    pub(super) fn read(
        keys: &Keys<'_>,
        n_blocks: u32,
        base: LayerConfig,
    ) -> Result<Vec<Self>, ModelError> {
        // Where every layer has experts, files leave the width of dense blocks out or write 0.
        let has_experts = keys.u32("expert_count")?.unwrap_or(0) > 0;
        let least = u32::from(!has_experts);
        let d_ff = keys.counts("feed_forward_length", n_blocks, least..=MAX_WIDTH)?;
        if d_ff.is_none() && !has_experts {
            return Err(keys.error("feed_forward_length", "is missing"));
        }
        let n_kv_heads = keys.counts("attention.head_count_kv", n_blocks, 1..=MAX_HEADS)?;
        let mut layers = vec![base; n_blocks as usize];
        for (layer, d_ff) in layers.iter_mut().zip(d_ff.into_iter().flatten()) {
            layer.d_ff = d_ff;
        }
        for (layer, n_kv_heads) in layers.iter_mut().zip(n_kv_heads.into_iter().flatten()) {
            layer.n_kv_heads = n_kv_heads;
        }
        Ok(layers)
    }

    pub(super) fn check(&self, keys: &Keys<'_>, n_heads: u32) -> Result<(), ModelError> {
        if !n_heads.is_multiple_of(self.n_kv_heads) {
            let reason = format!("{n_heads} query heads cannot share {}", self.n_kv_heads);
            return Err(keys.error("attention.head_count_kv", reason));
        }
        let (n, head_dim) = (self.rope_dims, self.head_dim);
        if n == 0 || n > head_dim || !n.is_multiple_of(2) {
            let reason = format!("is {n}, must be even and at most {head_dim}");
            return Err(keys.error("rope.dimension_count", reason));
        }
        Ok(())
    }
}

/// Rotation of the layers that do not share the model's.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LocalRope {
    /// Rotated elements of each head.
    pub dims: u32,
    /// Base of the rotation frequencies.
    pub theta: f32,
}

/// Mixture of experts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ExpertConfig {
    /// Experts of a layer.
    pub n_experts: u32,
    /// Experts that a token is sent to.
    pub n_experts_used: u32,
    /// Width of one expert.
    pub d_ff: u32,
    /// Width of the expert that every token passes; 0 when there is none.
    pub d_ff_shared: u32,
    /// Layers at the start with a dense feed-forward block instead.
    pub n_dense_layers: u32,
    /// From router logits to scores.
    pub gating: Gating,
    /// Weights are divided by their sum.
    pub normalize: bool,
    /// Factor on the weights.
    pub scale: f32,
    /// Only the experts of the best groups may be chosen.
    pub groups: Option<ExpertGroups>,
}

impl ExpertConfig {
    /// Reads the keys that all families with experts share: softmax over all experts, weights as
    /// they are, no groups.
    pub(crate) fn read(keys: &Keys<'_>) -> Result<Self, ModelError> {
        let n_experts = keys.count("expert_count", MAX_EXPERTS)?;
        Ok(Self {
            n_experts,
            n_experts_used: keys.count("expert_used_count", n_experts)?,
            d_ff: keys.count("expert_feed_forward_length", MAX_WIDTH)?,
            d_ff_shared: 0,
            n_dense_layers: 0,
            gating: Gating::Softmax,
            normalize: false,
            scale: 1.0,
            groups: None,
        })
    }

    /// Adds what DeepSeek files say further: shared experts, gating, groups, scale.
    pub(crate) fn read_deepseek(keys: &Keys<'_>) -> Result<Self, ModelError> {
        let base = Self::read(keys)?;
        let gating = match keys.u32("expert_gating_func")?.unwrap_or(0) {
            0 | 1 => Gating::Softmax,
            2 => Gating::Sigmoid,
            3 => Gating::TopKSoftmax,
            other => {
                let reason = format!("is {other}; known: 1 softmax, 2 sigmoid, 3 top-k softmax");
                return Err(keys.error("expert_gating_func", reason));
            }
        };
        let n_groups = keys.u32("expert_group_count")?.filter(|n| *n > 1);
        let groups = match n_groups {
            None => None,
            Some(n_groups) => Some(ExpertGroups {
                n_groups,
                n_groups_used: keys.count("expert_group_used_count", n_groups)?,
                score: match gating {
                    Gating::Sigmoid => GroupScore::TopTwo,
                    Gating::Softmax | Gating::TopKSoftmax => GroupScore::Max,
                },
            }),
        };
        let n_shared = keys.u32("expert_shared_count")?.unwrap_or(0);
        let d_ff_shared = base.d_ff.checked_mul(n_shared).filter(|d| *d <= MAX_WIDTH);
        Ok(Self {
            d_ff_shared: d_ff_shared
                .ok_or_else(|| keys.error("expert_shared_count", format!("is {n_shared}")))?,
            n_dense_layers: keys.u32("leading_dense_block_count")?.unwrap_or(0),
            gating,
            normalize: keys.bool("expert_weights_norm")?.unwrap_or(false),
            scale: keys.positive("expert_weights_scale")?.unwrap_or(1.0),
            groups,
            ..base
        })
    }
}

/// Multi-head latent attention: keys and values of all heads come from one compressed row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LatentConfig {
    /// Width of the compressed query; queries are not compressed when absent.
    pub q_lora_rank: Option<u32>,
    /// Width of the compressed key/value row.
    pub kv_lora_rank: u32,
    /// Elements of a query or key head, the rotated ones at the end included.
    pub head_dim: u32,
    /// Elements of a value head.
    pub v_head_dim: u32,
}

impl LatentConfig {
    pub(crate) fn read(keys: &Keys<'_>) -> Result<Self, ModelError> {
        Ok(Self {
            q_lora_rank: keys.optional_count("attention.q_lora_rank", MAX_WIDTH)?,
            kv_lora_rank: keys.count("attention.kv_lora_rank", MAX_HEAD_DIM)?,
            head_dim: keys.count("attention.key_length_mla", MAX_HEAD_DIM)?,
            v_head_dim: keys.count("attention.value_length_mla", MAX_HEAD_DIM)?,
        })
    }
}

/// Sizes of the gated DeltaNet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeltaNetConfig {
    /// Taps of the convolution.
    pub conv_kernel: u32,
    /// Elements of a query, key or value head.
    pub head_dim: u32,
    /// Query and key heads.
    pub n_k_heads: u32,
    /// Value heads.
    pub n_v_heads: u32,
    /// Which key head serves a value head.
    pub order: HeadOrder,
}

impl DeltaNetConfig {
    pub(crate) fn read(keys: &Keys<'_>, order: HeadOrder) -> Result<Self, ModelError> {
        let net = Self {
            conv_kernel: keys.count("ssm.conv_kernel", MAX_HEADS)?,
            head_dim: keys.count("ssm.state_size", MAX_HEAD_DIM)?,
            n_k_heads: keys.count("ssm.group_count", MAX_HEADS)?,
            n_v_heads: keys.count("ssm.time_step_rank", MAX_HEADS)?,
            order,
        };
        let inner = keys.count("ssm.inner_size", MAX_WIDTH)?;
        let expected = u64::from(net.head_dim) * u64::from(net.n_v_heads);
        if u64::from(inner) != expected {
            let reason = format!("is {inner}, {} heads need {expected}", net.n_v_heads);
            return Err(keys.error("ssm.inner_size", reason));
        }
        if !net.n_v_heads.is_multiple_of(net.n_k_heads) {
            let reason = format!("{} value heads cannot share it", net.n_v_heads);
            return Err(keys.error("ssm.group_count", reason));
        }
        // Products of these sizes stay inside u32.
        let key_width = u64::from(net.head_dim) * u64::from(net.n_k_heads);
        let state = expected * u64::from(net.head_dim);
        let conv = (2 * key_width + expected) * u64::from(net.conv_kernel);
        if state.max(conv) > u64::from(u32::MAX) {
            return Err(keys.error("ssm.state_size", "gives a state that is too large"));
        }
        Ok(net)
    }

    /// Which of the `n_blocks` blocks are recurrent: flags, or every block but each n-th.
    pub(crate) fn recurrent_layers(
        keys: &Keys<'_>,
        n_layers: u32,
        n_blocks: u32,
    ) -> Result<Vec<bool>, ModelError> {
        if let Some(flags) = keys.flags("attention.recurrent_layers", n_blocks)? {
            return Ok(flags);
        }
        let period = keys.optional_count("full_attention_interval", MAX_LAYERS)?;
        let period = period.unwrap_or(4);
        let is_recurrent = |layer| layer < n_layers && (layer + 1) % period != 0;
        Ok((0..n_blocks).map(is_recurrent).collect())
    }
}
