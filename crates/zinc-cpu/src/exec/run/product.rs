//! Matrix products: a task is some panels of weights times a part of the rows.

use super::{CpuExecutable, Scratch};
use crate::kernels::act::{ActBlock, ActSuper};
use crate::kernels::matmul::{Activations, MAX_ROWS, MatMulTask};
use crate::kernels::panel::{ROWS, WeightRows};
use crate::lower::{Operand, Product, Step};
use zinc_quant::GgmlType;

/// Tasks of a product of `n_rows` rows.
pub(super) fn n_tasks(product: &Product, n_rows: usize) -> usize {
    n_rows.div_ceil(MAX_ROWS) * product.n_out.div_ceil(ROWS).div_ceil(product.panels_per_task)
}

impl CpuExecutable {
    /// Tasks walk the panels first and then the next part of the rows, so that weights stream through once per part.
    pub(super) fn product_task(
        &self,
        step: &Step,
        product: &Product,
        task: usize,
        scratch: &mut Scratch,
    ) {
        let n_rows = self.sizes.rows(step.rows, &self.plan);
        let n_panels = product.n_out.div_ceil(ROWS);
        let tasks_per_part = n_panels.div_ceil(product.panels_per_task);
        let first = task / tasks_per_part * MAX_ROWS;
        let first_panel = task % tasks_per_part * product.panels_per_task;
        // SAFETY: the plan.
        let x = unsafe {
            match product.x.dtype {
                GgmlType::Q8_K => Activations::Supers(product.x.rows.span::<ActSuper>(n_rows)),
                GgmlType::Q8_1 => Activations::Blocks(product.x.rows.span::<ActBlock>(n_rows)),
                _ => {
                    let stride = product.x.rows.stride / size_of::<f32>();
                    Activations::F32 { data: product.x.rows.span(n_rows), stride }
                }
            }
        };
        for panel in first_panel..n_panels.min(first_panel + product.panels_per_task) {
            let outs = panel * ROWS..product.n_out.min((panel + 1) * ROWS);
            let n_here = MAX_ROWS.min(n_rows - first);
            self.isa.run(MatMulTask {
                weights: weight_rows(&product.weight, outs.clone()),
                up: product.up.as_ref().map(|(up, act)| (weight_rows(up, outs.clone()), *act)),
                x,
                n_in: product.x.cols,
                first,
                n_rows: n_here,
                scratch: &mut scratch.matmul,
            });
            for (row, acc) in (first..).zip(&scratch.matmul.acc[..n_here]) {
                store_product(product, row, outs.clone(), acc);
            }
        }
    }
}

fn weight_rows(weight: &Operand, outs: std::ops::Range<usize>) -> WeightRows<'_> {
    // SAFETY: weights are never written, and the executable keeps them.
    let data = unsafe { weight.rows.span::<u8>(outs.end) };
    let row_bytes = weight.rows.stride;
    WeightRows {
        ty: weight.dtype,
        data: &data[outs.start * row_bytes..],
        row_bytes,
        n_rows: outs.len(),
    }
}

/// Columns `outs` of row `row`: the product, plus bias, plus residual, in that order.
fn store_product(product: &Product, row: usize, outs: std::ops::Range<usize>, acc: &[f32; 16]) {
    // SAFETY: the plan; the task owns these columns of this row.
    let out = unsafe { product.out.cols_mut::<f32>(row, outs.clone()) };
    out.copy_from_slice(&acc[..outs.len()]);
    if let Some(bias) = product.bias {
        // SAFETY: weights are never written.
        let bias = unsafe { &bias.row::<f32>(0)[outs.clone()] };
        out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
    }
    if let Some(residual) = product.residual {
        // SAFETY: the plan.
        let residual = unsafe { &residual.row::<f32>(row)[outs] };
        out.iter_mut().zip(residual).for_each(|(out, residual)| *out += residual);
    }
}
