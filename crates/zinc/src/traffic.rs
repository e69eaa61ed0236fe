//! Bytes that a model's steps read: what bounds their speed.

use std::collections::BTreeMap;

use zinc_engine::{EngineOptions, Model};
use zinc_models::PlanOptions;
use zinc_plan::{Node, Op, Plan, TensorId, TensorKind};

/// Bytes that steps read.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Weights and recurrent states of a step, whatever its number of tokens.
    fixed: u64,
    /// Rows that each token reads of its own: the embedding.
    per_token: u64,
    /// Weights of experts by how many there are and how many a token uses.
    experts: BTreeMap<(u32, u32), u64>,
    /// Caches that keep everything, for each token before.
    full: u64,
    /// Caches by window, for each token before that lies in it.
    windows: BTreeMap<u32, u64>,
}

impl Traffic {
    /// What steps of `model` read.
    ///
    /// # Errors
    /// The model's plan cannot be built.
    pub fn of(model: &Model, options: &EngineOptions) -> anyhow::Result<Traffic> {
        let one_token = PlanOptions { kv_type: options.kv_type, ..PlanOptions::ONE_TOKEN };
        let plan = model.graph().plan(&one_token)?;
        let mut traffic = Traffic::default();
        plan.nodes.iter().for_each(|node| traffic.add(&plan, node));
        Ok(traffic)
    }

    fn add(&mut self, plan: &Plan, node: &Node) {
        let row_bytes = |id: &TensorId| plan.tensor(*id).row_bytes() as u64;
        let (first, others) = node.reads.split_at(1);
        let weights: u64 = others
            .iter()
            .filter(|id| plan.tensor(**id).kind == TensorKind::Weight)
            .map(|id| plan.max_bytes(*id))
            .sum();
        let is_weight = plan.tensor(first[0]).kind == TensorKind::Weight;
        let all = if is_weight { plan.max_bytes(first[0]) } else { 0 };
        match node.op {
            Op::Embed(_) => self.per_token += row_bytes(&first[0]),
            Op::ExpertMatMul(matmul) => {
                let n_used = plan.tensor(node.reads[2]).shape.cols;
                // A bias is a row for each expert.
                *self.experts.entry((matmul.n_experts, n_used)).or_default() += all + weights;
            }
            Op::Attention(attention) => {
                let n_bytes: u64 = node.reads[1..3].iter().map(row_bytes).sum();
                match attention.window {
                    Some(window) => *self.windows.entry(window).or_default() += n_bytes,
                    None => self.full += n_bytes,
                }
                self.fixed += weights;
            }
            Op::LatentAttention(_) => {
                self.full += node.reads[2..4].iter().map(row_bytes).sum::<u64>();
            }
            Op::CausalConv1d(_) | Op::GatedDeltaNet(_) => {
                let state = node.writes.last().map_or(0, row_bytes);
                self.fixed += all + weights + state;
            }
            _ => self.fixed += all + weights,
        }
    }

    /// Weights and recurrent states that a step of `n_tokens` reads. Tokens are taken to choose
    /// different experts as long as there are any.
    pub fn step_bytes(&self, n_tokens: u32) -> u64 {
        let n_tokens = u64::from(n_tokens);
        let experts = self.experts.iter().map(|((n_experts, n_used), n_bytes)| {
            let n_experts = u64::from(*n_experts).max(1);
            let n_read = n_experts.min(u64::from(*n_used) * n_tokens);
            (u128::from(*n_bytes) * u128::from(n_read) / u128::from(n_experts)) as u64
        });
        self.fixed + self.per_token * n_tokens + experts.sum::<u64>()
    }

    /// Caches that a step reads that ends with `n_tokens` tokens in them and has computed the last
    /// `n_new` of these.
    pub fn cache_bytes(&self, n_tokens: u64, n_new: u32) -> u64 {
        let windows = self.windows.iter().map(|(window, n_bytes)| {
            let n_seen = u64::from(*window) + u64::from(n_new).saturating_sub(1);
            n_bytes * n_tokens.min(n_seen)
        });
        self.full * n_tokens + windows.sum::<u64>()
    }

    /// Cache that each token before adds to what is read.
    pub fn full_per_token(&self) -> u64 {
        self.full
    }

    /// Cache that each token before adds as long as it lies in the window, and the longest window.
    pub fn window_per_token(&self) -> Option<(u64, u32)> {
        let longest = *self.windows.keys().last()?;
        Some((self.windows.values().sum(), longest))
    }

    /// Bytes read to compute `n_tokens` in steps of at most `step` tokens after `depth` others:
    /// every step reads the weights once and the cache once.
    pub fn bytes(&self, depth: u32, n_tokens: u32, step: u32) -> u64 {
        let mut n_bytes = 0;
        let mut n_done = 0;
        while n_done < n_tokens {
            let n_new = step.max(1).min(n_tokens - n_done);
            n_done += n_new;
            n_bytes += self.step_bytes(n_new)
                + self.cache_bytes(u64::from(depth) + u64::from(n_done), n_new);
        }
        n_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_reads_weights_and_cache_once() {
        let traffic = Traffic { fixed: 1000, full: 1, ..Traffic::default() };
        assert_eq!(traffic.bytes(0, 3, 1), 3000 + 1 + 2 + 3);
        assert_eq!(traffic.bytes(10, 5, 4), 2000 + 14 + 15);
        assert_eq!(traffic.bytes(10, 0, 4), 0);
    }

    #[test]
    fn experts_and_windows_are_read_as_far_as_they_are_used() {
        let experts = BTreeMap::from([((8, 2), 800)]);
        let traffic = Traffic { per_token: 3, experts, ..Traffic::default() };
        assert_eq!(traffic.step_bytes(1), 3 + 200);
        assert_eq!(traffic.step_bytes(3), 9 + 600);
        assert_eq!(traffic.step_bytes(100), 300 + 800);
        let traffic = Traffic { windows: BTreeMap::from([(10, 1)]), ..Traffic::default() };
        assert_eq!(traffic.bytes(0, 2, 1), 1 + 2);
        assert_eq!(traffic.bytes(100, 2, 1), 10 + 10);
        assert_eq!(traffic.bytes(100, 4, 4), 13);
    }
}
