//! Unicode character classes as bit sets, in a two-stage table.
//!
//! The published pre-tokenizer expressions speak of general categories, scripts and `\s`. A scanner asks one question per
//! character ("does its class intersect this mask?"), so every class that any expression names is one bit.
//! The data is that of the `regex-syntax` crate (Unicode 16).

use std::collections::HashMap;
use std::sync::LazyLock;

use regex_syntax::hir::{Class as HirClass, HirKind};

/// A set of classes; a character's class has the bits of every class it belongs to.
pub(crate) type Class = u16;

pub(crate) const LU: Class = 1 << 0;
pub(crate) const LL: Class = 1 << 1;
pub(crate) const LT: Class = 1 << 2;
pub(crate) const LM: Class = 1 << 3;
pub(crate) const LO: Class = 1 << 4;
/// `\p{L}`
pub(crate) const L: Class = LU | LL | LT | LM | LO;
/// `\p{M}`
pub(crate) const M: Class = 1 << 5;
/// `\p{N}`
pub(crate) const N: Class = 1 << 6;
/// `\p{P}`
pub(crate) const P: Class = 1 << 7;
/// `\p{S}`
pub(crate) const S: Class = 1 << 8;
/// `\s`: the property White_Space.
pub(crate) const WS: Class = 1 << 9;
/// `[\r\n]`
pub(crate) const NL: Class = 1 << 10;
/// `\p{Han}`: the script, which also holds radicals, 々 and 〇.
pub(crate) const HAN: Class = 1 << 11;
/// `\d`, `\p{Nd}`
pub(crate) const ND: Class = 1 << 12;
/// `\w`
pub(crate) const WORD: Class = 1 << 13;
/// Not a character: the position behind the last one.
pub(crate) const END: Class = 1 << 15;

const SOURCES: [(&str, Class); 14] = [
    (r"\p{Lu}", LU),
    (r"\p{Ll}", LL),
    (r"\p{Lt}", LT),
    (r"\p{Lm}", LM),
    (r"\p{Lo}", LO),
    (r"\p{M}", M),
    (r"\p{N}", N),
    (r"\p{P}", P),
    (r"\p{S}", S),
    (r"\s", WS),
    (r"[\r\n]", NL),
    (r"\p{Han}", HAN),
    (r"\d", ND),
    (r"\w", WORD),
];

const BLOCK: usize = 128;
const N_CODE_POINTS: usize = 0x11_0000;

/// Classes of all code points: `blocks[index[cp / 128]][cp % 128]`. Equal blocks are stored once (about 90 KB in all).
pub(crate) struct ClassTable {
    ascii: [Class; 128],
    index: Vec<u16>,
    blocks: Vec<[Class; BLOCK]>,
}

/// The one table, built on first use in a few milliseconds.
pub(crate) static CLASSES: LazyLock<ClassTable> = LazyLock::new(ClassTable::build);

impl ClassTable {
    fn build() -> Self {
        let mut flat = vec![0 as Class; N_CODE_POINTS];
        for (pattern, bit) in SOURCES {
            for (first, last) in ranges_of(pattern) {
                for class in &mut flat[first as usize..=last as usize] {
                    *class |= bit;
                }
            }
        }
        let mut seen: HashMap<[Class; BLOCK], u16> = HashMap::new();
        let mut blocks = Vec::new();
        let mut index = Vec::with_capacity(N_CODE_POINTS / BLOCK);
        for chunk in flat.as_chunks::<BLOCK>().0 {
            let id = *seen.entry(*chunk).or_insert_with(|| {
                blocks.push(*chunk);
                (blocks.len() - 1) as u16 // at most 8704 blocks
            });
            index.push(id);
        }
        Self { ascii: blocks[0], index, blocks }
    }

    /// The class of code point `cp` (0 for one outside every class named above, or not a code point).
    #[inline]
    pub(crate) fn class(&self, cp: u32) -> Class {
        if cp < 128 {
            return self.ascii[cp as usize];
        }
        match self.index.get(cp as usize / BLOCK) {
            Some(&block) => self.blocks[block as usize][cp as usize % BLOCK],
            None => 0,
        }
    }
}

/// The code point ranges of a pattern that is one character class.
fn ranges_of(pattern: &str) -> Vec<(u32, u32)> {
    let hir = regex_syntax::parse(pattern);
    debug_assert!(hir.is_ok(), "{pattern} is a constant of this file");
    match hir.map(|hir| hir.into_kind()) {
        Ok(HirKind::Class(HirClass::Unicode(class))) => {
            class.ranges().iter().map(|r| (r.start() as u32, r.end() as u32)).collect()
        }
        _ => Vec::new(),
    }
}

/// Decodes the character that starts at byte `at`: code point and length in bytes.
///
/// `text` must be the bytes of a `str` and `at` a character boundary before its end; other input gives a wrong
/// character or an index panic, never undefined behaviour.
#[inline]
pub(crate) fn decode(text: &[u8], at: usize) -> (u32, usize) {
    let first = u32::from(text[at]);
    let tail = |i: usize| u32::from(text[at + i] & 0x3f);
    match first {
        0..0x80 => (first, 1),
        0x80..0xe0 => ((first & 0x1f) << 6 | tail(1), 2),
        0xe0..0xf0 => ((first & 0x0f) << 12 | tail(1) << 6 | tail(2), 3),
        _ => ((first & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_known_characters() {
        let check = |c: char, want: Class| assert_eq!(CLASSES.class(c as u32), want, "{c:?}");
        check('a', LL | WORD);
        check('Z', LU | WORD);
        check('7', N | ND | WORD);
        check('$', S);
        check('_', P | WORD);
        check(' ', WS);
        check('\n', WS | NL);
        check('\u{85}', WS);
        check('\u{3000}', WS);
        check('ǅ', LT | WORD);
        check('一', LO | HAN | WORD);
        check('々', LM | HAN | WORD);
        check('〇', N | HAN | WORD);
        check('\u{301}', M | WORD);
        check('½', N);
        check('\u{1}', 0);
        assert_eq!(CLASSES.class(u32::MAX), 0);
    }

    #[test]
    fn decode_agrees_with_the_standard_library() {
        for c in (0..=0x10_ffff).filter_map(char::from_u32) {
            let mut buffer = [0; 4];
            let text = c.encode_utf8(&mut buffer).as_bytes();
            assert_eq!(decode(text, 0), (c as u32, text.len()));
        }
    }
}
