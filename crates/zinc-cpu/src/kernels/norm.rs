//! Norms of rows or of groups of columns, each with the sum of squares of its group.
//!
//! Two passes over a row of f32 in cache, memory bound: 8 bytes moved per value, 12 with a gate. A row is one task. The
//! order of the sum depends on the length of a group only.

use super::elementwise::padded;
use crate::simd::{Kernel, Simd, math};

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

/// `out = x / sqrt(Σ x² + eps)` over each group of `group` columns.
pub(crate) struct L2Norm<'a> {
    pub x: &'a [f32],
    pub group: usize,
    pub eps: f32,
    pub out: &'a mut [f32],
}

impl Kernel for L2Norm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let groups = self.x.chunks_exact(self.group).zip(self.out.chunks_exact_mut(self.group));
        for (x, out) in groups {
            let factor = 1.0 / (sum_of_squares(s, x) + self.eps).sqrt();
            for (out, x) in out.iter_mut().zip(x) {
                *out = x * factor;
            }
        }
    }
}

/// `out = y·silu(z)` for the RMS norm `y` of `x` over each group of `w.len()` columns.
pub(crate) struct RmsNormGated<'a> {
    pub norm: RmsNorm<'a>,
    pub z: &'a [f32],
}

impl Kernel for RmsNormGated<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RmsNorm { x, w, eps, out } = self.norm;
        RmsNorm { x, w, eps, out: &mut *out }.run(s);
        let (out, out_rest) = out.as_chunks_mut::<16>();
        let (z, z_rest) = self.z.as_chunks::<16>();
        for (out, z) in out.iter_mut().zip(z) {
            s.store(out, s.mul(s.load(out), math::silu(s, s.load(z))));
        }
        let mut rest = padded(out_rest);
        let y = s.mul(s.load(&rest), math::silu(s, s.load(&padded(z_rest))));
        s.store(&mut rest, y);
        out_rest.copy_from_slice(&rest[..out_rest.len()]);
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
