//! Q3_K: 256 elements of 3 bits, 16 groups with a signed 6-bit scale each.

use crate::block::{Block, F16Bits, QK_K};
use bytemuck::{Pod, Zeroable};

/// 110 bytes: x = (d · (scale − 32)) · (q − 4), q in 0..=7.
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–31 | `hmask` | bit s of byte l: bit 2 of the quant of element 32s + l |
/// | 32–95 | `qs` | low two bits, placed as in [`crate::Q2K`] |
/// | 96–107 | `scales` | 6-bit scales, see [`Q3K::scale`] |
/// | 108–109 | `d` | f16 scale of the scales |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Q3K {
    /// High bits of the quants.
    pub hmask: [u8; 32],
    /// Low two bits of the quants, four to a byte.
    pub qs: [u8; 64],
    /// Packed scales of the groups.
    pub scales: [u8; 12],
    /// Scale of the scales.
    pub d: F16Bits,
}

impl Q3K {
    /// Signed scale of group 0..16: low 4 bits in the nibbles of bytes 0–7 (low nibbles are groups
    /// 0–7), high 2 bits in bytes 8–11, byte 8 + g mod 4 at bits 2·(g / 4).
    pub fn scale(&self, group: usize) -> i8 {
        let low = self.scales[group % 8] >> (4 * (group / 8)) & 15;
        let high = self.scales[8 + group % 4] >> (2 * (group / 4)) & 3;
        (low | high << 4) as i8 - 32
    }
}

impl Block<QK_K> for Q3K {
    fn dequantize(&self, out: &mut [f32; QK_K]) {
        let d = self.d.to_f32();
        for (group, values) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * f32::from(self.scale(group));
            let column = 16 * (group % 2);
            let low_bits = &self.qs[32 * (group / 8) + column..];
            let shift = 2 * (group % 8 / 2);
            for (l, value) in values.iter_mut().enumerate() {
                let low = low_bits[l] >> shift & 3;
                let high = self.hmask[column + l] >> (group / 2) & 1;
                *value = scale * f32::from((low | high << 2) as i8 - 4);
            }
        }
    }
}
