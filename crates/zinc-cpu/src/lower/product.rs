//! Matrix products.

use super::{Lowering, Operand};
use crate::kernels::panel::{Form, ROWS};
use crate::memory::Rows;
use zinc_backend::DeviceError;
use zinc_plan::{Activation, MatMul, Node};
use zinc_quant::GgmlType;

/// One matrix product, or a gated pair.
pub(crate) struct Product {
    pub weight: Operand,
    pub up: Option<(Operand, Activation)>,
    pub x: Operand,
    pub bias: Option<Rows>,
    pub residual: Option<Rows>,
    pub out: Rows,
    pub n_out: usize,
    /// Sixteen-row panels of weights that one task takes.
    pub panels_per_task: usize,
}

impl Lowering<'_> {
    pub(super) fn matmul(&self, node: &Node, matmul: MatMul) -> Result<Product, DeviceError> {
        let bias = node.reads.get(2).filter(|_| matmul.bias);
        let bias = bias.map(|id| self.value(*id)).transpose()?;
        let residual = node.reads.last().filter(|_| matmul.residual);
        let residual = residual.map(|id| self.value(*id)).transpose()?;
        self.product(node, None, bias, residual)
    }

    /// `reads` starts with the weight or the pair of weights, then the activations.
    pub(super) fn product(
        &self,
        node: &Node,
        act: Option<Activation>,
        bias: Option<Rows>,
        residual: Option<Rows>,
    ) -> Result<Product, DeviceError> {
        let n_weights = node.op.n_weight_operands();
        let x = self.operand(node.reads[n_weights])?;
        let weight = self.operand(node.reads[0])?;
        let up = match act {
            Some(act) => Some((self.operand(node.reads[1])?, act)),
            None => None,
        };
        for weight in [Some(weight), up.map(|(up, _)| up)].into_iter().flatten() {
            let wanted = match Form::quantized(weight.dtype) {
                Some(form) if x.dtype != GgmlType::F32 => form.activations(),
                _ => GgmlType::F32,
            };
            if wanted != x.dtype {
                let reason = format!(
                    "weights of type {} with activations of type {}",
                    weight.dtype, x.dtype
                );
                return Err(self.unsupported(node, reason));
            }
        }
        let out = self.value(node.writes[0])?;
        let n_out = self.plan.tensor(node.writes[0]).shape.cols as usize;
        // Several tasks per thread, so that none waits long for the last; few enough that taking one costs nothing.
        let panels_per_task = (n_out.div_ceil(ROWS) / (self.n_threads * 8)).clamp(1, 16);
        Ok(Product { weight, up, x, bias, residual, out, n_out, panels_per_task })
    }
}
