//! A causal depthwise convolution with silu, for one row and some channels.
//!
//! ```text
//! y[c] = silu(Σ_i w[i, c]·x[i, c]),   i over the row and the kernel - 1 rows before it, oldest first
//! ```
//! Bytes moved: per channel `kernel` weights and rows in cache, one value in and out. A small part of a step.

use super::Cols;
use super::elementwise::padded;
use crate::simd::{Kernel, Simd, math};

/// One row.
pub(crate) struct ConvRow<'a> {
    /// Taps by channel, one row per tap.
    pub taps: Cols<'a>,
    /// As many rows of the input, the last one that of the result.
    pub x: Cols<'a>,
    pub out: &'a mut [f32],
}

impl Kernel for ConvRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n_taps = self.x.data.len().div_ceil(self.x.stride);
        for (idx, out) in self.out.chunks_mut(16).enumerate() {
            let mut sum = s.splat(0.0);
            for tap in 0..n_taps {
                let w = sixteen(&self.taps.row(tap)[16 * idx..]);
                let x = sixteen(&self.x.row(tap)[16 * idx..]);
                sum = s.mul_add(s.load(&w), s.load(&x), sum);
            }
            let mut y = [0.0; 16];
            s.store(&mut y, math::silu(s, sum));
            out.copy_from_slice(&y[..out.len()]);
        }
    }
}

/// The first sixteen values, with zeros where there are fewer.
#[inline(always)]
fn sixteen(x: &[f32]) -> [f32; 16] {
    match x.first_chunk() {
        Some(x) => *x,
        None => padded(x),
    }
}
