//! Q6_K: 256 elements of 6 bits, 16 groups with an 8-bit scale each.

use crate::block::{Block, F16Bits, QK_K};
use bytemuck::{Pod, Zeroable};

/// 210 bytes: x = (d · scale) · (q − 32), q in 0..=63.
///
/// Each half of 128 elements is four runs of 32; element l of run r has
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–127 | `ql` | low 4 bits: byte 64·half + 32·(r mod 2) + l, low nibble for r < 2, else high |
/// | 128–191 | `qh` | high 2 bits: byte 32·half + l at bits 2r, 2r+1 |
/// | 192–207 | `scales` | i8 scale of 16 consecutive elements |
/// | 208–209 | `d` | f16 scale of the scales |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Q6K {
    /// Low four bits, two to a byte.
    pub ql: [u8; 128],
    /// High two bits, four to a byte.
    pub qh: [u8; 64],
    /// Scales of the groups.
    pub scales: [i8; 16],
    /// Scale of the scales.
    pub d: F16Bits,
}

impl Block<QK_K> for Q6K {
    fn dequantize(&self, out: &mut [f32; QK_K]) {
        let d = self.d.to_f32();
        for (run_idx, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (half, run) = (run_idx / 4, run_idx % 4);
            let low_bits = &self.ql[64 * half + 32 * (run % 2)..];
            let high_bits = &self.qh[32 * half..];
            for (l, value) in values.iter_mut().enumerate() {
                let low = low_bits[l] >> (4 * (run / 2)) & 15;
                let high = high_bits[l] >> (2 * run) & 3;
                let scale = d * f32::from(self.scales[2 * run_idx + l / 16]);
                *value = scale * f32::from((low | high << 4) as i8 - 32);
            }
        }
    }
}
