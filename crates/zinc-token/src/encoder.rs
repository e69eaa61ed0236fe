//! From a word to token ids: first symbols, merges, fallback to bytes, and the cache around it.

use crate::bpe::MergeTable;
use crate::cache::WordCache;
use crate::error::TokenError;
use crate::merge::{MergeBuffers, NO_ID, Symbol, merge_all};
use crate::pretokenizer::{Alphabet, PreTokenizer};
use crate::spm::Scores;
use crate::vocab::{Spelling, TextIndex, Vocab, VocabSpec, byte_of};

/// Encodes words with one vocabulary.
pub(crate) struct WordEncoder {
    rule: Rule,
    index: TextIndex,
    /// Symbol of a single byte: of each byte, or of each ASCII character where symbols are characters.
    first_symbols: [u32; 256],
    /// Token that stands for a byte of text which no other token covers.
    byte_tokens: [u32; 256],
    /// Token for such text in a vocabulary without byte tokens.
    unknown: Option<u32>,
    whole_words: WholeWords,
    /// Bytes behind which a blank may merge to the left; behind any other byte a blank starts a word of its own.
    joins_blank: [bool; 256],
}

enum Rule {
    /// Byte-pair encoding from bytes.
    Bytes(MergeTable),
    /// Byte-pair encoding from characters.
    Characters(MergeTable),
    /// SentencePiece scores, from characters.
    Scores(Scores),
}

#[derive(PartialEq, Eq)]
enum WholeWords {
    /// Words are always merged from their parts.
    No,
    /// A word that is a token is that token.
    Yes,
    /// So it is only for runs of newlines.
    Newlines,
}

/// Working memory of one encoding thread.
pub(crate) struct Scratch {
    cache: WordCache,
    symbols: Vec<Symbol>,
    buffers: MergeBuffers,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { cache: WordCache::new(), symbols: Vec::new(), buffers: MergeBuffers::default() }
    }
}

impl WordEncoder {
    /// Byte-pair encoding with the merges of `spec`.
    pub(crate) fn bpe(
        spec: &VocabSpec,
        pre: &PreTokenizer,
        vocab: &mut Vocab,
    ) -> Result<Self, TokenError> {
        let spelling = spelling_of(pre.alphabet);
        let mut index = vocab.index_mergeable(spec, spelling);
        let merges = spec
            .merges
            .as_deref()
            .ok_or(TokenError::MissingKey { key: "tokenizer.ggml.merges" })?;
        let table = MergeTable::build(merges, spelling, vocab, &mut index);
        let (rule, whole_words) = match pre.alphabet {
            Alphabet::Bytes if pre.ignore_merges => (Rule::Bytes(table), WholeWords::Yes),
            Alphabet::Bytes => (Rule::Bytes(table), WholeWords::No),
            Alphabet::Characters => (Rule::Characters(table), WholeWords::Newlines),
        };
        Ok(Self::new(spec, vocab, index, rule, whole_words))
    }

    /// SentencePiece merging by the scores of `spec`.
    pub(crate) fn spm(spec: &VocabSpec, vocab: &mut Vocab) -> Result<Self, TokenError> {
        let index = vocab.index_mergeable(spec, Spelling::Plain);
        let scores = spec
            .scores
            .as_deref()
            .ok_or(TokenError::MissingKey { key: "tokenizer.ggml.scores" })?;
        Ok(Self::new(spec, vocab, index, Rule::Scores(Scores::new(scores)), WholeWords::No))
    }

    fn new(
        spec: &VocabSpec,
        vocab: &mut Vocab,
        mut index: TextIndex,
        rule: Rule,
        whole_words: WholeWords,
    ) -> Self {
        let mut first_symbols = [NO_ID; 256];
        let mut byte_tokens = [NO_ID; 256];
        for byte in 0..=255u8 {
            let symbol = match rule {
                // Bytes without a token still take part in merges that name them.
                Rule::Bytes(_) => vocab.symbol(&mut index, &[byte]),
                _ => vocab.lookup(&index, &[byte]).unwrap_or(NO_ID),
            };
            first_symbols[usize::from(byte)] = symbol;
            if matches!(rule, Rule::Bytes(_)) && (symbol as usize) < vocab.n_tokens() {
                byte_tokens[usize::from(byte)] = symbol;
            }
        }
        if !matches!(rule, Rule::Bytes(_)) {
            for (id, text) in spec.tokens.iter().enumerate() {
                if let Some(byte) = byte_of(text)
                    && byte_tokens[usize::from(byte)] == NO_ID
                {
                    byte_tokens[usize::from(byte)] = id as u32;
                }
            }
        }
        let joins_blank = vocab.bytes_before_blanks(&index);
        let unknown = matches!(rule, Rule::Scores(_)).then_some(vocab.roles().unk).flatten();
        Self { rule, index, first_symbols, byte_tokens, unknown, whole_words, joins_blank }
    }

    /// Cuts `text`, in which blanks are not yet boundaries, where no merge can reach across a blank, and encodes the
    /// parts. The result is the same as without cutting; the parts are short and recur.
    pub(crate) fn encode_at_blanks(
        &self,
        vocab: &Vocab,
        text: &[u8],
        scratch: &mut Scratch,
        ids: &mut Vec<u32>,
    ) {
        let mut start = 0;
        let mut previous = b' ';
        for (at, &byte) in text.iter().enumerate() {
            if byte == b' ' && previous != b' ' && !self.joins_blank[usize::from(previous)] {
                self.encode(vocab, &text[start..at], scratch, ids);
                start = at;
            }
            previous = byte;
        }
        self.encode(vocab, &text[start..], scratch, ids);
    }

    /// Encodes one word.
    #[inline]
    pub(crate) fn encode(
        &self,
        vocab: &Vocab,
        word: &[u8],
        scratch: &mut Scratch,
        ids: &mut Vec<u32>,
    ) {
        let Some(slot) = scratch.cache.slot(word) else {
            self.encode_uncached(vocab, word, scratch, ids);
            return;
        };
        if let Some(known) = scratch.cache.get(&slot) {
            ids.extend_from_slice(known);
            return;
        }
        let before = ids.len();
        self.encode_uncached(vocab, word, scratch, ids);
        scratch.cache.put(&slot, &ids[before..]);
    }

    fn encode_uncached(
        &self,
        vocab: &Vocab,
        word: &[u8],
        scratch: &mut Scratch,
        ids: &mut Vec<u32>,
    ) {
        let whole = match self.whole_words {
            WholeWords::No => false,
            WholeWords::Yes => true,
            WholeWords::Newlines => word.iter().all(|&b| b == b'\n'),
        };
        if whole && let Some(id) = vocab.token(&self.index, word) {
            ids.push(id);
            return;
        }
        let Scratch { symbols, buffers, .. } = scratch;
        symbols.clear();
        match &self.rule {
            Rule::Bytes(table) => {
                symbols.extend((0u32..).zip(word).map(|(at, &byte)| Symbol {
                    start: at,
                    end: at + 1,
                    id: self.first_symbols[usize::from(byte)],
                }));
                merge_all(symbols, buffers, |left, right| table.pair_in(word, left, right));
            }
            Rule::Characters(table) => {
                self.push_characters(vocab, word, symbols);
                merge_all(symbols, buffers, |left, right| table.pair(left, right));
            }
            Rule::Scores(scores) => {
                self.push_characters(vocab, word, symbols);
                merge_all(symbols, buffers, |left, right| {
                    scores.pair(vocab, &self.index, word, left, right)
                });
            }
        }
        for symbol in symbols.iter() {
            if (symbol.id as usize) < vocab.n_tokens() {
                ids.push(symbol.id);
            } else {
                self.push_bytes(&word[symbol.start as usize..symbol.end as usize], ids);
            }
        }
    }

    fn push_characters(&self, vocab: &Vocab, word: &[u8], symbols: &mut Vec<Symbol>) {
        let mut at = 0;
        while at < word.len() {
            let len = match word[at] {
                0..0xc0 => 1,
                0xc0..0xe0 => 2,
                0xe0..0xf0 => 3,
                _ => 4,
            };
            let end = word.len().min(at + len);
            let id = match word[at] {
                byte @ 0..0x80 => self.first_symbols[usize::from(byte)],
                _ => vocab.lookup(&self.index, &word[at..end]).unwrap_or(NO_ID),
            };
            symbols.push(Symbol { start: at as u32, end: end as u32, id });
            at = end;
        }
    }

    /// Text that is no token: byte tokens, or the unknown token, or (in vocabularies that have neither, which no
    /// published one is) nothing, as in llama.cpp.
    fn push_bytes(&self, text: &[u8], ids: &mut Vec<u32>) {
        for &byte in text {
            // Where symbols are characters, the vocabulary spells a blank as ▁.
            let spelled = match byte {
                b' ' if !matches!(self.rule, Rule::Bytes(_)) => "▁".as_bytes(),
                _ => std::slice::from_ref(&byte),
            };
            for &byte in spelled {
                match self.byte_tokens[usize::from(byte)] {
                    NO_ID => ids.extend(self.unknown),
                    id => ids.push(id),
                }
            }
        }
    }
}

/// How vocabularies of this alphabet spell their texts.
pub(crate) fn spelling_of(alphabet: Alphabet) -> Spelling {
    match alphabet {
        Alphabet::Bytes => Spelling::ByteAlphabet,
        Alphabet::Characters => Spelling::Plain,
    }
}
