//! Feed-forward blocks of which each token uses a few.

use zinc_plan::{Activation, GatedAct, HeadSlice, RouterTopK, TensorId};

use super::{MlpStyle, blk, mlp};
use crate::ModelError;
use crate::config::ExpertConfig;
use crate::graph::Graph;

/// How the experts differ between families.
#[derive(Clone, Copy)]
pub(crate) struct MoeStyle {
    /// Applied to the gate.
    pub act: Activation,
    /// The file must hold biases of the router and of the experts.
    pub bias: bool,
    /// Each expert's result has a factor, `ffn_down_exps.scale`.
    pub expert_scale: bool,
}

impl Default for MoeStyle {
    fn default() -> Self {
        Self { act: Activation::Silu, bias: false, expert_scale: false }
    }
}

/// The model's experts.
fn experts(graph: &Graph<'_>) -> Result<ExpertConfig, ModelError> {
    let config = graph.config();
    config.experts.ok_or_else(|| ModelError::Config {
        key: format!("{}.expert_count", config.arch),
        reason: "is missing".into(),
    })
}

/// Experts over `x`, chosen by the router's view `router_in` of the same rows.
pub(crate) fn moe(
    graph: &mut Graph<'_>,
    layer: u32,
    [x, router_in]: [TensorId; 2],
    style: MoeStyle,
) -> Result<TensorId, ModelError> {
    let e = experts(graph)?;
    let d_model = graph.config().d_model;
    let router_label = blk(layer, "ffn_gate_inp");
    if style.bias {
        graph.vector(&format!("{router_label}.bias"), e.n_experts)?;
    }
    let logits = graph.linear(&router_label, router_in, e.n_experts, d_model)?;
    let selection_bias = graph.optional_vector(&blk(layer, "exp_probs_b.bias"), e.n_experts)?;
    let router = RouterTopK {
        n_experts_used: e.n_experts_used,
        gating: e.gating,
        bias: selection_bias.is_some(),
        groups: e.groups,
        normalize: e.normalize,
        scale: e.scale,
    };
    let label = blk(layer, "ffn_moe");
    let [ids, weights] = graph.b.router_top_k(&label, router, logits, selection_bias)?;
    let fused = blk(layer, "ffn_gate_up_exps");
    let [gate, up] = if graph.has(&format!("{fused}.weight")) {
        fused_gate_up(graph, layer, x, ids, &e)?
    } else {
        let sizes = [e.d_ff, d_model];
        [
            expert_linear(graph, &blk(layer, "ffn_gate_exps"), [x, ids], sizes, style)?,
            expert_linear(graph, &blk(layer, "ffn_up_exps"), [x, ids], sizes, style)?,
        ]
    };
    let act = GatedAct { act: style.act };
    let hidden = graph.b.gated_act(&blk(layer, "ffn_moe_act"), act, gate, up)?;
    let down = blk(layer, "ffn_down_exps");
    let sizes = [d_model, e.d_ff];
    let results = expert_linear(graph, &down, [hidden, ids], sizes, style)?;
    let scale = match style.expert_scale {
        true => Some([ids, graph.vector(&format!("{down}.scale"), e.n_experts)?]),
        false => None,
    };
    let label = blk(layer, "ffn_moe_out");
    Ok(graph.b.expert_combine(&label, results, weights, scale)?)
}

/// Products of x with the chosen experts' matrices of `label`.
fn expert_linear(
    graph: &mut Graph<'_>,
    label: &str,
    [x, ids]: [TensorId; 2],
    sizes: [u32; 2],
    style: MoeStyle,
) -> Result<TensorId, ModelError> {
    let n_experts = experts(graph)?.n_experts;
    let weight = graph.stack(&format!("{label}.weight"), n_experts, sizes)?;
    let bias = match style.bias {
        true => Some(graph.f32_matrix(&format!("{label}.bias"), n_experts, sizes[0])?),
        false => None,
    };
    let operands = [weight, x, ids];
    Ok(graph.b.expert_matmul(label, n_experts, operands, bias)?)
}

/// Gate and up of each chosen expert from one stack, the gate's rows first.
fn fused_gate_up(
    graph: &mut Graph<'_>,
    layer: u32,
    x: TensorId,
    ids: TensorId,
    e: &ExpertConfig,
) -> Result<[TensorId; 2], ModelError> {
    let sizes = [2 * e.d_ff, graph.config().d_model];
    let label = blk(layer, "ffn_gate_up_exps");
    let packed = expert_linear(graph, &label, [x, ids], sizes, MoeStyle::default())?;
    let slice = |start| HeadSlice { head_dim: 2 * e.d_ff, start, len: e.d_ff };
    let gate = graph.b.head_slice(&blk(layer, "ffn_gate_exps"), slice(0), packed)?;
    let up = graph.b.head_slice(&blk(layer, "ffn_up_exps"), slice(e.d_ff), packed)?;
    Ok([gate, up])
}

/// The expert that every token passes, weighed by `ffn_gate_inp_shexp` when `gated`.
pub(crate) fn shared_expert(
    graph: &mut Graph<'_>,
    layer: u32,
    x: TensorId,
    gated: bool,
) -> Result<TensorId, ModelError> {
    let d_ff = experts(graph)?.d_ff_shared;
    let y = mlp(graph, layer, x, MlpStyle::default(), ("_shexp", d_ff))?;
    if !gated {
        return Ok(y);
    }
    let d_model = graph.config().d_model;
    let gate = graph.linear(&blk(layer, "ffn_gate_inp_shexp"), x, 1, d_model)?;
    let label = blk(layer, "ffn_shexp_gated");
    Ok(graph.b.sigmoid_gate(&label, y, gate)?)
}
