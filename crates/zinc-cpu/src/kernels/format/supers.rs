//! Super-blocks of 256 values.

use super::blocks::IQ4_TABLE;
use super::{Form, Format, Scales, Sink, Source, high_nibbles, lookup, low_nibbles};
use crate::kernels::act::ActSuper;
use crate::simd::Simd;

/// Sixteen bytes with a 4-bit scale and minimum each, 64 bytes of 2-bit values, d, dmin.
pub(crate) struct Q2K;
/// 32 bytes of third bits, 64 bytes of 2-bit values, twelve bytes with sixteen 6-bit scales, d.
pub(crate) struct Q3K;
/// Header (see [`header`]), then 128 bytes: 32 bytes hold sub-block 2j in the low and 2j + 1 in the high nibbles.
pub(crate) struct Q4K;
/// Header, 32 bytes whose bit `sub` is the fifth bit of sub-block `sub`, then nibbles as in Q4_K.
pub(crate) struct Q5K;
/// 128 bytes of low nibbles, 64 bytes of upper bit pairs, sixteen i8 scales, d. Each half of 128 values has 64 + 32 of
/// the bytes; its four quarters of 32 take the low nibbles of bytes 0..32 and 32..64, then the high ones.
pub(crate) struct Q6K;
/// d, eight 2-bit upper and eight 4-bit lower parts of scales, then eight times the nibbles of IQ4_NL.
pub(crate) struct Iq4Xs;

impl Format for Q2K {
    type Act = ActSuper;
    const FORM: Form = Form::SupersWithMins16;
    const ZERO: i32 = 0;
    const BLOCK_BYTES: usize = 84;

    #[inline(always)]
    fn block<S: Simd, T: Sink<S>>(s: S, from: Source<'_>, offset: usize, sink: &mut T) {
        let bytes = from.words(s, offset);
        let [.., d_and_min] = from.words(s, offset + 68);
        let [d, min] = s.halves_to_f32(d_and_min);
        let mut scales = Scales { min, ..Scales::one(s, d) };
        let (subs, mins) = (low_nibbles(s, bytes), high_nibbles(s, bytes));
        for i in 0..4 {
            scales.subs[4 * i..4 * i + 4].copy_from_slice(&unsigned_bytes(s, subs[i]));
            scales.mins[2 * i] = byte_pair(s, mins[i]);
            scales.mins[2 * i + 1] = byte_pair(s, s.i_shr::<16>(mins[i]));
        }
        sink.scales(s, scales);
        for half in 0..2 {
            for part in 0..2 {
                let mut words = from.words(s, offset + 16 + 32 * half + 16 * part);
                for quarter in 0..4 {
                    sink.run(s, 8 * half + 2 * quarter + part, low_pairs(s, words));
                    words = shift_right_2(s, words);
                }
            }
        }
    }
}

impl Format for Q3K {
    type Act = ActSuper;
    const FORM: Form = Form::SupersCentred;
    const ZERO: i32 = 4;
    const BLOCK_BYTES: usize = 110;

    #[inline(always)]
    fn block<S: Simd, T: Sink<S>>(s: S, from: Source<'_>, offset: usize, sink: &mut T) {
        sink.scales(s, q3_k_scales(s, from, offset));
        let third = s.i_splat(0x0404_0404);
        for part in 0..2 {
            let mut bits = from.words(s, offset + 16 * part);
            for half in 0..2 {
                let mut words = from.words(s, offset + 32 + 32 * half + 16 * part);
                for quarter in 0..4 {
                    let mut values = low_pairs(s, words);
                    for (value, bits) in values.iter_mut().zip(&mut bits) {
                        *value = s.i_or(*value, s.i_and(s.i_shl::<2>(*bits), third));
                        *bits = s.i_shr::<1>(*bits);
                    }
                    sink.run(s, 8 * half + 2 * quarter + part, values);
                    words = shift_right_2(s, words);
                }
            }
        }
    }
}

impl Format for Q4K {
    type Act = ActSuper;
    const FORM: Form = Form::SupersWithMin;
    const ZERO: i32 = 0;
    const BLOCK_BYTES: usize = 144;

    #[inline(always)]
    fn block<S: Simd, T: Sink<S>>(s: S, from: Source<'_>, offset: usize, sink: &mut T) {
        sink.scales(s, header(s, from, offset));
        for pair in 0..4 {
            for part in 0..2 {
                let words = from.words(s, offset + 16 + 32 * pair + 16 * part);
                sink.run(s, 4 * pair + part, low_nibbles(s, words));
                sink.run(s, 4 * pair + 2 + part, high_nibbles(s, words));
            }
        }
    }
}

impl Format for Q5K {
    type Act = ActSuper;
    const FORM: Form = Form::SupersWithMin;
    const ZERO: i32 = 0;
    const BLOCK_BYTES: usize = 176;

    #[inline(always)]
    fn block<S: Simd, T: Sink<S>>(s: S, from: Source<'_>, offset: usize, sink: &mut T) {
        sink.scales(s, header(s, from, offset));
        let fifth = s.i_splat(0x1010_1010);
        for part in 0..2 {
            let mut bits = from.words(s, offset + 16 + 16 * part);
            for pair in 0..4 {
                let words = from.words(s, offset + 48 + 32 * pair + 16 * part);
                let (mut low, mut high) = (low_nibbles(s, words), high_nibbles(s, words));
                for (i, bits) in bits.iter_mut().enumerate() {
                    low[i] = s.i_or(low[i], s.i_and(s.i_shl::<4>(*bits), fifth));
                    high[i] = s.i_or(high[i], s.i_and(s.i_shl::<3>(*bits), fifth));
                    *bits = s.i_shr::<2>(*bits);
                }
                sink.run(s, 4 * pair + part, low);
                sink.run(s, 4 * pair + 2 + part, high);
            }
        }
    }
}

impl Format for Q6K {
    type Act = ActSuper;
    const FORM: Form = Form::SupersCentred;
    const ZERO: i32 = 32;
    const BLOCK_BYTES: usize = 210;

    #[inline(always)]
    fn block<S: Simd, T: Sink<S>>(s: S, from: Source<'_>, offset: usize, sink: &mut T) {
        // The block's last sixteen bytes end in d.
        let [.., last] = from.words(s, offset + 194);
        let mut scales = Scales::one(s, s.half_to_f32(s.i_shr::<16>(last)));
        for (i, bytes) in from.words(s, offset + 192).into_iter().enumerate() {
            scales.subs[4 * i..4 * i + 4].copy_from_slice(&signed_bytes(s, bytes));
        }
        sink.scales(s, scales);
        let top_2 = s.i_splat(0x3030_3030);
        for half in 0..2 {
            for part in 0..2 {
                let first = from.words(s, offset + 64 * half + 16 * part);
                let second = from.words(s, offset + 64 * half + 32 + 16 * part);
                let pairs = from.words(s, offset + 128 + 32 * half + 16 * part);
                let mut quarters = [
                    low_nibbles(s, first),
                    low_nibbles(s, second),
                    high_nibbles(s, first),
                    high_nibbles(s, second),
                ];
                for (i, pairs) in pairs.into_iter().enumerate() {
                    let upper =
                        [s.i_shl::<4>(pairs), s.i_shl::<2>(pairs), pairs, s.i_shr::<2>(pairs)];
                    for (quarter, upper) in quarters.iter_mut().zip(upper) {
                        quarter[i] = s.i_or(quarter[i], s.i_and(upper, top_2));
                    }
                }
                for (quarter, values) in quarters.into_iter().enumerate() {
                    sink.run(s, 8 * half + 2 * quarter + part, values);
                }
            }
        }
    }
}

impl Format for Iq4Xs {
    type Act = ActSuper;
    const FORM: Form = Form::SupersWide;
    const ZERO: i32 = 128;
    const BLOCK_BYTES: usize = 136;

    #[inline(always)]
    fn block<S: Simd, T: Sink<S>>(s: S, from: Source<'_>, offset: usize, sink: &mut T) {
        let [first, mut low, ..] = from.words(s, offset);
        let mut scales = Scales::one(s, s.half_to_f32(first));
        let mut high = s.i_shr::<16>(first);
        for sub in &mut scales.subs[..8] {
            let upper = s.i_shl::<4>(s.i_and(high, s.i_splat(3)));
            let scale = s.i_or(s.i_and(low, s.i_splat(15)), upper);
            *sub = s.i_add(scale, s.i_splat(-32));
            (low, high) = (s.i_shr::<4>(low), s.i_shr::<2>(high));
        }
        sink.scales(s, scales);
        for sub in 0..8 {
            let words = from.words(s, offset + 8 + 16 * sub);
            sink.run(s, 2 * sub, lookup(s, &IQ4_TABLE, low_nibbles(s, words)));
            sink.run(s, 2 * sub + 1, lookup(s, &IQ4_TABLE, high_nibbles(s, words)));
        }
    }
}

/// d, dmin: two f16; twelve bytes with eight 6-bit scales and eight 6-bit minimums.
#[inline(always)]
fn header<S: Simd>(s: S, from: Source<'_>, offset: usize) -> Scales<S> {
    let [d_and_min, first, second, third] = from.words(s, offset);
    let [d, min] = s.halves_to_f32(d_and_min);
    let mut out = Scales { min, ..Scales::one(s, d) };
    let low_6 = s.i_splat(0x3f3f_3f3f);
    let low_4 = s.i_splat(0x0f0f_0f0f);
    let top_2 = s.i_splat(0x3030_3030);
    // Sub-blocks 0..4 have their six bits in place; of 4..8 four bits are in the third word and two on top of the
    // first and second.
    let scales_high = s.i_or(s.i_and(third, low_4), s.i_and(s.i_shr::<2>(first), top_2));
    let mins_high =
        s.i_or(s.i_and(s.i_shr::<4>(third), low_4), s.i_and(s.i_shr::<2>(second), top_2));
    let scales = [s.i_and(first, low_6), scales_high];
    let mins = [s.i_and(second, low_6), mins_high];
    for half in 0..2 {
        let at = 4 * half..4 * half + 4;
        out.subs[at.clone()].copy_from_slice(&unsigned_bytes(s, scales[half]));
        for (to, min) in out.mins[at].iter_mut().zip(unsigned_bytes(s, mins[half])) {
            *to = s.i_or(min, s.i_shl::<16>(min));
        }
    }
    out
}

/// Sixteen 6-bit scales minus 32, in twelve bytes: the low four bits of scales 0..8 and 8..16 in the low and high
/// nibbles of bytes 0..8, the bit pairs of 0..4, 4..8 … from the bottom up in bytes 8..12. Then d.
#[inline(always)]
fn q3_k_scales<S: Simd>(s: S, from: Source<'_>, offset: usize) -> Scales<S> {
    // Sixteen bytes that end with the block: two before the scales shift them by half a word.
    let [w0, w1, w2, w3] = from.words(s, offset + 94);
    let first = s.i_or(s.i_shr::<16>(w0), s.i_shl::<16>(w1));
    let second = s.i_or(s.i_shr::<16>(w1), s.i_shl::<16>(w2));
    let pairs = s.i_or(s.i_shr::<16>(w2), s.i_shl::<16>(w3));
    let mut out = Scales::one(s, s.half_to_f32(s.i_shr::<16>(w3)));
    let (low_4, top_2) = (s.i_splat(0x0f0f_0f0f), s.i_splat(0x3030_3030));
    let low = [first, second, s.i_shr::<4>(first), s.i_shr::<4>(second)];
    let high = [s.i_shl::<4>(pairs), s.i_shl::<2>(pairs), pairs, s.i_shr::<2>(pairs)];
    for i in 0..4 {
        let scales = s.i_or(s.i_and(low[i], low_4), s.i_and(high[i], top_2));
        for (to, scale) in out.subs[4 * i..].iter_mut().zip(unsigned_bytes(s, scales)) {
            *to = s.i_add(scale, s.i_splat(-32));
        }
    }
    out
}

/// The four bytes of each lane, widened.
#[inline(always)]
fn unsigned_bytes<S: Simd>(s: S, bytes: S::I) -> [S::I; 4] {
    let low_8 = s.i_splat(0xff);
    [
        s.i_and(bytes, low_8),
        s.i_and(s.i_shr::<8>(bytes), low_8),
        s.i_and(s.i_shr::<16>(bytes), low_8),
        s.i_shr::<24>(bytes),
    ]
}

/// The two low bytes of each lane as i16.
#[inline(always)]
fn byte_pair<S: Simd>(s: S, bytes: S::I) -> S::I {
    s.i_or(s.i_and(bytes, s.i_splat(0xff)), s.i_and(s.i_shl::<8>(bytes), s.i_splat(0x00ff_0000)))
}

/// The four signed bytes of each lane, widened.
#[inline(always)]
fn signed_bytes<S: Simd>(s: S, bytes: S::I) -> [S::I; 4] {
    [
        s.i_sar::<24>(s.i_shl::<24>(bytes)),
        s.i_sar::<24>(s.i_shl::<16>(bytes)),
        s.i_sar::<24>(s.i_shl::<8>(bytes)),
        s.i_sar::<24>(bytes),
    ]
}

/// The low two bits of each byte.
#[inline(always)]
fn low_pairs<S: Simd>(s: S, [a, b, c, d]: [S::I; 4]) -> [S::I; 4] {
    let mask = s.i_splat(0x0303_0303);
    [s.i_and(a, mask), s.i_and(b, mask), s.i_and(c, mask), s.i_and(d, mask)]
}

/// Two bits on, the upper ones of each byte running over from the next.
#[inline(always)]
fn shift_right_2<S: Simd>(s: S, [a, b, c, d]: [S::I; 4]) -> [S::I; 4] {
    [s.i_shr::<2>(a), s.i_shr::<2>(b), s.i_shr::<2>(c), s.i_shr::<2>(d)]
}
