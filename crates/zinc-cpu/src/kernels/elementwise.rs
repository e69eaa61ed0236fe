//! Row operations on f32: sums, norms, gated activations, rotations.
//!
//! All of them are one pass (the norm: two) over a row of f32 in cache and memory bound: 8 to 12 bytes moved per value.
//! A row is one task. Rows need not be multiples of sixteen: the rest of a row goes through the same vector code,
//! padded, so a value does not depend on where the vectors end.

use crate::simd::{Kernel, Simd, math};
use zinc_plan::{Activation, RopeMode};

/// Copy of up to 16 values, filled up with zeros.
#[inline(always)]
fn padded(x: &[f32]) -> [f32; 16] {
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

/// `out = act(gate)·up`.
pub(crate) struct GatedAct<'a> {
    pub act: Activation,
    pub gate: &'a [f32],
    pub up: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for GatedAct<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (gate, gate_rest) = self.gate.as_chunks::<16>();
        let (up, up_rest) = self.up.as_chunks::<16>();
        let (out, out_rest) = self.out.as_chunks_mut::<16>();
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            gated_16(s, self.act, gate, up, out);
        }
        let mut rest = [0.0; 16];
        gated_16(s, self.act, &padded(gate_rest), &padded(up_rest), &mut rest);
        out_rest.copy_from_slice(&rest[..out_rest.len()]);
    }
}

#[inline(always)]
fn gated_16<S: Simd>(s: S, act: Activation, gate: &[f32; 16], up: &[f32; 16], out: &mut [f32; 16]) {
    s.store(out, math::gated(s, act, s.load(gate), s.load(up)));
}

/// `out = x / sqrt(mean(x²) + eps)·w` over each group of `w.len()` columns.
pub(crate) struct RmsNorm<'a> {
    pub x: &'a [f32],
    pub w: &'a [f32],
    pub eps: f32,
    pub out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let group = self.w.len();
        for (x, out) in self.x.chunks_exact(group).zip(self.out.chunks_exact_mut(group)) {
            let factor = 1.0 / (sum_of_squares(s, x) / group as f32 + self.eps).sqrt();
            for ((out, x), w) in out.iter_mut().zip(x).zip(self.w) {
                *out = x * factor * w;
            }
        }
    }
}

/// Four interleaved sums of sixteen lanes, then a fixed tree.
#[inline(always)]
fn sum_of_squares<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (x, rest) = x.as_chunks::<16>();
    let mut sums = [s.splat(0.0); 4];
    let (fours, ones) = x.as_chunks::<4>();
    for four in fours {
        for i in 0..4 {
            let x = s.load(&four[i]);
            sums[i] = s.mul_add(x, x, sums[i]);
        }
    }
    for (i, one) in ones.iter().enumerate() {
        let x = s.load(one);
        sums[i] = s.mul_add(x, x, sums[i]);
    }
    let x = s.load(&padded(rest));
    sums[3] = s.mul_add(x, x, sums[3]);
    s.sum(s.add(s.add(sums[0], sums[2]), s.add(sums[1], sums[3])))
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
