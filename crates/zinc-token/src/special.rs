//! Finding special tokens in text.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::error::TokenError;
use crate::vocab::Vocab;

/// Searches text for the tokens that are whole wherever they stand. Of overlapping candidates the leftmost wins, then the
/// longest. Time is linear in the text, however many tokens there are.
pub(crate) struct SpecialSearch {
    automaton: Option<AhoCorasick>,
    ids: Vec<u32>,
}

/// A part of a text, as [`crate::Tokenizer::partition`] cuts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Text between special tokens; not empty.
    Text(&'a str),
    /// A special token that the text spells.
    Token(u32),
}

impl SpecialSearch {
    /// Searches user-defined tokens, and all special ones too if `parse_special`.
    pub(crate) fn new(vocab: &Vocab, parse_special: bool) -> Result<Self, TokenError> {
        let searched = vocab.searched(parse_special);
        if searched.is_empty() {
            return Ok(Self { automaton: None, ids: Vec::new() });
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(searched.iter().map(|(_, text)| text))
            .map_err(|error| {
                TokenError::Metadata(format!("special tokens cannot be searched for: {error}"))
            })?;
        Ok(Self { automaton: Some(automaton), ids: searched.iter().map(|&(id, _)| id).collect() })
    }

    /// Calls `emit` with each part of `text`, in order; texts are not empty.
    pub(crate) fn partition<'a>(
        &self,
        vocab: &Vocab,
        text: &'a str,
        mut emit: impl FnMut(Part<'a>),
    ) {
        let mut at = 0;
        if let Some(automaton) = &self.automaton {
            for found in automaton.find_iter(text) {
                // A token text that is not UTF-8 could match inside a character; leave such text alone. The same goes
                // for a match inside white space that the token before it swallowed.
                let Some(before) = text.get(at..found.start()) else {
                    continue;
                };
                if !text.is_char_boundary(found.end()) {
                    continue;
                }
                if !before.is_empty() {
                    emit(Part::Text(before));
                }
                let id = self.ids[found.pattern().as_usize()];
                emit(Part::Token(id));
                at = found.end();
                if vocab.strips_right(id) {
                    let space = |b: &&u8| matches!(**b, b' ' | b'\t'..=b'\r');
                    at += text.as_bytes()[at..].iter().take_while(space).count();
                }
            }
        }
        if at < text.len() {
            emit(Part::Text(&text[at..]));
        }
    }
}
