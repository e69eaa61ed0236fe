//! What every block format provides, and the field types they share.

use bytemuck::{Pod, Zeroable};
use half::f16;

/// Elements of a super-block: the block length of all K, IQ (but IQ4_NL) and TQ formats.
pub const QK_K: usize = 256;

/// One block of `N` elements as it lies in the file: alignment 1, no padding.
pub trait Block<const N: usize>: Pod {
    /// Writes the block's `N` values.
    fn dequantize(&self, out: &mut [f32; N]);
}

/// A block format with a reference quantiser.
pub trait QuantizeBlock<const N: usize>: Block<N> {
    /// The block that represents `src`. Values that are not finite give an unspecified block, never a panic.
    fn quantize(src: &[f32; N]) -> Self;
}

/// A block format with a quantiser that searches, see [`crate::quantize_weights`].
pub(crate) trait SearchBlock<const N: usize>: Block<N> {
    /// The block of least weighted error among those tried. All values are finite, weights positive.
    fn search(values: &[f32; N], weights: &[f32; N]) -> Self;
}

/// Little-endian IEEE half precision number, unaligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct F16Bits(pub [u8; 2]);

impl F16Bits {
    /// The value, exactly.
    #[inline]
    pub fn to_f32(self) -> f32 {
        f16::from_le_bytes(self.0).to_f32()
    }

    /// The nearest half to `value`, ties to even.
    #[inline]
    pub fn from_f32(value: f32) -> F16Bits {
        F16Bits(f16::from_f32(value).to_le_bytes())
    }

    /// A half for a scale of integer scales: the nearest, or where halves are coarse (subnormal) the one
    /// above. Smaller integers make up for it, while no integer would for a scale too small.
    pub(crate) fn scale_of_scales(value: f32) -> F16Bits {
        const STEP: f32 = 1.0 / (1 << 24) as f32;
        match value.abs() < f16::MIN_POSITIVE.to_f32() {
            true => F16Bits::from_f32((value.abs() / STEP).ceil().copysign(value) * STEP),
            false => F16Bits::saturating(value),
        }
    }

    /// The nearest finite half to `value`.
    pub(crate) fn saturating(value: f32) -> F16Bits {
        let max = f16::MAX.to_f32();
        F16Bits::from_f32(value.clamp(-max, max))
    }
}

/// A super-block as its groups.
pub(crate) fn as_groups<const N: usize, const G: usize>(values: &[f32; QK_K]) -> [[f32; N]; G] {
    const { assert!(N * G == QK_K) };
    std::array::from_fn(|g| std::array::from_fn(|i| values[N * g + i]))
}

/// 1/x, and 0 for 0: the quantisers' inverse scale, which sends an all-zero block to zeros.
pub(crate) fn inverse_or_zero(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The element of largest magnitude with its sign; the first one on ties, 0 if there is none.
pub(crate) fn signed_max(values: &[f32]) -> f32 {
    let mut max = 0.0f32;
    for &value in values {
        if max.abs() < value.abs() {
            max = value;
        }
    }
    max
}

/// Smallest and largest element.
pub(crate) fn min_max(values: &[f32]) -> (f32, f32) {
    values.iter().fold((f32::MAX, f32::MIN), |(min, max), &value| (min.min(value), max.max(value)))
}
