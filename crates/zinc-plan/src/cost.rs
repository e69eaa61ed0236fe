//! What an operation moves and computes, for rooflines and memory estimates.

use crate::op::{ExpertGateUpAct, ExpertMatMul, Op, OpKind};
use crate::plan::{Dim, Node, Plan, TensorInfo, TensorKind};

/// Actual sizes of one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound {
    /// Tokens processed.
    pub tokens: u64,
    /// Sequences taking part.
    pub seqs: u64,
    /// Rows whose logits are returned.
    pub out_rows: u64,
    /// Keys that an average query sees.
    pub mean_keys: u64,
}

/// Bytes and arithmetic of an operation or a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// Bytes read from weights, caches and values, each once.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Floating-point operations (a multiply-add counts as two).
    pub flops: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.read_bytes += other.read_bytes;
        self.write_bytes += other.write_bytes;
        self.flops += other.flops;
    }
}

impl Bound {
    /// Actual number of rows of `dim`; a cache counts as what the queries of one token see.
    pub fn rows(&self, dim: Dim) -> u64 {
        match dim {
            Dim::Fixed(n) => u64::from(n),
            Dim::Tokens => self.tokens,
            Dim::Seqs => self.seqs,
            Dim::OutRows => self.out_rows,
            Dim::CacheRows | Dim::WindowRows => self.mean_keys * self.seqs,
            Dim::StateSlots => self.seqs,
        }
    }
}

impl Plan {
    /// Cost of `node` in a step of size `bound`.
    pub fn node_cost(&self, node: &Node, bound: &Bound) -> Cost {
        let bytes = |id: &_| {
            let tensor = self.tensor(*id);
            bound.rows(tensor.shape.rows) * tensor.row_bytes() as u64
        };
        let mut cost = Cost {
            read_bytes: node.reads.iter().map(bytes).sum(),
            write_bytes: node.writes.iter().map(bytes).sum(),
            flops: 0,
        };
        let result = self.tensor(node.writes[0]);
        let n_results = bound.rows(result.shape.rows) * u64::from(result.shape.cols);
        match node.op {
            Op::Embed(_) => {
                // Only the rows that the ids name are read.
                let table = self.tensor(node.reads[0]);
                cost.read_bytes = bound.tokens * (table.row_bytes() as u64 + 4);
            }
            Op::KvWrite => {
                let row_bytes = |id: &_| self.tensor(*id).row_bytes() as u64;
                cost.write_bytes = bound.tokens * node.writes.iter().map(row_bytes).sum::<u64>();
            }
            Op::MatMul(_) | Op::GateUpAct(_) => {
                let n_in = u64::from(self.tensor(node.reads[0]).shape.cols);
                cost.flops = 2 * n_in * n_results * node.op.n_weight_operands() as u64;
            }
            Op::HeadMatMul(_) => {
                let n_in = u64::from(self.tensor(node.reads[0]).shape.cols);
                cost.flops = 2 * n_in * n_results;
            }
            Op::ExpertMatMul(ExpertMatMul { n_experts, .. })
            | Op::ExpertGateUpAct(ExpertGateUpAct { n_experts, .. }) => {
                let n_weights = node.op.n_weight_operands();
                let n_in = u64::from(self.tensor(node.reads[0]).shape.cols);
                let n_products = if node.op.kind() == OpKind::ExpertMatMul { 1 } else { 2 };
                cost.flops = 2 * n_in * n_results * n_products;
                // At most as many experts are read as there are tokens times choices.
                let n_experts = u64::from(n_experts.max(1));
                let ids = self.tensor(node.reads[n_weights + 1]);
                let n_chosen = bound.tokens * u64::from(ids.shape.cols);
                let all: u64 = node.reads[..n_weights].iter().map(bytes).sum();
                cost.read_bytes -= all - all / n_experts * n_experts.min(n_chosen);
            }
            Op::LatentAttention(a) => {
                let per_key = 2 * u64::from(a.n_heads) * u64::from(2 * a.latent_dim + a.rope_dim);
                cost.flops = bound.tokens * bound.mean_keys * per_key;
            }
            Op::CausalConv1d(conv) => {
                cost.read_bytes += bytes(&node.writes[1]);
                cost.flops = 2 * u64::from(conv.kernel) * n_results;
            }
            Op::GatedDeltaNet(_) => {
                // The state is read and written once; decay, two products and the update per token.
                let state = self.tensor(node.writes[1]);
                cost.read_bytes += bytes(&node.writes[1]);
                cost.flops = 7 * bound.tokens * u64::from(state.shape.cols);
            }
            Op::Attention(a) => {
                let per_key = 2 * u64::from(a.n_heads) * u64::from(a.k_dim + a.v_dim);
                let mean_keys = a.window.map_or(u64::MAX, u64::from).min(bound.mean_keys);
                cost.flops = bound.tokens * mean_keys * per_key;
                let unseen = Bound { mean_keys: bound.mean_keys - mean_keys, ..*bound };
                cost.read_bytes -= self.cache_bytes(node, &unseen);
            }
            _ => cost.flops = n_results,
        }
        cost
    }

    /// Bytes of the keys and values of `bound` that attention reads.
    fn cache_bytes(&self, node: &Node, bound: &Bound) -> u64 {
        let caches = node.reads[1..3].iter().map(|id| self.tensor(*id));
        caches.map(|cache| bound.rows(cache.shape.rows) * cache.row_bytes() as u64).sum()
    }

    /// Cost of the whole step.
    pub fn cost(&self, bound: &Bound) -> Cost {
        let mut all = Cost::default();
        self.nodes.iter().for_each(|node| all += self.node_cost(node, bound));
        all
    }

    /// Bytes of all weights the plan names.
    pub fn weight_bytes(&self) -> u64 {
        self.tensors_where(|tensor| tensor.kind == TensorKind::Weight)
            .map(|(id, _)| self.max_bytes(id))
            .sum()
    }

    /// Bytes of one row of all states whose rows are `dim`.
    pub fn state_row_bytes(&self, dim: Dim) -> u64 {
        let is_wanted =
            |tensor: &TensorInfo| tensor.kind == TensorKind::State && tensor.shape.rows == dim;
        self.tensors_where(is_wanted).map(|(_, tensor)| tensor.row_bytes() as u64).sum()
    }

    /// Bytes of all states: the key/value caches at full size.
    pub fn state_bytes(&self) -> u64 {
        self.tensors_where(|tensor| tensor.kind == TensorKind::State)
            .map(|(id, _)| self.max_bytes(id))
            .sum()
    }
}
