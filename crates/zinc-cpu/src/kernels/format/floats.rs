//! Plain floats, sixteen rows at a time.

use super::Source;
use crate::simd::{Simd, scalar::f16_to_f32};

/// Takes float weights in the order of k, one row per lane.
pub(crate) trait FloatSink<S: Simd> {
    /// The weights of an even `k` and of `k + 1`.
    fn pair(&mut self, s: S, k: usize, values: [S::F; 2]);
    /// The weights of the last `k`, which is even.
    fn last(&mut self, s: S, k: usize, values: S::F);
}

/// A type of plain floats.
pub(crate) trait FloatFormat {
    const VALUE_BYTES: usize;
    /// Hands over `n` values.
    fn values<S: Simd, T: FloatSink<S>>(s: S, from: Source<'_>, n: usize, sink: &mut T);
}

pub(crate) struct F32;
pub(crate) struct F16;
pub(crate) struct Bf16;

impl FloatFormat for F32 {
    const VALUE_BYTES: usize = 4;

    #[inline(always)]
    fn values<S: Simd, T: FloatSink<S>>(s: S, from: Source<'_>, n: usize, sink: &mut T) {
        let n_fours = n / 4;
        for i in 0..n_fours {
            let [a, b, c, d] = from.words(s, 16 * i);
            sink.pair(s, 4 * i, [s.as_float(a), s.as_float(b)]);
            sink.pair(s, 4 * i + 2, [s.as_float(c), s.as_float(d)]);
        }
        rest(s, 4 * n_fours, n, sink, |row, k| {
            let bytes = &from.data[row * from.stride + 4 * k..];
            bytes.first_chunk().map_or(0.0, |bytes| f32::from_le_bytes(*bytes))
        });
    }
}

impl FloatFormat for F16 {
    const VALUE_BYTES: usize = 2;

    #[inline(always)]
    fn values<S: Simd, T: FloatSink<S>>(s: S, from: Source<'_>, n: usize, sink: &mut T) {
        for i in 0..n / 8 {
            for (j, pair) in from.words(s, 16 * i).into_iter().enumerate() {
                sink.pair(s, 8 * i + 2 * j, s.halves_to_f32(pair));
            }
        }
        rest(s, n / 8 * 8, n, sink, |row, k| f16_to_f32(half(from, row, k)));
    }
}

impl FloatFormat for Bf16 {
    const VALUE_BYTES: usize = 2;

    #[inline(always)]
    fn values<S: Simd, T: FloatSink<S>>(s: S, from: Source<'_>, n: usize, sink: &mut T) {
        let high = s.i_splat(0xffff_0000_u32 as i32);
        for i in 0..n / 8 {
            for (j, pair) in from.words(s, 16 * i).into_iter().enumerate() {
                let values = [s.as_float(s.i_shl::<16>(pair)), s.as_float(s.i_and(pair, high))];
                sink.pair(s, 8 * i + 2 * j, values);
            }
        }
        rest(s, n / 8 * 8, n, sink, |row, k| f32::from_bits(u32::from(half(from, row, k)) << 16));
    }
}

/// One 16-bit value.
fn half(from: Source<'_>, row: usize, k: usize) -> u16 {
    let bytes = &from.data[row * from.stride + 2 * k..];
    bytes.first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

/// The values `first .. n` one by one.
#[inline(always)]
fn rest<S: Simd, T: FloatSink<S>>(
    s: S,
    first: usize,
    n: usize,
    sink: &mut T,
    value: impl Fn(usize, usize) -> f32,
) {
    for k in (first..n).step_by(2) {
        let (mut even, mut odd) = ([0.0; 16], [0.0; 16]);
        for (row, even) in even.iter_mut().enumerate() {
            *even = value(row, k);
        }
        if k + 1 == n {
            return sink.last(s, k, s.load(&even));
        }
        for (row, odd) in odd.iter_mut().enumerate() {
            *odd = value(row, k + 1);
        }
        sink.pair(s, k, [s.load(&even), s.load(&odd)]);
    }
}
