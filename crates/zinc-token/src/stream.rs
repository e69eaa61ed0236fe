//! Decoding token by token without ever cutting a character.

use crate::tokenizer::Tokenizer;

/// How tokens become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Leave control and unknown tokens out.
    pub skip_special: bool,
    /// The first token starts a text, rather than continuing one: the blank that the vocabulary puts before a text's
    /// first word (`tokenizer.ggml.add_space_prefix`) is dropped again.
    pub at_text_start: bool,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { skip_special: true, at_text_start: true }
    }
}

/// Turns a stream of tokens into a stream of text.
///
/// A character's bytes may be spread over several tokens: its text appears with the token that completes it. Bytes that
/// can no longer become a character appear as U+FFFD, exactly as [`String::from_utf8_lossy`] would show them in the whole
/// text, so the pieces joined are the same as [`Tokenizer::decode`] of all tokens.
#[derive(Debug, Clone)]
pub struct StreamDecoder {
    skip_special: bool,
    /// Special tokens that appear all the same, rising.
    shown: Vec<u32>,
    strip_blank: bool,
    pending: Vec<u8>,
    text: String,
}

impl StreamDecoder {
    /// A decoder at the start of a stream.
    pub fn new(options: DecodeOptions) -> Self {
        Self {
            skip_special: options.skip_special,
            shown: Vec::new(),
            strip_blank: options.at_text_start,
            pending: Vec::new(),
            text: String::new(),
        }
    }

    /// As this one, but special tokens among `ids` appear in the text.
    pub fn showing(mut self, mut ids: Vec<u32>) -> Self {
        ids.sort_unstable();
        self.shown = ids;
        self
    }

    /// Takes the next token and returns the text that is complete now, possibly none.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> &str {
        self.text.clear();
        let vocab = tokenizer.vocab();
        let is_hidden = self.skip_special && vocab.is_special(id);
        if is_hidden && self.shown.binary_search(&id).is_err() {
            return &self.text;
        }
        let mut piece = vocab.piece(id);
        if self.strip_blank && !piece.is_empty() {
            self.strip_blank = false;
            if tokenizer.adds_space_prefix() {
                piece = piece.strip_prefix(b" ").unwrap_or(piece);
            }
        }
        self.pending.extend_from_slice(piece);
        self.take_complete();
        &self.text
    }

    /// Ends the stream: an unfinished character becomes U+FFFD. The decoder must not be used afterwards for another text.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        self.text.push_str(&String::from_utf8_lossy(&self.pending));
        self.pending.clear();
        &self.text
    }

    /// Moves everything but an unfinished character at the end from `pending` to `text`.
    fn take_complete(&mut self) {
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    self.text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    match error.error_len() {
                        Some(len) => {
                            self.text.push('\u{fffd}');
                            rest = &rest[len..];
                        }
                        None => break,
                    }
                }
            }
        }
        let n_done = self.pending.len() - rest.len();
        self.pending.drain(..n_done);
    }
}
