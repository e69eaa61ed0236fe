//! Qwen3 dense: norms on the query and key heads.

use zinc_plan::{Plan, RopeMode};

use crate::ModelError;
use crate::blocks::{AttentionStyle, MlpStyle, dense_decoder};
use crate::graph::Graph;
use crate::registry::{Family, nothing_more};

pub(crate) const FAMILY: Family = Family {
    arch: "qwen3",
    rope_mode: RopeMode::Neox,
    configure: nothing_more,
    build,
    build_mtp: None,
};

fn build(graph: Graph<'_>) -> Result<Plan, ModelError> {
    let attention = AttentionStyle { qk_norm: true, ..AttentionStyle::default() };
    let mlp = MlpStyle::default();
    dense_decoder(graph, attention, mlp)
}
