//! Multi-token prediction: a further block that predicts the token after the next.

use zinc_plan::{Plan, TensorId};

use super::{blk, head_with, token_table};
use crate::ModelError;
use crate::graph::Graph;

/// The block after the trunk: the token's embedding and the hidden state of the token before it,
/// each normalised, joined and projected, then `layer` and a head.
pub(crate) fn mtp_decoder(
    mut graph: Graph<'_>,
    layer: impl FnOnce(&mut Graph<'_>, u32, TensorId) -> Result<TensorId, ModelError>,
) -> Result<Plan, ModelError> {
    let config = graph.config();
    let idx = config.n_layers;
    let (n_vocab, d_model) = (config.n_vocab, config.d_model);
    let part = |name: &str| blk(idx, &format!("nextn.{name}"));
    let trunk_table = token_table(&mut graph)?;
    let own_table = graph.optional(&part("embed_tokens.weight"), n_vocab, d_model)?;
    let token = graph.b.embed("embed", own_table.unwrap_or(trunk_table), 1.0)?;
    let token = graph.rms_norm(&part("enorm"), token, d_model)?;
    let hidden = graph.b.hidden_input(d_model)?;
    let hidden = graph.rms_norm(&part("hnorm"), hidden, d_model)?;
    let joined = graph.b.concat(&part("joined"), token, hidden)?;
    let x = graph.linear(&part("eh_proj"), joined, d_model, 2 * d_model)?;
    let x = layer(&mut graph, idx, x)?;
    let own_norm = part("shared_head_norm.weight");
    let norm = match graph.has(&own_norm) {
        true => own_norm.as_str(),
        false => "output_norm.weight",
    };
    let own_output = part("shared_head_head.weight");
    let outputs = [own_output.as_str(), "output.weight"];
    let (logits, hidden) = head_with(&mut graph, x, norm, (&outputs, trunk_table))?;
    Ok(graph.finish(logits, hidden))
}
