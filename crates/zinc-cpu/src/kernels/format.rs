//! Formats: how the blocks of each quantised weight type become integers with scales, sixteen rows at a time.
//!
//! A [`Format`] reads one block of each of sixteen rows and hands its values to a [`Sink`] in vectors that hold the same
//! four consecutive k of every row, one row per lane. The sink either stores them in a panel (many activation rows) or
//! multiplies them on the spot (one row). Both see the same integers, so both give the same bits.
//! Cost per 64 packed bytes: 2.5 register operations for the transposition, plus the bit fields.

mod blocks;
pub(crate) mod floats;
mod supers;

pub(crate) use blocks::{Iq4Nl, Mxfp4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
pub(crate) use supers::{Iq4Xs, Q2K, Q3K, Q4K, Q5K, Q6K};

use super::act::ActBlocks;
use crate::simd::Simd;
use zinc_quant::GgmlType;

/// How the values of a weight type are multiplied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// Super-blocks of 256 with eight scales and minimums (Q4_K, Q5_K).
    SupersWithMin,
    /// Super-blocks with sixteen scales and minimums (Q2_K).
    SupersWithMins16,
    /// Super-blocks with sixteen signed scales (Q3_K, Q6_K).
    SupersCentred,
    /// Super-blocks of full bytes with eight signed scales (IQ4_XS).
    SupersWide,
    /// Blocks of 32 with one scale (Q4_0, Q5_0, MXFP4).
    Blocks,
    /// Blocks of 32 with one scale and one minimum (Q4_1, Q5_1).
    BlocksWithMin,
    /// Blocks of 32 full bytes (Q8_0, IQ4_NL).
    BlocksWide,
}

impl Form {
    /// The integer form of `ty`, when it has one.
    pub(crate) fn of(ty: GgmlType) -> Option<Form> {
        with_format!(ty, F => Some(F::FORM), else None)
    }

    /// Type that `QuantizeAct` converts the activations to.
    pub(crate) fn activations(self) -> GgmlType {
        if self.is_super() { GgmlType::Q8_K } else { GgmlType::Q8_1 }
    }

    /// Whether blocks hold 256 values instead of 32.
    pub(crate) const fn is_super(self) -> bool {
        !matches!(self, Form::Blocks | Form::BlocksWithMin | Form::BlocksWide)
    }

    /// Whether values are full bytes, stored with 128 added, instead of 0..=63.
    pub(crate) const fn is_wide(self) -> bool {
        matches!(self, Form::SupersWide | Form::BlocksWide)
    }

    /// Whether a minimum is subtracted (super-blocks) or added (blocks) instead of a zero point.
    pub(crate) const fn has_min(self) -> bool {
        matches!(self, Form::SupersWithMin | Form::SupersWithMins16 | Form::BlocksWithMin)
    }

    /// Runs of sixteen values that share an integer scale, in super-blocks.
    pub(crate) const fn runs_per_scale(self) -> usize {
        if matches!(self, Form::SupersWithMin | Form::SupersWide) { 2 } else { 1 }
    }
}

/// Sixteen rows of weights.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub data: &'a [u8],
    /// Bytes from row to row.
    pub stride: usize,
}

impl Source<'_> {
    /// The 16 bytes at `offset` of each row as four vectors of four bytes per row.
    #[inline(always)]
    fn words<S: Simd>(self, s: S, offset: usize) -> [S::I; 4] {
        s.transpose(self.data, offset, self.stride)
    }
}

/// Scales of one block of each row.
#[derive(Clone, Copy)]
pub(crate) struct Scales<S: Simd> {
    /// Integer scales of the sub-blocks of a super-block: sixteen or eight.
    pub subs: [S::I; 16],
    /// Integer minimum of each 32 values of a super-block: two i16 per lane for the two runs of 16.
    pub mins: [S::I; 8],
    /// Scale of the block.
    pub d: S::F,
    /// Minimum of the block, or scale of its minimums.
    pub min: S::F,
}

impl<S: Simd> Scales<S> {
    /// One scale, no minimum.
    #[inline(always)]
    pub(crate) fn one(s: S, d: S::F) -> Scales<S> {
        let zero = s.i_splat(0);
        Scales { subs: [zero; 16], mins: [zero; 8], d, min: s.splat(0.0) }
    }
}

/// Takes the values of a block.
pub(crate) trait Sink<S: Simd> {
    /// Comes before the values of a block.
    fn scales(&mut self, s: S, scales: Scales<S>);
    /// Values `16·run .. 16·run + 16` of the block, unsigned bytes.
    fn run(&mut self, s: S, run: usize, values: [S::I; 4]);
}

/// A weight type with integer products.
pub(crate) trait Format {
    /// The activations that it is multiplied with.
    type Act: ActBlocks;
    const FORM: Form;
    /// Stored value that stands for zero; of no meaning with a minimum or full bytes.
    const ZERO: i32;
    const BLOCK_BYTES: usize;

    /// Hands over the blocks that start at `offset` of each row.
    fn block<S: Simd, T: Sink<S>>(s: S, from: Source<'_>, offset: usize, sink: &mut T);
}

/// `$body` with `$format` as the [`Format`] of the type `$ty`, or `$none` for types without one.
macro_rules! with_format {
    ($ty:expr, $format:ident => $body:expr, else $none:expr) => {
        with_format!(@ $ty, $format => $body, else $none;
            Q4_0 Q4_0, Q4_1 Q4_1, Q5_0 Q5_0, Q5_1 Q5_1, Q8_0 Q8_0, MXFP4 Mxfp4, IQ4_NL Iq4Nl,
            Q2_K Q2K, Q3_K Q3K, Q4_K Q4K, Q5_K Q5K, Q6_K Q6K, IQ4_XS Iq4Xs)
    };
    (@ $ty:expr, $format:ident => $body:expr, else $none:expr; $($name:ident $type:ident),*) => {
        match $ty {
            $(zinc_quant::GgmlType::$name => {
                type $format = $crate::kernels::format::$type;
                $body
            })*
            _ => $none,
        }
    };
}
pub(crate) use with_format;

/// The low four bits of each byte.
#[inline(always)]
fn low_nibbles<S: Simd>(s: S, words: [S::I; 4]) -> [S::I; 4] {
    let mask = s.i_splat(0x0f0f_0f0f);
    let [a, b, c, d] = words;
    [s.i_and(a, mask), s.i_and(b, mask), s.i_and(c, mask), s.i_and(d, mask)]
}

/// The high four bits of each byte.
#[inline(always)]
fn high_nibbles<S: Simd>(s: S, [a, b, c, d]: [S::I; 4]) -> [S::I; 4] {
    low_nibbles(s, [s.i_shr::<4>(a), s.i_shr::<4>(b), s.i_shr::<4>(c), s.i_shr::<4>(d)])
}

/// Each byte replaced by that entry of the table.
#[inline(always)]
fn lookup<S: Simd>(s: S, table: &[u8; 16], [a, b, c, d]: [S::I; 4]) -> [S::I; 4] {
    [s.lookup(table, a), s.lookup(table, b), s.lookup(table, c), s.lookup(table, d)]
}

/// `table` with `zero` added, for values that are looked up as unsigned bytes.
const fn shifted(table: &[i8; 16], zero: i32) -> [u8; 16] {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = (table[i] as i32 + zero) as u8;
        i += 1;
    }
    out
}
