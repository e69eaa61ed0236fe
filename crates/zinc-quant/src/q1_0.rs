//! Q1_0 and Q2_0: sign bits and two-bit integers with one scale per block.

use crate::block::{Block, F16Bits};
use bytemuck::{Pod, Zeroable};

/// 18 bytes, 128 elements: x = d if the bit is set, else −d.
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–1 | `d` | f16 scale |
/// | 2–17 | `qs` | element j is bit j mod 8 of byte j / 8 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Q1_0 {
    /// Scale.
    pub d: F16Bits,
    /// Sign bits, set for positive.
    pub qs: [u8; 16],
}

impl Block<128> for Q1_0 {
    fn dequantize(&self, out: &mut [f32; 128]) {
        let d = self.d.to_f32();
        for (j, value) in out.iter_mut().enumerate() {
            *value = if self.qs[j / 8] >> (j % 8) & 1 == 1 { d } else { -d };
        }
    }
}

/// 18 bytes, 64 elements: x = d · (q − 1), q in 0..=3.
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–1 | `d` | f16 scale |
/// | 2–17 | `qs` | element j is bits 2·(j mod 4) and up of byte j / 4 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Q2_0 {
    /// Scale.
    pub d: F16Bits,
    /// Quants, four to a byte.
    pub qs: [u8; 16],
}

impl Block<64> for Q2_0 {
    fn dequantize(&self, out: &mut [f32; 64]) {
        let d = self.d.to_f32();
        for (j, value) in out.iter_mut().enumerate() {
            let q = self.qs[j / 4] >> (2 * (j % 4)) & 3;
            *value = (f32::from(q) - 1.0) * d;
        }
    }
}
