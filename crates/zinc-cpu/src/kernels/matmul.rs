//! Matrix products `y[t, o] = Σ_i W[o, i]·x[t, i]`.
//!
//! Shapes: `W [n_out, n_in]` of any GGUF type, `x [n, n_in]` as f32, 32-value or 256-value 8-bit blocks.
//! A task is 16 output columns × some rows of `x`, which may lie anywhere: for each step of k it unpacks one panel of `W` and runs the
//! register tiles of [`super::tile`] over all rows, 8, 4, 2 and 1 at a time. Accumulators wait in [`Scratch::acc`]
//! between steps, so the panel (16 KiB) stays in the first-level cache and `x` comes from the second.
//! Bytes moved: `W` once per task, `x` once per 16 columns. Bound: memory for one row; for many rows the 8-bit dot
//! product rate, about one instruction per 64 products.
//! The number of rows in a task never changes a result: see the tiles.

use super::act::{ActBlock, ActSuper};
use super::elementwise::padded;
use super::panel::{Form, Panel, WeightRows};
use super::tile::{self, over_rows};
use crate::simd::{Kernel, Simd, math};
use zinc_plan::Activation;

/// Rows of `x` that are multiplied with one panel before the next panel is unpacked.
pub(crate) const MAX_ROWS: usize = 256;

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
            panel: Panel::new(),
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

#[inline(always)]
fn product<S: Simd>(
    s: S,
    weights: WeightRows<'_>,
    rows: Rows<'_>,
    panel: &mut Panel,
    acc: &mut [[f32; 16]],
) {
    let form = match rows.x {
        Activations::F32(_) => Form::Floats,
        // Checked when the plan is compiled: only types with an integer form get 8-bit activations.
        _ => Form::quantized(weights.ty).unwrap_or(Form::Floats),
    };
    acc.fill([0.0; 16]);
    let mut k = 0;
    while k < rows.n_in {
        let n = form.k_step().min(rows.n_in - k);
        panel.unpack(s, form, weights, k, n);
        match rows.x {
            Activations::F32(data) => {
                let floats = &panel.floats[..n];
                let row = |t: usize| &data[rows.starts[t] + k..][..n];
                match S::MANY_REGISTERS {
                    true => over_rows!(8, acc, row, C => tile::floats::<S, C>(s, floats)),
                    false => over_rows!(2, acc, row, C => tile::floats::<S, C>(s, floats)),
                }
            }
            Activations::Blocks(blocks) => {
                let row = |t: usize| &blocks[rows.starts[t] + k / 32..][..n / 32];
                match (form, S::MANY_REGISTERS) {
                    (Form::WideBlocks, true) => {
                        over_rows!(8, acc, row, C => tile::blocks::<S, 128, C>(s, panel))
                    }
                    (Form::WideBlocks, false) => {
                        over_rows!(4, acc, row, C => tile::blocks::<S, 128, C>(s, panel))
                    }
                    (_, true) => over_rows!(8, acc, row, C => tile::blocks::<S, 8, C>(s, panel)),
                    (_, false) => over_rows!(4, acc, row, C => tile::blocks::<S, 8, C>(s, panel)),
                }
            }
            Activations::Supers(supers) => {
                let row = |t: usize| &supers[rows.starts[t] + k / 256..][..n / 256];
                match (form, S::MANY_REGISTERS) {
                    (Form::SupersCentred, true) => {
                        over_rows!(8, acc, row, C => tile::supers_centred::<S, C>(s, panel))
                    }
                    (Form::SupersCentred, false) => {
                        over_rows!(2, acc, row, C => tile::supers_centred::<S, C>(s, panel))
                    }
                    (_, true) => {
                        over_rows!(8, acc, row, C => tile::supers_with_min::<S, C>(s, panel))
                    }
                    (_, false) => {
                        over_rows!(2, acc, row, C => tile::supers_with_min::<S, C>(s, panel))
                    }
                }
            }
        }
        k += n;
    }
}
