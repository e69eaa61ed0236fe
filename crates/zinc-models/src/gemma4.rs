//! Gemma 4 in its three shapes: small models with inputs for each layer and layers that read the
//! keys and values of others, large dense ones whose global layers use their keys as values, and
//! those with experts beside the dense block.

use zinc_plan::{Activation, GatedAct, Plan, RmsNorm, RopeMode, TensorId};

use crate::blocks::{
    MlpStyle, MoeStyle, attend, blk, decoder, gated_mlp, moe, output_projection, store_kv,
};
use crate::config::{ExpertConfig, Keys, LocalRope, MAX_HEAD_DIM};
use crate::graph::Graph;
use crate::registry::Family;
use crate::{ModelConfig, ModelError};

pub(crate) const FAMILY: Family =
    Family { arch: "gemma4", rope_mode: RopeMode::Neox, configure, build, build_mtp: None };

const MLP: MlpStyle =
    MlpStyle { norm: "ffn_norm", fused_gate_up: false, act: Activation::GeluTanh };

fn configure(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<(), ModelError> {
    if config.window.is_none() {
        return Err(keys.error("attention.sliding_window", "is missing"));
    }
    let n_layers = config.n_layers;
    let name = "attention.sliding_window_pattern";
    let pattern = keys.flags(name, n_layers)?.ok_or_else(|| keys.error(name, "is missing"))?;
    let local = |name, global| -> Result<u32, ModelError> {
        Ok(keys.optional_count(name, MAX_HEAD_DIM)?.unwrap_or(global))
    };
    let head_dim = local("attention.key_length_swa", config.head_dim)?;
    let v_head_dim = local("attention.value_length_swa", config.v_head_dim)?;
    let rope_dims = local("rope.dimension_count_swa", config.rope_dims)?;
    for (layer, is_local) in config.layers.iter_mut().zip(&pattern) {
        layer.window = layer.window.filter(|_| *is_local);
        if *is_local {
            layer.local_rope = true;
            (layer.head_dim, layer.v_head_dim) = (head_dim, v_head_dim);
            layer.rope_dims = rope_dims;
        }
    }
    config.rope_local = Some(LocalRope {
        dims: rope_dims,
        theta: keys.positive("rope.freq_base_swa")?.unwrap_or(10_000.0),
    });
    share_kv(keys, config, &pattern)?;
    config.attn_scale = 1.0;
    config.logit_softcap = keys.positive("final_logit_softcapping")?;
    config.d_per_layer = keys.u32("embedding_length_per_layer_input")?.filter(|d| *d > 0);
    if let Some(d) = config.d_per_layer {
        keys.check_count("embedding_length_per_layer_input", d, MAX_HEAD_DIM)?;
    }
    if keys.u32("expert_count")?.unwrap_or(0) > 0 {
        config.experts = Some(ExpertConfig { normalize: true, ..ExpertConfig::read(keys)? });
    }
    Ok(())
}

/// The last layers read the cache of the last layer of their kind that has one.
fn share_kv(
    keys: &Keys<'_>,
    config: &mut ModelConfig,
    is_local: &[bool],
) -> Result<(), ModelError> {
    let name = "attention.shared_kv_layers";
    let n_shared = keys.u32(name)?.unwrap_or(0);
    let n_own = config.n_layers.saturating_sub(n_shared) as usize;
    for layer in n_own..is_local.len() {
        let owner = (0..n_own).rev().find(|o| is_local[*o] == is_local[layer]);
        let owner = owner.ok_or_else(|| {
            keys.error(name, format!("is {n_shared}: nothing to share for layer {layer}"))
        })?;
        config.layers[layer].kv_layer = Some(owner as u32);
        config.layers[layer].n_kv_heads = config.layers[owner].n_kv_heads;
    }
    Ok(())
}

fn build(graph: Graph<'_>) -> Result<Plan, ModelError> {
    let d_model = graph.config().d_model;
    let mut caches: Vec<[TensorId; 2]> = Vec::new();
    let mut inputs = None;
    decoder(graph, (d_model as f32).sqrt(), |graph, layer, x| {
        if let (0, Some(width)) = (layer, graph.config().d_per_layer) {
            inputs = Some(per_layer_inputs(graph, x, width)?);
        }
        let attended = attention(graph, layer, x, &mut caches)?;
        let label = blk(layer, "post_attention_norm");
        let attended = graph.rms_norm(&label, attended, d_model)?;
        let mid = graph.b.add(&blk(layer, "mid"), x, attended)?;
        let fed = match graph.config().experts {
            Some(_) => dense_and_experts(graph, layer, mid)?,
            None => gated_mlp(graph, layer, mid, MLP)?,
        };
        let fed = graph.rms_norm(&blk(layer, "post_ffw_norm"), fed, d_model)?;
        let mut y = graph.b.add(&blk(layer, "fed"), mid, fed)?;
        if let (Some(inputs), Some(width)) = (inputs, graph.config().d_per_layer) {
            let gated = per_layer_input(graph, layer, y, (inputs, width))?;
            y = graph.b.add(&blk(layer, "with_input"), y, gated)?;
        }
        let scale = graph.vector(&blk(layer, "layer_output_scale.weight"), 1)?;
        Ok(graph.b.mul(&blk(layer, "out"), y, scale)?)
    })
}

/// Norm, attention over the layer's own cache or another's, output projection. Values are
/// normalised without a weight; layers without `attn_v` take their keys, before the norm, as values.
fn attention(
    graph: &mut Graph<'_>,
    layer: u32,
    x: TensorId,
    caches: &mut Vec<[TensorId; 2]>,
) -> Result<TensorId, ModelError> {
    let config = graph.config();
    let sizes = config.layer(layer);
    let (d_model, head_dim) = (config.d_model, sizes.head_dim);
    let normed = graph.rms_norm(&blk(layer, "attn_norm"), x, d_model)?;
    let q_width = config.n_heads * head_dim;
    let q = graph.linear(&blk(layer, "attn_q"), normed, q_width, d_model)?;
    let [q_norm, q_rope] = ["attn_q_norm", "q_rope"].map(|part| blk(layer, part));
    let (q, cache) = match sizes.kv_layer {
        Some(owner) => {
            let q = graph.rms_norm(&q_norm, q, head_dim)?;
            (graph.rope(&q_rope, layer, q)?, caches[owner as usize])
        }
        None => {
            let k_width = sizes.n_kv_heads * head_dim;
            let v_width = sizes.n_kv_heads * sizes.v_head_dim;
            let k = graph.linear(&blk(layer, "attn_k"), normed, k_width, d_model)?;
            let v = match graph.has(&blk(layer, "attn_v.weight")) {
                true => graph.linear(&blk(layer, "attn_v"), normed, v_width, d_model)?,
                false => k,
            };
            let q = graph.rms_norm(&q_norm, q, head_dim)?;
            let k = graph.rms_norm(&blk(layer, "attn_k_norm"), k, head_dim)?;
            let v = graph.rms_norm_plain(&blk(layer, "attn_v_norm"), v, sizes.v_head_dim)?;
            let q = graph.rope(&q_rope, layer, q)?;
            (q, store_kv(graph, layer, k, v)?)
        }
    };
    caches.push(cache);
    let attended = attend(graph, layer, q, cache, None)?;
    output_projection(graph, layer, attended)
}

/// What the router of experts reads: the residual stream through a norm whose weight is its input scale.
fn router_input(graph: &mut Graph<'_>, layer: u32, x: TensorId) -> Result<TensorId, ModelError> {
    let config = graph.config();
    let d_model = config.d_model;
    let norm = RmsNorm { eps: config.rms_eps, group: d_model };
    let input_scale = graph.vector(&blk(layer, "ffn_gate_inp.scale"), d_model)?;
    let normed = graph.b.rms_norm(&blk(layer, "router_norm"), norm, x, input_scale)?;
    let factor = 1.0 / (d_model as f32).sqrt();
    Ok(graph.b.scale(&blk(layer, "router_in"), normed, factor)?)
}

/// The dense block and the experts, each with norms of its own, summed. Norms come side by side, so that a device may
/// do them at once.
fn dense_and_experts(
    graph: &mut Graph<'_>,
    layer: u32,
    x: TensorId,
) -> Result<TensorId, ModelError> {
    let d_model = graph.config().d_model;
    let router_in = router_input(graph, layer, x)?;
    let normed = graph.rms_norm(&blk(layer, "pre_ffw_norm_2"), x, d_model)?;
    let dense = gated_mlp(graph, layer, x, MLP)?;
    let style = MoeStyle { act: Activation::GeluTanh, expert_scale: true, ..MoeStyle::default() };
    let routed = moe(graph, layer, [normed, router_in], style)?;
    let dense = graph.rms_norm(&blk(layer, "post_ffw_norm_1"), dense, d_model)?;
    let routed = graph.rms_norm(&blk(layer, "post_ffw_norm_2"), routed, d_model)?;
    Ok(graph.b.add(&blk(layer, "ffn_out"), dense, routed)?)
}

/// The inputs of all layers, side by side: rows of a token table, mixed with a projection of the
/// embedding.
fn per_layer_inputs(
    graph: &mut Graph<'_>,
    embedded: TensorId,
    width: u32,
) -> Result<TensorId, ModelError> {
    let config = graph.config();
    let all = width * config.n_layers;
    let table = graph.matrix("per_layer_token_embd.weight", config.n_vocab, all)?;
    let of_token = graph.b.embed("per_layer_embed", table, (width as f32).sqrt())?;
    let projected = graph.linear("per_layer_model_proj", embedded, all, config.d_model)?;
    let factor = 1.0 / (config.d_model as f32).sqrt();
    let projected = graph.b.scale("per_layer_proj", projected, factor)?;
    let projected = graph.rms_norm("per_layer_proj_norm", projected, width)?;
    let sum = graph.b.add("per_layer_sum", projected, of_token)?;
    let factor = std::f32::consts::FRAC_1_SQRT_2;
    Ok(graph.b.scale("per_layer_inputs", sum, factor)?)
}

/// The layer's own input, gated by the residual stream.
fn per_layer_input(
    graph: &mut Graph<'_>,
    layer: u32,
    x: TensorId,
    (inputs, width): (TensorId, u32),
) -> Result<TensorId, ModelError> {
    let d_model = graph.config().d_model;
    let gate = graph.linear(&blk(layer, "inp_gate"), x, width, d_model)?;
    let label = blk(layer, "per_layer_input");
    let input = graph.b.view(&label, inputs, layer * width, width)?;
    let act = GatedAct { act: Activation::GeluTanh };
    let gated = graph.b.gated_act(&blk(layer, "inp_act"), act, gate, input)?;
    let y = graph.linear(&blk(layer, "proj"), gated, d_model, width)?;
    graph.rms_norm(&blk(layer, "post_norm"), y, d_model)
}
