//! IQ2_XXS, IQ2_XS and IQ2_S: groups of eight magnitudes as points of a grid, with separate signs.

use crate::block::{Block, F16Bits, QK_K};
use crate::iq_grids::{self, even_signs, sign};
use bytemuck::{Pod, Zeroable};

/// 66 bytes: x = (d · (½ + scale) · ¼) · magnitude · sign.
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–1 | `d` | f16 scale of the scales |
/// | 2–65 | `qs` | 8 bytes per 32 elements: four grid indices, then a u32 with four 7-bit sign indices and, in bits 28–31, the scale |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Iq2Xxs {
    /// Scale of the scales.
    pub d: F16Bits,
    /// Grid indices, signs and scale of each 32 elements.
    pub qs: [[u8; 8]; 8],
}

impl Block<QK_K> for Iq2Xxs {
    fn dequantize(&self, out: &mut [f32; QK_K]) {
        let d = self.d.to_f32();
        for (group, values) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let [points @ .., s0, s1, s2, s3] = self.qs[group / 4];
            let packed = u32::from_le_bytes([s0, s1, s2, s3]);
            let scale = d * (0.5 + (packed >> 28) as f32) * 0.25;
            let signs = even_signs((packed >> (7 * (group % 4))) as u8);
            let point = &iq_grids::IQ2_XXS[usize::from(points[group % 4])];
            signed_point(point, signs, scale, values);
        }
    }
}

/// 74 bytes: x = (d · (½ + scale) · ¼) · magnitude · sign.
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–1 | `d` | f16 scale of the scales |
/// | 2–65 | `qs` | u16 per 8 elements: grid index in bits 0–8, sign index in bits 9–15 |
/// | 66–73 | `scales` | nibble per 16 elements, low nibble first |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Iq2Xs {
    /// Scale of the scales.
    pub d: F16Bits,
    /// Grid and sign indices, little-endian u16.
    pub qs: [[u8; 2]; 32],
    /// Scales.
    pub scales: [u8; 8],
}

impl Block<QK_K> for Iq2Xs {
    fn dequantize(&self, out: &mut [f32; QK_K]) {
        let d = self.d.to_f32();
        for (group, values) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let packed = u16::from_le_bytes(self.qs[group]);
            let point = &iq_grids::IQ2_XS[usize::from(packed & 511)];
            let scale = nibble_scale(d, &self.scales, group);
            signed_point(point, even_signs((packed >> 9) as u8), scale, values);
        }
    }
}

/// 82 bytes: x = (d · (½ + scale) · ¼) · magnitude · sign.
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–1 | `d` | f16 scale of the scales |
/// | 2–33 | `qs` | low 8 bits of the grid index of each group of 8 |
/// | 34–65 | `signs` | sign byte of each group of 8, bit j set for a negative element j |
/// | 66–73 | `qh` | byte per 32 elements: bits 2l, 2l+1 are the high bits of index l |
/// | 74–81 | `scales` | nibble per 16 elements, low nibble first |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Iq2S {
    /// Scale of the scales.
    pub d: F16Bits,
    /// Low bits of the grid indices.
    pub qs: [u8; 32],
    /// Signs.
    pub signs: [u8; 32],
    /// High bits of the grid indices.
    pub qh: [u8; 8],
    /// Scales.
    pub scales: [u8; 8],
}

impl Block<QK_K> for Iq2S {
    fn dequantize(&self, out: &mut [f32; QK_K]) {
        let d = self.d.to_f32();
        for (group, values) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let high = usize::from(self.qh[group / 4] >> (2 * (group % 4)) & 3);
            let point = &iq_grids::IQ2_S[usize::from(self.qs[group]) | high << 8];
            let scale = nibble_scale(d, &self.scales, group);
            signed_point(point, self.signs[group], scale, values);
        }
    }
}

/// Scale of a group of 8 where two groups share a nibble.
fn nibble_scale(d: f32, scales: &[u8; 8], group: usize) -> f32 {
    let nibble = scales[group / 4] >> (4 * (group % 4 / 2)) & 15;
    d * (0.5 + f32::from(nibble)) * 0.25
}

fn signed_point(point: &[u8; 8], signs: u8, scale: f32, out: &mut [f32; 8]) {
    for (j, value) in out.iter_mut().enumerate() {
        *value = scale * f32::from(point[j]) * sign(signs, j);
    }
}
