//! What a model needs to run: memory, and bytes read per token.

use serde::Serialize;
use zinc_backend::Device;
use zinc_engine::{EngineOptions, Model};
use zinc_models::PlanOptions;
use zinc_plan::{Limits, Op, Plan, TensorKind};

use crate::output::human_bytes;

/// Memory for a context length on a device.
#[derive(Clone, Debug, Serialize)]
pub struct Need {
    /// Device name.
    pub device: String,
    /// Context length in tokens.
    pub n_ctx: u32,
    /// Element type of the cache.
    pub kv_type: &'static str,
    /// Bytes of weights; a device that reads the mapped file in place takes no memory of its own.
    pub weight_bytes: u64,
    /// Bytes of the key/value cache.
    pub kv_bytes: u64,
    /// Bytes of intermediate values.
    pub scratch_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
    /// Bytes free on the device, if it says so.
    pub free_bytes: Option<u64>,
    /// Bytes of weights that each generated token reads.
    pub read_bytes_per_token: u64,
    /// Bytes of cache that each generated token reads for each token before it.
    pub kv_bytes_per_token: u64,
}

impl Need {
    /// What `model` needs on `device`.
    ///
    /// # Errors
    /// An option outside its range, or an operation or type the device lacks.
    pub fn of(model: &Model, device: &dyn Device, options: &EngineOptions) -> anyhow::Result<Need> {
        let memory = crate::model::memory_need(model, device, options)?;
        let n_ctx = options.n_ctx(model)?;
        let info = device.info();
        let traffic = traffic(model, options)?;
        Ok(Need {
            device: info.name.clone(),
            n_ctx,
            kv_type: options.kv_type.name(),
            weight_bytes: memory.weights,
            kv_bytes: memory.cache,
            scratch_bytes: memory.activations,
            total_bytes: memory.total(),
            free_bytes: Some(info.memory_free).filter(|free| *free > 0),
            read_bytes_per_token: traffic.weights,
            kv_bytes_per_token: traffic.cache_per_token,
        })
    }

    /// Lines for people.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let context = format!("{} tokens, {}", self.n_ctx, self.kv_type);
        let mut rows = vec![
            ("device", self.device.clone()),
            ("weights", human_bytes(self.weight_bytes)),
            ("key/value cache", format!("{} ({context})", human_bytes(self.kv_bytes))),
            ("scratch", human_bytes(self.scratch_bytes)),
            ("together", human_bytes(self.total_bytes)),
        ];
        if let Some(free) = self.free_bytes {
            let verdict = if self.total_bytes <= free { "fits" } else { "does not fit" };
            rows.push(("free", format!("{}: {verdict}", human_bytes(free))));
        }
        let (weights, cache) =
            (human_bytes(self.read_bytes_per_token), human_bytes(self.kv_bytes_per_token));
        rows.push(("read per token", format!("{weights}, and {cache} for each token before it")));
        rows
    }
}

/// Weights that a step of one token reads: every matrix once, one row of the embedding.
fn weight_bytes_per_token(plan: &Plan) -> u64 {
    let mut n_bytes = 0;
    for node in &plan.nodes {
        for id in &node.reads {
            let tensor = plan.tensor(*id);
            if tensor.kind == TensorKind::Weight {
                let row_only = matches!(node.op, Op::Embed(_));
                n_bytes += if row_only { tensor.row_bytes() as u64 } else { plan.max_bytes(*id) };
            }
        }
    }
    n_bytes
}

/// Elements of a row of each cache.
///
/// # Errors
/// The model's plan cannot be built.
pub fn cache_widths(model: &Model, options: &EngineOptions) -> anyhow::Result<Vec<u32>> {
    let plan = one_token_plan(model, options)?;
    let caches = plan.tensors.iter().filter(|tensor| tensor.kind == TensorKind::State);
    Ok(caches.map(|tensor| tensor.shape.cols).collect())
}

/// The plan of one token with a cache of one row.
fn one_token_plan(model: &Model, options: &EngineOptions) -> anyhow::Result<Plan> {
    let limits = Limits {
        max_tokens: 1,
        max_seqs: 1,
        max_out_rows: 1,
        page_size: 1,
        pages_per_seq: 1,
        n_pages: 1,
        window_pages_per_seq: 1,
        n_window_pages: 1,
        n_state_slots: 1,
    };
    Ok(model.graph().plan(&PlanOptions { limits, kv_type: options.kv_type })?)
}

/// Bytes that steps read.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Weights of a step, whatever its number of tokens.
    weights: u64,
    /// Cache, for each token that is in it.
    cache_per_token: u64,
}

impl Traffic {
    /// Bytes read to compute `n_tokens` in steps of at most `step` tokens after `depth` others:
    /// every step reads the weights once and the cache once.
    pub fn bytes(&self, depth: u32, n_tokens: u32, step: u32) -> u64 {
        let mut n_bytes = 0;
        let mut n_done = 0;
        while n_done < n_tokens {
            n_done = n_tokens.min(n_done + step.max(1));
            n_bytes += self.weights + self.cache_per_token * (u64::from(depth) + u64::from(n_done));
        }
        n_bytes
    }
}

/// What steps of `model` read.
///
/// # Errors
/// The model's plan cannot be built.
pub fn traffic(model: &Model, options: &EngineOptions) -> anyhow::Result<Traffic> {
    let plan = one_token_plan(model, options)?;
    Ok(Traffic { weights: weight_bytes_per_token(&plan), cache_per_token: plan.state_bytes() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_reads_weights_and_cache_once() {
        let traffic = Traffic { weights: 1000, cache_per_token: 1 };
        assert_eq!(traffic.bytes(0, 3, 1), 3000 + 1 + 2 + 3);
        assert_eq!(traffic.bytes(10, 5, 4), 2000 + 14 + 15);
        assert_eq!(traffic.bytes(10, 0, 4), 0);
    }
}
