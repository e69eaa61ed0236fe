//! Blocks shared by the families. Each computes a branch without its residual.

mod attention;
mod delta_net;
mod ffn;
mod moe;
mod mtp;

use zinc_plan::{Plan, TensorId};

pub(crate) use self::attention::{AttentionStyle, attend, attention, output_projection, store_kv};
pub(crate) use self::delta_net::delta_net;
pub(crate) use self::ffn::{MlpStyle, gated_mlp, mlp};
pub(crate) use self::moe::{MoeStyle, moe, shared_expert};
pub(crate) use self::mtp::mtp_decoder;
use crate::ModelError;
use crate::graph::Graph;

/// `blk.3.attn_q`.
pub(crate) fn blk(layer: u32, part: &str) -> String {
    format!("blk.{layer}.{part}")
}

/// Embedding, `layer` for each block, head. `layer` gets the residual stream and names its result
/// `blk.N.out`.
pub(crate) fn decoder(
    mut graph: Graph<'_>,
    embed_scale: f32,
    mut layer: impl FnMut(&mut Graph<'_>, u32, TensorId) -> Result<TensorId, ModelError>,
) -> Result<Plan, ModelError> {
    let table = token_table(&mut graph)?;
    let mut x = graph.b.embed("embed", table, embed_scale)?;
    for idx in 0..graph.config().n_layers {
        x = layer(&mut graph, idx, x)?;
    }
    let (logits, hidden) = head(&mut graph, x, table)?;
    Ok(graph.finish(logits, hidden))
}

/// A decoder of equal layers: attention and a dense feed-forward block.
pub(crate) fn dense_decoder(
    graph: Graph<'_>,
    attention_style: AttentionStyle,
    mlp_style: MlpStyle,
) -> Result<Plan, ModelError> {
    decoder(graph, 1.0, |graph, layer, x| {
        let attended = attention(graph, layer, x, attention_style)?;
        let mid = graph.b.add(&blk(layer, "mid"), x, attended)?;
        let fed = gated_mlp(graph, layer, mid, mlp_style)?;
        Ok(graph.b.add(&blk(layer, "out"), mid, fed)?)
    })
}

/// The embedding of the vocabulary.
pub(crate) fn token_table(graph: &mut Graph<'_>) -> Result<TensorId, ModelError> {
    let config = graph.config();
    graph.matrix("token_embd.weight", config.n_vocab, config.d_model)
}

/// Final norm and logits of the rows that are wanted, and the normed rows; tied to the embedding when
/// the file has no output matrix.
fn head(
    graph: &mut Graph<'_>,
    x: TensorId,
    table: TensorId,
) -> Result<(TensorId, TensorId), ModelError> {
    head_with(graph, x, "output_norm.weight", (&["output.weight"], table))
}

/// As [`head`], with the norm's weight named; the matrix is the first of `outputs` that the file
/// has, or the table.
fn head_with(
    graph: &mut Graph<'_>,
    x: TensorId,
    norm: &str,
    (outputs, table): (&[&str], TensorId),
) -> Result<(TensorId, TensorId), ModelError> {
    let config = graph.config();
    // A norm is of one row, so both orders give the same; this one computes no row for nothing.
    let rows = if graph.gives_hidden { x } else { graph.b.gather_out_rows("out", x)? };
    let weight = graph.vector(norm, config.d_model)?;
    let attributes = zinc_plan::RmsNorm { eps: config.rms_eps, group: config.d_model };
    let hidden = graph.b.rms_norm("final_norm", attributes, rows, weight)?;
    let normed = if graph.gives_hidden { graph.b.gather_out_rows("out", hidden)? } else { hidden };
    let output = match outputs.iter().find(|name| graph.has(name)) {
        Some(name) => graph.matrix(name, config.n_vocab, config.d_model)?,
        None => table,
    };
    let bias = graph.optional_vector("output.bias", config.n_vocab)?;
    let logits = match config.logit_softcap {
        None => graph.b.matmul("logits", output, normed, bias)?,
        Some(cap) => {
            let raw = graph.b.matmul("raw_logits", output, normed, bias)?;
            graph.b.softcap("logits", raw, cap)?
        }
    };
    Ok((logits, hidden))
}
