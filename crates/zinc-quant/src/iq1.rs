//! IQ1_S and IQ1_M: groups of eight elements as points of a ternary grid, shifted by ±⅛.

use crate::block::{Block, F16Bits, QK_K};
use crate::iq_grids;
use bytemuck::{Pod, Zeroable};

const SHIFT: f32 = 0.125;

/// 50 bytes: x = (d · (2·scale + 1)) · (point ± ⅛).
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–1 | `d` | f16 scale of the scales |
/// | 2–33 | `qs` | low 8 bits of the grid index of each group of 8 |
/// | 34–49 | `qh` | u16 per 32 elements: bits 3l…3l+2 high bits of index l, 12–14 scale, 15 shift is negative |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Iq1S {
    /// Scale of the scales.
    pub d: F16Bits,
    /// Low bits of the grid indices.
    pub qs: [u8; 32],
    /// High bits of the grid indices, scale and shift of each 32 elements, little-endian u16.
    pub qh: [[u8; 2]; 8],
}

impl Block<QK_K> for Iq1S {
    fn dequantize(&self, out: &mut [f32; QK_K]) {
        let d = self.d.to_f32();
        for (group, values) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let high = u16::from_le_bytes(self.qh[group / 4]);
            let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
            let shift = if high >> 15 == 1 { -SHIFT } else { SHIFT };
            let high_bits = high >> (3 * (group % 4)) & 7;
            let point = usize::from(u16::from(self.qs[group]) | high_bits << 8);
            shifted_point(point, scale, shift, values);
        }
    }
}

/// 56 bytes: x = (d · (2·scale + 1)) · (point ± ⅛), with a scale for every 16 elements.
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–31 | `qs` | low 8 bits of the grid index of each group of 8 |
/// | 32–47 | `qh` | nibble per group of 8: bits 0–2 high bits of the index, bit 3 shift is negative |
/// | 48–55 | `scales` | four u16: four 3-bit scales each, and in the top nibbles the f16 scale d, low nibble first |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Iq1M {
    /// Low bits of the grid indices.
    pub qs: [u8; 32],
    /// High bits of the grid indices and shifts.
    pub qh: [u8; 16],
    /// Scales, little-endian u16.
    pub scales: [[u8; 2]; 4],
}

impl Block<QK_K> for Iq1M {
    fn dequantize(&self, out: &mut [f32; QK_K]) {
        let scales = self.scales.map(u16::from_le_bytes);
        let d_bits = (0..4).fold(0, |bits, i| bits | scales[i] >> 12 << (4 * i));
        let d = F16Bits(d_bits.to_le_bytes()).to_f32();
        for (group, values) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let pair = group / 2;
            let scale = scales[pair / 4] >> (3 * (pair % 4)) & 7;
            let scale = d * f32::from(2 * scale + 1);
            let high = self.qh[pair] >> (4 * (group % 2)) & 15;
            let shift = if high >> 3 == 1 { -SHIFT } else { SHIFT };
            let point = usize::from(self.qs[group]) | usize::from(high & 7) << 8;
            shifted_point(point, scale, shift, values);
        }
    }
}

fn shifted_point(point: usize, scale: f32, shift: f32, out: &mut [f32; 8]) {
    for (value, &coordinate) in out.iter_mut().zip(&iq_grids::IQ1[point]) {
        *value = scale * (f32::from(coordinate) + shift);
    }
}
