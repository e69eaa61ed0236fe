//! Which of an answer's tokens its content is made of: log-probabilities are told of those alone, not of
//! reasoning, calls, the marks around them, or what a stop string took away.

use std::collections::VecDeque;

use zinc_engine::sampler::TokenLogprobs;

/// A token that is not told yet.
struct Token {
    id: u32,
    logprobs: TokenLogprobs,
    /// Its first byte.
    begin: usize,
    /// Its last byte that is not blank, or its last: the token is part of the text that has that byte.
    /// Blanks at the end of a text are dropped at times, and the token is still in it.
    last: usize,
}

/// Tokens whose text the parser holds back or has not placed. Offsets count the bytes of all tokens.
#[derive(Default)]
pub struct Spelled {
    tokens: VecDeque<Token>,
    /// What they spell, from `at` on.
    bytes: Vec<u8>,
    at: usize,
}

impl Spelled {
    /// A token and the bytes that it adds to the text.
    pub fn push(&mut self, id: u32, piece: &[u8], logprobs: TokenLogprobs) {
        if piece.is_empty() {
            return;
        }
        let begin = self.at + self.bytes.len();
        let last = piece.iter().rposition(|b| !b.is_ascii_whitespace());
        let last = begin + last.unwrap_or(piece.len() - 1);
        self.tokens.push_back(Token { id, logprobs, begin, last });
        self.bytes.extend_from_slice(piece);
    }

    /// The tokens of a text that the parser gave out, and which are not told yet. What stands before the
    /// text was something else.
    pub fn take(&mut self, text: &str) -> Vec<(u32, TokenLogprobs)> {
        let wanted = text.as_bytes();
        // Text goes on where it was, or something else lies between: then nothing but a held-back mark is
        // behind it. Bytes that are no UTF-8 are not found; their tokens are part of it.
        let found = match self.bytes.starts_with(wanted) {
            true => Some(0),
            false => self.bytes.windows(wanted.len().max(1)).rposition(|window| window == wanted),
        };
        let begin = self.at + found.unwrap_or(0);
        let end = found.map_or(self.at + self.bytes.len(), |_| begin + wanted.len());
        let mut told = Vec::new();
        while let Some(token) = self.tokens.pop_front_if(|token| token.last < end) {
            if token.last >= begin {
                told.push((token.id, token.logprobs));
            }
        }
        self.bytes.drain(..end - self.at);
        self.at = end;
        told
    }

    /// Part of a call was given out, and nothing behind it: of the tokens, the last alone may go on with
    /// something else.
    pub fn pass_call(&mut self) {
        let Some(token) = self.tokens.pop_back() else { return };
        self.tokens.clear();
        let begin = token.begin.max(self.at);
        self.bytes.drain(..begin - self.at);
        self.at = begin;
        self.tokens.push_back(token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens by their texts, numbered.
    fn spelled(texts: &[&str]) -> Spelled {
        let mut spelled = Spelled::default();
        for (id, text) in texts.iter().enumerate() {
            add(&mut spelled, id as u32, text.as_bytes());
        }
        spelled
    }

    fn add(spelled: &mut Spelled, id: u32, piece: &[u8]) {
        spelled.push(id, piece, TokenLogprobs { logprob: -1.0, top: Vec::new() });
    }

    fn ids(told: Vec<(u32, TokenLogprobs)>) -> Vec<u32> {
        told.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn content_behind_reasoning() {
        let mut tokens = spelled(&["<think>", "\n", "k"]);
        tokens.take("k");
        for (id, piece) in ["</think>", "\n\n", "k"].into_iter().enumerate() {
            add(&mut tokens, id as u32, piece.as_bytes());
        }
        assert_eq!(ids(tokens.take("k")), [2]);
        for (id, piece) in [" k", " k", " <"].into_iter().enumerate() {
            add(&mut tokens, id as u32, piece.as_bytes());
        }
        assert_eq!(ids(tokens.take(" k")), [0]);
        assert_eq!(ids(tokens.take(" k")), [1]);
        add(&mut tokens, 3, b" b");
        assert_eq!(ids(tokens.take(" < b")), [2, 3]);
    }

    #[test]
    fn one_token_may_end_one_thing_and_begin_another() {
        let mut tokens = spelled(&["so", "</think>S", "o."]);
        tokens.take("so");
        assert_eq!(ids(tokens.take("So.")), [1, 2]);
        let mut tokens =
            spelled(&["Well", ".\n\n", "<tool_call>", "{...}", "</tool_call>", "\nDone"]);
        assert_eq!(ids(tokens.take("Well.")), [0, 1]);
        tokens.pass_call();
        assert_eq!(ids(tokens.take("Done")), [5]);
    }

    #[test]
    fn what_a_stop_string_took_is_not_told() {
        let mut tokens = spelled(&["a", " de", "mo"]);
        assert_eq!(ids(tokens.take("a")), [0]);
        assert_eq!(ids(tokens.take(" ")), [0; 0]);
    }

    #[test]
    fn characters_of_several_tokens() {
        let mut tokens = Spelled::default();
        for (id, piece) in [&b" \xF0"[..], b"\x9F\xA6", b"\x8A"].into_iter().enumerate() {
            add(&mut tokens, id as u32, piece);
        }
        assert_eq!(ids(tokens.take("🦊")), [0, 1, 2]);
        add(&mut tokens, 3, b"\xFF");
        assert_eq!(ids(tokens.take("\u{FFFD}")), [3]);
    }
}
