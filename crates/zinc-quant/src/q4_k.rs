//! Q4_K: 256 elements of 4 bits, 8 groups of 32 with a 6-bit scale and a 6-bit minimum each.

use crate::block::{Block, F16Bits, QK_K, SearchBlock, as_groups};
use crate::search::affine;
use bytemuck::{Pod, Zeroable};

/// 144 bytes: x = (d · scale) · q − (dmin · min).
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–1 | `d` | f16 scale of the scales |
/// | 2–3 | `dmin` | f16 scale of the minimums |
/// | 4–15 | `scales` | 6-bit scales and minimums, see [`scale_min`] |
/// | 16–143 | `qs` | 32 bytes per 64 elements: low nibbles are the first 32, high nibbles the next 32 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Q4K {
    /// Scale of the scales.
    pub d: F16Bits,
    /// Scale of the minimums.
    pub dmin: F16Bits,
    /// Packed scales and minimums of the groups.
    pub scales: [u8; 12],
    /// Quants, two to a byte.
    pub qs: [u8; 128],
}

/// Scale and minimum of group 0..8 in the 12 bytes that Q4_K and Q5_K share.
///
/// Groups 0–3: the low 6 bits of bytes g and g + 4. Groups 4–7: the nibbles of byte g + 4, completed
/// by the top 2 bits of bytes g − 4 (scale) and g (minimum).
#[inline]
pub fn scale_min(scales: &[u8; 12], group: usize) -> (u8, u8) {
    if group < 4 {
        (scales[group] & 63, scales[group + 4] & 63)
    } else {
        (
            scales[group + 4] & 15 | scales[group - 4] >> 6 << 4,
            scales[group + 4] >> 4 | scales[group] >> 6 << 4,
        )
    }
}

/// The 12 bytes of which [`scale_min`] reads `scales` and `mins`, each below 64.
pub(crate) fn pack_scale_mins(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..4 => scales[i] | scales[i + 4] >> 4 << 6,
        4..8 => mins[i - 4] | mins[i] >> 4 << 6,
        _ => scales[i - 4] & 15 | mins[i - 4] << 4,
    })
}

impl Block<QK_K> for Q4K {
    fn dequantize(&self, out: &mut [f32; QK_K]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        for (group, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = scale_min(&self.scales, group);
            let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
            let shift = 4 * (group % 2);
            for (value, &q) in values.iter_mut().zip(&self.qs[32 * (group / 2)..]) {
                *value = scale * f32::from(q >> shift & 15) - min;
            }
        }
    }
}

impl SearchBlock<QK_K> for Q4K {
    fn search(values: &[f32; QK_K], weights: &[f32; QK_K]) -> Q4K {
        let (values, weights) = (as_groups(values), as_groups(weights));
        let lines = affine::fit_groups::<15>(&values, &weights);
        let quants: [[u8; 32]; 8] =
            std::array::from_fn(|g| affine::levels::<15, 32>(&values[g], lines.line(g)));
        let quant = |pair: usize, l: usize| quants[2 * pair][l] | quants[2 * pair + 1][l] << 4;
        Q4K {
            d: lines.d,
            dmin: lines.dmin,
            scales: pack_scale_mins(&lines.scales, &lines.mins),
            qs: std::array::from_fn(|i| quant(i / 32, i % 32)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_and_minimums_pack() {
        let scales = [0, 63, 17, 32, 15, 16, 63, 1];
        let mins = [63, 0, 33, 5, 48, 31, 2, 63];
        let packed = pack_scale_mins(&scales, &mins);
        for group in 0..8 {
            assert_eq!(scale_min(&packed, group), (scales[group], mins[group]));
        }
    }
}
