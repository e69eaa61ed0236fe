//! Dense feed-forward blocks.

use zinc_plan::{Activation, GatedAct, TensorId};

use super::blk;
use crate::ModelError;
use crate::graph::Graph;

/// How a feed-forward block differs between families.
#[derive(Clone, Copy)]
pub(crate) struct MlpStyle {
    /// Name of the norm before the block.
    pub norm: &'static str,
    /// Gate and up rows come from one matrix `ffn_up`: the gate first.
    pub fused_gate_up: bool,
    /// Applied to the gate.
    pub act: Activation,
}

impl Default for MlpStyle {
    fn default() -> Self {
        Self { norm: "ffn_norm", fused_gate_up: false, act: Activation::Silu }
    }
}

/// Norm and gated feed-forward block.
pub(crate) fn gated_mlp(
    graph: &mut Graph<'_>,
    layer: u32,
    x: TensorId,
    style: MlpStyle,
) -> Result<TensorId, ModelError> {
    let d_ff = graph.config().layer(layer).d_ff;
    if d_ff == 0 {
        let arch = &graph.config().arch;
        return Err(ModelError::Config {
            key: format!("{arch}.feed_forward_length"),
            reason: format!("is missing or 0, and layer {layer} has a dense block"),
        });
    }
    let normed = graph.rms_norm(&blk(layer, style.norm), x, graph.config().d_model)?;
    mlp(graph, layer, normed, style, ("", d_ff))
}

/// A gated feed-forward block of width `d_ff` whose tensors have names that end in `suffix`.
pub(crate) fn mlp(
    graph: &mut Graph<'_>,
    layer: u32,
    x: TensorId,
    style: MlpStyle,
    (suffix, d_ff): (&str, u32),
) -> Result<TensorId, ModelError> {
    let d_model = graph.config().d_model;
    let label = |part: &str| blk(layer, &format!("{part}{suffix}"));
    let (gate, up) = if style.fused_gate_up {
        let up_label = label("ffn_up");
        let packed = graph.linear(&up_label, x, 2 * d_ff, d_model)?;
        let gate = graph.b.view(&format!("{up_label}.gate"), packed, 0, d_ff)?;
        let up = graph.b.view(&format!("{up_label}.up"), packed, d_ff, d_ff)?;
        (gate, up)
    } else {
        (
            graph.linear(&label("ffn_gate"), x, d_ff, d_model)?,
            graph.linear(&label("ffn_up"), x, d_ff, d_model)?,
        )
    };
    let act = GatedAct { act: style.act };
    let hidden = graph.b.gated_act(&label("ffn_act"), act, gate, up)?;
    graph.linear(&label("ffn_down"), hidden, d_model, d_ff)
}
