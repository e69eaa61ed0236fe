//! Row operations on f32: sums, products, gates, moved columns, rotations.
//!
//! All of them are one pass over a row of f32 in cache and memory bound: 8 to 12 bytes moved per value.
//! A row is one task. Rows need not be multiples of sixteen: the rest of a row goes through the same vector code,
//! padded, so a value does not depend on where the vectors end.

use crate::simd::{Kernel, Simd, math};
use zinc_plan::{Activation, HeadSlice, RopeMode};

/// Copy of up to 16 values, filled up with zeros.
#[inline(always)]
pub(super) fn padded(x: &[f32]) -> [f32; 16] {
    let mut out = [0.0; 16];
    out[..x.len()].copy_from_slice(x);
    out
}

/// `out = a + b`.
pub(crate) struct Add<'a> {
    pub a: &'a [f32],
    pub b: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for Add<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        // Vectorised by the compiler: one IEEE operation per value leaves no choice of results.
        for ((out, a), b) in self.out.iter_mut().zip(self.a).zip(self.b) {
            *out = a + b;
        }
    }
}

/// `out = a·b`.
pub(crate) struct Mul<'a> {
    pub a: &'a [f32],
    pub b: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for Mul<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for ((out, a), b) in self.out.iter_mut().zip(self.a).zip(self.b) {
            *out = a * b;
        }
    }
}

/// `out = x·factor`.
pub(crate) struct Scale<'a> {
    pub x: &'a [f32],
    pub factor: f32,
    pub out: &'a mut [f32],
}

impl Kernel for Scale<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (out, x) in self.out.iter_mut().zip(self.x) {
            *out = x * self.factor;
        }
    }
}

/// A function of two values, on sixteen lanes.
pub(crate) trait Lanes: Copy {
    /// Must be `#[inline(always)]`.
    fn apply<S: Simd>(self, s: S, a: S::F, b: S::F) -> S::F;
}

/// `out = f(a, b)`.
pub(crate) struct Zip<'a, L> {
    pub f: L,
    pub a: &'a [f32],
    pub b: &'a [f32],
    pub out: &'a mut [f32],
}

impl<L: Lanes> Kernel for Zip<'_, L> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (a, a_rest) = self.a.as_chunks::<16>();
        let (b, b_rest) = self.b.as_chunks::<16>();
        let (out, out_rest) = self.out.as_chunks_mut::<16>();
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            s.store(out, self.f.apply(s, s.load(a), s.load(b)));
        }
        let mut rest = [0.0; 16];
        s.store(&mut rest, self.f.apply(s, s.load(&padded(a_rest)), s.load(&padded(b_rest))));
        out_rest.copy_from_slice(&rest[..out_rest.len()]);
    }
}

/// `act(a)·b`: gate and up.
#[derive(Clone, Copy)]
pub(crate) struct Gated(pub Activation);

impl Lanes for Gated {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, gate: S::F, up: S::F) -> S::F {
        math::gated(s, self.0, gate, up)
    }
}

/// `a·σ(b)`.
#[derive(Clone, Copy)]
pub(crate) struct SigmoidGate;

impl Lanes for SigmoidGate {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F, gate: S::F) -> S::F {
        s.mul(x, math::sigmoid(s, gate))
    }
}

/// `cap·tanh(a / cap)`; the second operand does not matter.
#[derive(Clone, Copy)]
pub(crate) struct Softcap(pub f32);

impl Lanes for Softcap {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F, _: S::F) -> S::F {
        let cap = s.splat(self.0);
        s.mul(cap, math::tanh(s, s.div(x, cap)))
    }
}

/// `out = x·σ(gate)` with one gate for the row.
pub(crate) struct SigmoidGateRow<'a> {
    pub x: &'a [f32],
    pub gate: f32,
    pub out: &'a mut [f32],
}

impl Kernel for SigmoidGateRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut factor = [0.0; 16];
        s.store(&mut factor, math::sigmoid(s, s.splat(self.gate)));
        Scale { x: self.x, factor: factor[0], out: self.out }.run(s);
    }
}

/// Columns `start .. start + len` of each head of `head_dim`, moved together.
pub(crate) fn head_slice(slice: HeadSlice, x: &[f32], out: &mut [f32]) {
    let (start, len) = (slice.start as usize, slice.len as usize);
    let heads = x.chunks_exact(slice.head_dim as usize);
    for (out, head) in out.chunks_exact_mut(len).zip(heads) {
        out.copy_from_slice(&head[start..start + len]);
    }
}

/// The values of `a`, then those of `b`.
pub(crate) fn concat(a: &[f32], b: &[f32], out: &mut [f32]) {
    let (out_a, out_b) = out.split_at_mut(a.len());
    out_a.copy_from_slice(a);
    out_b.copy_from_slice(b);
}

/// Cosines and sines of one position: `turns[i] = (cos, sin)·factor` of `position·table[i]`; the factor is the last
/// column of the table.
pub(crate) fn rope_turns(position: i32, table: &[f32], turns: &mut [[f32; 2]]) {
    let Some((factor, frequencies)) = table.split_last() else {
        return;
    };
    for (turn, frequency) in turns.iter_mut().zip(frequencies) {
        let (sin, cos) = (position as f32 * frequency).sin_cos();
        *turn = [cos * factor, sin * factor];
    }
}

/// Rotates the first `2·turns.len()` values of each head and copies the rest.
pub(crate) struct Rope<'a> {
    pub mode: RopeMode,
    pub head_dim: usize,
    pub x: &'a [f32],
    pub turns: &'a [[f32; 2]],
    pub out: &'a mut [f32],
}

impl Kernel for Rope<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let half = self.turns.len();
        for (x, out) in
            self.x.chunks_exact(self.head_dim).zip(self.out.chunks_exact_mut(self.head_dim))
        {
            out[2 * half..].copy_from_slice(&x[2 * half..]);
            match self.mode {
                RopeMode::Norm => {
                    let pairs = x.as_chunks::<2>().0.iter().zip(out.as_chunks_mut::<2>().0);
                    for ((x, out), [cos, sin]) in pairs.zip(self.turns) {
                        *out = [x[0] * cos - x[1] * sin, x[0] * sin + x[1] * cos];
                    }
                }
                RopeMode::Neox => {
                    let (x_low, x_high) = x[..2 * half].split_at(half);
                    let (out_low, out_high) = out[..2 * half].split_at_mut(half);
                    for (i, [cos, sin]) in self.turns.iter().enumerate() {
                        out_low[i] = x_low[i] * cos - x_high[i] * sin;
                        out_high[i] = x_low[i] * sin + x_high[i] * cos;
                    }
                }
            }
        }
    }
}
