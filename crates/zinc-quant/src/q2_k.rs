//! Q2_K: 256 elements of 2 bits, 16 groups with a 4-bit scale and a 4-bit minimum each.

use crate::block::{Block, F16Bits, QK_K};
use bytemuck::{Pod, Zeroable};

/// 84 bytes: x = (d · scale) · q − (dmin · min).
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–15 | `scales` | group g (elements 16g…16g+15): scale in the low nibble, minimum in the high |
/// | 16–79 | `qs` | each half of 128 elements has 32 bytes; element 32s + l of the half is bits 2s, 2s+1 of byte l |
/// | 80–81 | `d` | f16 scale of the scales |
/// | 82–83 | `dmin` | f16 scale of the minimums |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Q2K {
    /// Scales and minimums of the groups.
    pub scales: [u8; 16],
    /// Quants, four to a byte.
    pub qs: [u8; 64],
    /// Scale of the scales.
    pub d: F16Bits,
    /// Scale of the minimums.
    pub dmin: F16Bits,
}

impl Block<QK_K> for Q2K {
    fn dequantize(&self, out: &mut [f32; QK_K]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        for (group, values) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * f32::from(self.scales[group] & 15);
            let min = dmin * f32::from(self.scales[group] >> 4);
            // Eight groups to a half; two groups share a bit position.
            let first_byte = 32 * (group / 8) + 16 * (group % 2);
            let shift = 2 * (group % 8 / 2);
            for (value, &q) in values.iter_mut().zip(&self.qs[first_byte..]) {
                *value = scale * f32::from(q >> shift & 3) - min;
            }
        }
    }
}
