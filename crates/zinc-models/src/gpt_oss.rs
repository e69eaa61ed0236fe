//! GPT-OSS: attention sinks, every other layer with a sliding window, biases everywhere, clamped
//! SwiGLU experts, YaRN whose ramp is not rounded.

use zinc_plan::{Activation, Gating, Plan, RopeMode};

use crate::blocks::{AttentionStyle, MoeStyle, attention, blk, decoder, moe};
use crate::config::{ExpertConfig, Keys, RopeScaling};
use crate::graph::Graph;
use crate::registry::Family;
use crate::{ModelConfig, ModelError};

pub(crate) const FAMILY: Family =
    Family { arch: "gpt-oss", rope_mode: RopeMode::Neox, configure, build, build_mtp: None };

fn configure(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<(), ModelError> {
    if config.window.is_none() {
        return Err(keys.error("attention.sliding_window", "is missing"));
    }
    let pattern = keys.window_pattern(config.n_layers, 2)?;
    for (layer, is_local) in config.layers.iter_mut().zip(pattern) {
        layer.window = layer.window.filter(|_| is_local);
    }
    // The models' configurations say `truncate: false`; GGUF has no key for it.
    if let RopeScaling::Yarn { truncate, .. } = &mut config.rope_scaling {
        *truncate = false;
    }
    config.experts =
        Some(ExpertConfig { gating: Gating::TopKSoftmax, ..ExpertConfig::read(keys)? });
    Ok(())
}

fn build(graph: Graph<'_>) -> Result<Plan, ModelError> {
    let attention_style =
        AttentionStyle { qkv_bias: true, sinks: true, ..AttentionStyle::default() };
    let moe_style = MoeStyle { act: Activation::SwigluOai, bias: true, ..MoeStyle::default() };
    decoder(graph, 1.0, |graph, layer, x| {
        let d_model = graph.config().d_model;
        graph.vector(&blk(layer, "attn_output.bias"), d_model)?;
        let attended = attention(graph, layer, x, attention_style)?;
        let mid = graph.b.add(&blk(layer, "mid"), x, attended)?;
        let normed = graph.rms_norm(&blk(layer, "post_attention_norm"), mid, d_model)?;
        let fed = moe(graph, layer, [normed, normed], moe_style)?;
        Ok(graph.b.add(&blk(layer, "out"), mid, fed)?)
    })
}
