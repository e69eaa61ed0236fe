//! IQ4_NL and IQ4_XS: 4-bit indices into a fixed table of non-uniform levels.

use crate::block::{Block, F16Bits, QK_K};
use bytemuck::{Pod, Zeroable};

/// The sixteen levels.
pub const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// 18 bytes, 32 elements: x = d · `IQ4_VALUES[q]`.
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–1 | `d` | f16 scale |
/// | 2–17 | `qs` | byte j: element j in the low nibble, element j + 16 in the high nibble |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Iq4Nl {
    /// Scale.
    pub d: F16Bits,
    /// Indices, two to a byte.
    pub qs: [u8; 16],
}

impl Block<32> for Iq4Nl {
    fn dequantize(&self, out: &mut [f32; 32]) {
        levels(self.d.to_f32(), &self.qs, out);
    }
}

/// 136 bytes, 256 elements in 8 groups of 32: x = (d · (scale − 32)) · `IQ4_VALUES[q]`.
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–1 | `d` | f16 scale of the scales |
/// | 2–3 | `scales_h` | bits 2g, 2g+1 of this u16: high 2 bits of the scale of group g |
/// | 4–7 | `scales_l` | low 4 bits: nibble g mod 2 of byte g / 2 |
/// | 8–135 | `qs` | 16 bytes a group, nibbles as in [`Iq4Nl`] |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Iq4Xs {
    /// Scale of the scales.
    pub d: F16Bits,
    /// High bits of the scales, little-endian u16.
    pub scales_h: [u8; 2],
    /// Low bits of the scales.
    pub scales_l: [u8; 4],
    /// Indices, two to a byte.
    pub qs: [[u8; 16]; 8],
}

impl Iq4Xs {
    /// Signed scale of group 0..8.
    #[inline]
    pub fn scale(&self, group: usize) -> i8 {
        let low = self.scales_l[group / 2] >> (4 * (group % 2)) & 15;
        let high = (u16::from_le_bytes(self.scales_h) >> (2 * group) & 3) as u8;
        (low | high << 4) as i8 - 32
    }
}

impl Block<QK_K> for Iq4Xs {
    fn dequantize(&self, out: &mut [f32; QK_K]) {
        let d = self.d.to_f32();
        for (group, values) in out.as_chunks_mut().0.iter_mut().enumerate() {
            levels(d * f32::from(self.scale(group)), &self.qs[group], values);
        }
    }
}

fn levels(scale: f32, qs: &[u8; 16], out: &mut [f32; 32]) {
    for (j, &q) in qs.iter().enumerate() {
        out[j] = scale * f32::from(IQ4_VALUES[usize::from(q & 15)]);
        out[j + 16] = scale * f32::from(IQ4_VALUES[usize::from(q >> 4)]);
    }
}
