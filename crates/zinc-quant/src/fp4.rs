//! MXFP4 and NVFP4: 4-bit floats (E2M1) with 8-bit floating point scales.

use crate::block::{Block, QuantizeBlock, SearchBlock};
use crate::search::levels::Fp4;
use crate::search::scale;
use bytemuck::{Pod, Zeroable};

/// Twice the value of each E2M1 code, so that all are integers; the scales below are halved to match.
pub const FP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// 17 bytes, 32 elements: x = 2^(e−128) · `FP4_VALUES[q]` (OCP Microscaling Formats v1.0).
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0 | `e` | E8M0 exponent; 255, NaN in the standard, is read as 2¹²⁷ as ggml does |
/// | 1–16 | `qs` | byte j: element j in the low nibble, element j + 16 in the high nibble |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Mxfp4 {
    /// Exponent.
    pub e: u8,
    /// Codes, two to a byte.
    pub qs: [u8; 16],
}

impl Mxfp4 {
    /// 2^(e−128), exactly; the two smallest are subnormal.
    #[inline]
    pub fn half_scale(&self) -> f32 {
        f32::from_bits(match self.e {
            0 => 0x0020_0000,
            1 => 0x0040_0000,
            e => (u32::from(e) - 1) << 23,
        })
    }
}

impl Block<32> for Mxfp4 {
    fn dequantize(&self, out: &mut [f32; 32]) {
        let d = self.half_scale();
        for (j, &q) in self.qs.iter().enumerate() {
            out[j] = f32::from(FP4_VALUES[usize::from(q & 15)]) * d;
            out[j + 16] = f32::from(FP4_VALUES[usize::from(q >> 4)]) * d;
        }
    }
}

impl QuantizeBlock<32> for Mxfp4 {
    /// The exponent puts the largest magnitude between 4 and 8 (E2M1 ends at 6); each element takes the
    /// nearest code, the lower index on ties.
    fn quantize(src: &[f32; 32]) -> Mxfp4 {
        let mut block = Mxfp4 { e: plain_exponent(src), qs: [0; 16] };
        let d = block.half_scale();
        block.qs =
            std::array::from_fn(|j| nearest_fp4(src[j], d) | nearest_fp4(src[j + 16], d) << 4);
        block
    }
}

impl SearchBlock<32> for Mxfp4 {
    /// The reference's exponent or one of its neighbours: a smaller one clips the largest values.
    fn search(values: &[f32; 32], weights: &[f32; 32]) -> Mxfp4 {
        let plain = plain_exponent(values);
        let candidates = [plain, plain.saturating_sub(1), plain.saturating_add(1)];
        let (mut best, mut least) = (Mxfp4 { e: plain, qs: [0; 16] }, f32::INFINITY);
        for e in candidates {
            let block = Mxfp4 { e, ..best };
            let error = scale::error::<Fp4, 32>(values, weights, block.half_scale());
            if error < least {
                (best, least) = (block, error);
            }
        }
        let inverse = scale::inverse(best.half_scale());
        let code = |value: f32| Fp4::code(value * inverse);
        best.qs = std::array::from_fn(|j| code(values[j]) | code(values[j + 16]) << 4);
        best
    }
}

fn plain_exponent(values: &[f32; 32]) -> u8 {
    let max = values.iter().fold(0.0f32, |max, value| max.max(value.abs()));
    // floor(log2 max) from the bits: exact, where a rounded log2 would jump just below a power of
    // two. Subnormal maxima have exponent field 0 and saturate at e = 0 like all tiny ones.
    let exponent = (max.to_bits() >> 23) as u8;
    exponent.saturating_sub(2)
}

fn nearest_fp4(value: f32, scale: f32) -> u8 {
    let error = |code: u8| (f32::from(FP4_VALUES[usize::from(code)]) * scale - value).abs();
    let mut best = 0;
    for code in 1..16 {
        if error(code) < error(best) {
            best = code;
        }
    }
    best
}

/// 36 bytes, 64 elements in 4 groups of 16: x = ½ · E4M3(d\[g\]) · `FP4_VALUES[q]`.
///
/// | bytes | field | meaning |
/// |---|---|---|
/// | 0–3 | `d` | unsigned E4M3 scale of each group, bias 7; 0x7F reads as 0, the top bit is ignored |
/// | 4–35 | `qs` | 8 bytes a group: byte j has element j in the low nibble, element j + 8 in the high |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Nvfp4 {
    /// Scales of the groups.
    pub d: [u8; 4],
    /// Codes, two to a byte.
    pub qs: [u8; 32],
}

impl Nvfp4 {
    /// Half the scale of group 0..4, exactly.
    #[inline]
    pub fn half_scale(&self, group: usize) -> f32 {
        let bits = self.d[group];
        if bits == 0x7F {
            return 0.0;
        }
        let (exponent, mantissa) = (bits >> 3 & 15, f32::from(bits & 7));
        if exponent == 0 {
            mantissa * (1.0 / 1024.0)
        } else {
            // (8 + mantissa) · 2^(exponent − 7 − 3 − 1); the power of two is always a normal number.
            (8.0 + mantissa) * f32::from_bits((u32::from(exponent) + 127 - 11) << 23)
        }
    }
}

impl Block<64> for Nvfp4 {
    fn dequantize(&self, out: &mut [f32; 64]) {
        for (group, values) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let d = self.half_scale(group);
            for (j, &q) in self.qs[8 * group..8 * group + 8].iter().enumerate() {
                values[j] = f32::from(FP4_VALUES[usize::from(q & 15)]) * d;
                values[j + 8] = f32::from(FP4_VALUES[usize::from(q >> 4)]) * d;
            }
        }
    }
}
