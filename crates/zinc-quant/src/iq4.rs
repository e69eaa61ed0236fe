//! IQ4_NL and IQ4_XS: 4-bit indices into a fixed table of non-uniform levels.

use crate::block::{Block, F16Bits, QK_K, SearchBlock, as_groups};
use crate::search::groups::{ScaleRange, fit_groups};
use crate::search::levels::Iq4;
use crate::search::scale;
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

impl SearchBlock<32> for Iq4Nl {
    fn search(values: &[f32; 32], weights: &[f32; 32]) -> Iq4Nl {
        let d = scale::fit_f16::<Iq4, 32>(values, weights);
        Iq4Nl { d, qs: codes(d.to_f32(), values) }
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

impl SearchBlock<QK_K> for Iq4Xs {
    fn search(values: &[f32; QK_K], weights: &[f32; QK_K]) -> Iq4Xs {
        const SCALES: ScaleRange = ScaleRange { low: -32, high: 31, n_starts: 4 };
        let (values, weights) = (as_groups::<32, 8>(values), as_groups(weights));
        let scales = fit_groups::<Iq4, 32, 8>(&values, &weights, SCALES);
        let stored = scales.groups.map(|scale| (scale + 32) as u8);
        let high = (0..8).fold(0, |bits, g| bits | u16::from(stored[g] >> 4) << (2 * g));
        Iq4Xs {
            d: scales.d,
            scales_h: high.to_le_bytes(),
            scales_l: std::array::from_fn(|i| stored[2 * i] & 15 | stored[2 * i + 1] << 4),
            qs: std::array::from_fn(|g| {
                codes(scales.d.to_f32() * f32::from(scales.groups[g]), &values[g])
            }),
        }
    }
}

/// Nearest levels of 32 values, packed.
fn codes(scale: f32, values: &[f32; 32]) -> [u8; 16] {
    let inverse = scale::inverse(scale);
    let code = |value: f32| Iq4::code(value * inverse);
    std::array::from_fn(|j| code(values[j]) | code(values[j + 16]) << 4)
}
