//! One scale: x ≈ d · q.

use super::MAGNITUDE_MIN;
use super::levels::Levels;
use crate::block::{F16Bits, signed_max};

/// Weighted moments of values and the levels assigned to them.
#[derive(Clone, Copy, Default)]
pub(crate) struct Moments {
    /// Σ w·x·q
    pub xq: f32,
    /// Σ w·q²
    pub qq: f32,
}

impl Moments {
    /// The scale of least error for this assignment.
    pub(crate) fn scale(self) -> f32 {
        if self.qq > 0.0 { self.xq / self.qq } else { 0.0 }
    }

    /// By how much that scale lowers the error below that of all zeros.
    fn gain(self) -> f32 {
        self.scale() * self.xq
    }
}

/// Moments of the levels nearest to `values` · `inverse`.
#[inline]
pub(crate) fn moments<L: Levels, const N: usize>(
    values: &[f32; N],
    weights: &[f32; N],
    inverse: f32,
) -> Moments {
    let (mut xq, mut qq) = ([0.0f32; 8], [0.0f32; 8]);
    let lanes = values.as_chunks::<8>().0.iter().zip(weights.as_chunks::<8>().0);
    for (values, weights) in lanes {
        for lane in 0..8 {
            let level = L::nearest(values[lane] * inverse);
            let weighted = weights[lane] * level;
            xq[lane] += weighted * values[lane];
            qq[lane] += weighted * level;
        }
    }
    Moments { xq: sum(xq), qq: sum(qq) }
}

/// Σ w·(x − d·q)² for the nearest levels q; d may be 0.
#[inline]
pub(crate) fn error<L: Levels, const N: usize>(
    values: &[f32; N],
    weights: &[f32; N],
    scale: f32,
) -> f32 {
    let inverse = inverse(scale);
    let mut error = [0.0f32; 8];
    let lanes = values.as_chunks::<8>().0.iter().zip(weights.as_chunks::<8>().0);
    for (values, weights) in lanes {
        for lane in 0..8 {
            let rest = values[lane] - scale * L::nearest(values[lane] * inverse);
            error[lane] += weights[lane] * rest * rest;
        }
    }
    sum(error)
}

/// 1/d, and 0 for a scale that no value can be divided by.
#[inline]
pub(crate) fn inverse(scale: f32) -> f32 {
    if scale.abs() < f32::MIN_POSITIVE { 0.0 } else { 1.0 / scale }
}

/// Sum of eight lanes, always in the same order.
#[inline]
pub(crate) fn sum(lanes: [f32; 8]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (b + f)) + ((c + g) + (d + h))
}

/// The scale of least error among those tried; 0 for values that are as good as zero.
///
/// Tries to put the value of largest magnitude at, around and beyond both ends of the range, then
/// alternates between assigning levels and fitting the scale. The error has many local minima, and
/// a start finds only its own.
pub(crate) fn fit<L: Levels, const N: usize>(values: &[f32; N], weights: &[f32; N]) -> f32 {
    let max = signed_max(values);
    if max.abs() < MAGNITUDE_MIN {
        return 0.0;
    }
    let mut best = Moments::default();
    let step = 2.0 / L::N_LEVELS as f32;
    let n_starts = if L::N_LEVELS > 64 { 4 } else { 16 };
    // In a symmetric range both ends lead to the same levels.
    let ends = if L::LOW == -L::HIGH { &[L::LOW][..] } else { &[L::LOW, L::HIGH] };
    for end in ends {
        for start in 0..n_starts {
            // From beyond the end, where it is clipped, to well inside.
            let reach = START_MAX - start as f32 * ((START_MAX - START_MIN) / n_starts as f32);
            let found = moments::<L, N>(values, weights, (1.0 + reach * step) * end / max);
            if found.gain() > best.gain() {
                best = found;
            }
        }
    }
    for _ in 0..N_REFINEMENTS {
        let refined = moments::<L, N>(values, weights, inverse(best.scale()));
        if refined.gain() <= best.gain() {
            break;
        }
        best = refined;
    }
    best.scale()
}

/// Where the value of largest magnitude is put, in steps between levels beyond the end.
const START_MAX: f32 = 1.0;
const START_MIN: f32 = -2.0;
const N_REFINEMENTS: usize = 6;

/// [`fit`] as it will be stored: of the nearest halves and the scale that reaches the end of the range,
/// the one of least error.
pub(crate) fn fit_f16<L: Levels, const N: usize>(values: &[f32; N], weights: &[f32; N]) -> F16Bits {
    let fitted = F16Bits::saturating(fit::<L, N>(values, weights));
    let plain = F16Bits::saturating(signed_max(values) / L::LOW);
    let error = |d: F16Bits| error::<L, N>(values, weights, d.to_f32());
    if error(plain) <= error(fitted) { plain } else { fitted }
}
