//! Qwen2 and Qwen2.5: biases on query, key and value.

use zinc_plan::{Plan, RopeMode};

use crate::ModelError;
use crate::blocks::{AttentionStyle, MlpStyle, dense_decoder};
use crate::graph::Graph;
use crate::registry::{Family, nothing_more};

pub(crate) const FAMILY: Family = Family {
    arch: "qwen2",
    rope_mode: RopeMode::Neox,
    configure: nothing_more,
    build,
    build_mtp: None,
};

fn build(graph: Graph<'_>) -> Result<Plan, ModelError> {
    let attention = AttentionStyle { qkv_bias: true, ..AttentionStyle::default() };
    let mlp = MlpStyle::default();
    dense_decoder(graph, attention, mlp)
}
