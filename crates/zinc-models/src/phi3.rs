//! Phi-3, Phi-3.5 and Phi-4-mini: packed query/key/value and gate/up matrices, longrope.

use zinc_plan::{Plan, RopeMode};

use crate::ModelError;
use crate::blocks::{AttentionStyle, MlpStyle, dense_decoder};
use crate::graph::Graph;
use crate::registry::{Family, nothing_more};

pub(crate) const FAMILY: Family = Family {
    arch: "phi3",
    rope_mode: RopeMode::Neox,
    configure: nothing_more,
    build,
    build_mtp: None,
};

fn build(graph: Graph<'_>) -> Result<Plan, ModelError> {
    let attention = AttentionStyle { fused_qkv: true, ..AttentionStyle::default() };
    let mlp = MlpStyle { fused_gate_up: true, ..MlpStyle::default() };
    dense_decoder(graph, attention, mlp)
}
