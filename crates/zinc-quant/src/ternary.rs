//! TQ1_0 and TQ2_0: 256 ternary elements with one scale.

use crate::block::{Block, F16Bits, QK_K};
use bytemuck::{Pod, Zeroable};

/// 54 bytes: x = d · (q − 1), q in 0..=2.
///
/// A byte holds five base-3 digits as the fraction digits/3⁵ scaled to 256 and rounded up, so that
/// multiplying by 3ⁿ modulo 256 brings digit n to the top; digit = (byte · 3) >> 8.
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–47 | `qs` | bytes 0–31: digit n of byte m is element 32n + m; bytes 32–47: element 160 + 16n + m |
/// | 48–51 | `qh` | four digits a byte: digit n of byte m is element 240 + 4n + m |
/// | 52–53 | `d` | f16 scale |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Tq1_0 {
    /// Quants, five to a byte.
    pub qs: [u8; 48],
    /// The last 16 quants, four to a byte.
    pub qh: [u8; 4],
    /// Scale.
    pub d: F16Bits,
}

impl Block<QK_K> for Tq1_0 {
    fn dequantize(&self, out: &mut [f32; QK_K]) {
        let d = self.d.to_f32();
        let (wide, narrow) = self.qs.split_at(32);
        let mut next = 0;
        for (bytes, n_digits) in [(wide, 5), (narrow, 5), (&self.qh[..], 4)] {
            let mut power = 1u8;
            for _ in 0..n_digits {
                for &byte in bytes {
                    let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
                    out[next] = (f32::from(digit) - 1.0) * d;
                    next += 1;
                }
                power = power.wrapping_mul(3);
            }
        }
    }
}

/// 66 bytes: x = d · (q − 1), q in 0..=2 (3 is representable and means 2).
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–63 | `qs` | each half of 128 elements has 32 bytes; element 32s + l of the half is bits 2s, 2s+1 of byte l |
/// | 64–65 | `d` | f16 scale |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Tq2_0 {
    /// Quants, four to a byte.
    pub qs: [u8; 64],
    /// Scale.
    pub d: F16Bits,
}

impl Block<QK_K> for Tq2_0 {
    fn dequantize(&self, out: &mut [f32; QK_K]) {
        let d = self.d.to_f32();
        for (run, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let shift = 2 * (run % 4);
            for (value, &q) in values.iter_mut().zip(&self.qs[32 * (run / 4)..]) {
                *value = (f32::from(q >> shift & 3) - 1.0) * d;
            }
        }
    }
}
