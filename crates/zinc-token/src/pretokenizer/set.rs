//! Character sets and runs over them.

use crate::unicode::{CLASSES, Class, ClassTable, END, decode};

/// A piece of text under a scanner. Positions are byte offsets on character boundaries.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    pub(super) bytes: &'a [u8],
    table: &'static ClassTable,
}

impl<'a> Text<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), table: &CLASSES }
    }

    /// The same text cut to `start..end`; nothing outside is seen any more, as the expressions demand.
    pub(super) fn slice(self, start: usize, end: usize) -> Self {
        Self { bytes: &self.bytes[start..end], table: self.table }
    }

    pub(super) fn len(self) -> usize {
        self.bytes.len()
    }

    /// Class and length of the character at `at`; (`END`, 0) behind the last one.
    #[inline]
    pub(super) fn class(self, at: usize) -> (Class, usize) {
        if at >= self.bytes.len() {
            return (END, 0);
        }
        let (cp, len) = decode(self.bytes, at);
        (self.table.class(cp), len)
    }

    /// The byte at `at`, 0 behind the end (no expression asks for NUL).
    #[inline]
    pub(super) fn byte(self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// End of the longest run of characters from `at` whose class intersects `mask`.
    #[inline]
    pub(super) fn run(self, mut at: usize, mask: Class) -> usize {
        loop {
            let (class, len) = self.class(at);
            if class & mask == 0 {
                return at;
            }
            at += len;
        }
    }

    /// End of the longest run of characters from `at` whose class does not intersect `mask`.
    #[inline]
    pub(super) fn run_outside(self, at: usize, mask: Class) -> usize {
        let mask = mask | END;
        let mut at = at;
        loop {
            let (class, len) = self.class(at);
            if class & mask != 0 {
                return at;
            }
            at += len;
        }
    }

    #[inline]
    pub(super) fn in_set(self, at: usize, set: &Set) -> Option<usize> {
        if at >= self.bytes.len() {
            return None;
        }
        let (cp, len) = decode(self.bytes, at);
        set.contains(cp, self.table.class(cp)).then_some(len)
    }
}

/// A bracket expression: classes, ASCII characters and code point ranges, possibly negated.
#[derive(Clone, Copy)]
pub(super) struct Set {
    pub(super) classes: Class,
    pub(super) ascii: u128,
    /// Sorted, not overlapping, both ends included.
    pub(super) ranges: &'static [(char, char)],
    pub(super) negated: bool,
}

impl Set {
    pub(super) const fn classes(classes: Class) -> Self {
        Self { classes, ascii: 0, ranges: &[], negated: false }
    }

    pub(super) const fn ascii(characters: &str) -> Self {
        Self { classes: 0, ascii: ascii_bits(characters), ranges: &[], negated: false }
    }

    pub(super) const fn ranges(ranges: &'static [(char, char)]) -> Self {
        // What is ASCII becomes bits, so that most text needs no search.
        let mut ascii = 0;
        let mut i = 0;
        while i < ranges.len() {
            let mut cp = ranges[i].0 as u32;
            while cp <= ranges[i].1 as u32 && cp < 128 {
                ascii |= 1u128 << cp;
                cp += 1;
            }
            i += 1;
        }
        Self { classes: 0, ascii, ranges, negated: false }
    }

    pub(super) const fn with_ascii(self, characters: &str) -> Self {
        Self { ascii: self.ascii | ascii_bits(characters), ..self }
    }

    pub(super) const fn with_classes(self, classes: Class) -> Self {
        Self { classes: self.classes | classes, ..self }
    }

    pub(super) const fn not(self) -> Self {
        Self { negated: !self.negated, ..self }
    }

    #[inline]
    fn contains(&self, cp: u32, class: Class) -> bool {
        let listed = match cp {
            0..128 => self.ascii >> cp & 1 != 0,
            _ => !self.ranges.is_empty() && self.in_ranges(cp),
        };
        let member = listed || class & self.classes != 0;
        member != self.negated
    }

    fn in_ranges(&self, cp: u32) -> bool {
        let after = self.ranges.partition_point(|&(first, _)| first as u32 <= cp);
        after > 0 && cp <= self.ranges[after - 1].1 as u32
    }
}

const fn ascii_bits(characters: &str) -> u128 {
    let bytes = characters.as_bytes();
    let mut bits = 0;
    let mut i = 0;
    while i < bytes.len() {
        assert!(bytes[i] < 128, "ASCII only; other characters go into `ranges`");
        bits |= 1u128 << bytes[i];
        i += 1;
    }
    bits
}

/// `[!-/:-@\[-`{-~]`, which is also how DeepSeek's expression spells ASCII punctuation.
pub(super) const ASCII_PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// The letters with case that DeepSeek LLM's expression lists (`\p{L&}` of its Unicode version, plus a few letter numbers).
pub(super) const DEEPSEEK_CASED: Set = Set::ranges(&[
    ('A', 'Z'),
    ('a', 'z'),
    ('\u{b5}', '\u{b5}'),
    ('\u{c0}', '\u{d6}'),
    ('\u{d8}', '\u{f6}'),
    ('\u{f8}', '\u{1ba}'),
    ('\u{1bc}', '\u{1bf}'),
    ('\u{1c4}', '\u{293}'),
    ('\u{295}', '\u{2af}'),
    ('\u{370}', '\u{373}'),
    ('\u{376}', '\u{376}'),
    ('\u{377}', '\u{377}'),
    ('\u{37b}', '\u{37d}'),
    ('\u{37f}', '\u{37f}'),
    ('\u{386}', '\u{386}'),
    ('\u{388}', '\u{38a}'),
    ('\u{38c}', '\u{38c}'),
    ('\u{38e}', '\u{3a1}'),
    ('\u{3a3}', '\u{3f5}'),
    ('\u{3f7}', '\u{481}'),
    ('\u{48a}', '\u{52f}'),
    ('\u{531}', '\u{556}'),
    ('\u{10a0}', '\u{10c5}'),
    ('\u{13a0}', '\u{13f5}'),
    ('\u{13f8}', '\u{13fd}'),
    ('\u{1c90}', '\u{1cba}'),
    ('\u{1cbd}', '\u{1cbf}'),
    ('\u{1d00}', '\u{1d2b}'),
    ('\u{1d6b}', '\u{1d77}'),
    ('\u{1d79}', '\u{1d9a}'),
    ('\u{1e00}', '\u{1f15}'),
    ('\u{1f18}', '\u{1f1d}'),
    ('\u{1f20}', '\u{1f45}'),
    ('\u{1f48}', '\u{1f4d}'),
    ('\u{1f50}', '\u{1f57}'),
    ('\u{1f59}', '\u{1f59}'),
    ('\u{1f5b}', '\u{1f5b}'),
    ('\u{1f5d}', '\u{1f5d}'),
    ('\u{1f5f}', '\u{1f7d}'),
    ('\u{1f80}', '\u{1fb4}'),
    ('\u{1fb6}', '\u{1fbc}'),
    ('\u{1fbe}', '\u{1fbe}'),
    ('\u{1fc2}', '\u{1fc4}'),
    ('\u{1fc6}', '\u{1fcc}'),
    ('\u{1fd0}', '\u{1fd3}'),
    ('\u{1fd6}', '\u{1fdb}'),
    ('\u{1fe0}', '\u{1fec}'),
    ('\u{1ff2}', '\u{1ff4}'),
    ('\u{1ff6}', '\u{1ffc}'),
    ('\u{2102}', '\u{2102}'),
    ('\u{2107}', '\u{2107}'),
    ('\u{210a}', '\u{2113}'),
    ('\u{2115}', '\u{2115}'),
    ('\u{2119}', '\u{211d}'),
    ('\u{2124}', '\u{2124}'),
    ('\u{2126}', '\u{2126}'),
    ('\u{2128}', '\u{2128}'),
    ('\u{212a}', '\u{212d}'),
    ('\u{212f}', '\u{2134}'),
    ('\u{2139}', '\u{2139}'),
    ('\u{213c}', '\u{213f}'),
    ('\u{2145}', '\u{2149}'),
    ('\u{214e}', '\u{214e}'),
    ('\u{2183}', '\u{2183}'),
    ('\u{2184}', '\u{2184}'),
    ('\u{2c00}', '\u{2c7b}'),
    ('\u{2c7e}', '\u{2ce4}'),
    ('\u{2ceb}', '\u{2cee}'),
    ('\u{2cf2}', '\u{2cf2}'),
    ('\u{2cf3}', '\u{2cf3}'),
    ('\u{a640}', '\u{a66d}'),
    ('\u{a680}', '\u{a69b}'),
    ('\u{a722}', '\u{a76f}'),
    ('\u{a771}', '\u{a787}'),
    ('\u{a78b}', '\u{a78e}'),
    ('\u{ab70}', '\u{abbf}'),
    ('\u{fb00}', '\u{fb06}'),
    ('\u{fb13}', '\u{fb17}'),
    ('\u{ff21}', '\u{ff3a}'),
    ('\u{ff41}', '\u{ff5a}'),
    ('\u{10400}', '\u{1044f}'),
    ('\u{104b0}', '\u{104d3}'),
    ('\u{104d8}', '\u{104fb}'),
    ('\u{10c80}', '\u{10cb2}'),
    ('\u{10cc0}', '\u{10cf2}'),
    ('\u{118a0}', '\u{118df}'),
    ('\u{1e900}', '\u{1e943}'),
]);

/// `[!-/:-~！-／：-～‘-‟　-。]`; note that `:-~` includes letters.
pub(super) const DEEPSEEK_PUNCTUATION: Set = Set::ranges(&[
    ('!', '/'),
    (':', '~'),
    ('\u{2018}', '\u{201f}'),
    ('\u{3000}', '\u{3002}'),
    ('\u{ff01}', '\u{ff0f}'),
    ('\u{ff1a}', '\u{ff5e}'),
]);

/// `[一-龥ࠀ-一가-퟿]`
pub(super) const DEEPSEEK_CJK: Set =
    Set::ranges(&[('\u{800}', '\u{4e00}'), ('\u{4e01}', '\u{9fa5}'), ('\u{ac00}', '\u{d7ff}')]);

/// `[一-龥぀-ゟ゠-ヿ]`
pub(super) const HAN_KANA: Set = Set::ranges(&[('\u{3040}', '\u{30ff}'), ('\u{4e00}', '\u{9fa5}')]);

/// The scripts that AFMoE's expression keeps apart: Han, kana, Thai, Lao, Khmer, Myanmar, Hangul.
pub(super) const AFMOE_ASIAN: Set = Set::ranges(&[
    ('\u{e40}', '\u{e7f}'),
    ('\u{e80}', '\u{eff}'),
    ('\u{1000}', '\u{109f}'),
    ('\u{1100}', '\u{11ff}'),
    ('\u{1780}', '\u{17ff}'),
    ('\u{2f00}', '\u{2fdf}'),
    ('\u{3040}', '\u{30ff}'),
    ('\u{3400}', '\u{4dbf}'),
    ('\u{4e00}', '\u{9fff}'),
    ('\u{a9e0}', '\u{a9ff}'),
    ('\u{aa60}', '\u{aa7f}'),
    ('\u{ac00}', '\u{d7af}'),
    ('\u{f900}', '\u{faff}'),
    ('\u{ff65}', '\u{ff9f}'),
]);
