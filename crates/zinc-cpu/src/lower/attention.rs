//! Attention over caches, plain and latent.

use super::{Lowering, Operand};
use crate::kernels::cache::KV_TYPES;
use crate::memory::Rows;
use zinc_backend::DeviceError;
use zinc_plan::{Attention, LatentAttention, Node, TensorId};

/// Attention over a cache.
pub(crate) struct AttentionStep {
    pub attention: Attention,
    pub q: Rows,
    pub k: Operand,
    /// Queries and cache of the keys' second part.
    pub rope: Option<(Rows, Operand)>,
    pub v: Operand,
    pub sinks: Option<Rows>,
    pub positions: Rows,
    pub seq_of: Rows,
    pub pages: Rows,
    pub out: Rows,
}

/// Latent attention as attention: all heads share the compressed row, as key (with a second part) and as value.
pub(crate) fn one_key_head(latent: &LatentAttention) -> Attention {
    Attention {
        n_heads: latent.n_heads,
        n_kv_heads: 1,
        k_dim: latent.latent_dim,
        v_dim: latent.latent_dim,
        scale: latent.scale,
        softcap: None,
        window: None,
        sinks: false,
        page_size: latent.page_size,
    }
}

impl Lowering<'_> {
    pub(super) fn attention(
        &self,
        node: &Node,
        attention: Attention,
    ) -> Result<AttentionStep, DeviceError> {
        let [q, k, v] = [node.reads[0], node.reads[1], node.reads[2]];
        let sinks = node.reads.get(6).map(|id| self.value(*id)).transpose()?;
        let step = self.attention_step(node, attention, [q, k, v], &node.reads[3..6])?;
        Ok(AttentionStep { sinks, ..step })
    }

    pub(super) fn latent_attention(
        &self,
        node: &Node,
        latent: LatentAttention,
    ) -> Result<AttentionStep, DeviceError> {
        let [q, q_rope, cache, cache_rope] =
            [node.reads[0], node.reads[1], node.reads[2], node.reads[3]];
        let rope = Some((self.value(q_rope)?, self.cache(node, cache_rope)?));
        let operands = [q, cache, cache];
        let step = self.attention_step(node, one_key_head(&latent), operands, &node.reads[4..7])?;
        Ok(AttentionStep { rope, ..step })
    }

    /// `placed` is positions, seq_of and pages.
    fn attention_step(
        &self,
        node: &Node,
        attention: Attention,
        [q, k, v]: [TensorId; 3],
        placed: &[TensorId],
    ) -> Result<AttentionStep, DeviceError> {
        Ok(AttentionStep {
            attention,
            q: self.value(q)?,
            k: self.cache(node, k)?,
            rope: None,
            v: self.cache(node, v)?,
            sinks: None,
            positions: self.input(placed[0])?,
            seq_of: self.input(placed[1])?,
            pages: self.input(placed[2])?,
            out: self.value(node.writes[0])?,
        })
    }

    fn cache(&self, node: &Node, id: TensorId) -> Result<Operand, DeviceError> {
        let operand = self.operand(id)?;
        match KV_TYPES.contains(&operand.dtype) {
            true => Ok(operand),
            false => Err(self.unsupported(node, format!("a cache of type {}", operand.dtype))),
        }
    }
}
