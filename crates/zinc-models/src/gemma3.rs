//! Gemma 3: sliding-window layers with a rotation of their own, norms on both sides of each block,
//! scaled embeddings, GELU.

use zinc_plan::{Activation, Plan, RopeMode};

use crate::blocks::{AttentionStyle, MlpStyle, attention, blk, decoder, gated_mlp};
use crate::config::{Keys, LocalRope};
use crate::graph::Graph;
use crate::registry::Family;
use crate::{ModelConfig, ModelError};

pub(crate) const FAMILY: Family =
    Family { arch: "gemma3", rope_mode: RopeMode::Neox, configure, build, build_mtp: None };

/// Layers of the 27B model, whose scores are scaled by the residual width per head instead of the
/// head's width; the files do not say so.
const N_LAYERS_27B: u32 = 62;

fn configure(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<(), ModelError> {
    if config.window.is_some() {
        let pattern = keys.window_pattern(config.n_layers, 6)?;
        for (layer, is_local) in config.layers.iter_mut().zip(pattern) {
            layer.local_rope = is_local;
            layer.window = layer.window.filter(|_| is_local);
        }
        config.rope_local = Some(LocalRope {
            dims: config.rope_dims,
            theta: keys.positive("rope.freq_base_swa")?.unwrap_or(10_000.0),
        });
    }
    if config.n_layers == N_LAYERS_27B {
        config.attn_scale = 1.0 / ((config.d_model / config.n_heads) as f32).sqrt();
    }
    config.logit_softcap = keys.positive("final_logit_softcapping")?;
    Ok(())
}

fn build(graph: Graph<'_>) -> Result<Plan, ModelError> {
    layers(graph, AttentionStyle { qk_norm: true, ..AttentionStyle::default() })
}

/// The decoder of Gemma 2 and 3.
pub(crate) fn layers(
    graph: Graph<'_>,
    attention_style: AttentionStyle,
) -> Result<Plan, ModelError> {
    let d_model = graph.config().d_model;
    let mlp_style = MlpStyle { act: Activation::GeluTanh, ..MlpStyle::default() };
    decoder(graph, (d_model as f32).sqrt(), |graph, layer, x| {
        let attended = attention(graph, layer, x, attention_style)?;
        let label = blk(layer, "post_attention_norm");
        let attended = graph.rms_norm(&label, attended, d_model)?;
        let mid = graph.b.add(&blk(layer, "mid"), x, attended)?;
        let fed = gated_mlp(graph, layer, mid, mlp_style)?;
        let fed = graph.rms_norm(&blk(layer, "post_ffw_norm"), fed, d_model)?;
        Ok(graph.b.add(&blk(layer, "out"), mid, fed)?)
    })
}
