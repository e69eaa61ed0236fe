//! Gemma 2: soft caps on attention scores and logits, every other layer with a sliding window, norms on
//! both sides of each block, scaled embeddings, GELU.

use zinc_plan::{Plan, RopeMode};

use crate::blocks::AttentionStyle;
use crate::config::{ATTN_SOFTCAP, Keys};
use crate::graph::Graph;
use crate::registry::Family;
use crate::{ModelConfig, ModelError, gemma3};

pub(crate) const FAMILY: Family =
    Family { arch: "gemma2", rope_mode: RopeMode::Neox, configure, build, build_mtp: None };

/// What the first files leave out: all models have it (arXiv:2408.00118, table 1).
const WINDOW: u32 = 4096;
const SCORES_CAP: f32 = 50.0;
const LOGITS_CAP: f32 = 30.0;

/// Layers of the 27B model, whose scores are scaled by the residual width per head instead of the
/// head's width; the files do not say so.
const N_LAYERS_27B: u32 = 46;

fn configure(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<(), ModelError> {
    let window = *config.window.get_or_insert(WINDOW);
    let pattern = keys.window_pattern(config.n_layers, 2)?;
    for (layer, is_local) in config.layers.iter_mut().zip(pattern) {
        layer.window = is_local.then_some(window);
    }
    if config.n_layers == N_LAYERS_27B {
        config.attn_scale = 1.0 / ((config.d_model / config.n_heads) as f32).sqrt();
    }
    config.attn_softcap = Some(keys.positive(ATTN_SOFTCAP)?.unwrap_or(SCORES_CAP));
    config.logit_softcap = Some(keys.positive("final_logit_softcapping")?.unwrap_or(LOGITS_CAP));
    Ok(())
}

fn build(graph: Graph<'_>) -> Result<Plan, ModelError> {
    gemma3::layers(graph, AttentionStyle::default())
}
