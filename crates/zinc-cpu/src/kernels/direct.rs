//! Products of one activation row, straight from the packed weights.
//!
//! With one row a panel would be written and read once: the transposed values are multiplied where they are, in
//! registers. Sums are the ones of [`super::tile`] bit for bit: integers are exact in any order, and floats go through
//! the same functions in the same order. Bytes moved: the weights. Bound: memory; about 10 register operations per 64
//! packed bytes of 4-bit weights.

use super::act::ActBlocks;
use super::format::floats::{FloatFormat, FloatSink};
use super::format::{Format, Scales, Sink, Source};
use super::tile;
use crate::simd::{Kernel, Simd};
use std::marker::PhantomData;

/// Weights that will be multiplied next, to be asked for while the present ones are.
#[derive(Clone, Copy)]
pub(crate) struct Ahead<'a> {
    pub data: &'a [u8],
    /// Where they start; beyond `data` when nothing comes.
    pub start: usize,
}

impl Ahead<'_> {
    /// Asks for the cache lines of bytes `at .. at + n`.
    #[inline(always)]
    fn fetch<S: Simd>(self, s: S, at: usize, n: usize) {
        let first = self.start + at;
        if first < self.data.len() {
            for offset in (0..n).step_by(64) {
                s.prefetch(self.data, first + offset);
            }
        }
    }
}

/// Adds the products of whole blocks of sixteen weight rows with one activation row to `acc`.
pub(crate) struct Blocks<'a, F: Format> {
    pub from: Source<'a>,
    pub ahead: Ahead<'a>,
    pub x: &'a [F::Act],
    pub acc: &'a mut [f32; 16],
}

impl<F: Format> Kernel for Blocks<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut sum = s.load(self.acc);
        for (block, x) in self.x.iter().enumerate() {
            self.ahead.fetch(s, 16 * block * F::BLOCK_BYTES, 16 * F::BLOCK_BYTES);
            let (q, sums, d) = x.parts();
            let scales = Scales::one(s, s.splat(0.0));
            let mut dot = Dot::<S, F> { q, sums, scales, total: s.i_splat(0), format: PhantomData };
            F::block(s, self.from, block * F::BLOCK_BYTES, &mut dot);
            sum = s.add(sum, dot.value(s, d));
        }
        s.store(self.acc, sum);
    }
}

/// The sum of one block.
struct Dot<'a, S: Simd, F> {
    q: &'a [i32],
    sums: &'a [i16],
    scales: Scales<S>,
    total: S::I,
    format: PhantomData<F>,
}

impl<S: Simd, F: Format> Sink<S> for Dot<'_, S, F> {
    #[inline(always)]
    fn scales(&mut self, _s: S, scales: Scales<S>) {
        self.scales = scales;
    }

    #[inline(always)]
    fn run(&mut self, s: S, run: usize, values: [S::I; 4]) {
        let mut part = s.i_splat(0);
        if !F::FORM.has_min() && F::FORM.is_super() {
            part = s.i_splat(-tile::zero::<S>(F::FORM, F::ZERO) * i32::from(self.sums[run]));
        }
        for (i, w) in values.into_iter().enumerate() {
            let x = self.q[4 * run + i];
            part =
                if F::FORM.is_wide() { s.dot_wide(part, w, x) } else { s.dot_narrow(part, w, x) };
        }
        if F::FORM.is_super() {
            part = s.i_mul(part, self.scales.subs[run / F::FORM.runs_per_scale()]);
        }
        self.total = s.i_add(self.total, part);
    }
}

impl<S: Simd, F: Format> Dot<'_, S, F> {
    #[inline(always)]
    fn value(self, s: S, d_x: f32) -> S::F {
        let Scales { mins, d, min, .. } = self.scales;
        let d_x = s.splat(d_x);
        if F::FORM.is_super() {
            if F::FORM.has_min() {
                let mut total_min = s.i_splat(0);
                for (min, sums) in mins.into_iter().zip(self.sums.as_chunks().0) {
                    total_min = s.dot_pairs(total_min, min, *sums);
                }
                tile::super_with_min(s, self.total, total_min, d, min, d_x)
            } else {
                tile::super_centred(s, self.total, d, d_x)
            }
        } else if F::FORM.has_min() {
            tile::block_with_min(s, self.total, self.sums[0], d, min, d_x)
        } else {
            let zero = tile::zero::<S>(F::FORM, F::ZERO);
            let total = s.i_add(self.total, s.i_splat(-zero * i32::from(self.sums[0])));
            tile::block_centred(s, total, d, d_x)
        }
    }
}

/// The same for floats, at most 256 values, the length of one accumulation.
pub(crate) struct Floats<'a, F> {
    pub from: Source<'a>,
    pub ahead: Ahead<'a>,
    pub x: &'a [f32],
    pub acc: &'a mut [f32; 16],
    #[expect(dead_code, reason = "names the type")]
    pub format: F,
}

impl<F: FloatFormat> Kernel for Floats<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Floats { from, ahead, x, acc, .. } = self;
        let (even, odd) = (s.splat(0.0), s.splat(0.0));
        let mut dot = FloatDot { x, ahead, k_bytes: 16 * F::VALUE_BYTES, even, odd };
        F::values(s, from, x.len(), &mut dot);
        tile::accumulate(s, acc, s.add(dot.even, dot.odd));
    }
}

struct FloatDot<'a, S: Simd> {
    x: &'a [f32],
    ahead: Ahead<'a>,
    /// Bytes of one k of sixteen rows.
    k_bytes: usize,
    even: S::F,
    odd: S::F,
}

impl<S: Simd> FloatSink<S> for FloatDot<'_, S> {
    #[inline(always)]
    fn pair(&mut self, s: S, k: usize, [even, odd]: [S::F; 2]) {
        self.ahead.fetch(s, k * self.k_bytes, 2 * self.k_bytes);
        self.even = s.mul_add(even, s.splat(self.x[k]), self.even);
        self.odd = s.mul_add(odd, s.splat(self.x[k + 1]), self.odd);
    }

    #[inline(always)]
    fn last(&mut self, s: S, k: usize, values: S::F) {
        self.even = s.mul_add(values, s.splat(self.x[k]), self.even);
    }
}
