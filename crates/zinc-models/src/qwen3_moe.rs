//! Qwen3-MoE: norms on the query and key heads, experts in every layer.

use zinc_plan::{Plan, RopeMode};

use crate::blocks::{AttentionStyle, MoeStyle, attention, blk, decoder, moe};
use crate::config::{ExpertConfig, Keys};
use crate::graph::Graph;
use crate::registry::Family;
use crate::{ModelConfig, ModelError};

pub(crate) const FAMILY: Family =
    Family { arch: "qwen3moe", rope_mode: RopeMode::Neox, configure, build, build_mtp: None };

fn configure(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<(), ModelError> {
    config.experts = Some(ExpertConfig { normalize: true, ..ExpertConfig::read(keys)? });
    Ok(())
}

fn build(graph: Graph<'_>) -> Result<Plan, ModelError> {
    let style = AttentionStyle { qk_norm: true, ..AttentionStyle::default() };
    decoder(graph, 1.0, |graph, layer, x| {
        let attended = attention(graph, layer, x, style)?;
        let mid = graph.b.add(&blk(layer, "mid"), x, attended)?;
        let normed = graph.rms_norm(&blk(layer, "ffn_norm"), mid, graph.config().d_model)?;
        let fed = moe(graph, layer, [normed, normed], MoeStyle::default())?;
        Ok(graph.b.add(&blk(layer, "out"), mid, fed)?)
    })
}
