//! Phi-3, Phi-3.5 and Phi-4-mini: packed query/key/value and gate/up matrices, longrope.

use zinc_plan::{Plan, RopeMode};

use crate::ModelError;
use crate::blocks::{AttentionStyle, MlpStyle, decoder};
use crate::graph::Graph;
use crate::registry::Family;

pub(crate) const FAMILY: Family = Family { arch: "phi3", rope_mode: RopeMode::Neox, build };

fn build(graph: Graph<'_>) -> Result<Plan, ModelError> {
    let attention = AttentionStyle { fused_qkv: true, qk_norm: false, qkv_bias: false };
    decoder(graph, attention, MlpStyle { fused_gate_up: true })
}
