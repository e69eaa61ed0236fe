//! The gated delta rule over consecutive rows of one sequence, for some columns of one value head; and its gates.
//!
//! ```text
//! S [k_dim, v_dim]:   u = beta·(v - e^g·Sᵀk)    y = scale·(e^g·Sᵀq + (k·q)·u)    S = e^g·S + k·uᵀ
//! ```
//! which is the definition with the decay taken out of the sums, so that one pass over S serves a row's update and
//! the next row's sums. Columns of S are independent: a panel of sixteen, one per lane, stays in the first-level
//! cache for all rows. Every sum over `k_dim` is one of even and one of odd terms, whatever the number of rows, so a
//! row's result does not depend on where steps end. Bytes moved: S once in and out for all rows of a step. Bound:
//! four vector operations per vector of S and row for many rows, memory for one.

use super::Cols;
use super::elementwise::padded;
use crate::simd::{Kernel, Simd, math};

/// Rows that are taken together.
pub(crate) const MAX_ROWS: usize = 64;

/// At most [`MAX_ROWS`] rows of one head.
pub(crate) struct DeltaRows<'a> {
    pub n_rows: usize,
    pub scale: f32,
    pub q: Cols<'a>,
    pub k: Cols<'a>,
    pub v: Cols<'a>,
    /// One column each.
    pub g: Cols<'a>,
    pub beta: Cols<'a>,
    /// The columns of S by panels of sixteen, `k_dim` vectors each.
    pub state: &'a mut [[f32; 16]],
    /// The results of each row, padded to whole vectors.
    pub out: &'a mut [[f32; 16]],
}

impl Kernel for DeltaRows<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let DeltaRows { n_rows, scale, q, k, v, g, beta, state, out } = self;
        // Factors that all columns of a row share: decay and k·q.
        let mut factors = [[0.0; 2]; MAX_ROWS];
        for (row, factors) in factors[..n_rows].iter_mut().enumerate() {
            let mut lanes = [0.0; 16];
            s.store(&mut lanes, math::exp(s, s.splat(g.row(row)[0])));
            *factors = [lanes[0], dot(s, k.row(row), q.row(row))];
        }
        let n_panels = v.len.div_ceil(16);
        for (idx, panel) in state.chunks_exact_mut(k.len).enumerate() {
            let cols = 16 * idx..v.len.min(16 * idx + 16);
            let none = [s.splat(0.0); 2];
            let mut sums = pass::<S, false, true>(s, panel, none, [&[], k.row(0), q.row(0)]);
            for (row, &[decay, kq]) in factors[..n_rows].iter().enumerate() {
                let value = padded(&v.row(row)[cols.clone()]);
                let decay = s.splat(decay);
                let error = s.sub(s.load(&value), s.mul(sums[0], decay));
                let update = s.mul(error, s.splat(beta.row(row)[0]));
                let y = s.mul_add(sums[1], decay, s.mul(update, s.splat(kq)));
                s.store(&mut out[row * n_panels + idx], s.mul(y, s.splat(scale)));
                let now = k.row(row);
                if row + 1 < n_rows {
                    let keys = [now, k.row(row + 1), q.row(row + 1)];
                    sums = pass::<S, true, true>(s, panel, [decay, update], keys);
                } else {
                    pass::<S, true, false>(s, panel, [decay, update], [now, &[], &[]]);
                }
            }
        }
    }
}

/// `S = decay·S + k·updateᵀ` with the first key (`UPDATE`), then `Sᵀk` and `Sᵀq` with the others (`SUM`).
#[inline(always)]
fn pass<S: Simd, const UPDATE: bool, const SUM: bool>(
    s: S,
    panel: &mut [[f32; 16]],
    change: [S::F; 2],
    [now, k, q]: [&[f32]; 3],
) -> [S::F; 2] {
    let n = panel.len();
    let now = if UPDATE { &now[..n] } else { now };
    let (k, q) = if SUM { (&k[..n], &q[..n]) } else { (k, q) };
    let mut sums = [[s.splat(0.0); 2]; 2];
    let (pairs, last) = panel.as_chunks_mut::<2>();
    for (pair, x) in pairs.iter_mut().enumerate() {
        for odd in 0..2 {
            let r = 2 * pair + odd;
            let now = if UPDATE { now[r] } else { 0.0 };
            let next = if SUM { [k[r], q[r]] } else { [0.0; 2] };
            vector::<S, UPDATE, SUM>(s, &mut x[odd], change, (now, next), &mut sums[odd]);
        }
    }
    for x in last {
        let now = if UPDATE { now[n - 1] } else { 0.0 };
        let next = if SUM { [k[n - 1], q[n - 1]] } else { [0.0; 2] };
        vector::<S, UPDATE, SUM>(s, x, change, (now, next), &mut sums[0]);
    }
    [s.add(sums[0][0], sums[1][0]), s.add(sums[0][1], sums[1][1])]
}

/// One vector of [`pass`].
#[inline(always)]
fn vector<S: Simd, const UPDATE: bool, const SUM: bool>(
    s: S,
    x: &mut [f32; 16],
    [decay, update]: [S::F; 2],
    (now, next): (f32, [f32; 2]),
    sums: &mut [S::F; 2],
) {
    let mut value = s.load(x);
    if UPDATE {
        value = s.mul_add(s.splat(now), update, s.mul(value, decay));
        s.store(x, value);
    }
    if SUM {
        sums[0] = s.mul_add(s.splat(next[0]), value, sums[0]);
        sums[1] = s.mul_add(s.splat(next[1]), value, sums[1]);
    }
}

#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    let mut sum = s.splat(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = s.mul_add(s.load(a), s.load(b), sum);
    }
    s.sum(s.mul_add(s.load(&padded(a_rest)), s.load(&padded(b_rest)), sum))
}

/// The operands of one row of gates.
pub(crate) struct GateRow<'a> {
    pub a: &'a [f32],
    pub b: &'a [f32],
    pub a_log: &'a [f32],
    pub dt_bias: &'a [f32],
}

/// `g = a_log·ln(1 + e^(a + dt_bias))`, `beta = sigmoid(b)`: a few values per row, so the library's functions do.
pub(crate) fn gates(row: GateRow<'_>, g: &mut [f32], beta: &mut [f32]) {
    let inputs = row.a.iter().zip(row.dt_bias).zip(row.a_log);
    for (g, ((a, bias), a_log)) in g.iter_mut().zip(inputs) {
        let x = a + bias;
        *g = a_log * (x.max(0.0) + (-x.abs()).exp().ln_1p());
    }
    for (beta, b) in beta.iter_mut().zip(row.b) {
        *beta = 1.0 / (1.0 + (-b).exp());
    }
}
