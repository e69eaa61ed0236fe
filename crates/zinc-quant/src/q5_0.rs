//! Q5_0 and Q5_1: 32 elements of 5 bits; the fifth bits lie together in one 32-bit word.

use crate::block::{
    Block, F16Bits, QuantizeBlock, SearchBlock, inverse_or_zero, min_max, signed_max,
};
use crate::search::levels::{Integers, Levels};
use crate::search::{affine, scale};
use bytemuck::{Pod, Zeroable};

/// 22 bytes: x = d · (q − 16).
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–1 | `d` | f16 scale |
/// | 2–5 | `qh` | bit j of this u32: bit 4 of element j |
/// | 6–21 | `qs` | byte j: low 4 bits of element j, then of element j + 16 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Q5_0 {
    /// Scale.
    pub d: F16Bits,
    /// Fifth bits.
    pub qh: [u8; 4],
    /// Low four bits, two to a byte.
    pub qs: [u8; 16],
}

impl Block<32> for Q5_0 {
    fn dequantize(&self, out: &mut [f32; 32]) {
        let d = self.d.to_f32();
        for (value, q) in out.iter_mut().zip(unpack(self.qh, &self.qs)) {
            *value = (i32::from(q) - 16) as f32 * d;
        }
    }
}

impl QuantizeBlock<32> for Q5_0 {
    /// The element of largest magnitude maps to −16 exactly, whatever its sign.
    fn quantize(src: &[f32; 32]) -> Q5_0 {
        let d = signed_max(src) / -16.0;
        let inverse = inverse_or_zero(d);
        let (qh, qs) = pack(src.map(|value| ((value * inverse + 16.5) as u8).min(31)));
        Q5_0 { d: F16Bits::from_f32(d), qh, qs }
    }
}

impl SearchBlock<32> for Q5_0 {
    fn search(values: &[f32; 32], weights: &[f32; 32]) -> Q5_0 {
        type Range = Integers<-16, 15>;
        let d = scale::fit_f16::<Range, 32>(values, weights);
        let inverse = scale::inverse(d.to_f32());
        let (qh, qs) = pack(values.map(|value| (Range::nearest(value * inverse) + 16.0) as u8));
        Q5_0 { d, qh, qs }
    }
}

/// 24 bytes: x = d · q + m.
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–1 | `d` | f16 scale |
/// | 2–3 | `m` | f16 minimum |
/// | 4–7 | `qh` | fifth bits as in [`Q5_0`] |
/// | 8–23 | `qs` | low bits as in [`Q5_0`] |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Q5_1 {
    /// Scale.
    pub d: F16Bits,
    /// Minimum.
    pub m: F16Bits,
    /// Fifth bits.
    pub qh: [u8; 4],
    /// Low four bits, two to a byte.
    pub qs: [u8; 16],
}

impl Block<32> for Q5_1 {
    fn dequantize(&self, out: &mut [f32; 32]) {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        for (value, q) in out.iter_mut().zip(unpack(self.qh, &self.qs)) {
            *value = f32::from(q) * d + m;
        }
    }
}

impl QuantizeBlock<32> for Q5_1 {
    fn quantize(src: &[f32; 32]) -> Q5_1 {
        let (min, max) = min_max(src);
        let d = (max - min) / 31.0;
        let inverse = inverse_or_zero(d);
        let (qh, qs) = pack(src.map(|value| (((value - min) * inverse + 0.5) as u8).min(31)));
        Q5_1 { d: F16Bits::from_f32(d), m: F16Bits::from_f32(min), qh, qs }
    }
}

impl SearchBlock<32> for Q5_1 {
    fn search(values: &[f32; 32], weights: &[f32; 32]) -> Q5_1 {
        let (d, m, quants) = affine::fit_f16::<31, 32>(values, weights);
        let (qh, qs) = pack(quants);
        Q5_1 { d, m, qh, qs }
    }
}

fn unpack(qh: [u8; 4], qs: &[u8; 16]) -> [u8; 32] {
    let high = u32::from_le_bytes(qh);
    std::array::from_fn(|j| {
        let low = if j < 16 { qs[j] & 15 } else { qs[j - 16] >> 4 };
        low | ((high >> j & 1) as u8) << 4
    })
}

fn pack(quants: [u8; 32]) -> ([u8; 4], [u8; 16]) {
    let mut high = 0u32;
    for (j, q) in quants.iter().enumerate() {
        high |= u32::from(q >> 4) << j;
    }
    let low = std::array::from_fn(|j| quants[j] & 15 | (quants[j + 16] & 15) << 4);
    (high.to_le_bytes(), low)
}
