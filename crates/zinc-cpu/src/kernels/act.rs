//! 8-bit activations for quantised weights.
//!
//! ```text
//! d = max|x| / 127 over a block,  q = round(x / d) to nearest even,  sum = Σ q
//! ```
//! Blocks are 256 values for K-quants (sums of 16) and 32 values for the 32-value types. One row is quantised by one
//! worker; bytes moved: 4n read, about 1.14n (256) or 1.25n (32) written; memory bound. Every instruction set gives
//! the same bits, because each step is one IEEE operation per value and the maximum does not depend on order.

use super::matmul::Activations;
use crate::simd::{Kernel, Simd};

/// 256 activations, the counterpart of a K-quant super-block; the bytes of a [`zinc_quant::Q8K`].
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct ActSuper {
    /// Scale.
    pub d: f32,
    /// Signed bytes, four to a word, the form that dot products broadcast.
    pub q: [i32; 64],
    /// Sum of each group of 16 values.
    pub sums: [i16; 16],
}

/// 32 activations, the counterpart of a 32-value block. It has the size of a [`zinc_quant::Q8_1`], but holds what an
/// exact product needs: the integer sum, and a scale with the range of f32, rounded up to 8 bits of mantissa before
/// the values are divided by it, so that the rounding costs range (under 1 %) and no accuracy.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct ActBlock {
    /// Upper half of the scale's bits.
    d: u16,
    /// Sum of the values.
    pub sum: i16,
    /// Signed bytes, four to a word, the form that dot products broadcast.
    pub q: [i32; 8],
}

impl ActBlock {
    /// Scale.
    #[inline(always)]
    pub(crate) fn d(&self) -> f32 {
        f32::from_bits((self.d as u32) << 16)
    }
}

/// A block of activations.
pub(crate) trait ActBlocks: Sized {
    /// Values in a block.
    const LEN: usize;
    /// Blocks of this kind; panics for activations of another.
    fn of(x: Activations<'_>) -> &[Self];
    /// Bytes by four, sums of the values that share a zero point or minimum, scale.
    fn parts(&self) -> (&[i32], &[i16], f32);
}

impl ActBlocks for ActBlock {
    const LEN: usize = 32;

    #[inline(always)]
    fn of(x: Activations<'_>) -> &[ActBlock] {
        match x {
            Activations::Blocks(blocks) => blocks,
            _ => unreachable!("the plan converts activations to blocks of 32"),
        }
    }

    #[inline(always)]
    fn parts(&self) -> (&[i32], &[i16], f32) {
        (&self.q, std::slice::from_ref(&self.sum), self.d())
    }
}

impl ActBlocks for ActSuper {
    const LEN: usize = 256;

    #[inline(always)]
    fn of(x: Activations<'_>) -> &[ActSuper] {
        match x {
            Activations::Supers(supers) => supers,
            _ => unreachable!("the plan converts activations to blocks of 256"),
        }
    }

    #[inline(always)]
    fn parts(&self) -> (&[i32], &[i16], f32) {
        (&self.q, &self.sums, self.d)
    }
}

/// The values of words in order.
pub(crate) fn values(q: &[i32]) -> impl Iterator<Item = i8> + '_ {
    q.iter().flat_map(|word| word.to_le_bytes()).map(|byte| byte as i8)
}

/// Zeros.
#[cfg(test)]
pub(crate) const EMPTY_SUPER: ActSuper = ActSuper { d: 0.0, q: [0; 64], sums: [0; 16] };
/// Zeros.
#[cfg(test)]
pub(crate) const EMPTY_BLOCK: ActBlock = ActBlock { d: 0, sum: 0, q: [0; 8] };

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

/// max|x| / 127. Infinite or NaN input gives NaN, so the damage stays visible instead of becoming plausible numbers.
#[inline(always)]
fn scale<S: Simd>(s: S, x: &[[f32; 16]]) -> f32 {
    let magnitude = s.i_splat(0x7fff_ffff);
    let mut largest = s.i_splat(0);
    for x in x {
        // Bit patterns of non-negative floats order like integers, with infinity and NaN on top.
        let bits = s.i_and(s.as_bits(s.load(x)), magnitude);
        largest = i_max(s, largest, bits);
    }
    let mut lanes = [0; 16];
    s.i_store(&mut lanes, largest);
    let largest = f32::from_bits(lanes.iter().fold(0, |a, &b| a.max(b)) as u32);
    if !largest.is_finite() {
        return f32::NAN;
    }
    // Where the inverse would overflow, a block is zero for every purpose.
    let d = largest / 127.0;
    if d < 1e-37 { 0.0 } else { d }
}

/// 1/d; zero for a block of zeros or of damaged values.
#[inline(always)]
fn inverse(d: f32) -> f32 {
    if d > 0.0 { 1.0 / d } else { 0.0 }
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
fn quantize_16<S: Simd>(s: S, x: &[f32; 16], inverse: f32, out: &mut [i32]) -> i32 {
    let mut q = [0i8; 16];
    let scaled = s.mul(s.load(x), s.splat(inverse));
    // |x|·(1/d) can exceed 127 by a rounding error.
    let scaled = s.min(s.max(scaled, s.splat(-127.0)), s.splat(127.0));
    s.store_i8(&mut q, s.to_i32(scaled));
    for (to, from) in out.iter_mut().zip(q.as_chunks::<4>().0) {
        *to = i32::from_le_bytes(from.map(|q| q as u8));
    }
    q.iter().map(|&q| q as i32).sum()
}

impl Kernel for QuantizeSupers<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, out) in self.x.as_chunks::<256>().0.iter().zip(self.out) {
            let x = x.as_chunks::<16>().0;
            out.d = scale(s, x);
            let inverse = inverse(out.d);
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
            let d = scale(s, x).to_bits();
            // NaN stays NaN: its bits below the cut cannot carry out of the quiet NaN that `scale` returns.
            out.d = (d.saturating_add(0xffff) >> 16) as u16;
            let inverse = inverse(out.d());
            let (low, high) = out.q.split_at_mut(4);
            out.sum =
                (quantize_16(s, &x[0], inverse, low) + quantize_16(s, &x[1], inverse, high)) as i16;
        }
    }
}
