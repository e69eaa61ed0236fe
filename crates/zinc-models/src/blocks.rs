//! Blocks shared by the families.

use zinc_plan::{Activation, Attention, GatedAct, Plan, Rope, TensorId};

use crate::ModelError;
use crate::graph::Graph;

/// How an attention block differs between families.
#[derive(Clone, Copy)]
pub(crate) struct AttentionStyle {
    /// Query, key and value rows come from one matrix `attn_qkv`.
    pub fused_qkv: bool,
    /// Query and key heads are normalised before the rotation.
    pub qk_norm: bool,
    /// The file must hold biases of query, key and value.
    pub qkv_bias: bool,
}

/// How a feed-forward block differs between families.
#[derive(Clone, Copy)]
pub(crate) struct MlpStyle {
    /// Gate and up rows come from one matrix `ffn_up`: the gate first.
    pub fused_gate_up: bool,
}

/// A decoder of identical layers: norm, attention, residual, norm, gated feed-forward, residual.
pub(crate) fn decoder(
    mut graph: Graph<'_>,
    attention_style: AttentionStyle,
    mlp_style: MlpStyle,
) -> Result<Plan, ModelError> {
    let config = graph.config();
    let table = graph.matrix("token_embd.weight", config.n_vocab, config.d_model)?;
    let mut x = graph.b.embed("embed", table, 1.0)?;
    for layer in 0..config.n_layers {
        let blk = format!("blk.{layer}");
        let attended = attention(&mut graph, &blk, x, attention_style)?;
        let mid = graph.b.add(&format!("{blk}.mid"), x, attended)?;
        let fed = gated_mlp(&mut graph, &blk, mid, mlp_style)?;
        x = graph.b.add(&format!("{blk}.out"), mid, fed)?;
    }
    let logits = head(&mut graph, x, table)?;
    Ok(graph.finish(logits))
}

/// Final norm and logits of the rows that are wanted; tied to the embedding when the file has no
/// output matrix.
fn head(graph: &mut Graph<'_>, x: TensorId, table: TensorId) -> Result<TensorId, ModelError> {
    let config = graph.config();
    let rows = graph.b.gather_out_rows("out", x)?;
    let weight = graph.vector("output_norm.weight", config.d_model)?;
    let norm = zinc_plan::RmsNorm { eps: config.rms_eps, group: config.d_model };
    let normed = graph.b.rms_norm("final_norm", norm, rows, weight)?;
    let output = graph.optional("output.weight", config.n_vocab, config.d_model)?;
    let bias = graph.optional_vector("output.bias", config.n_vocab)?;
    Ok(graph.b.matmul("logits", output.unwrap_or(table), normed, bias)?)
}

/// Query, key and value of a block before norms and rotation.
fn qkv(
    graph: &mut Graph<'_>,
    blk: &str,
    x: TensorId,
    style: AttentionStyle,
) -> Result<[TensorId; 3], ModelError> {
    let config = graph.config();
    let widths = [
        config.n_heads * config.head_dim,
        config.n_kv_heads * config.head_dim,
        config.n_kv_heads * config.v_head_dim,
    ];
    let labels = ["attn_q", "attn_k", "attn_v"].map(|part| format!("{blk}.{part}"));
    if style.fused_qkv {
        let n_out = widths.iter().sum();
        let packed = graph.linear(&format!("{blk}.attn_qkv"), x, n_out, config.d_model)?;
        let q = graph.b.view(&labels[0], packed, 0, widths[0])?;
        let k = graph.b.view(&labels[1], packed, widths[0], widths[1])?;
        let v = graph.b.view(&labels[2], packed, widths[0] + widths[1], widths[2])?;
        return Ok([q, k, v]);
    }
    let mut parts = [x; 3];
    for ((part, label), n_out) in parts.iter_mut().zip(&labels).zip(widths) {
        if style.qkv_bias {
            graph.vector(&format!("{label}.bias"), n_out)?;
        }
        *part = graph.linear(label, x, n_out, config.d_model)?;
    }
    Ok(parts)
}

/// Norm, projections, rotation, cache, attention and output projection, without the residual.
fn attention(
    graph: &mut Graph<'_>,
    blk: &str,
    x: TensorId,
    style: AttentionStyle,
) -> Result<TensorId, ModelError> {
    let config = graph.config();
    let normed = graph.rms_norm(&format!("{blk}.attn_norm"), x, config.d_model)?;
    let [mut q, mut k, v] = qkv(graph, blk, normed, style)?;
    if style.qk_norm {
        q = graph.rms_norm(&format!("{blk}.attn_q_norm"), q, config.head_dim)?;
        k = graph.rms_norm(&format!("{blk}.attn_k_norm"), k, config.head_dim)?;
    }
    let rope = Rope { mode: config.rope_mode, head_dim: config.head_dim, n_dims: config.rope_dims };
    let table = graph.rope_table;
    let q = graph.b.rope(&format!("{blk}.q_rope"), rope, q, table)?;
    let k = graph.b.rope(&format!("{blk}.k_rope"), rope, k, table)?;
    let k_width = config.n_kv_heads * config.head_dim;
    let v_width = config.n_kv_heads * config.v_head_dim;
    let kv_type = graph.kv_type;
    let caches = [
        graph.b.cache(&format!("{blk}.cache_k"), kv_type, k_width)?,
        graph.b.cache(&format!("{blk}.cache_v"), kv_type, v_width)?,
    ];
    graph.b.kv_write(&format!("{blk}.kv_write"), [k, v], caches)?;
    let attributes = Attention {
        n_heads: config.n_heads,
        n_kv_heads: config.n_kv_heads,
        k_dim: config.head_dim,
        v_dim: config.v_head_dim,
        scale: 1.0 / (config.head_dim as f32).sqrt(),
        window: config.window,
        page_size: graph.b.limits().page_size,
    };
    let attended = graph.b.attention(&format!("{blk}.attn"), attributes, q, caches)?;
    let n_in = config.n_heads * config.v_head_dim;
    graph.linear(&format!("{blk}.attn_output"), attended, config.d_model, n_in)
}

/// Norm and SwiGLU feed-forward, without the residual.
fn gated_mlp(
    graph: &mut Graph<'_>,
    blk: &str,
    x: TensorId,
    style: MlpStyle,
) -> Result<TensorId, ModelError> {
    let config = graph.config();
    let normed = graph.rms_norm(&format!("{blk}.ffn_norm"), x, config.d_model)?;
    let (gate, up) = if style.fused_gate_up {
        let label = format!("{blk}.ffn_up");
        let packed = graph.linear(&label, normed, 2 * config.d_ff, config.d_model)?;
        let gate = graph.b.view(&format!("{label}.gate"), packed, 0, config.d_ff)?;
        let up = graph.b.view(&format!("{label}.up"), packed, config.d_ff, config.d_ff)?;
        (gate, up)
    } else {
        let gate = graph.linear(&format!("{blk}.ffn_gate"), normed, config.d_ff, config.d_model)?;
        let up = graph.linear(&format!("{blk}.ffn_up"), normed, config.d_ff, config.d_model)?;
        (gate, up)
    };
    let act = GatedAct { act: Activation::Silu };
    let hidden = graph.b.gated_act(&format!("{blk}.ffn_act"), act, gate, up)?;
    graph.linear(&format!("{blk}.ffn_down"), hidden, config.d_model, config.d_ff)
}
