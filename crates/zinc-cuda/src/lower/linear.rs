//! Matrix products: what is multiplied, and which kernel does it.

mod beside;
mod float;
mod gemm;
mod matmul;
mod matvec;
pub(super) mod quantize;
pub(super) mod ring;

use super::prologue::Prologue;
use super::{Lowering, Operand};
use zinc_backend::DeviceError;
use zinc_plan::{
    Activation, ExpertGateUpAct, ExpertMatMul, HeadMatMul, MatMul, Node, Op, TensorId,
};
use zinc_quant::GgmlType;

use super::Grouping;
use beside::Beside;
pub use gemm::{PanelPlace, Panels};

/// The number of an activation in the kernels.
pub fn activation(act: Activation) -> u32 {
    match act {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
        Activation::SwigluOai => 2,
    }
}

/// Matrices of one weight, one after the other.
#[derive(Clone, Copy)]
struct Stack {
    weight: Operand,
    /// First row in the weight.
    first: u64,
    /// Rows from matrix to matrix.
    distance: u64,
    bias: Option<Operand>,
}

impl Stack {
    fn address(&self) -> u64 {
        self.weight.address + self.first * self.weight.stride
    }

    fn matrix_bytes(&self) -> u64 {
        self.distance * self.weight.stride
    }

    fn bias_address(&self) -> u64 {
        self.bias.map_or(0, |bias| bias.address)
    }
}

/// Which matrix multiplies which part of a row.
#[derive(Clone, Copy)]
enum Matrices {
    /// There is one, for the whole row.
    One,
    /// Matrix j for part j.
    Heads(u32),
    /// For slot j that of the expert chosen.
    Experts {
        n_slots: u32,
        ids: u64,
        /// Slot j has part j of the row; else all slots have the whole row.
        wide: bool,
        grouping: Option<Grouping>,
    },
}

/// A product, or a gated pair of products.
struct Product {
    weight: Stack,
    up: Option<(Stack, Activation)>,
    x: Operand,
    prologue: Prologue,
    matrices: Matrices,
    residual: Option<Operand>,
    /// Results of the gate that were computed before.
    gate: Option<(Operand, Activation)>,
    out: Operand,
    n_in: u32,
    n_out: u32,
    beside: Option<Beside>,
}

impl Product {
    /// Slots of a row that have a product of their own; 0 when there is one for the whole row.
    fn n_slots(&self) -> u32 {
        match self.matrices {
            Matrices::One => 0,
            Matrices::Heads(n_heads) => n_heads,
            Matrices::Experts { n_slots, .. } => n_slots,
        }
    }

    /// Elements from slot to slot in a row of activations.
    fn slot_cols(&self) -> u32 {
        match self.matrices {
            Matrices::One | Matrices::Experts { wide: false, .. } => 0,
            Matrices::Heads(_) | Matrices::Experts { wide: true, .. } => self.n_in,
        }
    }

    fn ids(&self) -> u64 {
        match self.matrices {
            Matrices::Experts { ids, .. } => ids,
            _ => 0,
        }
    }

    fn act(&self) -> u32 {
        let acts = [self.up.map(|(_, act)| act), self.gate.map(|(_, act)| act)];
        acts.into_iter().flatten().map(activation).next().unwrap_or(0)
    }
}

impl Lowering<'_> {
    pub(super) fn matmul(&mut self, node: &Node, matmul: MatMul) -> Result<(), DeviceError> {
        let weight = self.stack(node, 0, 1, node.reads.get(2).filter(|_| matmul.bias))?;
        let residual = node.reads.last().filter(|_| matmul.residual);
        let residual = residual.map(|id| self.operand(*id)).transpose()?;
        let product = self.product(node, weight, None, Matrices::One)?;
        let product = Product { residual, ..product };
        let x = node.reads[1];
        if matmul.residual || !(self.is_in_panels(x) || self.takes_few_rows(&product)) {
            return self.multiply(node, product);
        }
        let n = self.n_side_by_side(self.node, node).min(1 + matvec::MORE);
        let products = self.plain_products(self.node, n)?;
        self.resume = self.node + n;
        if self.multiply_panels(x, &products[0], &products[1..]) {
            return Ok(());
        }
        let n_seconds = self.n_side_by_side(self.resume, node).min(1 + matvec::MORE);
        let seconds = self.plain_products(self.resume, n_seconds)?;
        if self.multiply_two(node, &products, &seconds)? {
            self.resume += n_seconds;
            return Ok(());
        }
        self.multiply_rows(node, &products[0], &products[1..])
    }

    /// How many nodes from `first` on are products of the activations that `node` has, with weights of the type that the
    /// first of them has, without residuals, and independent of each other.
    fn n_side_by_side(&self, first: usize, node: &Node) -> usize {
        let dtype = |node: &Node| self.plan.tensor(node.reads[0]).dtype;
        let nodes = self.plan.nodes.get(first..).unwrap_or_default();
        let is_like = |(idx, other): &(usize, &Node)| {
            let plain = matches!(other.op, Op::MatMul(matmul) if !matmul.residual);
            let is_independent = first + idx == self.node || !other.barrier;
            plain
                && is_independent
                && other.reads[1] == node.reads[1]
                && dtype(other) == dtype(&nodes[0])
        };
        nodes.iter().enumerate().take_while(is_like).count()
    }

    /// Products of nodes that [`Lowering::n_side_by_side`] has counted.
    fn plain_products(&self, first: usize, n: usize) -> Result<Vec<Product>, DeviceError> {
        let product = |node: &Node| {
            let bias = node.reads.get(2).filter(|_| matches!(node.op, Op::MatMul(of) if of.bias));
            self.product(node, self.stack(node, 0, 1, bias)?, None, Matrices::One)
        };
        self.plan.nodes[first..][..n].iter().map(product).collect()
    }

    pub(super) fn gate_up_act(&mut self, node: &Node, act: Activation) -> Result<(), DeviceError> {
        let [gate, up] = [self.stack(node, 0, 1, None)?, self.stack(node, 1, 1, None)?];
        let product = self.product(node, gate, Some((up, act)), Matrices::One)?;
        self.multiply(node, product)
    }

    pub(super) fn head_matmul(
        &mut self,
        node: &Node,
        matmul: HeadMatMul,
    ) -> Result<(), DeviceError> {
        let weight = self.stack(node, 0, matmul.n_heads, None)?;
        let product = self.product(node, weight, None, Matrices::Heads(matmul.n_heads))?;
        self.multiply(node, product)
    }

    pub(super) fn expert_matmul(
        &mut self,
        node: &Node,
        matmul: ExpertMatMul,
    ) -> Result<(), DeviceError> {
        let bias = node.reads.get(3).filter(|_| matmul.bias);
        let weight = self.stack(node, 0, matmul.n_experts, bias)?;
        let product = self.product(node, weight, None, self.chosen(node)?)?;
        self.multiply(node, product)
    }

    pub(super) fn expert_gate_up_act(
        &mut self,
        node: &Node,
        pair: &ExpertGateUpAct,
    ) -> Result<(), DeviceError> {
        let bias = |operand: usize| node.reads.get(operand).filter(|_| pair.bias);
        let gate = self.stack(node, 0, pair.n_experts, bias(4))?;
        let up = match pair.packed {
            true => Stack { first: gate.distance / 2, ..gate },
            false => self.stack(node, 1, pair.n_experts, bias(5))?,
        };
        let product = self.product(node, gate, Some((up, pair.act)), self.chosen(node)?)?;
        let beside = self.pair_beside(node, pair)?;
        self.multiply(node, Product { beside, ..product })
    }

    /// Weight `operand` with its matrices one after the other.
    fn stack(
        &self,
        node: &Node,
        operand: usize,
        n_matrices: u32,
        bias: Option<&TensorId>,
    ) -> Result<Stack, DeviceError> {
        let rows = self.plan.tensor(node.reads[operand]).shape.rows;
        Ok(Stack {
            weight: self.operand(node.reads[operand])?,
            first: 0,
            distance: self.plan.limits.bound(rows) / u64::from(n_matrices),
            bias: bias.map(|id| self.operand(*id)).transpose()?,
        })
    }

    /// The matrices of the experts chosen by the ids, which are the operand after the activations.
    fn chosen(&self, node: &Node) -> Result<Matrices, DeviceError> {
        let n_weights = node.op.n_weight_operands();
        let [weight, x] = [node.reads[0], node.reads[n_weights]].map(|id| self.plan.tensor(id));
        let id = node.reads[n_weights + 1];
        let ids = self.operand(id)?;
        let grouping = self.groupings.iter().find(|(of, _)| *of == id).map(|(_, found)| *found);
        let wide = x.shape.cols != weight.shape.cols;
        Ok(Matrices::Experts { n_slots: ids.cols, ids: ids.address, wide, grouping })
    }

    /// The activations are the operand after the weights.
    fn product(
        &self,
        node: &Node,
        weight: Stack,
        up: Option<(Stack, Activation)>,
        matrices: Matrices,
    ) -> Result<Product, DeviceError> {
        let x = node.reads[node.op.n_weight_operands()];
        let out = self.operand(node.writes[0])?;
        let product = Product {
            weight,
            up,
            x: self.operand(x)?,
            prologue: self.prologue_of(x),
            matrices,
            residual: None,
            gate: None,
            out,
            n_in: weight.weight.cols,
            n_out: 0,
            beside: None,
        };
        Ok(Product { n_out: out.cols / product.n_slots().max(1), ..product })
    }

    /// Launches for a product. A pair whose weights have different types is two products, the gate's
    /// results between them in scratch.
    fn multiply(&mut self, node: &Node, product: Product) -> Result<(), DeviceError> {
        if let Some((up, act)) = product.up
            && up.weight.dtype != product.weight.weight.dtype
        {
            let rows = u64::from(self.rows(product.out.rows));
            let stride = u64::from(product.out.cols) * 4;
            let address = self.transient(rows * stride);
            let between = Operand { address, stride, ..product.out };
            let gate = Product { up: None, out: between, ..product };
            self.multiply_one_type(node, &gate)?;
            let up = Product { weight: up, gate: Some((between, act)), up: None, ..product };
            return self.multiply_one_type(node, &up);
        }
        self.multiply_one_type(node, &product)
    }

    fn multiply_one_type(&mut self, node: &Node, product: &Product) -> Result<(), DeviceError> {
        let (dtype, acts) = (product.weight.weight.dtype, product.x.dtype);
        match (dtype, acts) {
            (GgmlType::F32 | GgmlType::F16 | GgmlType::BF16, GgmlType::F32) => {
                self.multiply_floats(product);
                Ok(())
            }
            (_, GgmlType::Q8_1) if matvec::is_known(dtype) => {
                let x = node.reads[node.op.n_weight_operands()];
                if !self.multiply_panels(x, product, &[]) && !self.multiply_tiles(product) {
                    self.multiply_rows(node, product, &[])?;
                }
                Ok(())
            }
            _ => {
                let reason = format!("weights of type {dtype} with activations of type {acts}");
                Err(self.unsupported(node, reason))
            }
        }
    }
}
