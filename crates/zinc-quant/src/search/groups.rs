//! Groups whose integer scales are relative to one scale of the super-block: x ≈ (d · s) · q.

use super::levels::{Levels, round};
use super::scale::{error, fit, inverse, moments};
use crate::block::F16Bits;

/// Chosen scales.
pub(crate) struct Scales<const G: usize> {
    /// Scale of the scales.
    pub d: F16Bits,
    /// Scale of each group.
    pub groups: [i8; G],
    error: f32,
}

/// Range of a group's scale; `low` is negative.
#[derive(Clone, Copy)]
pub(crate) struct ScaleRange {
    pub low: i32,
    pub high: i32,
    /// How many values of the largest scale are tried, from `low` up.
    pub n_starts: i32,
}

/// Scales of least error among those tried.
pub(crate) fn fit_groups<L: Levels, const N: usize, const G: usize>(
    values: &[[f32; N]; G],
    weights: &[[f32; N]; G],
    range: ScaleRange,
) -> Scales<G> {
    let wanted: [f32; G] = std::array::from_fn(|g| fit::<L, N>(&values[g], &weights[g]));
    let largest = crate::block::signed_max(&wanted);
    let mut best =
        Scales { d: F16Bits::scale_of_scales(0.0), groups: [0; G], error: f32::INFINITY };
    if largest == 0.0 {
        return best;
    }
    // The largest scale may be any of the largest numbers: all others are rounded differently for each.
    for start in 0..range.n_starts {
        let d = F16Bits::scale_of_scales(largest / (range.low + start) as f32);
        let found = choose::<L, N, G>(values, weights, d, &wanted, range);
        if found.error < best.error {
            best = found;
        }
    }
    for _ in 0..N_REFINEMENTS {
        let d = F16Bits::scale_of_scales(refit::<L, N, G>(values, weights, &best));
        if d == best.d {
            break;
        }
        let found = choose::<L, N, G>(values, weights, d, &wanted, range);
        if found.error >= best.error {
            break;
        }
        best = found;
    }
    best
}

const N_REFINEMENTS: usize = 3;

/// For this d, the scale of least error for each group, among those around the wanted one.
fn choose<L: Levels, const N: usize, const G: usize>(
    values: &[[f32; N]; G],
    weights: &[[f32; N]; G],
    d: F16Bits,
    wanted: &[f32; G],
    range: ScaleRange,
) -> Scales<G> {
    let scale = d.to_f32();
    let mut scales = Scales { d, groups: [0; G], error: 0.0 };
    for g in 0..G {
        let centre = (wanted[g] * inverse(scale)).clamp(range.low as f32, range.high as f32);
        let centre = round(centre) as i32;
        // Scales a few per cent apart round the values differently, and any may be the lucky one.
        let reach = 1 + centre.abs() / 16;
        let mut least = f32::INFINITY;
        for group in (centre - reach).max(range.low)..=(centre + reach).min(range.high) {
            let error = error::<L, N>(&values[g], &weights[g], scale * group as f32);
            if error < least {
                (least, scales.groups[g]) = (error, group as i8);
            }
        }
        scales.error += least;
    }
    scales
}

/// The d of least error for chosen groups and the levels they lead to.
fn refit<L: Levels, const N: usize, const G: usize>(
    values: &[[f32; N]; G],
    weights: &[[f32; N]; G],
    scales: &Scales<G>,
) -> f32 {
    let (mut xq, mut qq) = (0.0, 0.0);
    for g in 0..G {
        let group = f32::from(scales.groups[g]);
        let inverse = inverse(scales.d.to_f32() * group);
        let found = moments::<L, N>(&values[g], &weights[g], inverse);
        xq += group * found.xq;
        qq += group * group * found.qq;
    }
    if qq > 0.0 { xq / qq } else { scales.d.to_f32() }
}
