//! IQ3_XXS and IQ3_S: groups of four magnitudes as points of a grid, with separate signs.

use crate::block::{Block, F16Bits, QK_K};
use crate::iq_grids::{self, even_signs, sign};
use bytemuck::{Pod, Zeroable};

/// 98 bytes: x = (d · (½ + scale) · ½) · magnitude · sign.
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–1 | `d` | f16 scale of the scales |
/// | 2–65 | `qs` | grid index of each group of 4 |
/// | 66–97 | `signs` | u32 per 32 elements: four 7-bit sign indices and, in bits 28–31, the scale |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Iq3Xxs {
    /// Scale of the scales.
    pub d: F16Bits,
    /// Grid indices.
    pub qs: [u8; 64],
    /// Signs and scale of each 32 elements, little-endian u32.
    pub signs: [[u8; 4]; 8],
}

impl Block<QK_K> for Iq3Xxs {
    fn dequantize(&self, out: &mut [f32; QK_K]) {
        let d = self.d.to_f32();
        for (group, values) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let packed = u32::from_le_bytes(self.signs[group / 4]);
            let scale = d * (0.5 + (packed >> 28) as f32) * 0.5;
            let signs = even_signs((packed >> (7 * (group % 4))) as u8);
            let points =
                [2 * group, 2 * group + 1].map(|i| &iq_grids::IQ3_XXS[usize::from(self.qs[i])]);
            signed_points(points, signs, scale, values);
        }
    }
}

/// 110 bytes: x = (d · (1 + 2·scale)) · magnitude · sign.
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–1 | `d` | f16 scale of the scales |
/// | 2–65 | `qs` | low 8 bits of the grid index of each group of 4 |
/// | 66–73 | `qh` | bit i mod 8 of byte i / 8: bit 8 of grid index i |
/// | 74–105 | `signs` | sign byte of each 8 elements, bit j set for a negative element j |
/// | 106–109 | `scales` | nibble per 32 elements, low nibble first |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Iq3S {
    /// Scale of the scales.
    pub d: F16Bits,
    /// Low bits of the grid indices.
    pub qs: [u8; 64],
    /// High bits of the grid indices.
    pub qh: [u8; 8],
    /// Signs.
    pub signs: [u8; 32],
    /// Scales.
    pub scales: [u8; 4],
}

impl Block<QK_K> for Iq3S {
    fn dequantize(&self, out: &mut [f32; QK_K]) {
        let d = self.d.to_f32();
        for (group, values) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let nibble = self.scales[group / 8] >> (4 * (group / 4 % 2)) & 15;
            let scale = d * f32::from(1 + 2 * nibble);
            let points = [2 * group, 2 * group + 1].map(|i| {
                let high = usize::from(self.qh[i / 8] >> (i % 8) & 1);
                &iq_grids::IQ3_S[usize::from(self.qs[i]) | high << 8]
            });
            signed_points(points, self.signs[group], scale, values);
        }
    }
}

fn signed_points(points: [&[u8; 4]; 2], signs: u8, scale: f32, out: &mut [f32; 8]) {
    for (j, value) in out.iter_mut().enumerate() {
        *value = scale * f32::from(points[j / 4][j % 4]) * sign(signs, j);
    }
}
