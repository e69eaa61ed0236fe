//! Q4_0 and Q4_1: 32 elements of 4 bits with one scale, and for Q4_1 one minimum.

use crate::block::{
    Block, F16Bits, QuantizeBlock, SearchBlock, inverse_or_zero, min_max, signed_max,
};
use crate::search::levels::{Integers, Levels};
use crate::search::{affine, scale};
use bytemuck::{Pod, Zeroable};

/// 18 bytes: x = d · (q − 8).
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–1 | `d` | f16 scale |
/// | 2–17 | `qs` | byte j: element j in the low nibble, element j + 16 in the high nibble |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Q4_0 {
    /// Scale.
    pub d: F16Bits,
    /// Quants, two to a byte.
    pub qs: [u8; 16],
}

impl Block<32> for Q4_0 {
    fn dequantize(&self, out: &mut [f32; 32]) {
        let d = self.d.to_f32();
        for (j, &q) in self.qs.iter().enumerate() {
            out[j] = (i32::from(q & 15) - 8) as f32 * d;
            out[j + 16] = (i32::from(q >> 4) - 8) as f32 * d;
        }
    }
}

impl QuantizeBlock<32> for Q4_0 {
    /// The element of largest magnitude maps to −8 exactly, whatever its sign.
    fn quantize(src: &[f32; 32]) -> Q4_0 {
        let d = signed_max(src) / -8.0;
        let inverse = inverse_or_zero(d);
        let quant = |value: f32| ((value * inverse + 8.5) as u8).min(15);
        Q4_0 {
            d: F16Bits::from_f32(d),
            qs: std::array::from_fn(|j| quant(src[j]) | quant(src[j + 16]) << 4),
        }
    }
}

impl SearchBlock<32> for Q4_0 {
    fn search(values: &[f32; 32], weights: &[f32; 32]) -> Q4_0 {
        type Range = Integers<-8, 7>;
        let d = scale::fit_f16::<Range, 32>(values, weights);
        let inverse = scale::inverse(d.to_f32());
        let quant = |value: f32| (Range::nearest(value * inverse) + 8.0) as u8;
        Q4_0 { d, qs: std::array::from_fn(|j| quant(values[j]) | quant(values[j + 16]) << 4) }
    }
}

/// 20 bytes: x = d · q + m.
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–1 | `d` | f16 scale |
/// | 2–3 | `m` | f16 minimum |
/// | 4–19 | `qs` | nibbles as in [`Q4_0`] |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Q4_1 {
    /// Scale.
    pub d: F16Bits,
    /// Minimum.
    pub m: F16Bits,
    /// Quants, two to a byte.
    pub qs: [u8; 16],
}

impl Block<32> for Q4_1 {
    fn dequantize(&self, out: &mut [f32; 32]) {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        for (j, &q) in self.qs.iter().enumerate() {
            out[j] = f32::from(q & 15) * d + m;
            out[j + 16] = f32::from(q >> 4) * d + m;
        }
    }
}

impl QuantizeBlock<32> for Q4_1 {
    fn quantize(src: &[f32; 32]) -> Q4_1 {
        let (min, max) = min_max(src);
        let d = (max - min) / 15.0;
        let inverse = inverse_or_zero(d);
        let quant = |value: f32| (((value - min) * inverse + 0.5) as u8).min(15);
        Q4_1 {
            d: F16Bits::from_f32(d),
            m: F16Bits::from_f32(min),
            qs: std::array::from_fn(|j| quant(src[j]) | quant(src[j + 16]) << 4),
        }
    }
}

impl SearchBlock<32> for Q4_1 {
    fn search(values: &[f32; 32], weights: &[f32; 32]) -> Q4_1 {
        let (d, m, qs) = affine::fit_f16::<15, 32>(values, weights);
        Q4_1 { d, m, qs: std::array::from_fn(|j| qs[j] | qs[j + 16] << 4) }
    }
}
