//! Matrix products: one matrix for all rows, one for each head, or the matrices of the chosen experts.

use super::{Grouping, Lowering, Operand};
use crate::kernels::format::Form;
use crate::memory::Rows;
use zinc_backend::DeviceError;
use zinc_plan::{Activation, ExpertGateUpAct, ExpertMatMul, HeadMatMul, MatMul, Node, TensorId};
use zinc_quant::GgmlType;

/// Products of rows with the matrices of a stack, or with a gated pair of them.
pub(crate) struct Product {
    pub weight: StackOperand,
    /// The second matrix of a gated pair.
    pub up: Option<(StackOperand, Activation)>,
    pub x: Operand,
    /// Columns of `x` that a matrix takes.
    pub n_in: usize,
    pub matrices: Matrices,
    pub residual: Option<Rows>,
    pub out: Rows,
    /// Rows of one matrix.
    pub n_out: usize,
}

/// Matrices one above the other, with a row of biases for each.
#[derive(Clone, Copy)]
pub(crate) struct StackOperand {
    pub weight: Operand,
    /// Where the first matrix begins, and rows from matrix to matrix.
    pub first: usize,
    pub distance: usize,
    pub bias: Option<Rows>,
}

/// Which matrix of the stack multiplies which part of a row. Results of part `j` start at column `j·n_out`.
#[derive(Clone, Copy)]
pub(crate) enum Matrices {
    /// There is one, for the whole row.
    One,
    /// Matrix `j` for part `j`.
    Heads(usize),
    /// For slot `j` that of the expert chosen.
    Experts {
        grouping: Grouping,
        /// Slot `j` has part `j` of a row; else all slots have the whole row.
        wide: bool,
    },
}

impl Lowering<'_> {
    pub(super) fn matmul(&self, node: &Node, matmul: MatMul) -> Result<Product, DeviceError> {
        let weight = self.stack(node, 0, 1, node.reads.get(2).filter(|_| matmul.bias))?;
        let residual = node.reads.last().filter(|_| matmul.residual);
        let residual = residual.map(|id| self.value(*id)).transpose()?;
        let product = self.product(node, weight, None, Matrices::One)?;
        Ok(Product { residual, ..product })
    }

    pub(super) fn gate_up_act(&self, node: &Node, act: Activation) -> Result<Product, DeviceError> {
        let [gate, up] = [self.stack(node, 0, 1, None)?, self.stack(node, 1, 1, None)?];
        self.product(node, gate, Some((up, act)), Matrices::One)
    }

    pub(super) fn head_matmul(
        &self,
        node: &Node,
        matmul: HeadMatMul,
    ) -> Result<Product, DeviceError> {
        let weight = self.stack(node, 0, matmul.n_heads, None)?;
        self.product(node, weight, None, Matrices::Heads(matmul.n_heads as usize))
    }

    pub(super) fn expert_matmul(
        &self,
        node: &Node,
        matmul: ExpertMatMul,
    ) -> Result<Product, DeviceError> {
        let bias = node.reads.get(3).filter(|_| matmul.bias);
        let weight = self.stack(node, 0, matmul.n_experts, bias)?;
        self.product(node, weight, None, self.chosen(node)?)
    }

    pub(super) fn expert_gate_up_act(
        &self,
        node: &Node,
        pair: ExpertGateUpAct,
    ) -> Result<Product, DeviceError> {
        let bias = |operand: usize| node.reads.get(operand).filter(|_| pair.bias);
        let gate = self.stack(node, 0, pair.n_experts, bias(4))?;
        let up = match pair.packed {
            true => StackOperand { first: gate.distance / 2, ..gate },
            false => self.stack(node, 1, pair.n_experts, bias(5))?,
        };
        self.product(node, gate, Some((up, pair.act)), self.chosen(node)?)
    }

    /// Weight `operand` with its matrices one after the other.
    fn stack(
        &self,
        node: &Node,
        operand: usize,
        n_matrices: u32,
        bias: Option<&TensorId>,
    ) -> Result<StackOperand, DeviceError> {
        let rows = self.plan.tensor(node.reads[operand]).shape.rows;
        let n_rows = self.plan.limits.bound(rows) as usize;
        Ok(StackOperand {
            weight: self.operand(node.reads[operand])?,
            first: 0,
            distance: n_rows / n_matrices as usize,
            bias: bias.map(|id| self.value(*id)).transpose()?,
        })
    }

    /// The matrices of the experts chosen by the ids, which are the operand after the activations.
    fn chosen(&self, node: &Node) -> Result<Matrices, DeviceError> {
        let n_weights = node.op.n_weight_operands();
        let [weight, x] = [node.reads[0], node.reads[n_weights]].map(|id| self.plan.tensor(id));
        let wide = x.shape.cols != weight.shape.cols;
        Ok(Matrices::Experts { grouping: self.grouping(node, node.reads[n_weights + 1])?, wide })
    }

    /// The activations are the operand after the weights.
    fn product(
        &self,
        node: &Node,
        weight: StackOperand,
        up: Option<(StackOperand, Activation)>,
        matrices: Matrices,
    ) -> Result<Product, DeviceError> {
        let x = self.operand(node.reads[node.op.n_weight_operands()])?;
        let types = [Some(weight), up.map(|(up, _)| up)].into_iter().flatten();
        for dtype in types.map(|stack| stack.weight.dtype) {
            let wanted = match Form::of(dtype) {
                Some(form) if x.dtype != GgmlType::F32 => form.activations(),
                _ => GgmlType::F32,
            };
            if wanted != x.dtype {
                let reason =
                    format!("weights of type {dtype} with activations of type {}", x.dtype);
                return Err(self.unsupported(node, reason));
            }
        }
        let out = self.operand(node.writes[0])?;
        let n_parts = match matrices {
            Matrices::One => 1,
            Matrices::Heads(n_heads) => n_heads,
            Matrices::Experts { grouping, .. } => grouping.n_slots,
        };
        Ok(Product {
            weight,
            up,
            x,
            n_in: weight.weight.cols,
            matrices,
            residual: None,
            out: out.rows,
            n_out: out.cols / n_parts,
        })
    }
}
