//! Gated DeltaNet layers.

use zinc_plan::{CausalConv1d, GatedDeltaNet, HeadSlice, L2Norm, RmsNorm, TensorId};

use super::blk;
use crate::ModelError;
use crate::config::DeltaNetConfig;
use crate::graph::Graph;

/// Inside the root of the norm of queries and keys: a constant of the architecture.
const QK_NORM_EPS: f32 = 1e-6;

/// Norm, projections, convolution, recurrence, gated norm and output projection.
pub(crate) fn delta_net(
    graph: &mut Graph<'_>,
    layer: u32,
    x: TensorId,
) -> Result<TensorId, ModelError> {
    let config = graph.config();
    let d_model = config.d_model;
    let net = config.delta_net.ok_or_else(|| ModelError::Config {
        key: format!("{}.ssm.state_size", config.arch),
        reason: "is missing".into(),
    })?;
    let (key_width, value_width) = (net.n_k_heads * net.head_dim, net.n_v_heads * net.head_dim);
    let normed = graph.rms_norm(&blk(layer, "attn_norm"), x, d_model)?;
    let n_channels = 2 * key_width + value_width;
    let qkv = graph.linear(&blk(layer, "attn_qkv"), normed, n_channels, d_model)?;
    let z = graph.linear(&blk(layer, "attn_gate"), normed, value_width, d_model)?;
    let [alpha, beta] = gate_inputs(graph, layer, normed, &net)?;
    let a_log = graph.vector(&blk(layer, "ssm_a"), net.n_v_heads)?;
    let dt_bias = graph.vector(&blk(layer, "ssm_dt.bias"), net.n_v_heads)?;
    let gates = blk(layer, "ssm_gates");
    let [g, beta] = graph.b.delta_gates(&gates, [alpha, beta], [a_log, dt_bias])?;
    let [q, k, v] = convolve(graph, layer, qkv, &net)?;
    let attributes = GatedDeltaNet {
        n_k_heads: net.n_k_heads,
        n_v_heads: net.n_v_heads,
        k_dim: net.head_dim,
        v_dim: net.head_dim,
        scale: 1.0 / (net.head_dim as f32).sqrt(),
        order: net.order,
    };
    let state_cols = net.n_v_heads * net.head_dim * net.head_dim;
    let state = graph.b.recurrent_state(&blk(layer, "ssm_state"), state_cols)?;
    let operands = [q, k, v, g, beta];
    let y = graph.b.gated_delta_net(&blk(layer, "delta_net"), attributes, operands, state)?;
    let norm = RmsNorm { eps: config.rms_eps, group: net.head_dim };
    let weight = graph.vector(&blk(layer, "ssm_norm.weight"), net.head_dim)?;
    let y = graph.b.rms_norm_gated(&blk(layer, "ssm_norm"), norm, [y, weight, z])?;
    graph.linear(&blk(layer, "ssm_out"), y, d_model, value_width)
}

/// What decay and step size of each head come from: two matrices, or one whose rows hold, for each
/// key head, the step sizes of its value heads and then their decays.
fn gate_inputs(
    graph: &mut Graph<'_>,
    layer: u32,
    x: TensorId,
    net: &DeltaNetConfig,
) -> Result<[TensorId; 2], ModelError> {
    let d_model = graph.config().d_model;
    let packed_label = blk(layer, "ssm_ba");
    if !graph.has(&format!("{packed_label}.weight")) {
        let alpha = graph.linear(&blk(layer, "ssm_alpha"), x, net.n_v_heads, d_model)?;
        let beta = graph.linear(&blk(layer, "ssm_beta"), x, net.n_v_heads, d_model)?;
        return Ok([alpha, beta]);
    }
    let packed = graph.linear(&packed_label, x, 2 * net.n_v_heads, d_model)?;
    let per_k_head = net.n_v_heads / net.n_k_heads;
    let slice = |start| HeadSlice { head_dim: 2 * per_k_head, start, len: per_k_head };
    let beta = graph.b.head_slice(&blk(layer, "ssm_beta"), slice(0), packed)?;
    let alpha = graph.b.head_slice(&blk(layer, "ssm_alpha"), slice(per_k_head), packed)?;
    Ok([alpha, beta])
}

/// Convolution, then query, key and value; queries and keys are normalised.
fn convolve(
    graph: &mut Graph<'_>,
    layer: u32,
    qkv: TensorId,
    net: &DeltaNetConfig,
) -> Result<[TensorId; 3], ModelError> {
    let (key_width, value_width) = (net.n_k_heads * net.head_dim, net.n_v_heads * net.head_dim);
    let n_channels = 2 * key_width + value_width;
    let kernel = net.conv_kernel;
    let weight = graph.f32_matrix(&blk(layer, "ssm_conv1d.weight"), n_channels, kernel)?;
    let state_cols = kernel.saturating_sub(1) * n_channels;
    let state = graph.b.recurrent_state(&blk(layer, "ssm_conv_state"), state_cols)?;
    let label = blk(layer, "ssm_conv1d");
    let conv = graph.b.causal_conv1d(&label, CausalConv1d { kernel }, [qkv, weight], state)?;
    let q = graph.b.view(&blk(layer, "ssm_q"), conv, 0, key_width)?;
    let k = graph.b.view(&blk(layer, "ssm_k"), conv, key_width, key_width)?;
    let v = graph.b.view(&blk(layer, "ssm_v"), conv, 2 * key_width, value_width)?;
    let norm = L2Norm { eps: QK_NORM_EPS, group: net.head_dim };
    let q = graph.b.l2_norm(&blk(layer, "ssm_q_norm"), norm, q)?;
    let k = graph.b.l2_norm(&blk(layer, "ssm_k_norm"), norm, k)?;
    Ok([q, k, v])
}
