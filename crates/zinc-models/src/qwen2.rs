//! Qwen2 and Qwen2.5: biases on query, key and value.

use zinc_plan::{Plan, RopeMode};

use crate::ModelError;
use crate::blocks::{AttentionStyle, MlpStyle, decoder};
use crate::graph::Graph;
use crate::registry::Family;

pub(crate) const FAMILY: Family = Family { arch: "qwen2", rope_mode: RopeMode::Neox, build };

fn build(graph: Graph<'_>) -> Result<Plan, ModelError> {
    let attention = AttentionStyle { fused_qkv: false, qk_norm: false, qkv_bias: true };
    decoder(graph, attention, MlpStyle { fused_gate_up: false })
}
