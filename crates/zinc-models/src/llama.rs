//! Llama 1 to 3.x, and Mistral, whose files carry the same architecture name.

use zinc_plan::{Plan, RopeMode};

use crate::ModelError;
use crate::blocks::{AttentionStyle, MlpStyle, decoder};
use crate::graph::Graph;
use crate::registry::Family;

/// The converter permutes query and key rows, so pairs are neighbours.
pub(crate) const FAMILY: Family = Family { arch: "llama", rope_mode: RopeMode::Norm, build };

fn build(graph: Graph<'_>) -> Result<Plan, ModelError> {
    let attention = AttentionStyle { fused_qkv: false, qk_norm: false, qkv_bias: false };
    decoder(graph, attention, MlpStyle { fused_gate_up: false })
}
