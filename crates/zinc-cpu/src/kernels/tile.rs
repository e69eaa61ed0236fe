//! Register tiles: 16 weight rows × `C` activation rows over one panel.
//!
//! A panel (see [`super::panel`]) holds 16 weight rows with one row per lane, so that an activation is broadcast and
//! nothing is ever summed across lanes. Per (weight row, activation row) there is one f32 accumulator that takes one
//! contribution per block, in block order:
//! ```text
//! 256-value blocks   acc += dx·(d·Σ_s sc_s·Σ_i (q_i - zero)·x_i  -  dmin·Σ_s m_s·Σ_i x_i)
//! 32-value blocks    acc += dx·(d·Σ_i (q_i - zero)·x_i)
//! floats             acc += Σ_{even k} w_k·x_k + Σ_{odd k} w_k·x_k     per 256 values
//! ```
//! The inner sums are integers and exact, so neither `C` nor the instruction set changes a bit of the quantised
//! results; the order of float sums depends on `k` only. Bound: one 64-byte dot product per panel vector and
//! activation row; panel loads are shared by `C` rows.

use super::act::{ActBlock, ActSuper};
use super::panel::Panel;
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

/// Weights of 256-value super-blocks, 8 scales and 8 minimums per block (Q4_K, Q5_K).
#[inline(always)]
pub(crate) fn supers_with_min<S: Simd, const C: usize>(
    s: S,
    panel: &Panel,
    x: [&[ActSuper]; C],
    acc: &mut [[f32; 16]],
) {
    let n_blocks = x[0].len();
    let x = cut(x, n_blocks);
    let groups = &panel.bytes[..64 * n_blocks];
    for block in 0..n_blocks {
        let x = pick(x, block);
        let groups: &[[u8; 64]; 64] = fixed(&groups[64 * block..]);
        let scales: &[[i32; 16]; 8] = fixed(&panel.scales[8 * block..]);
        let mins: &[[i32; 16]; 8] = fixed(&panel.mins[8 * block..]);
        let mut total = [s.i_splat(0); C];
        let mut total_min = [s.i_splat(0); C];
        for sub in 0..8 {
            let mut part = [s.i_splat(0); C];
            for group in 8 * sub..8 * sub + 8 {
                let w = s.bytes_load(&groups[group]);
                for c in 0..C {
                    part[c] = s.dot_narrow(part[c], w, x[c].q[group]);
                }
            }
            let scale = s.i_load(&scales[sub]);
            let min = s.i_load(&mins[sub]);
            for c in 0..C {
                total[c] = s.i_add(total[c], s.i_mul(part[c], scale));
                total_min[c] =
                    s.dot_pairs(total_min[c], min, [x[c].sums[2 * sub], x[c].sums[2 * sub + 1]]);
            }
        }
        let d = s.load(&panel.d[block]);
        let d_min = s.load(&panel.d_min[block]);
        for c in 0..C {
            let value = s.sub(s.mul(s.to_f32(total[c]), d), s.mul(s.to_f32(total_min[c]), d_min));
            accumulate(s, &mut acc[c], s.mul(value, s.splat(x[c].d)));
        }
    }
}

/// Weights of 256-value super-blocks with 16 signed scales and a zero point of 32 (Q6_K).
#[inline(always)]
pub(crate) fn supers_centred<S: Simd, const C: usize>(
    s: S,
    panel: &Panel,
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
        let mut total = [s.i_splat(0); C];
        for sub in 0..16 {
            let mut part = [s.i_splat(0); C];
            for c in 0..C {
                part[c] = s.i_splat(-32 * i32::from(x[c].sums[sub]));
            }
            for group in 4 * sub..4 * sub + 4 {
                let w = s.bytes_load(&groups[group]);
                for c in 0..C {
                    part[c] = s.dot_narrow(part[c], w, x[c].q[group]);
                }
            }
            let scale = s.i_load(&scales[sub]);
            for c in 0..C {
                total[c] = s.i_add(total[c], s.i_mul(part[c], scale));
            }
        }
        let d = s.load(&panel.d[block]);
        for c in 0..C {
            let value = s.mul(s.to_f32(total[c]), d);
            accumulate(s, &mut acc[c], s.mul(value, s.splat(x[c].d)));
        }
    }
}

/// Weights of 32-value blocks with one scale: bytes in 0..=63 with `ZERO` subtracted (Q4_0: 8), or, for `ZERO` 128,
/// full bytes (Q8_0).
#[inline(always)]
pub(crate) fn blocks<S: Simd, const ZERO: i32, const C: usize>(
    s: S,
    panel: &Panel,
    x: [&[ActBlock]; C],
    acc: &mut [[f32; 16]],
) {
    let n_blocks = x[0].len();
    let x = cut(x, n_blocks);
    let groups = &panel.bytes[..8 * n_blocks];
    let scales = &panel.d[..n_blocks];
    let mut sum = [s.splat(0.0); C];
    for c in 0..C {
        sum[c] = s.load(&acc[c]);
    }
    for block in 0..n_blocks {
        let x = pick(x, block);
        let groups: &[[u8; 64]; 8] = fixed(&groups[8 * block..]);
        let zero = if ZERO == 128 { S::WIDE_BIAS } else { ZERO };
        let mut part = [s.i_splat(0); C];
        for c in 0..C {
            part[c] = s.i_splat(-zero * i32::from(x[c].sum));
        }
        for group in 0..8 {
            let w = s.bytes_load(&groups[group]);
            for c in 0..C {
                part[c] = if ZERO == 128 {
                    s.dot_wide(part[c], w, x[c].q[group])
                } else {
                    s.dot_narrow(part[c], w, x[c].q[group])
                };
            }
        }
        let d = s.load(&scales[block]);
        for c in 0..C {
            let value = s.mul(s.to_f32(part[c]), d);
            sum[c] = s.add(sum[c], s.mul(value, s.splat(x[c].d())));
        }
    }
    for c in 0..C {
        s.store(&mut acc[c], sum[c]);
    }
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
fn accumulate<S: Simd>(s: S, acc: &mut [f32; 16], value: S::F) {
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
