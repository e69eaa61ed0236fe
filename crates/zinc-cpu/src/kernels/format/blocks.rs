//! Blocks of 32 values.

use super::{Form, Format, Scales, Sink, Source, high_nibbles, lookup, low_nibbles, shifted};
use crate::kernels::act::ActBlock;
use crate::simd::Simd;
use zinc_quant::{FP4_VALUES, IQ4_VALUES};

/// d, then 16 bytes: values 0..16 in the low, 16..32 in the high nibbles.
pub(crate) struct Q4_0;
/// d, m, then nibbles as in Q4_0.
pub(crate) struct Q4_1;
/// d, 32 fifth bits, then nibbles as in Q4_0.
pub(crate) struct Q5_0;
/// d, m, 32 fifth bits, then nibbles as in Q4_0.
pub(crate) struct Q5_1;
/// d, then 32 signed bytes.
pub(crate) struct Q8_0;
/// An exponent of 8 bits, then nibbles as in Q4_0, codes of 4-bit floats.
pub(crate) struct Mxfp4;
/// d, then nibbles as in Q4_0, indices of a table of levels.
pub(crate) struct Iq4Nl;

impl Format for Q4_0 {
    type Act = ActBlock;
    const FORM: Form = Form::Blocks;
    const ZERO: i32 = 8;
    const BLOCK_BYTES: usize = 18;

    #[inline(always)]
    fn block<S: Simd, T: Sink<S>>(s: S, from: Source<'_>, offset: usize, sink: &mut T) {
        let [d, ..] = from.words(s, offset);
        sink.scales(s, Scales::one(s, s.half_to_f32(d)));
        let words = from.words(s, offset + 2);
        sink.run(s, 0, low_nibbles(s, words));
        sink.run(s, 1, high_nibbles(s, words));
    }
}

impl Format for Q4_1 {
    type Act = ActBlock;
    const FORM: Form = Form::BlocksWithMin;
    const ZERO: i32 = 0;
    const BLOCK_BYTES: usize = 20;

    #[inline(always)]
    fn block<S: Simd, T: Sink<S>>(s: S, from: Source<'_>, offset: usize, sink: &mut T) {
        let [d_and_m, ..] = from.words(s, offset);
        sink.scales(s, with_min(s, d_and_m));
        let words = from.words(s, offset + 4);
        sink.run(s, 0, low_nibbles(s, words));
        sink.run(s, 1, high_nibbles(s, words));
    }
}

impl Format for Q5_0 {
    type Act = ActBlock;
    const FORM: Form = Form::Blocks;
    const ZERO: i32 = 16;
    const BLOCK_BYTES: usize = 22;

    #[inline(always)]
    fn block<S: Simd, T: Sink<S>>(s: S, from: Source<'_>, offset: usize, sink: &mut T) {
        let [d, rest, ..] = from.words(s, offset);
        sink.scales(s, Scales::one(s, s.half_to_f32(d)));
        let words = from.words(s, offset + 6);
        sink.run(s, 0, with_fifth(s, low_nibbles(s, words), s.i_shr::<16>(d)));
        sink.run(s, 1, with_fifth(s, high_nibbles(s, words), rest));
    }
}

impl Format for Q5_1 {
    type Act = ActBlock;
    const FORM: Form = Form::BlocksWithMin;
    const ZERO: i32 = 0;
    const BLOCK_BYTES: usize = 24;

    #[inline(always)]
    fn block<S: Simd, T: Sink<S>>(s: S, from: Source<'_>, offset: usize, sink: &mut T) {
        let [d_and_m, fifth, ..] = from.words(s, offset);
        sink.scales(s, with_min(s, d_and_m));
        let words = from.words(s, offset + 8);
        sink.run(s, 0, with_fifth(s, low_nibbles(s, words), fifth));
        sink.run(s, 1, with_fifth(s, high_nibbles(s, words), s.i_shr::<16>(fifth)));
    }
}

impl Format for Q8_0 {
    type Act = ActBlock;
    const FORM: Form = Form::BlocksWide;
    const ZERO: i32 = 128;
    const BLOCK_BYTES: usize = 34;

    #[inline(always)]
    fn block<S: Simd, T: Sink<S>>(s: S, from: Source<'_>, offset: usize, sink: &mut T) {
        let [d, ..] = from.words(s, offset);
        sink.scales(s, Scales::one(s, s.half_to_f32(d)));
        let sign = s.i_splat(0x8080_8080_u32 as i32);
        for run in 0..2 {
            let [a, b, c, d] = from.words(s, offset + 2 + 16 * run);
            let words = [s.i_xor(a, sign), s.i_xor(b, sign), s.i_xor(c, sign), s.i_xor(d, sign)];
            sink.run(s, run, words);
        }
    }
}

impl Format for Mxfp4 {
    type Act = ActBlock;
    const FORM: Form = Form::Blocks;
    const ZERO: i32 = 12;
    const BLOCK_BYTES: usize = 17;

    #[inline(always)]
    fn block<S: Simd, T: Sink<S>>(s: S, from: Source<'_>, offset: usize, sink: &mut T) {
        const TABLE: [u8; 16] = shifted(&FP4_VALUES, Mxfp4::ZERO);
        let [exponent, ..] = from.words(s, offset);
        sink.scales(s, Scales::one(s, half_power(s, s.i_and(exponent, s.i_splat(0xff)))));
        let words = from.words(s, offset + 1);
        sink.run(s, 0, lookup(s, &TABLE, low_nibbles(s, words)));
        sink.run(s, 1, lookup(s, &TABLE, high_nibbles(s, words)));
    }
}

impl Format for Iq4Nl {
    type Act = ActBlock;
    const FORM: Form = Form::BlocksWide;
    const ZERO: i32 = 128;
    const BLOCK_BYTES: usize = 18;

    #[inline(always)]
    fn block<S: Simd, T: Sink<S>>(s: S, from: Source<'_>, offset: usize, sink: &mut T) {
        let [d, ..] = from.words(s, offset);
        sink.scales(s, Scales::one(s, s.half_to_f32(d)));
        let words = from.words(s, offset + 2);
        sink.run(s, 0, lookup(s, &IQ4_TABLE, low_nibbles(s, words)));
        sink.run(s, 1, lookup(s, &IQ4_TABLE, high_nibbles(s, words)));
    }
}

/// The levels of IQ4_NL and IQ4_XS as full bytes.
pub(super) const IQ4_TABLE: [u8; 16] = shifted(&IQ4_VALUES, 128);

/// Two f16: scale and minimum.
#[inline(always)]
fn with_min<S: Simd>(s: S, d_and_m: S::I) -> Scales<S> {
    let [d, min] = s.halves_to_f32(d_and_m);
    Scales { min, ..Scales::one(s, d) }
}

/// Adds the low sixteen bits of each lane of `fifth`, one to each value, as bits of weight 16.
#[inline(always)]
fn with_fifth<S: Simd>(s: S, mut values: [S::I; 4], mut fifth: S::I) -> [S::I; 4] {
    // The product puts copies of four bits 7 apart, so that bit i of the lowest lands in byte i.
    let (four, spread, places) = (s.i_splat(0x0f), s.i_splat(0x0204_0810), s.i_splat(0x1010_1010));
    for values in &mut values {
        let bits = s.i_and(s.i_mul(s.i_and(fifth, four), spread), places);
        *values = s.i_or(*values, bits);
        fifth = s.i_shr::<4>(fifth);
    }
    values
}

/// 2^(e − 128) of integers 0..=255, exactly. No single float has all these exponents as normal numbers, nor does e in
/// place of the exponent bits: 255 is infinite there. The product of two halves is right from the smallest, which are
/// subnormal, to the largest.
#[inline(always)]
fn half_power<S: Simd>(s: S, e: S::I) -> S::F {
    let half = s.i_shr::<1>(e);
    // Exponents half - 64 and e - half - 64, with the bias of 127.
    let first = s.i_add(half, s.i_splat(63));
    let e_less_half = s.i_add(half, s.i_and(e, s.i_splat(1)));
    let second = s.i_add(e_less_half, s.i_splat(63));
    s.mul(s.as_float(s.i_shl::<23>(first)), s.as_float(s.i_shl::<23>(second)))
}
