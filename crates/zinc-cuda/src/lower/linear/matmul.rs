//! Products of many rows with quantised weights, on tensor cores.

use super::{Matrices, Product};
use crate::launch::{Count, Kernel, Launch};
use crate::lower::{Grouping, Lowering, q8_scales};
use zinc_quant::GgmlType;

/// Weight rows of a tile, as in the kernel.
const TILE_M: u32 = 128;
/// Rows of activations of a tile, as in the kernel and in groupings.
const TILE_N: u32 = Grouping::TILE;
/// Bytes of the two buffers of the kernel.
const SHARED: u32 = 2 * (4 * (3 * 128 + 2 * 64) * 4 + (128 + 64) * (4 * 32 + 16));

/// `MatMulParams` of `matmul.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct MatMulParams {
    n: Count,
    w0: u64,
    w1: u64,
    bias0: u64,
    bias1: u64,
    quants: u64,
    scales: u64,
    residual: u64,
    gate: u64,
    out: u64,
    offsets: u64,
    pairs: u64,
    tiles: u64,
    n_tiles: u64,
    row_bytes: u64,
    matrix_bytes0: u64,
    matrix_bytes1: u64,
    out_stride: u64,
    residual_stride: u64,
    gate_stride: u64,
    n_in: u32,
    n_out: u32,
    x_cols: u32,
    n_slots: u32,
    slot_cols: u32,
    act: u32,
    rows: u32,
    unused: u32,
}

fn name(dtype: GgmlType) -> Option<&'static str> {
    use GgmlType::*;
    Some(match dtype {
        Q4_0 => "matmul_q4_0",
        Q4_1 => "matmul_q4_1",
        Q5_0 => "matmul_q5_0",
        Q5_1 => "matmul_q5_1",
        Q8_0 => "matmul_q8_0",
        Q4_K => "matmul_q4_k",
        Q5_K => "matmul_q5_k",
        Q6_K => "matmul_q6_k",
        MXFP4 => "matmul_mxfp4",
        IQ4_NL => "matmul_iq4_nl",
        IQ4_XS => "matmul_iq4_xs",
        _ => return None,
    })
}

impl Lowering<'_> {
    /// Whether a product with quantised weights is made row by row, and not in tiles.
    pub(super) fn takes_few_rows(&self, product: &Product) -> bool {
        let quantised =
            name(product.weight.weight.dtype).is_some() && product.x.dtype == GgmlType::Q8_1;
        let few = self.rows(product.out.rows) < self.least_grouped || self.batch_invariant;
        quantised && (few || SHARED > self.card.shared_per_block)
    }

    /// A launch for buckets of many rows; `false` when there are too few, when variants must not depend on them, or
    /// when the card has too little shared memory.
    pub(super) fn multiply_tiles(&mut self, product: &Product) -> bool {
        let rows = self.rows(product.out.rows);
        let Some(name) = name(product.weight.weight.dtype) else { return false };
        if self.takes_few_rows(product) {
            return false;
        }
        let (grouping, n_tiles, n_heads) = match product.matrices {
            Matrices::One => (None, rows.div_ceil(TILE_N), 1),
            Matrices::Heads(n_heads) => (None, rows.div_ceil(TILE_N), n_heads),
            Matrices::Experts { grouping: Some(grouping), .. } => {
                (Some(grouping), grouping.max_tiles, 1)
            }
            Matrices::Experts { grouping: None, .. } => return false,
        };
        let tile_m = if product.up.is_some() { TILE_M / 2 } else { TILE_M };
        let grid = [product.n_out.div_ceil(tile_m), n_tiles, n_heads];
        let params = self.matmul_params(product, grouping, rows);
        let kernel = Kernel { module: "matmul", name };
        self.push(Launch::new(kernel, params, grid, 256).with_shared(SHARED));
        true
    }

    fn matmul_params(
        &self,
        product: &Product,
        grouping: Option<Grouping>,
        rows: u32,
    ) -> MatMulParams {
        let up = product.up.map(|(up, _)| up);
        let max_rows = self.plan.limits.bound(product.x.rows);
        MatMulParams {
            n: self.count(product.out.rows),
            w0: product.weight.address(),
            w1: up.map_or(0, |up| up.address()),
            bias0: product.weight.bias_address(),
            bias1: up.map_or(0, |up| up.bias_address()),
            quants: product.x.address,
            scales: product.x.address + q8_scales(max_rows, product.x.cols),
            residual: product.residual.map_or(0, |residual| residual.address),
            gate: product.gate.map_or(0, |(gate, _)| gate.address),
            out: product.out.address,
            offsets: grouping.map_or(0, |grouping| grouping.offsets),
            pairs: grouping.map_or(0, |grouping| grouping.pairs),
            tiles: grouping.map_or(0, |grouping| grouping.tiles),
            n_tiles: grouping.map_or(0, |grouping| grouping.n_tiles),
            row_bytes: product.weight.weight.stride,
            matrix_bytes0: product.weight.matrix_bytes(),
            matrix_bytes1: up.map_or(0, |up| up.matrix_bytes()),
            out_stride: product.out.stride,
            residual_stride: product.residual.map_or(0, |residual| residual.stride),
            gate_stride: product.gate.map_or(0, |(gate, _)| gate.stride),
            n_in: product.n_in,
            n_out: product.n_out,
            x_cols: product.x.cols,
            n_slots: product.n_slots(),
            slot_cols: product.slot_cols(),
            act: product.act(),
            rows,
            unused: 0,
        }
    }
}
