//! Q8_K: 256 elements of 8 bits with an f32 scale; an intermediate format for activations.

use crate::block::{Block, QK_K};
use bytemuck::{Pod, Zeroable};

/// 292 bytes: x = d · q.
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–3 | `d` | f32 scale |
/// | 4–259 | `qs` | i8 elements in order |
/// | 260–291 | `sums` | i16 sums of 16 consecutive elements |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Q8K {
    /// Scale, little-endian f32.
    pub d: [u8; 4],
    /// Quants.
    pub qs: [i8; QK_K],
    /// Sums of 16 quants each, little-endian i16.
    pub sums: [[u8; 2]; QK_K / 16],
}

impl Block<QK_K> for Q8K {
    fn dequantize(&self, out: &mut [f32; QK_K]) {
        let d = f32::from_le_bytes(self.d);
        for (value, &q) in out.iter_mut().zip(&self.qs) {
            *value = d * f32::from(q);
        }
    }
}
