//! Q5_K: Q4_K with a fifth bit per element.

use crate::block::{Block, F16Bits, QK_K, SearchBlock, as_groups};
use crate::q4_k::{pack_scale_mins, scale_min};
use crate::search::affine;
use bytemuck::{Pod, Zeroable};

/// 176 bytes: x = (d · scale) · q − (dmin · min).
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–1 | `d` | f16 scale of the scales |
/// | 2–3 | `dmin` | f16 scale of the minimums |
/// | 4–15 | `scales` | 6-bit scales and minimums, see [`scale_min`] |
/// | 16–47 | `qh` | bit g of byte l: bit 4 of element 32g + l |
/// | 48–175 | `qs` | low 4 bits, placed as in [`crate::Q4K`] |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Q5K {
    /// Scale of the scales.
    pub d: F16Bits,
    /// Scale of the minimums.
    pub dmin: F16Bits,
    /// Packed scales and minimums of the groups.
    pub scales: [u8; 12],
    /// Fifth bits.
    pub qh: [u8; 32],
    /// Low four bits, two to a byte.
    pub qs: [u8; 128],
}

impl Block<QK_K> for Q5K {
    fn dequantize(&self, out: &mut [f32; QK_K]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        for (group, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = scale_min(&self.scales, group);
            let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
            let low_bits = &self.qs[32 * (group / 2)..];
            for (l, value) in values.iter_mut().enumerate() {
                let low = low_bits[l] >> (4 * (group % 2)) & 15;
                let high = self.qh[l] >> group & 1;
                *value = scale * f32::from(low | high << 4) - min;
            }
        }
    }
}

impl SearchBlock<QK_K> for Q5K {
    fn search(values: &[f32; QK_K], weights: &[f32; QK_K]) -> Q5K {
        let (values, weights) = (as_groups(values), as_groups(weights));
        let lines = affine::fit_groups::<31>(&values, &weights);
        let quants: [[u8; 32]; 8] =
            std::array::from_fn(|g| affine::levels::<31, 32>(&values[g], lines.line(g)));
        let low = |pair: usize, l: usize| quants[2 * pair][l] & 15 | quants[2 * pair + 1][l] << 4;
        let high = |l: usize| (0..8).fold(0, |bits, g| bits | quants[g][l] >> 4 << g);
        Q5K {
            d: lines.d,
            dmin: lines.dmin,
            scales: pack_scale_mins(&lines.scales, &lines.mins),
            qh: std::array::from_fn(high),
            qs: std::array::from_fn(|i| low(i / 32, i % 32)),
        }
    }
}
