//! Qwen3 dense: norms on the query and key heads.

use zinc_plan::{Plan, RopeMode};

use crate::ModelError;
use crate::blocks::{AttentionStyle, MlpStyle, decoder};
use crate::graph::Graph;
use crate::registry::Family;

pub(crate) const FAMILY: Family = Family { arch: "qwen3", rope_mode: RopeMode::Neox, build };

fn build(graph: Graph<'_>) -> Result<Plan, ModelError> {
    let attention = AttentionStyle { fused_qkv: false, qk_norm: true, qkv_bias: false };
    decoder(graph, attention, MlpStyle { fused_gate_up: false })
}
