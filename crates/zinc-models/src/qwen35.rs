//! Qwen3.5 and Qwen3.6, dense and with experts: most layers are gated DeltaNets, the others
//! attention whose results are gated; files may hold a block of multi-token prediction.
//!
//! Position sections of the rotation (mrope) need no care here: all axes of text carry the same
//! position.

use zinc_plan::{HeadOrder, RopeMode, TensorId};

use crate::blocks::{
    AttentionStyle, MlpStyle, MoeStyle, attention, blk, decoder, delta_net, gated_mlp, moe,
    mtp_decoder, shared_expert,
};
use crate::config::{DeltaNetConfig, ExpertConfig, Keys};
use crate::graph::Graph;
use crate::registry::Family;
use crate::{ModelConfig, ModelError};

pub(crate) const DENSE: Family = Family {
    arch: "qwen35",
    rope_mode: RopeMode::Neox,
    configure: |keys, config| configure_hybrid(keys, config, HeadOrder::Tiled),
    build: |graph| decoder(graph, 1.0, dense_layer),
    build_mtp: Some(|graph| mtp_decoder(graph, dense_layer)),
};

pub(crate) const MOE: Family = Family {
    arch: "qwen35moe",
    rope_mode: RopeMode::Neox,
    configure: configure_moe,
    build: |graph| decoder(graph, 1.0, expert_layer),
    build_mtp: Some(|graph| mtp_decoder(graph, expert_layer)),
};

fn configure_moe(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<(), ModelError> {
    configure_hybrid(keys, config, HeadOrder::Tiled)?;
    config.experts = Some(expert_config(keys)?);
    Ok(())
}

/// Sizes of the DeltaNet and which layers have one.
pub(crate) fn configure_hybrid(
    keys: &Keys<'_>,
    config: &mut ModelConfig,
    order: HeadOrder,
) -> Result<(), ModelError> {
    let n_blocks = config.n_layers + config.n_mtp_layers;
    let recurrent = DeltaNetConfig::recurrent_layers(keys, config.n_layers, n_blocks)?;
    for (layer, recurrent) in config.layers.iter_mut().zip(recurrent) {
        layer.recurrent = recurrent;
    }
    config.delta_net = Some(DeltaNetConfig::read(keys, order)?);
    Ok(())
}

/// Experts with a gated shared one.
pub(crate) fn expert_config(keys: &Keys<'_>) -> Result<ExpertConfig, ModelError> {
    Ok(ExpertConfig {
        normalize: true,
        d_ff_shared: keys.count_width("expert_shared_feed_forward_length")?,
        scale: keys.positive("expert_weights_scale")?.unwrap_or(1.0),
        ..ExpertConfig::read(keys)?
    })
}

/// DeltaNet or attention with its residual.
fn mixer(graph: &mut Graph<'_>, layer: u32, x: TensorId) -> Result<TensorId, ModelError> {
    let style = AttentionStyle { qk_norm: true, gated: true, ..AttentionStyle::default() };
    let mixed = if graph.config().layer(layer).recurrent {
        delta_net(graph, layer, x)?
    } else {
        attention(graph, layer, x, style)?
    };
    Ok(graph.b.add(&blk(layer, "mid"), x, mixed)?)
}

fn dense_layer(graph: &mut Graph<'_>, layer: u32, x: TensorId) -> Result<TensorId, ModelError> {
    let mid = mixer(graph, layer, x)?;
    let style = MlpStyle { norm: "post_attention_norm", ..MlpStyle::default() };
    let fed = gated_mlp(graph, layer, mid, style)?;
    Ok(graph.b.add(&blk(layer, "out"), mid, fed)?)
}

pub(crate) fn expert_layer(
    graph: &mut Graph<'_>,
    layer: u32,
    x: TensorId,
) -> Result<TensorId, ModelError> {
    let mid = mixer(graph, layer, x)?;
    let d_model = graph.config().d_model;
    let normed = graph.rms_norm(&blk(layer, "post_attention_norm"), mid, d_model)?;
    let routed = moe(graph, layer, [normed, normed], MoeStyle::default())?;
    let shared = shared_expert(graph, layer, normed, true)?;
    let fed = graph.b.add(&blk(layer, "ffn_out"), routed, shared)?;
    Ok(graph.b.add(&blk(layer, "out"), mid, fed)?)
}
