//! A scale and a minimum: x ≈ d · q − m with q in 0..=MAX, alone or in groups with integer scales and
//! minimums relative to two scales of the super-block.

use super::MAGNITUDE_MIN;
use super::levels::{clamp, round};
use super::scale::{inverse, sum};
use crate::block::{F16Bits, min_max};

/// x ≈ scale · q + offset
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Line {
    pub scale: f32,
    pub offset: f32,
}

/// Weighted moments of values and the levels assigned to them.
#[derive(Clone, Copy, Default)]
struct Moments {
    w: f32,
    x: f32,
    q: f32,
    xq: f32,
    qq: f32,
}

/// An assignment of levels, as far as fitting needs it.
#[derive(Clone, Copy)]
struct Fitted {
    line: Line,
    /// By how much the line lowers the error below Σ w·x².
    gain: f32,
}

impl Moments {
    /// The line of least error for this assignment; with `negative`, its offset is at most 0.
    fn fit(&self, negative: bool) -> Fitted {
        let determinant = self.w * self.qq - self.q * self.q;
        // Nearly all at one level: the scale is not determined.
        if determinant > 1e-6 * self.w * self.qq {
            let scale = (self.w * self.xq - self.x * self.q) / determinant;
            let offset = (self.qq * self.x - self.q * self.xq) / determinant;
            if !negative || offset <= 0.0 {
                let gain = scale * self.xq + offset * self.x;
                return Fitted { line: Line { scale, offset }, gain };
            }
        }
        let scale = if self.qq > 0.0 { self.xq / self.qq } else { 0.0 };
        Fitted { line: Line { scale, offset: 0.0 }, gain: scale * self.xq }
    }
}

/// Level of `value`, as a float.
#[inline(always)]
fn level<const MAX: i32>(value: f32, inverse: f32, offset: f32) -> f32 {
    round(clamp((value - offset) * inverse, 0.0, MAX as f32))
}

#[inline]
fn moments<const MAX: i32, const N: usize>(
    values: &[f32; N],
    weights: &[f32; N],
    line: Line,
) -> Moments {
    let inverse = inverse(line.scale);
    let (mut w, mut x, mut q) = ([0.0f32; 8], [0.0f32; 8], [0.0f32; 8]);
    let (mut xq, mut qq) = ([0.0f32; 8], [0.0f32; 8]);
    let lanes = values.as_chunks::<8>().0.iter().zip(weights.as_chunks::<8>().0);
    for (values, weights) in lanes {
        for lane in 0..8 {
            let (value, weight) = (values[lane], weights[lane]);
            let level = level::<MAX>(value, inverse, line.offset);
            let weighted = weight * level;
            w[lane] += weight;
            x[lane] += weight * value;
            q[lane] += weighted;
            xq[lane] += weighted * value;
            qq[lane] += weighted * level;
        }
    }
    Moments { w: sum(w), x: sum(x), q: sum(q), xq: sum(xq), qq: sum(qq) }
}

/// Σ w·r² and Σ w·r of the rests r = x − scale·q − offset, for the nearest levels.
#[inline]
fn error<const MAX: i32, const N: usize>(
    values: &[f32; N],
    weights: &[f32; N],
    line: Line,
) -> (f32, f32) {
    let inverse = inverse(line.scale);
    let (mut error, mut rests) = ([0.0f32; 8], [0.0f32; 8]);
    let lanes = values.as_chunks::<8>().0.iter().zip(weights.as_chunks::<8>().0);
    for (values, weights) in lanes {
        for lane in 0..8 {
            let value = values[lane] - line.offset;
            let level = round(clamp(value * inverse, 0.0, MAX as f32));
            let rest = value - line.scale * level;
            let weighted = weights[lane] * rest;
            error[lane] += weighted * rest;
            rests[lane] += weighted;
        }
    }
    (sum(error), sum(rests))
}

/// Levels of all values.
pub(crate) fn levels<const MAX: i32, const N: usize>(values: &[f32; N], line: Line) -> [u8; N] {
    let inverse = inverse(line.scale);
    values.map(|value| level::<MAX>(value, inverse, line.offset) as u8)
}

/// The line of least error among those tried; with `negative`, its offset is at most 0.
///
/// Starts with the range of the values, widened and narrowed at either end, then alternates between
/// assigning levels and fitting the line.
pub(crate) fn fit<const MAX: i32, const N: usize>(
    values: &[f32; N],
    weights: &[f32; N],
    negative: bool,
) -> Line {
    let (mut min, max) = min_max(values);
    if negative {
        min = min.min(0.0);
    }
    let width = max - min;
    if width < MAGNITUDE_MIN {
        let offset = if min.abs() < MAGNITUDE_MIN { 0.0 } else { min };
        return Line { scale: 0.0, offset };
    }
    let step = width / MAX as f32;
    let plain = Line { scale: step, offset: min };
    let mut best = Fitted { line: plain, gain: f32::NEG_INFINITY };
    for low in STARTS {
        for high in STARTS {
            let offset = min + low * step;
            let start = Line { scale: (max - high * step - offset) / MAX as f32, offset };
            let found = moments::<MAX, N>(values, weights, start).fit(negative);
            if found.gain > best.gain {
                best = found;
            }
        }
    }
    for _ in 0..N_REFINEMENTS {
        let found = moments::<MAX, N>(values, weights, best.line).fit(negative);
        if found.gain <= best.gain {
            break;
        }
        best = found;
    }
    best.line
}

/// How far the ends of the range are moved inwards, in steps of the plain scale.
const STARTS: [f32; 7] = [-0.6, -0.3, 0.0, 0.3, 0.6, 1.0, 1.5];
const N_REFINEMENTS: usize = 6;

/// [`fit`] as it will be stored, with the levels: x ≈ d · q + m.
pub(crate) fn fit_f16<const MAX: i32, const N: usize>(
    values: &[f32; N],
    weights: &[f32; N],
) -> (F16Bits, F16Bits, [u8; N]) {
    let (min, max) = min_max(values);
    let plain = Line { scale: (max - min) / MAX as f32, offset: min };
    let stored = |line: Line| [line.scale, line.offset].map(F16Bits::saturating);
    let line = |[d, m]: [F16Bits; 2]| Line { scale: d.to_f32(), offset: m.to_f32() };
    let candidates = [stored(fit::<MAX, N>(values, weights, false)), stored(plain)];
    let errors = candidates.map(|lines| error::<MAX, N>(values, weights, line(lines)).0);
    let best = candidates[usize::from(errors[1] < errors[0])];
    (best[0], best[1], levels::<MAX, N>(values, line(best)))
}

/// Chosen scales and minimums of eight groups: x ≈ (d · scale) · q − (dmin · min).
#[derive(Clone, Copy)]
pub(crate) struct Lines {
    pub d: F16Bits,
    pub dmin: F16Bits,
    pub scales: [u8; 8],
    pub mins: [u8; 8],
    error: f32,
}

impl Lines {
    /// Line of a group.
    pub(crate) fn line(&self, group: usize) -> Line {
        Line {
            scale: self.d.to_f32() * f32::from(self.scales[group]),
            offset: -(self.dmin.to_f32() * f32::from(self.mins[group])),
        }
    }
}

/// Scales and minimums take six bits each.
const SIX_BITS: f32 = 63.0;

/// Scales and minimums of least error among those tried.
pub(crate) fn fit_groups<const MAX: i32>(
    values: &[[f32; 32]; 8],
    weights: &[[f32; 32]; 8],
) -> Lines {
    let wanted: [Line; 8] = std::array::from_fn(|g| fit::<MAX, 32>(&values[g], &weights[g], true));
    let scale = wanted.iter().fold(0.0f32, |max, line| max.max(line.scale));
    let min = wanted.iter().fold(0.0f32, |max, line| max.max(-line.offset));
    let mut best: Option<Lines> = None;
    // The largest may be any of the largest numbers: all others are rounded differently for each.
    for (scale_end, min_end) in END_STARTS {
        let ends = [scale / scale_end, min / min_end].map(F16Bits::scale_of_scales);
        let found = choose::<MAX>(values, weights, ends, &wanted);
        if best.is_none_or(|best| found.error < best.error) {
            best = Some(found);
        }
    }
    let mut best =
        best.unwrap_or_else(|| choose::<MAX>(values, weights, [F16Bits([0; 2]); 2], &wanted));
    for _ in 0..N_REFINEMENTS {
        let ends = refit::<MAX>(values, weights, &best);
        if ends == [best.d, best.dmin] {
            break;
        }
        let found = choose::<MAX>(values, weights, ends, &wanted);
        if found.error >= best.error {
            break;
        }
        best = found;
    }
    best
}

const END_STARTS: [(f32, f32); 4] = [(63.0, 63.0), (61.0, 60.0), (59.0, 62.0), (57.0, 58.0)];

/// For these d and dmin, scale and minimum of least error for each group, among those around the wanted.
fn choose<const MAX: i32>(
    values: &[[f32; 32]; 8],
    weights: &[[f32; 32]; 8],
    [d, dmin]: [F16Bits; 2],
    wanted: &[Line; 8],
) -> Lines {
    let mut lines = Lines { d, dmin, scales: [0; 8], mins: [0; 8], error: 0.0 };
    let (unit, min_unit) = (d.to_f32(), dmin.to_f32());
    let six_bits = |value: f32| round(value.clamp(0.0, SIX_BITS));
    for g in 0..8 {
        let (values, weights) = (&values[g], &weights[g]);
        let centre = six_bits(wanted[g].scale * inverse(unit));
        let wanted_min = six_bits(-wanted[g].offset * inverse(min_unit));
        let weight: f32 = weights.iter().sum();
        let mut least = f32::INFINITY;
        for reach in -2..=2 {
            let scale = (centre + reach as f32).clamp(0.0, SIX_BITS);
            let mut min = wanted_min;
            // The minimum that suits this scale, from the levels that the wanted one leads to.
            for _ in 0..2 {
                let line = Line { scale: unit * scale, offset: -(min_unit * min) };
                let (error, rest) = error::<MAX, 32>(values, weights, line);
                if error < least {
                    least = error;
                    (lines.scales[g], lines.mins[g]) = (scale as u8, min as u8);
                }
                // The rest that a shift of the line would take away.
                let offset = line.offset + rest / weight;
                let better = six_bits(-offset * inverse(min_unit));
                if better == min {
                    break;
                }
                min = better;
            }
        }
        lines.error += least;
    }
    lines
}

/// The d and dmin of least error for chosen groups and the levels they lead to: the normal equations of
/// x ≈ d·(s·q) − dmin·m over all groups.
fn refit<const MAX: i32>(
    values: &[[f32; 32]; 8],
    weights: &[[f32; 32]; 8],
    lines: &Lines,
) -> [F16Bits; 2] {
    // a = s·q, b = −m
    let (mut aa, mut ab, mut bb, mut xa, mut xb) = (0.0f32, 0.0f32, 0.0f32, 0.0f32, 0.0f32);
    for g in 0..8 {
        let found = moments::<MAX, 32>(&values[g], &weights[g], lines.line(g));
        let (scale, min) = (f32::from(lines.scales[g]), f32::from(lines.mins[g]));
        aa += scale * scale * found.qq;
        ab -= scale * min * found.q;
        bb += min * min * found.w;
        xa += scale * found.xq;
        xb -= min * found.x;
    }
    let determinant = aa * bb - ab * ab;
    let (d, dmin) = if determinant > 1e-6 * aa * bb {
        ((bb * xa - ab * xb) / determinant, (aa * xb - ab * xa) / determinant)
    } else if aa > 0.0 {
        (xa / aa, lines.dmin.to_f32())
    } else {
        return [lines.d, lines.dmin];
    };
    [d, dmin.max(0.0)].map(F16Bits::scale_of_scales)
}
