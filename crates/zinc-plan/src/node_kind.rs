//! What a node is, apart from where it stands in the model: the rows of profiles.

use std::fmt;

use zinc_quant::GgmlType;

use crate::op::{Op, OpKind};
use crate::plan::{Dim, Node, Plan, TensorId};

/// Operation, type and size of a node. Nodes that do the same in other layers are equal.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeKind {
    /// The operation.
    pub op: OpKind,
    /// Type of the weights, of the cache, or of the result where there is neither.
    pub dtype: GgmlType,
    /// Rows times columns of the weights, with the number of matrices before them; heads (of queries and
    /// of keys) times their elements; else the columns of the result.
    pub shape: String,
}

/// `matmul q4_k 4096x12288`.
impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.op.name(), self.dtype, self.shape)
    }
}

impl Plan {
    /// What `node` is.
    pub fn node_kind(&self, node: &Node) -> NodeKind {
        let dtype = |id: TensorId| self.tensor(id).dtype;
        let first = node.reads[0];
        let matrix = |n_parts: u32| {
            let shape = self.tensor(first).shape;
            let n_rows = match shape.rows {
                Dim::Fixed(n) => n / n_parts.max(1),
                _ => 0,
            };
            format!("{n_rows}x{}", shape.cols)
        };
        let (dtype, shape) = match node.op {
            Op::Embed(_) | Op::MatMul(_) => (dtype(first), matrix(1)),
            Op::GateUpAct(_) => (dtype(first), format!("2x{}", matrix(1))),
            Op::HeadMatMul(matmul) => {
                (dtype(first), format!("{}x{}", matmul.n_heads, matrix(matmul.n_heads)))
            }
            Op::ExpertMatMul(matmul) => {
                (dtype(first), format!("{}x{}", matmul.n_experts, matrix(matmul.n_experts)))
            }
            Op::ExpertGateUpAct(pair) => {
                let n_parts = pair.n_experts * if pair.packed { 2 } else { 1 };
                (dtype(first), format!("{}x2x{}", pair.n_experts, matrix(n_parts)))
            }
            Op::Attention(a) => {
                let window = a.window.map(|window| format!(" in {window}")).unwrap_or_default();
                let cap = a.softcap.map(|cap| format!(" cap {cap}")).unwrap_or_default();
                let shape = format!("{}/{}x{}{window}{cap}", a.n_heads, a.n_kv_heads, a.k_dim);
                (dtype(node.reads[1]), shape)
            }
            Op::LatentAttention(a) => {
                (dtype(node.reads[2]), format!("{}x{}+{}", a.n_heads, a.latent_dim, a.rope_dim))
            }
            Op::GatedDeltaNet(net) => {
                let heads = format!("{}/{}", net.n_v_heads, net.n_k_heads);
                (dtype(node.writes[0]), format!("{heads}x{}x{}", net.k_dim, net.v_dim))
            }
            Op::KvWrite => {
                let cols = node.writes.iter().map(|id| self.tensor(*id).shape.cols);
                (dtype(node.writes[0]), cols.sum::<u32>().to_string())
            }
            _ => {
                let result = self.tensor(node.writes[0]);
                (result.dtype, result.shape.cols.to_string())
            }
        };
        NodeKind { op: node.op.kind(), dtype, shape }
    }
}
