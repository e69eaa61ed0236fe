//! Q6_K: 256 elements of 6 bits, 16 groups with an 8-bit scale each.

use crate::block::{Block, F16Bits, QK_K, SearchBlock, as_groups};
use crate::search::groups::{ScaleRange, fit_groups};
use crate::search::levels::{Integers, Levels};
use crate::search::scale::inverse;
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

impl SearchBlock<QK_K> for Q6K {
    fn search(values: &[f32; QK_K], weights: &[f32; QK_K]) -> Q6K {
        type Range = Integers<-32, 31>;
        const SCALES: ScaleRange = ScaleRange { low: -128, high: 127, n_starts: 2 };
        let (values, weights) = (as_groups::<16, 16>(values), as_groups(weights));
        let scales = fit_groups::<Range, 16, 16>(&values, &weights, SCALES);
        let quants: [[u8; 16]; 16] = std::array::from_fn(|g| {
            let inverse = inverse(scales.d.to_f32() * f32::from(scales.groups[g]));
            values[g].map(|value| (Range::nearest(value * inverse) + 32.0) as u8)
        });
        // Element l of run r of a half, as the table above has them.
        let quant = |half: usize, run: usize, l: usize| quants[8 * half + 2 * run + l / 16][l % 16];
        Q6K {
            ql: std::array::from_fn(|i| {
                let (half, run, l) = (i / 64, i % 64 / 32, i % 32);
                quant(half, run, l) & 15 | quant(half, run + 2, l) << 4
            }),
            qh: std::array::from_fn(|i| {
                (0..4).fold(0, |bits, run| bits | quant(i / 32, run, i % 32) >> 4 << (2 * run))
            }),
            scales: scales.groups,
            d: scales.d,
        }
    }
}
