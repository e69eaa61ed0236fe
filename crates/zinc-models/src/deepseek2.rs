//! DeepSeek V2, V2-Lite and V3: multi-head latent attention whose cache stays compressed, dense
//! first layers, then routed and shared experts.

use zinc_plan::{HeadMatMul, HeadSlice, LatentAttention, Plan, RopeMode, TensorId};

use crate::blocks::{MlpStyle, MoeStyle, blk, decoder, gated_mlp, moe, shared_expert};
use crate::config::{ExpertConfig, Keys, LatentConfig, RopeScaling};
use crate::graph::Graph;
use crate::registry::Family;
use crate::{ModelConfig, ModelError};

pub(crate) const FAMILY: Family =
    Family { arch: "deepseek2", rope_mode: RopeMode::Norm, configure, build, build_mtp: None };

fn configure(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<(), ModelError> {
    let latent = LatentConfig::read(keys)?;
    if config.rope_dims >= latent.head_dim {
        let reason = format!("is {}, rope has {}", latent.head_dim, config.rope_dims);
        return Err(keys.error("attention.key_length_mla", reason));
    }
    config.attn_scale = 1.0 / (latent.head_dim as f32).sqrt();
    // Files with this key want the stretch in the scores (its square) instead of in cos and sin.
    let multiplier = keys.positive("rope.scaling.yarn_log_multiplier")?;
    if let (Some(multiplier), RopeScaling::Yarn { factor, attn_factor, .. }) =
        (multiplier, &mut config.rope_scaling)
    {
        *attn_factor = keys.positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
        config.attn_scale *= (multiplier * factor.ln() + 1.0).powi(2);
    }
    config.latent = Some(latent);
    config.experts = match keys.u32("expert_count")?.unwrap_or(0) {
        0 => None,
        _ => Some(ExpertConfig::read_deepseek(keys)?),
    };
    Ok(())
}

fn build(graph: Graph<'_>) -> Result<Plan, ModelError> {
    let config = graph.config();
    let Some(latent) = config.latent else {
        unreachable!("read by configure");
    };
    let n_dense = config.experts.map_or(config.n_layers, |experts| experts.n_dense_layers);
    decoder(graph, 1.0, |graph, layer, x| {
        let attended = attention(graph, layer, x, &latent)?;
        let mid = graph.b.add(&blk(layer, "mid"), x, attended)?;
        let fed = if layer < n_dense {
            gated_mlp(graph, layer, mid, MlpStyle::default())?
        } else {
            expert_block(graph, layer, mid)?
        };
        Ok(graph.b.add(&blk(layer, "out"), mid, fed)?)
    })
}

/// Routed experts plus the shared one.
fn expert_block(graph: &mut Graph<'_>, layer: u32, x: TensorId) -> Result<TensorId, ModelError> {
    let normed = graph.rms_norm(&blk(layer, "ffn_norm"), x, graph.config().d_model)?;
    let routed = moe(graph, layer, [normed, normed], MoeStyle::default())?;
    let has_shared = graph.config().experts.is_some_and(|e| e.d_ff_shared > 0);
    if !has_shared {
        return Ok(routed);
    }
    let shared = shared_expert(graph, layer, normed, false)?;
    Ok(graph.b.add(&blk(layer, "ffn_out"), routed, shared)?)
}

/// Queries of all heads: through a compressed row, or directly.
fn queries(
    graph: &mut Graph<'_>,
    layer: u32,
    x: TensorId,
    latent: &LatentConfig,
) -> Result<TensorId, ModelError> {
    let config = graph.config();
    let n_out = config.n_heads * latent.head_dim;
    let Some(rank) = latent.q_lora_rank else {
        return graph.linear(&blk(layer, "attn_q"), x, n_out, config.d_model);
    };
    let compressed = graph.linear(&blk(layer, "attn_q_a"), x, rank, config.d_model)?;
    let normed = graph.rms_norm(&blk(layer, "attn_q_a_norm"), compressed, rank)?;
    graph.linear(&blk(layer, "attn_q_b"), normed, n_out, rank)
}

/// Norm, projections, cache, attention and output projection. The key projection `attn_k_b` is
/// applied to the queries and the value projection `attn_v_b` to the results, so the cache holds
/// the compressed rows.
fn attention(
    graph: &mut Graph<'_>,
    layer: u32,
    x: TensorId,
    latent: &LatentConfig,
) -> Result<TensorId, ModelError> {
    let config = graph.config();
    let (n_heads, rope_dim, rank) = (config.n_heads, config.rope_dims, latent.kv_lora_rank);
    let normed = graph.rms_norm(&blk(layer, "attn_norm"), x, config.d_model)?;
    let q = queries(graph, layer, normed, latent)?;
    let plain_dim = latent.head_dim - rope_dim;
    let slice = |start, len| HeadSlice { head_dim: latent.head_dim, start, len };
    let q_plain = graph.b.head_slice(&blk(layer, "q_nope"), slice(0, plain_dim), q)?;
    let q_rope = graph.b.head_slice(&blk(layer, "q_pe"), slice(plain_dim, rope_dim), q)?;
    let heads = HeadMatMul { n_heads };
    let k_b = graph.stack(&blk(layer, "attn_k_b.weight"), n_heads, [rank, plain_dim])?;
    let q = graph.b.head_matmul(&blk(layer, "attn_k_b"), heads, k_b, q_plain)?;
    let q_rope = graph.rope_whole(&blk(layer, "q_rope"), q_rope)?;
    let caches = store_kv(graph, layer, normed, latent)?;
    let attributes = LatentAttention {
        n_heads,
        latent_dim: rank,
        rope_dim,
        scale: config.attn_scale,
        page_size: graph.b.limits().page_size,
    };
    let attended =
        graph.b.latent_attention(&blk(layer, "attn"), attributes, [q, q_rope], caches)?;
    let sizes = [latent.v_head_dim, rank];
    let v_b = graph.stack(&blk(layer, "attn_v_b.weight"), n_heads, sizes)?;
    let values = graph.b.head_matmul(&blk(layer, "attn_v_b"), heads, v_b, attended)?;
    let n_in = n_heads * latent.v_head_dim;
    graph.linear(&blk(layer, "attn_output"), values, config.d_model, n_in)
}

/// Compressed row and rotated key of each token into their caches.
fn store_kv(
    graph: &mut Graph<'_>,
    layer: u32,
    x: TensorId,
    latent: &LatentConfig,
) -> Result<[TensorId; 2], ModelError> {
    let config = graph.config();
    let (rope_dim, rank) = (config.rope_dims, latent.kv_lora_rank);
    let label = blk(layer, "attn_kv_a_mqa");
    let packed = graph.linear(&label, x, rank + rope_dim, config.d_model)?;
    let compressed = graph.b.view(&blk(layer, "kv_cmpr"), packed, 0, rank)?;
    let k_rope = graph.b.view(&blk(layer, "k_pe"), packed, rank, rope_dim)?;
    let compressed = graph.rms_norm(&blk(layer, "attn_kv_a_norm"), compressed, rank)?;
    let k_rope = graph.rope_whole(&blk(layer, "k_rope"), k_rope)?;
    let kv_type = graph.kv_type;
    let caches = [
        graph.b.cache(&blk(layer, "cache_kv"), kv_type, rank)?,
        graph.b.cache(&blk(layer, "cache_k_rope"), kv_type, rope_dim)?,
    ];
    let label = blk(layer, "kv_write");
    graph.b.kv_write(&label, [compressed, k_rope], caches)?;
    Ok(caches)
}
