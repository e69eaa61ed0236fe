//! Products with weights in F32, F16 and BF16.

use super::Product;
use crate::launch::{Count, Kernel, Launch};
use crate::lower::Lowering;
use zinc_quant::GgmlType;

/// Rows of activations that a block takes.
const TILE: u32 = 4;

/// `MatFloatParams` of `matfloat.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct MatFloatParams {
    n: Count,
    w0: u64,
    w1: u64,
    bias0: u64,
    bias1: u64,
    x: u64,
    residual: u64,
    gate: u64,
    out: u64,
    ids: u64,
    row_bytes: u64,
    matrix_bytes0: u64,
    matrix_bytes1: u64,
    x_stride: u64,
    out_stride: u64,
    residual_stride: u64,
    gate_stride: u64,
    n_in: u32,
    n_out: u32,
    n_slots: u32,
    slot_cols: u32,
    act: u32,
    rows: u32,
}

impl Lowering<'_> {
    pub(super) fn multiply_floats(&mut self, product: &Product) {
        let rows = self.rows(product.out.rows);
        let up = product.up.map(|(up, _)| up);
        let n_slots = product.n_slots();
        let params = MatFloatParams {
            n: self.count(product.out.rows),
            w0: product.weight.address(),
            w1: up.map_or(0, |up| up.address()),
            bias0: product.weight.bias_address(),
            bias1: up.map_or(0, |up| up.bias_address()),
            x: product.x.address,
            residual: product.residual.map_or(0, |residual| residual.address),
            gate: product.gate.map_or(0, |(gate, _)| gate.address),
            out: product.out.address,
            ids: product.ids(),
            row_bytes: product.weight.weight.stride,
            matrix_bytes0: product.weight.matrix_bytes(),
            matrix_bytes1: up.map_or(0, |up| up.matrix_bytes()),
            x_stride: product.x.stride,
            out_stride: product.out.stride,
            residual_stride: product.residual.map_or(0, |residual| residual.stride),
            gate_stride: product.gate.map_or(0, |(gate, _)| gate.stride),
            n_in: product.n_in,
            n_out: product.n_out,
            n_slots,
            slot_cols: product.slot_cols(),
            act: product.act(),
            rows,
        };
        let name = match product.weight.weight.dtype {
            GgmlType::F16 => "matfloat_f16",
            GgmlType::BF16 => "matfloat_bf16",
            _ => "matfloat_f32",
        };
        let n_tiles = if n_slots > 0 { rows * n_slots } else { rows.div_ceil(TILE) };
        let grid = [product.n_out.div_ceil(8), n_tiles, 1];
        self.push(Launch::new(Kernel { module: "matfloat", name }, params, grid, 256));
    }
}
