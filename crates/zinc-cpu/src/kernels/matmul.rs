//! Matrix products `y[t, o] = Σ_i W[o, i]·x[t, i]`.
//!
//! Shapes: `W [n_out, n_in]` of any GGUF type, `x [n, n_in]` as f32, 32-value or 256-value 8-bit blocks.
//! A task is 16 output columns × some rows of `x`, which may lie anywhere: for each step of k it unpacks one panel of
//! `W` and runs the register tiles of [`super::tile`] over all rows, several at a time and the rest one by one. Accumulators wait in
//! [`Scratch::acc`] between steps, so the panel (16 KiB) stays in the first-level cache and `x` comes from the second.
//! A single row is multiplied without a panel ([`super::direct`]).
//! Bytes moved: `W` once per task, `x` once per 16 columns. Bound: memory for one row; for many rows the 8-bit dot
//! product rate, about one instruction per 64 products.
//! The number of rows in a task never changes a result: see the tiles.

use super::act::{ActBlock, ActBlocks, ActSuper};
use super::direct::{self, Ahead};
use super::elementwise::padded;
use super::format::floats::{Bf16, F16, F32};
use super::format::{Form, Format, Source, with_format};
use super::panel::{FLOAT_K_STEP, K_STEP, Tail, Values, WeightRows};
use super::tile::{self, over_rows};
use crate::simd::{Kernel, Simd, math};
use std::marker::PhantomData;
use zinc_plan::Activation;
use zinc_quant::GgmlType;

/// Rows of `x` that are multiplied with one panel before the next panel is unpacked.
pub(crate) const MAX_ROWS: usize = 256;

/// Room for one panel.
struct Panel {
    values: Values,
    tail: Tail,
}

/// Working memory of one worker.
pub(crate) struct Scratch {
    panel: Panel,
    /// One accumulator vector per row of `x`.
    pub acc: Box<[[f32; 16]]>,
    /// The same for the second matrix of a pair.
    pub acc_up: Box<[[f32; 16]]>,
}

impl Scratch {
    pub(crate) fn new() -> Scratch {
        Scratch {
            panel: Panel { values: Values::new(), tail: Tail::new() },
            acc: vec![[0.0; 16]; MAX_ROWS].into(),
            acc_up: vec![[0.0; 16]; MAX_ROWS].into(),
        }
    }
}

/// Rows of activations: all values or blocks that some rows lie in.
#[derive(Clone, Copy)]
pub(crate) enum Activations<'a> {
    F32(&'a [f32]),
    /// Blocks of 32.
    Blocks(&'a [ActBlock]),
    /// Blocks of 256.
    Supers(&'a [ActSuper]),
}

/// Up to 16 rows of a weight matrix with the biases of their results.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    pub weights: WeightRows<'a>,
    pub bias: Option<&'a [f32]>,
}

/// Multiplies up to 16 weight rows with rows of `x` and adds the biases; result `[row][lane]` in `scratch.acc`.
pub(crate) struct MatMulTask<'a> {
    pub matrix: Panels<'a>,
    /// The other matrix of a gated pair: the result is `act(W x + b)·(W_up x + b_up)`.
    pub up: Option<(Panels<'a>, Activation)>,
    pub x: Activations<'a>,
    pub n_in: usize,
    /// Index in `x` of the first value or block of each row; at most [`MAX_ROWS`].
    pub starts: &'a [usize],
    pub scratch: &'a mut Scratch,
}

impl Kernel for MatMulTask<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Scratch { panel, acc, acc_up } = self.scratch;
        let rows = Rows { x: self.x, n_in: self.n_in, starts: self.starts };
        let n_rows = self.starts.len();
        let (acc, acc_up) = (&mut acc[..n_rows], &mut acc_up[..n_rows]);
        // One call in a loop: the product is inlined, and large.
        let second = self.up.map(|(up, _)| up);
        for (matrix, acc) in [(Some(self.matrix), &mut *acc), (second, &mut *acc_up)] {
            if let Some(Panels { weights, bias }) = matrix {
                product(s, weights, rows, panel, acc);
                if let Some(bias) = bias {
                    add_bias(s, bias, acc);
                }
            }
        }
        if let Some((_, activation)) = self.up {
            for (gate, up) in acc.iter_mut().zip(acc_up) {
                s.store(gate, math::gated(s, activation, s.load(gate), s.load(up)));
            }
        }
    }
}

#[inline(always)]
fn add_bias<S: Simd>(s: S, bias: &[f32], acc: &mut [[f32; 16]]) {
    let bias = s.load(&padded(bias));
    for acc in acc {
        let sum = s.add(s.load(acc), bias);
        s.store(acc, sum);
    }
}

#[derive(Clone, Copy)]
struct Rows<'a> {
    x: Activations<'a>,
    n_in: usize,
    starts: &'a [usize],
}

impl<'a> Rows<'a> {
    /// Values `k .. k + n` of row `t`.
    #[inline(always)]
    fn blocks<A: ActBlocks>(self, t: usize, k: usize, n: usize) -> &'a [A] {
        &A::of(self.x)[self.starts[t] + k / A::LEN..][..n / A::LEN]
    }

    /// The same of float activations.
    #[inline(always)]
    fn floats(self, t: usize, k: usize, n: usize) -> &'a [f32] {
        match self.x {
            Activations::F32(data) => &data[self.starts[t] + k..][..n],
            _ => unreachable!("the plan does not convert these activations"),
        }
    }
}

#[inline(always)]
fn product<S: Simd>(
    s: S,
    weights: WeightRows<'_>,
    rows: Rows<'_>,
    panel: &mut Panel,
    acc: &mut [[f32; 16]],
) {
    acc.fill([0.0; 16]);
    let k_step = match rows.x {
        Activations::F32(_) => FLOAT_K_STEP,
        _ => K_STEP,
    };
    let bytes_of = |n: usize| n / weights.ty.block_len() * weights.ty.block_bytes();
    for k in (0..rows.n_in).step_by(k_step) {
        let n = k_step.min(rows.n_in - k);
        let from = panel.tail.source(weights, bytes_of(k), bytes_of(n));
        let step = Step { ty: weights.ty, from, k, n };
        if acc.len() == 1 {
            // The panel that the same worker multiplies next, in the order of its bytes.
            let start = 16 * (weights.row_bytes + bytes_of(k));
            let ahead = Ahead { data: weights.data, start };
            direct_step(s, step, ahead, rows, &mut panel.values, &mut acc[0]);
        } else {
            panel_step(s, step, rows, &mut panel.values, acc);
        }
    }
}

/// Values `k .. k + n` of sixteen weight rows of type `ty`.
#[derive(Clone, Copy)]
struct Step<'a> {
    ty: GgmlType,
    from: Source<'a>,
    k: usize,
    n: usize,
}

/// One row of activations.
#[inline(always)]
fn direct_step<S: Simd>(
    s: S,
    Step { ty, from, k, n }: Step<'_>,
    ahead: Ahead<'_>,
    rows: Rows<'_>,
    values: &mut Values,
    acc: &mut [f32; 16],
) {
    if !matches!(rows.x, Activations::F32(_)) {
        return with_format!(ty, F => {
            s.outlined(direct::Blocks::<F> { from, ahead, x: rows.blocks(0, k, n), acc });
        }, else no_integer_form(ty));
    }
    let x = rows.floats(0, k, n);
    match ty {
        GgmlType::F32 => s.outlined(direct::Floats { from, ahead, x, acc, format: F32 }),
        GgmlType::F16 => s.outlined(direct::Floats { from, ahead, x, acc, format: F16 }),
        GgmlType::BF16 => s.outlined(direct::Floats { from, ahead, x, acc, format: Bf16 }),
        _ => {
            values.unpack_floats(s, ty, from, n);
            let acc = std::slice::from_mut(acc);
            s.outlined(FloatTiles { panel: &values.floats[..n], rows, k, acc });
        }
    }
}

/// Any number of rows of activations.
#[inline(always)]
fn panel_step<S: Simd>(
    s: S,
    Step { ty, from, k, n }: Step<'_>,
    rows: Rows<'_>,
    values: &mut Values,
    acc: &mut [[f32; 16]],
) {
    if matches!(rows.x, Activations::F32(_)) {
        values.unpack_floats(s, ty, from, n);
        return s.outlined(FloatTiles { panel: &values.floats[..n], rows, k, acc });
    }
    let (form, zero) = with_format!(ty, F => {
        s.outlined(Unpack::<F> { values, from, n, format: PhantomData });
        (F::FORM, tile::zero::<S>(F::FORM, F::ZERO))
    }, else no_integer_form(ty));
    let tiles = Tiles { values, zero, rows, k, n, acc };
    match form {
        Form::SupersWithMin => s.outlined(SuperTiles::<false, true, 2>(tiles)),
        Form::SupersWithMins16 => s.outlined(SuperTiles::<false, true, 1>(tiles)),
        Form::SupersCentred => s.outlined(SuperTiles::<false, false, 1>(tiles)),
        Form::SupersWide => s.outlined(SuperTiles::<true, false, 2>(tiles)),
        Form::Blocks => s.outlined(BlockTiles::<false, false>(tiles)),
        Form::BlocksWithMin => s.outlined(BlockTiles::<false, true>(tiles)),
        Form::BlocksWide => s.outlined(BlockTiles::<true, false>(tiles)),
    }
}

/// Only types with an integer form get 8-bit activations: checked when the plan is compiled.
#[cold]
fn no_integer_form(ty: GgmlType) -> ! {
    unreachable!("weights of type {ty} are multiplied in f32")
}

/// The panel `values`, values `k .. k + n` of its weights, with all activation rows.
struct Tiles<'a> {
    values: &'a Values,
    zero: i32,
    rows: Rows<'a>,
    k: usize,
    n: usize,
    acc: &'a mut [[f32; 16]],
}

struct SuperTiles<'a, const WIDE: bool, const MIN: bool, const RUNS: usize>(Tiles<'a>);

impl<const WIDE: bool, const MIN: bool, const RUNS: usize> Kernel
    for SuperTiles<'_, WIDE, MIN, RUNS>
{
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Tiles { values, zero, rows, k, n, acc } = self.0;
        let row = |t: usize| rows.blocks::<ActSuper>(t, k, n);
        match S::MANY_REGISTERS {
            true => {
                over_rows!(8, acc, row, C => tile::supers::<S, WIDE, MIN, RUNS, C>(s, values, zero))
            }
            false => {
                over_rows!(2, acc, row, C => tile::supers::<S, WIDE, MIN, RUNS, C>(s, values, zero))
            }
        }
    }
}

struct BlockTiles<'a, const WIDE: bool, const MIN: bool>(Tiles<'a>);

impl<const WIDE: bool, const MIN: bool> Kernel for BlockTiles<'_, WIDE, MIN> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Tiles { values, zero, rows, k, n, acc } = self.0;
        let row = |t: usize| rows.blocks::<ActBlock>(t, k, n);
        match S::MANY_REGISTERS {
            true => over_rows!(8, acc, row, C => tile::blocks::<S, WIDE, MIN, C>(s, values, zero)),
            false => over_rows!(4, acc, row, C => tile::blocks::<S, WIDE, MIN, C>(s, values, zero)),
        }
    }
}

/// A panel of float weights from `k` on with all activation rows.
struct FloatTiles<'a> {
    panel: &'a [[f32; 16]],
    rows: Rows<'a>,
    k: usize,
    acc: &'a mut [[f32; 16]],
}

impl Kernel for FloatTiles<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let FloatTiles { panel, rows, k, acc } = self;
        let row = |t: usize| rows.floats(t, k, panel.len());
        match S::MANY_REGISTERS {
            true => over_rows!(8, acc, row, C => tile::floats::<S, C>(s, panel)),
            false => over_rows!(2, acc, row, C => tile::floats::<S, C>(s, panel)),
        }
    }
}

/// Unpacks `n` values of sixteen rows.
struct Unpack<'a, F> {
    values: &'a mut Values,
    from: Source<'a>,
    n: usize,
    format: PhantomData<F>,
}

impl<F: Format> Kernel for Unpack<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.values.unpack::<S, F>(s, self.from, self.n);
    }
}
