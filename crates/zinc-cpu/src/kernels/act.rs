//! 8-bit activations for quantised weights.
//!
//! ```text
//! d = max|x| / 127 over a block,  q = round(x / d) to nearest even,  sum = Σ q
//! ```
//! Blocks are 256 values for K-quants (sums of 16) and 32 values for the 32-value types. One row is quantised by one
//! worker; bytes moved: 4n read, about 1.14n (256) or 1.25n (32) written; memory bound. Every instruction set gives
//! the same bits, because each step is one IEEE operation per value and the maximum does not depend on order.

use crate::simd::{Kernel, Simd};

/// 256 activations: the counterpart of a K-quant super-block.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct ActSuper {
    /// Scale.
    pub d: f32,
    /// Sum of each group of 16 values.
    pub sums: [i16; 16],
    /// Values in fours, as the dot products take them.
    pub q: [[i8; 4]; 64],
}

/// 32 activations: the counterpart of a 32-value block.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct ActBlock {
    /// Scale.
    pub d: f32,
    /// Sum of the values.
    pub sum: i32,
    /// Values in fours, as the dot products take them.
    pub q: [[i8; 4]; 8],
}

/// Quantises `x` into blocks of 256; `x.len() == 256·out.len()`.
pub(crate) struct QuantizeSupers<'a> {
    pub x: &'a [f32],
    pub out: &'a mut [ActSuper],
}

/// Quantises `x` into blocks of 32; `x.len() == 32·out.len()`.
pub(crate) struct QuantizeBlocks<'a> {
    pub x: &'a [f32],
    pub out: &'a mut [ActBlock],
}

/// Scale of a block and its exact inverse's stand-in; zero for a block of zeros. Infinite or NaN input gives a
/// NaN scale, so the damage stays visible instead of becoming plausible numbers.
#[inline(always)]
fn scale<S: Simd>(s: S, x: &[[f32; 16]]) -> (f32, f32) {
    let magnitude = s.i_splat(0x7fff_ffff);
    let mut largest = s.i_splat(0);
    for x in x {
        // Bit patterns of non-negative floats order like integers, with infinity and NaN on top.
        let bits = s.i_and(s.bits(s.load(x)), magnitude);
        largest = i_max(s, largest, bits);
    }
    let mut lanes = [0; 16];
    s.i_store(&mut lanes, largest);
    let largest = f32::from_bits(lanes.iter().fold(0, |a, &b| a.max(b)) as u32);
    if !largest.is_finite() {
        return (f32::NAN, 0.0);
    }
    let d = largest / 127.0;
    // Below this the inverse overflows; such a block is zero for every purpose.
    if d < 1e-37 { (0.0, 0.0) } else { (d, 1.0 / d) }
}

#[inline(always)]
fn i_max<S: Simd>(s: S, a: S::I, b: S::I) -> S::I {
    // Both are non-negative: a - b has the sign bit set exactly when b is larger.
    let difference = s.i_add(a, s.i_add(s.i_xor(b, s.i_splat(-1)), s.i_splat(1)));
    let b_larger = s.i_sar::<31>(difference);
    s.i_or(s.i_and(b, b_larger), s.i_and(a, s.i_xor(b_larger, s.i_splat(-1))))
}

/// Quantises 16 values; returns their sum.
#[inline(always)]
fn quantize_16<S: Simd>(s: S, x: &[f32; 16], inverse: f32, out: &mut [[i8; 4]]) -> i32 {
    let mut q = [0i8; 16];
    let scaled = s.mul(s.load(x), s.splat(inverse));
    // |x|·(1/d) can exceed 127 by a rounding error.
    let scaled = s.min(s.max(scaled, s.splat(-127.0)), s.splat(127.0));
    s.store_i8(&mut q, s.to_i32(scaled));
    for (to, from) in out.iter_mut().zip(q.as_chunks::<4>().0) {
        *to = *from;
    }
    q.iter().map(|&q| q as i32).sum()
}

impl Kernel for QuantizeSupers<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, out) in self.x.as_chunks::<256>().0.iter().zip(self.out) {
            let x = x.as_chunks::<16>().0;
            let (d, inverse) = scale(s, x);
            out.d = d;
            for (i, x) in x.iter().enumerate() {
                out.sums[i] = quantize_16(s, x, inverse, &mut out.q[4 * i..4 * i + 4]) as i16;
            }
        }
    }
}

impl Kernel for QuantizeBlocks<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, out) in self.x.as_chunks::<32>().0.iter().zip(self.out) {
            let x = x.as_chunks::<16>().0;
            let (d, inverse) = scale(s, x);
            out.d = d;
            let (low, high) = out.q.split_at_mut(4);
            out.sum = quantize_16(s, &x[0], inverse, low) + quantize_16(s, &x[1], inverse, high);
        }
    }
}
