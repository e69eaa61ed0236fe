//! Products with weights in F32, F16 and BF16.

use super::Product;
use crate::launch::{Count, Kernel, Launch};
use crate::lower::{Grouping, Lowering};
use zinc_quant::GgmlType;

/// Weight rows and rows of activations that a block takes, and the kernels for weights in F32, F16 and BF16.
struct Tile {
    outs: u32,
    rows: u32,
    names: [&'static str; 3],
}

/// Few rows, stacks, and what is not aligned.
const FEW: Tile =
    Tile { outs: 8, rows: 4, names: ["matfloat_f32", "matfloat_f16", "matfloat_bf16"] };

/// Many rows: tiles that need the fewest loads.
const LARGE: Tile = Tile {
    outs: 32,
    rows: 16,
    names: ["matfloat_f32_8x8", "matfloat_f16_8x8", "matfloat_bf16_8x8"],
};

/// For fewer results than fill a card with large tiles.
const SMALL: Tile = Tile {
    outs: 16,
    rows: 8,
    names: ["matfloat_f32_4x4", "matfloat_f16_4x4", "matfloat_bf16_4x4"],
};

/// For one output.
const TALL: Tile =
    Tile { outs: 1, rows: 8, names: ["matfloat_f32_1x1", "matfloat_f16_1x1", "matfloat_bf16_1x1"] };

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
        let tile = self.float_tile(product, rows);
        let name = tile.names[match product.weight.weight.dtype {
            GgmlType::F16 => 1,
            GgmlType::BF16 => 2,
            _ => 0,
        }];
        let n_tiles = if n_slots > 0 { rows * n_slots } else { rows.div_ceil(tile.rows) };
        let grid = [product.n_out.div_ceil(tile.outs), n_tiles, 1];
        self.push(Launch::new(Kernel { module: "matfloat", name }, params, grid, 256));
    }

    /// Which kernel does it; the bits are the same.
    fn float_tile(&self, product: &Product, rows: u32) -> Tile {
        let size = if product.weight.weight.dtype == GgmlType::F32 { 4 } else { 2 };
        let up = product.up.map_or(0, |(up, _)| up.address());
        let (weight, x) = (&product.weight, &product.x);
        // Many rows are copied 16 bytes at a time.
        let places = [weight.address(), up, weight.weight.stride, x.address, x.stride];
        let is_aligned = places.iter().all(|place| place.is_multiple_of(16))
            && (product.n_in * size).is_multiple_of(16);
        if rows < Grouping::MIN_TOKENS || product.n_slots() > 0 || !is_aligned {
            return FEW;
        }
        let n_large = product.n_out.div_ceil(LARGE.outs) * rows.div_ceil(LARGE.rows);
        match product.n_out {
            1..4 => TALL,
            _ if 4 * n_large < 3 * self.card.n_multiprocessors => SMALL,
            _ => LARGE,
        }
    }
}
