//! Qwen3-Next: gated DeltaNet and gated attention layers, experts with a shared one.

use zinc_plan::{HeadOrder, Plan, RopeMode};

use crate::config::Keys;
use crate::graph::Graph;
use crate::qwen35::{configure_hybrid, expert_config, expert_layer};
use crate::registry::Family;
use crate::{ModelConfig, ModelError, blocks};

pub(crate) const FAMILY: Family = Family {
    arch: "qwen3next",
    rope_mode: RopeMode::Neox,
    configure,
    build,
    build_mtp: Some(build_mtp),
};

fn configure(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<(), ModelError> {
    configure_hybrid(keys, config, HeadOrder::Grouped)?;
    config.experts = Some(expert_config(keys)?);
    Ok(())
}

fn build(graph: Graph<'_>) -> Result<Plan, ModelError> {
    blocks::decoder(graph, 1.0, expert_layer)
}

fn build_mtp(graph: Graph<'_>) -> Result<Plan, ModelError> {
    blocks::mtp_decoder(graph, expert_layer)
}
