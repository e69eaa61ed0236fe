//! Attention over a key/value cache.

use zinc_plan::{Attention, CacheGroup, HeadSlice, TensorId};

use super::blk;
use crate::ModelError;
use crate::graph::Graph;

/// How an attention block differs between families.
#[derive(Clone, Copy, Default)]
pub(crate) struct AttentionStyle {
    /// Query, key and value rows come from one matrix `attn_qkv`.
    pub fused_qkv: bool,
    /// Query and key heads are normalised before the rotation.
    pub qk_norm: bool,
    /// The file must hold biases of query, key and value.
    pub qkv_bias: bool,
    /// Each head of `attn_q` holds a query and a gate for the head's result.
    pub gated: bool,
    /// Each head has a sink, `attn_sinks`.
    pub sinks: bool,
}

/// What the projections give, before norms and rotation.
struct Projections {
    q: TensorId,
    k: TensorId,
    v: TensorId,
    gate: Option<TensorId>,
}

fn project(
    graph: &mut Graph<'_>,
    layer: u32,
    x: TensorId,
    style: AttentionStyle,
) -> Result<Projections, ModelError> {
    let config = graph.config();
    let sizes = config.layer(layer);
    let q_width = config.n_heads * sizes.head_dim * (1 + u32::from(style.gated));
    let k_width = sizes.n_kv_heads * sizes.head_dim;
    let v_width = sizes.n_kv_heads * sizes.v_head_dim;
    let labels = ["attn_q", "attn_k", "attn_v"].map(|part| blk(layer, part));
    let widths = [q_width, k_width, v_width];
    if style.fused_qkv {
        let n_out = widths.iter().sum();
        let packed = graph.linear(&blk(layer, "attn_qkv"), x, n_out, config.d_model)?;
        let v_start = q_width + k_width;
        return Ok(Projections {
            q: graph.b.view(&labels[0], packed, 0, q_width)?,
            k: graph.b.view(&labels[1], packed, q_width, k_width)?,
            v: graph.b.view(&labels[2], packed, v_start, v_width)?,
            gate: None,
        });
    }
    let mut parts = [x; 3];
    for ((part, label), n_out) in parts.iter_mut().zip(&labels).zip(widths) {
        if style.qkv_bias {
            graph.vector(&format!("{label}.bias"), n_out)?;
        }
        *part = graph.linear(label, x, n_out, config.d_model)?;
    }
    let [mut q, k, v] = parts;
    let mut gate = None;
    if style.gated {
        let slice = |start| HeadSlice { head_dim: 2 * sizes.head_dim, start, len: sizes.head_dim };
        let packed = q;
        q = graph.b.head_slice(&blk(layer, "attn_query"), slice(0), packed)?;
        let half = slice(sizes.head_dim);
        gate = Some(graph.b.head_slice(&blk(layer, "attn_gate"), half, packed)?);
    }
    Ok(Projections { q, k, v, gate })
}

/// Norm, projections, rotation, cache, attention and output projection.
pub(crate) fn attention(
    graph: &mut Graph<'_>,
    layer: u32,
    x: TensorId,
    style: AttentionStyle,
) -> Result<TensorId, ModelError> {
    let config = graph.config();
    let normed = graph.rms_norm(&blk(layer, "attn_norm"), x, config.d_model)?;
    let Projections { mut q, mut k, v, gate } = project(graph, layer, normed, style)?;
    if style.qk_norm {
        let head_dim = config.layer(layer).head_dim;
        q = graph.rms_norm(&blk(layer, "attn_q_norm"), q, head_dim)?;
        k = graph.rms_norm(&blk(layer, "attn_k_norm"), k, head_dim)?;
    }
    let sinks = match style.sinks {
        true => Some(graph.vector(&blk(layer, "attn_sinks.weight"), config.n_heads)?),
        false => None,
    };
    let q = graph.rope(&blk(layer, "q_rope"), layer, q)?;
    let caches = store_kv(graph, layer, k, v)?;
    let mut attended = attend(graph, layer, q, caches, sinks)?;
    if let Some(gate) = gate {
        let label = blk(layer, "attn_gated");
        attended = graph.b.sigmoid_gate(&label, attended, gate)?;
    }
    output_projection(graph, layer, attended)
}

/// Rotates the keys and writes keys and values into the layer's caches, which keep what the layer's
/// own attention sees.
pub(crate) fn store_kv(
    graph: &mut Graph<'_>,
    layer: u32,
    k: TensorId,
    v: TensorId,
) -> Result<[TensorId; 2], ModelError> {
    let sizes = graph.config().layer(layer);
    let k = graph.rope(&blk(layer, "k_rope"), layer, k)?;
    let k_width = sizes.n_kv_heads * sizes.head_dim;
    let v_width = sizes.n_kv_heads * sizes.v_head_dim;
    let kv_type = graph.kv_type;
    let group = sizes.window.map_or(CacheGroup::Full, |_| CacheGroup::Window);
    let caches = [
        graph.b.cache_of(group, &blk(layer, "cache_k"), kv_type, k_width)?,
        graph.b.cache_of(group, &blk(layer, "cache_v"), kv_type, v_width)?,
    ];
    graph.b.kv_write(&blk(layer, "kv_write"), [k, v], caches)?;
    Ok(caches)
}

/// Attention of rotated queries over caches, of this layer or another.
pub(crate) fn attend(
    graph: &mut Graph<'_>,
    layer: u32,
    q: TensorId,
    caches: [TensorId; 2],
    sinks: Option<TensorId>,
) -> Result<TensorId, ModelError> {
    let config = graph.config();
    let sizes = config.layer(layer);
    let attributes = Attention {
        n_heads: config.n_heads,
        n_kv_heads: sizes.n_kv_heads,
        k_dim: sizes.head_dim,
        v_dim: sizes.v_head_dim,
        scale: config.attn_scale,
        softcap: config.attn_softcap,
        window: sizes.window,
        sinks: sinks.is_some(),
        page_size: graph.b.limits().page_size,
    };
    let label = blk(layer, "attn");
    Ok(graph.b.attention_with_sinks(&label, attributes, q, caches, sinks)?)
}

/// From the heads' results back to the residual stream's width.
pub(crate) fn output_projection(
    graph: &mut Graph<'_>,
    layer: u32,
    attended: TensorId,
) -> Result<TensorId, ModelError> {
    let config = graph.config();
    let n_in = config.n_heads * config.layer(layer).v_head_dim;
    graph.linear(&blk(layer, "attn_output"), attended, config.d_model, n_in)
}
