//! Products of few rows with quantised weights, bound by the bytes of the weights.

use super::Product;
use super::ring::Ring;
use crate::launch::{Count, Kernel, Launch};
use crate::lower::prologue::Prologue;
use crate::lower::{Lowering, q8_scales};
use zinc_backend::DeviceError;
use zinc_plan::Node;
use zinc_quant::GgmlType;

/// Most warps of a block, as in the kernel: such a block has a multiprocessor to itself.
const MAX_WARPS: u32 = 16;
/// Warps that a block should have at least.
const MANY_WARPS: u32 = 8;
/// Further products of a launch, as in the kernel.
pub const MORE: usize = 3;
/// Most rows of activations that a block takes.
const MAX_ROWS: u32 = 8;
/// Most blocks of a grid in its second dimension.
const MOST_TILES: u32 = 65_535;

/// A block of threads and its shared memory.
struct Shape {
    /// Rows of activations.
    n: u32,
    warps: u32,
    /// Blocks of 32 weights of a row that come at once.
    piece: u32,
    shared: u32,
}

/// `MatVecParams` of `matvec.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct MatVecParams {
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
    ids: u64,
    row_bytes: u64,
    matrix_bytes0: u64,
    matrix_bytes1: u64,
    out_stride: u64,
    residual_stride: u64,
    gate_stride: u64,
    beside0: u64,
    beside1: u64,
    beside_out: u64,
    beside_stride: u64,
    n_in: u32,
    n_out: u32,
    x_cols: u32,
    n_slots: u32,
    slot_cols: u32,
    act: u32,
    rows: u32,
    n_segments: u32,
    piece: u32,
    buffer_bytes: u32,
    more: [Segment; MORE],
    prologue: Prologue,
}

/// `MatVecTwoParams` of `matvec.cu`: products of a row with weights of two types.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct MatVecTwoParams {
    first: MatVecParams,
    second: MatVecParams,
    n_blocks: u32,
    unused: u32,
}

/// `Segment` of `matvec.cu`: a further product of the same activations.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Segment {
    w: u64,
    bias: u64,
    out: u64,
    out_stride: u64,
    n_out: u32,
    first_item: u32,
}

macro_rules! kernels {
    ($($dtype:ident $name:literal),*) => {
        /// Kernels of a type for 1, 2, 4 and 8 rows.
        fn names(dtype: GgmlType) -> Option<[&'static str; 4]> {
            match dtype {
                $(GgmlType::$dtype => Some([
                    concat!("matvec_", $name, "_1"),
                    concat!("matvec_", $name, "_2"),
                    concat!("matvec_", $name, "_4"),
                    concat!("matvec_", $name, "_8"),
                ]),)*
                _ => None,
            }
        }
    };
}
kernels!(
    Q4_0 "q4_0", Q4_1 "q4_1", Q5_0 "q5_0", Q5_1 "q5_1", Q8_0 "q8_0", Q4_K "q4_k", Q5_K "q5_k",
    Q6_K "q6_k", MXFP4 "mxfp4", IQ4_NL "iq4_nl", IQ4_XS "iq4_xs"
);

/// The kernel for products of a row with weights of two types, in this order.
fn name_of_two(first: GgmlType, second: GgmlType) -> Option<&'static str> {
    match (first, second) {
        (GgmlType::Q4_K, GgmlType::Q5_K) => Some("matvec_two_q4_k_q5_k"),
        (GgmlType::Q4_K, GgmlType::Q6_K) => Some("matvec_two_q4_k_q6_k"),
        (GgmlType::Q5_K, GgmlType::Q6_K) => Some("matvec_two_q5_k_q6_k"),
        (GgmlType::Q5_0, GgmlType::Q8_0) => Some("matvec_two_q5_0_q8_0"),
        _ => None,
    }
}

/// What a launch multiplies by weights of one type.
struct Lines {
    params: MatVecParams,
    shape: Shape,
    /// Pairs of weight rows, or of a row of the gate and one of up.
    n_items: u32,
    /// Of single matrices.
    n_bytes: u64,
}

/// Whether there are kernels for weights of this type.
pub fn is_known(dtype: GgmlType) -> bool {
    names(dtype).is_some()
}

impl Lowering<'_> {
    /// Launches for any number of rows, in tiles of at most [`MAX_ROWS`].
    ///
    /// `others` are further products of single matrices of the same type with the same activations, at most [`MORE`].
    pub(super) fn multiply_rows(
        &mut self,
        node: &Node,
        product: &Product,
        others: &[Product],
    ) -> Result<(), DeviceError> {
        let Lines { params, shape: Shape { n, warps, shared, .. }, n_items, .. } =
            self.lines(node, product, others)?;
        let names = names(product.weight.weight.dtype).unwrap_or_default();
        let kernel = Kernel { module: "matvec", name: names[n.trailing_zeros() as usize] };
        let n_tiles = match params.n_slots {
            0 => params.rows.div_ceil(n),
            n_slots => params.rows * (n_slots + u32::from(product.beside.is_some())),
        };
        // One wave of blocks; few items are spread over all multiprocessors.
        let n_blocks = (self.card.n_multiprocessors / n_tiles.max(1)).clamp(1, n_items.max(1));
        let n_planes = n_tiles.div_ceil(MOST_TILES);
        let grid = [n_blocks, n_tiles.div_ceil(n_planes.max(1)), n_planes.max(1)];
        self.push(Launch::new(kernel, params, grid, warps * 32).with_shared(shared));
        Ok(())
    }

    /// One launch for products of one row with weights of two types; `false` where there is none.
    ///
    /// Each are products of single matrices with the same activations, at most one more than [`MORE`].
    pub(super) fn multiply_two(
        &mut self,
        node: &Node,
        products: &[Product],
        seconds: &[Product],
    ) -> Result<bool, DeviceError> {
        let ([one, ..], [other, ..]) = (products, seconds) else { return Ok(false) };
        let [dtype, second_dtype] = [one, other].map(|product| product.weight.weight.dtype);
        let (name, products, seconds) = match name_of_two(dtype, second_dtype) {
            Some(name) => (name, products, seconds),
            None => match name_of_two(second_dtype, dtype) {
                Some(name) => (name, seconds, products),
                None => return Ok(false),
            },
        };
        let first = self.lines(node, &products[0], &products[1..])?;
        let second = self.lines(node, &seconds[0], &seconds[1..])?;
        let n_multiprocessors = self.card.n_multiprocessors;
        if self.rows(one.out.rows) != 1
            || first.shape.warps != second.shape.warps
            || n_multiprocessors < 2
        {
            return Ok(false);
        }
        let n_bytes = (first.n_bytes + second.n_bytes).max(1);
        let share = first.n_bytes * u64::from(n_multiprocessors) / n_bytes;
        let share = u32::try_from(share).unwrap_or(1).clamp(1, n_multiprocessors - 1);
        let n_blocks = share.clamp(1, first.n_items.max(1));
        let n_others = (n_multiprocessors - share).clamp(1, second.n_items.max(1));
        let (warps, shared) = (first.shape.warps, first.shape.shared.max(second.shape.shared));
        let params =
            MatVecTwoParams { first: first.params, second: second.params, n_blocks, unused: 0 };
        let grid = [n_blocks + n_others, 1, 1];
        let kernel = Kernel { module: "matvec", name };
        self.push(Launch::new(kernel, params, grid, warps * 32).with_shared(shared));
        Ok(true)
    }

    /// What a launch multiplies by, as for [`Lowering::multiply_rows`].
    fn lines(
        &self,
        node: &Node,
        product: &Product,
        others: &[Product],
    ) -> Result<Lines, DeviceError> {
        let rows = self.rows(product.out.rows);
        let wanted =
            if product.n_slots() > 0 { 1 } else { rows.clamp(1, MAX_ROWS).next_power_of_two() };
        let buffer_bytes = product.prologue.n_bytes(product.n_in);
        let dtype = product.weight.weight.dtype;
        let Some(shape) = self.matvec_shape(dtype, product.n_in, wanted, buffer_bytes) else {
            let reason = format!("rows of {} elements need more shared memory", product.n_in);
            return Err(self.unsupported(node, reason));
        };
        assert!(shape.n == 1 || product.prologue == Prologue::NONE, "a block makes one row");
        let mut n_items =
            if product.up.is_some() { product.n_out } else { product.n_out.div_ceil(2) };
        let params = self.matvec_params(product, rows);
        let mut params = MatVecParams { piece: shape.piece, buffer_bytes, ..params };
        let mut n_rows = u64::from(product.n_out);
        for (segment, other) in params.more.iter_mut().zip(others) {
            *segment = Segment {
                w: other.weight.address(),
                bias: other.weight.bias_address(),
                out: other.out.address,
                out_stride: other.out.stride,
                n_out: other.n_out,
                first_item: n_items,
            };
            n_items += other.n_out.div_ceil(2);
            n_rows += u64::from(other.n_out);
            params.n_segments += 1;
        }
        Ok(Lines { params, shape, n_items, n_bytes: n_rows * params.row_bytes })
    }

    /// Whether blocks for rows of `n_in` weights have room for what `prologue` needs, and for most of their warps.
    pub(in crate::lower) fn makes_activations(
        &self,
        dtype: GgmlType,
        n_in: u32,
        prologue: &Prologue,
    ) -> bool {
        let shape = self.matvec_shape(dtype, n_in, 1, prologue.n_bytes(n_in));
        shape.is_some_and(|shape| shape.warps >= MANY_WARPS)
    }

    /// Rows, warps and pieces of a block: as near to what is wanted as the card has room for.
    fn matvec_shape(
        &self,
        dtype: GgmlType,
        n_in: u32,
        wanted: u32,
        buffer_bytes: u32,
    ) -> Option<Shape> {
        let shape = |n: u32, warps: u32| {
            let acts = (n * (n_in / 32) * 40).next_multiple_of(16) + buffer_bytes;
            let ring =
                Ring::new(dtype, n_in, warps, self.card.shared_per_block.checked_sub(acts)?)?;
            Some(Shape { n, warps, piece: ring.piece, shared: acts + ring.n_bytes })
        };
        let sizes = [8, 4, 2, 1].into_iter().filter(|n| *n <= wanted);
        let warps = [MAX_WARPS, MANY_WARPS, 4, 2, 1];
        let mut shapes: Vec<_> = sizes
            .flat_map(|n| warps.into_iter().filter_map(move |warps| shape(n, warps)))
            .collect();
        // Fewer rows a block before fewer warps.
        let best = shapes.iter().position(|shape| shape.warps >= MANY_WARPS).unwrap_or(0);
        (best < shapes.len()).then(|| shapes.swap_remove(best))
    }

    fn matvec_params(&self, product: &Product, rows: u32) -> MatVecParams {
        let up = product.up.map(|(up, _)| up);
        let max_rows = self.plan.limits.bound(product.x.rows);
        MatVecParams {
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
            ids: product.ids(),
            row_bytes: product.weight.weight.stride,
            matrix_bytes0: product.weight.matrix_bytes(),
            matrix_bytes1: up.map_or(0, |up| up.matrix_bytes()),
            out_stride: product.out.stride,
            residual_stride: product.residual.map_or(0, |residual| residual.stride),
            gate_stride: product.gate.map_or(0, |(gate, _)| gate.stride),
            beside0: product.beside.map_or(0, |beside| beside.gate.address()),
            beside1: product.beside.map_or(0, |beside| beside.up.address()),
            beside_out: product.beside.map_or(0, |beside| beside.out.address),
            beside_stride: product.beside.map_or(0, |beside| beside.out.stride),
            n_in: product.n_in,
            n_out: product.n_out,
            x_cols: product.x.cols,
            n_slots: product.n_slots(),
            slot_cols: product.slot_cols(),
            act: product.act(),
            rows,
            n_segments: 0,
            piece: 0,
            buffer_bytes: 0,
            more: [Segment::default(); MORE],
            prologue: product.prologue,
        }
    }
}
