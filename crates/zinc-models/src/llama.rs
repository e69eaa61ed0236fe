//! Llama 1 to 3.x, and Mistral, whose files carry the same architecture name.

use zinc_plan::{Plan, RopeMode};

use crate::ModelError;
use crate::blocks::{AttentionStyle, MlpStyle, dense_decoder};
use crate::graph::Graph;
use crate::registry::{Family, nothing_more};

/// The converter permutes query and key rows, so pairs are neighbours.
pub(crate) const FAMILY: Family = Family {
    arch: "llama",
    rope_mode: RopeMode::Norm,
    configure: nothing_more,
    build,
    build_mtp: None,
};

fn build(graph: Graph<'_>) -> Result<Plan, ModelError> {
    let attention = AttentionStyle::default();
    let mlp = MlpStyle::default();
    dense_decoder(graph, attention, mlp)
}
