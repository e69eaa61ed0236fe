//! Q8_0 and Q8_1: 32 elements of 8 bits.

use crate::block::{Block, F16Bits, QuantizeBlock, SearchBlock, inverse_or_zero};
use crate::search::levels::{Integers, Levels};
use crate::search::scale;
use bytemuck::{Pod, Zeroable};

/// 34 bytes: x = d · q.
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–1 | `d` | f16 scale |
/// | 2–33 | `qs` | i8 elements in order |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Q8_0 {
    /// Scale.
    pub d: F16Bits,
    /// Quants.
    pub qs: [i8; 32],
}

impl Block<32> for Q8_0 {
    fn dequantize(&self, out: &mut [f32; 32]) {
        let d = self.d.to_f32();
        for (value, &q) in out.iter_mut().zip(&self.qs) {
            *value = f32::from(q) * d;
        }
    }
}

impl QuantizeBlock<32> for Q8_0 {
    /// Rounds half away from zero, and with the unrounded scale, as the reference does.
    fn quantize(src: &[f32; 32]) -> Q8_0 {
        let max = src.iter().fold(0.0f32, |max, value| max.max(value.abs()));
        let d = max / 127.0;
        let inverse = inverse_or_zero(d);
        Q8_0 { d: F16Bits::from_f32(d), qs: src.map(|value| (value * inverse).round() as i8) }
    }
}

impl SearchBlock<32> for Q8_0 {
    /// Without −128: kernels that negate quants have no room for it.
    fn search(values: &[f32; 32], weights: &[f32; 32]) -> Q8_0 {
        type Range = Integers<-127, 127>;
        // Both signs of the scale lead to the same values; readers expect the positive one.
        let d = scale::fit_f16::<Range, 32>(values, weights).to_f32().abs();
        let inverse = scale::inverse(d);
        let d = F16Bits::from_f32(d);
        Q8_0 { d, qs: values.map(|value| Range::nearest(value * inverse) as i8) }
    }
}

/// 36 bytes: x = d · q. An activation format: the sum serves products with formats that have a minimum.
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–1 | `d` | f16 scale |
/// | 2–3 | `s` | f16 d · Σ q |
/// | 4–35 | `qs` | i8 elements in order |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Q8_1 {
    /// Scale.
    pub d: F16Bits,
    /// Scale times the sum of the quants.
    pub s: F16Bits,
    /// Quants.
    pub qs: [i8; 32],
}

impl Block<32> for Q8_1 {
    fn dequantize(&self, out: &mut [f32; 32]) {
        let d = self.d.to_f32();
        for (value, &q) in out.iter_mut().zip(&self.qs) {
            *value = f32::from(q) * d;
        }
    }
}
