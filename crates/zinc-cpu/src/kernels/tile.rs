//! Register tiles: 16 weight rows × `C` activation rows over one panel.
//!
//! A panel (see [`super::panel`]) holds 16 weight rows with one row per lane, so that an activation is broadcast and
//! nothing is ever summed across lanes. Per (weight row, activation row) there is one f32 accumulator that takes one
//! contribution per block, in block order:
//! ```text
//! 256-value blocks   acc += dx·(d·Σ_s sc_s·Σ_i (q_i - zero)·x_i  -  dmin·Σ_s m_s·Σ_i x_i)
//! 32-value blocks    acc += d·(dx·Σ_i (q_i - zero)·x_i)   or   dx·(d·Σ_i q_i·x_i + m·Σ_i x_i)
//! floats             acc += Σ_{even k} w_k·x_k + Σ_{odd k} w_k·x_k     per 256 values
//! ```
//! The inner sums are integers and exact, so neither `C` nor the instruction set changes a bit of the quantised
//! results; the order of float sums depends on `k` only. Bound: one 64-byte dot product per panel vector and
//! activation row; panel loads are shared by `C` rows.

use super::act::{ActBlock, ActSuper};
use super::format::Form;
use super::panel::Values;
use crate::simd::Simd;

/// Runs a tile over `C` rows at a time and over one at a time what is left. A macro, because a closure with a whole
/// tile in it is compiled as a function of its own, without the instruction set of its caller.
macro_rules! over_rows {
    ($many:literal, $acc:ident, $row:ident, $c:ident => $($tile:ident)::+::<$($param:tt),+>($($arg:expr),+)) => {{
        let mut t = 0;
        while t + $many <= $acc.len() {
            const $c: usize = $many;
            let mut x = [$row(t); $c];
            for c in 1..$c {
                x[c] = $row(t + c);
            }
            $($tile)::+::<$($param),+>($($arg),+, x, &mut $acc[t..t + $c]);
            t += $c;
        }
        while t < $acc.len() {
            const $c: usize = 1;
            $($tile)::+::<$($param),+>($($arg),+, [$row(t)], &mut $acc[t..t + 1]);
            t += 1;
        }
    }};
}
pub(crate) use over_rows;

/// Stored value that stands for zero in dot products of the form.
#[inline(always)]
pub(crate) const fn zero<S: Simd>(form: Form, zero: i32) -> i32 {
    if form.is_wide() { S::WIDE_BIAS } else { zero }
}

/// Weights of 256-value super-blocks. `RUNS` runs of 16 values share an integer scale; `WIDE` values are full bytes;
/// they have a minimum for each 32 values, or for each 16, with `MIN`, and the zero point `zero` without.
#[inline(always)]
pub(crate) fn supers<
    S: Simd,
    const WIDE: bool,
    const MIN: bool,
    const RUNS: usize,
    const C: usize,
>(
    s: S,
    panel: &Values,
    zero: i32,
    x: [&[ActSuper]; C],
    acc: &mut [[f32; 16]],
) {
    let n_blocks = x[0].len();
    let x = cut(x, n_blocks);
    let groups = &panel.bytes[..64 * n_blocks];
    for block in 0..n_blocks {
        let x = pick(x, block);
        let groups: &[[u8; 64]; 64] = fixed(&groups[64 * block..]);
        let scales: &[[i32; 16]; 16] = fixed(&panel.scales[16 * block..]);
        let mins: &[[i32; 16]; 8] = fixed(&panel.mins[8 * block..]);
        let mut total = [s.i_splat(0); C];
        let mut total_min = [s.i_splat(0); C];
        for sub in 0..16 / RUNS {
            let mut part = [s.i_splat(0); C];
            if !MIN {
                for c in 0..C {
                    let sums = &x[c].sums[RUNS * sub..RUNS * sub + RUNS];
                    let sum = sums.iter().fold(0, |sum, next| sum + i32::from(*next));
                    part[c] = s.i_splat(-zero * sum);
                }
            }
            for group in 4 * RUNS * sub..4 * RUNS * (sub + 1) {
                let w = s.bytes_load(&groups[group]);
                for c in 0..C {
                    part[c] = dot::<S, WIDE>(s, part[c], w, x[c].q[group]);
                }
            }
            let scale = s.i_load(&scales[sub]);
            for c in 0..C {
                total[c] = s.i_add(total[c], s.i_mul(part[c], scale));
            }
            if MIN && ((sub + 1) * RUNS).is_multiple_of(2) {
                let pair = sub * RUNS / 2;
                let min = s.i_load(&mins[pair]);
                for c in 0..C {
                    let sums = [x[c].sums[2 * pair], x[c].sums[2 * pair + 1]];
                    total_min[c] = s.dot_pairs(total_min[c], min, sums);
                }
            }
        }
        let d = s.load(&panel.d[block]);
        let min = s.load(&panel.min[block]);
        for c in 0..C {
            let d_x = s.splat(x[c].d);
            let value = match MIN {
                true => super_with_min(s, total[c], total_min[c], d, min, d_x),
                false => super_centred(s, total[c], d, d_x),
            };
            accumulate(s, &mut acc[c], value);
        }
    }
}

/// Weights of 32-value blocks with one scale, and a minimum with `MIN` or the zero point `zero` without; `WIDE` values
/// are full bytes.
#[inline(always)]
pub(crate) fn blocks<S: Simd, const WIDE: bool, const MIN: bool, const C: usize>(
    s: S,
    panel: &Values,
    zero: i32,
    x: [&[ActBlock]; C],
    acc: &mut [[f32; 16]],
) {
    let n_blocks = x[0].len();
    let x = cut(x, n_blocks);
    let groups = &panel.bytes[..8 * n_blocks];
    let (scales, mins) = (&panel.d[..n_blocks], &panel.min[..n_blocks]);
    let mut sum = [s.splat(0.0); C];
    for c in 0..C {
        sum[c] = s.load(&acc[c]);
    }
    for block in 0..n_blocks {
        let x = pick(x, block);
        let groups: &[[u8; 64]; 8] = fixed(&groups[8 * block..]);
        let mut part = [s.i_splat(0); C];
        if !MIN {
            for c in 0..C {
                part[c] = s.i_splat(-zero * i32::from(x[c].sum));
            }
        }
        for group in 0..8 {
            let w = s.bytes_load(&groups[group]);
            for c in 0..C {
                part[c] = dot::<S, WIDE>(s, part[c], w, x[c].q[group]);
            }
        }
        let d = s.load(&scales[block]);
        let min = s.load(&mins[block]);
        for c in 0..C {
            let d_x = s.splat(x[c].d());
            let value = match MIN {
                true => block_with_min(s, part[c], x[c].sum, d, min, d_x),
                false => block_centred(s, part[c], d, d_x),
            };
            sum[c] = s.add(sum[c], value);
        }
    }
    for c in 0..C {
        s.store(&mut acc[c], sum[c]);
    }
}

#[inline(always)]
fn dot<S: Simd, const WIDE: bool>(s: S, acc: S::I, w: S::I, x: i32) -> S::I {
    if WIDE { s.dot_wide(acc, w, x) } else { s.dot_narrow(acc, w, x) }
}

/// dx·(d·total - dmin·total_min).
#[inline(always)]
pub(crate) fn super_with_min<S: Simd>(
    s: S,
    total: S::I,
    total_min: S::I,
    d: S::F,
    min: S::F,
    d_x: S::F,
) -> S::F {
    s.mul(s.sub(s.mul(s.to_f32(total), d), s.mul(s.to_f32(total_min), min)), d_x)
}

/// dx·(d·total).
#[inline(always)]
pub(crate) fn super_centred<S: Simd>(s: S, total: S::I, d: S::F, d_x: S::F) -> S::F {
    s.mul(s.mul(s.to_f32(total), d), d_x)
}

/// dx·(d·total + m·sum).
#[inline(always)]
pub(crate) fn block_with_min<S: Simd>(
    s: S,
    total: S::I,
    sum: i16,
    d: S::F,
    min: S::F,
    d_x: S::F,
) -> S::F {
    let sum = s.splat(f32::from(sum));
    s.mul(s.add(s.mul(s.to_f32(total), d), s.mul(sum, min)), d_x)
}

/// d·(dx·total): the scale comes last, because the exponents of MXFP4 go so far that d·total can overflow or lose bits
/// where the result does not.
#[inline(always)]
pub(crate) fn block_centred<S: Simd>(s: S, total: S::I, d: S::F, d_x: S::F) -> S::F {
    s.mul(s.mul(s.to_f32(total), d_x), d)
}

/// Float weights, `panel.len()` values of k (at most 256 between two calls' accumulations).
#[inline(always)]
pub(crate) fn floats<S: Simd, const C: usize>(
    s: S,
    panel: &[[f32; 16]],
    x: [&[f32]; C],
    acc: &mut [[f32; 16]],
) {
    let n = panel.len();
    let x = cut(x, n);
    let mut even = [s.splat(0.0); C];
    let mut odd = [s.splat(0.0); C];
    for (pair, w) in panel.as_chunks::<2>().0.iter().enumerate() {
        let (w_even, w_odd) = (s.load(&w[0]), s.load(&w[1]));
        for c in 0..C {
            even[c] = s.mul_add(w_even, s.splat(x[c][2 * pair]), even[c]);
            odd[c] = s.mul_add(w_odd, s.splat(x[c][2 * pair + 1]), odd[c]);
        }
    }
    if n % 2 == 1 {
        let w = s.load(&panel[n - 1]);
        for c in 0..C {
            even[c] = s.mul_add(w, s.splat(x[c][n - 1]), even[c]);
        }
    }
    for c in 0..C {
        accumulate(s, &mut acc[c], s.add(even[c], odd[c]));
    }
}

#[inline(always)]
pub(crate) fn accumulate<S: Simd>(s: S, acc: &mut [f32; 16], value: S::F) {
    s.store(acc, s.add(s.load(acc), value));
}

/// The first `n` elements of each slice.
#[inline(always)]
fn cut<T, const C: usize>(mut x: [&[T]; C], n: usize) -> [&[T]; C] {
    for x in &mut x {
        *x = &x[..n];
    }
    x
}

/// Element `at` of each slice.
#[inline(always)]
fn pick<T, const C: usize>(x: [&[T]; C], at: usize) -> [&T; C] {
    let mut out = [&x[0][at]; C];
    for c in 1..C {
        out[c] = &x[c][at];
    }
    out
}

/// The first `N` elements as an array.
#[inline(always)]
fn fixed<T, const N: usize>(slice: &[T]) -> &[T; N] {
    match slice.first_chunk() {
        Some(chunk) => chunk,
        None => panic!("a panel holds whole blocks"),
    }
}
