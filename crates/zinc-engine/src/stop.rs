//! Stop strings over a stream of text pieces.
//!
//! The rule does not depend on how the text was cut into tokens: generation stops at the first
//! character with which any stop string is complete; if several are complete there, the longest
//! counts. The text before that stop string is the answer, the stop string itself and what follows
//! are not. Until a match is decided, the longest suffix that may still become a stop string is
//! held back, so no part of one is ever shown.

use crate::matcher::{Matcher, MatcherState};

/// Most stop strings one request may give.
pub const N_STOP_STRINGS_MAX: usize = 64;
/// Longest stop string in bytes.
pub const STOP_STRING_BYTES_MAX: usize = 1024;

/// Why a list of stop strings was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// An empty string would stop before the first token.
    #[error("stop string {index} is empty; hint: leave it out, or ask for 0 tokens")]
    Empty {
        /// Position in the request's list.
        index: usize,
    },
    /// A string is longer than [`STOP_STRING_BYTES_MAX`].
    #[error("stop string {index} has {n_bytes} bytes; the limit is {STOP_STRING_BYTES_MAX}")]
    TooLong {
        /// Position in the request's list.
        index: usize,
        /// Its length.
        n_bytes: usize,
    },
    /// The list has more than [`N_STOP_STRINGS_MAX`] strings.
    #[error("{n_strings} stop strings given; the limit is {N_STOP_STRINGS_MAX}")]
    TooMany {
        /// Strings in the list.
        n_strings: usize,
    },
}

/// Finds stop strings in a stream and decides what may be shown.
///
/// Work is linear in the text, whatever the stop strings are.
#[derive(Debug, Clone)]
pub struct StopStrings {
    /// `None` without stop strings: text passes straight through.
    matcher: Option<Matcher>,
    state: MatcherState,
    /// Text that may be the beginning of a stop string, at most as long as the longest of them.
    held: String,
    /// The stop string that was found; afterwards all text is dropped.
    found: Option<usize>,
}

impl StopStrings {
    /// Prepares the search, or says which string cannot be used.
    pub fn new<S: AsRef<str>>(strings: &[S]) -> Result<StopStrings, StopError> {
        if strings.len() > N_STOP_STRINGS_MAX {
            return Err(StopError::TooMany { n_strings: strings.len() });
        }
        for (index, string) in strings.iter().enumerate() {
            let n_bytes = string.as_ref().len();
            if n_bytes == 0 {
                return Err(StopError::Empty { index });
            }
            if n_bytes > STOP_STRING_BYTES_MAX {
                return Err(StopError::TooLong { index, n_bytes });
            }
        }
        let patterns: Vec<&[u8]> = strings.iter().map(|s| s.as_ref().as_bytes()).collect();
        Ok(StopStrings {
            matcher: (!patterns.is_empty()).then(|| Matcher::new(&patterns)),
            state: MatcherState::default(),
            held: String::new(),
            found: None,
        })
    }

    /// Adds `text` to the stream and appends to `out` what is now certain to precede any stop
    /// string.
    ///
    /// Returns the index of the stop string once one is complete; later text is dropped.
    pub fn push(&mut self, text: &str, out: &mut String) -> Option<usize> {
        if self.found.is_some() {
            return self.found;
        }
        let Some(matcher) = &self.matcher else {
            out.push_str(text);
            return None;
        };
        let n_held = self.held.len();
        self.held.push_str(text);
        for (i, &byte) in self.held.as_bytes().iter().enumerate().skip(n_held) {
            self.state = matcher.step(self.state, byte);
            if let Some((index, n_bytes)) = matcher.matched(self.state) {
                // Both the stop string and the stream are UTF-8, so the match starts and ends on
                // character boundaries.
                out.push_str(&self.held[..i + 1 - n_bytes]);
                self.held.clear();
                self.found = Some(index);
                return self.found;
            }
        }
        // What is pending starts like a stop string, so it starts with a whole character.
        let n_certain = self.held.len() - matcher.pending(self.state);
        out.push_str(&self.held[..n_certain]);
        self.held.drain(..n_certain);
        None
    }

    /// The stream has ended: appends what was held back, which can no longer become a stop string.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
        self.state = MatcherState::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `text` through in pieces of every size, and one whole, and expects the same shown text
    /// and stop string each time.
    fn check(stops: &[&str], text: &str, shown: &str, found: Option<usize>) {
        let chars: Vec<char> = text.chars().collect();
        for n_chars in 1..=chars.len().max(1) {
            let mut stop = StopStrings::new(stops).unwrap();
            let mut out = String::new();
            let mut hit = None;
            for piece in chars.chunks(n_chars) {
                hit = stop.push(&piece.iter().collect::<String>(), &mut out);
                assert!(shown.starts_with(&out), "{stops:?} {text:?}: {out:?} shown too early");
                if hit.is_some() {
                    break;
                }
            }
            stop.finish(&mut out);
            assert_eq!(
                (out.as_str(), hit),
                (shown, found),
                "{stops:?} {text:?} in pieces of {n_chars}"
            );
        }
    }

    #[test]
    fn cuts_before_the_first_complete_stop_string() {
        check(&[], "anything", "anything", None);
        check(&["END"], "some text END more", "some text ", Some(0));
        check(&["END"], "ENENDx", "EN", Some(0));
        check(&["\n\n"], "a\nb\n\nc", "a\nb", Some(0));
        check(&["User:"], "Use User of User:", "Use User of ", Some(0));
    }

    #[test]
    fn text_that_only_began_like_a_stop_string_is_shown_at_the_end() {
        check(&["<|end|>"], "a <|en", "a <|en", None);
        check(&["aab"], "aaaa", "aaaa", None);
    }

    #[test]
    fn overlapping_stop_strings_do_not_depend_on_the_pieces() {
        check(&["abcd", "bc"], "xabcd", "xa", Some(1));
        check(&["bc", "abc"], "xabcd", "x", Some(1));
        check(&["aaa", "aa"], "baaa", "b", Some(1));
    }

    #[test]
    fn characters_of_several_bytes() {
        check(&["。"], "日本。語", "日本", Some(0));
        check(&["🙂🙂"], "a🙂b🙂🙂c", "a🙂b", Some(0));
        check(&["é"], "eèêé", "eèê", Some(0));
    }

    #[test]
    fn later_text_is_dropped() {
        let mut stop = StopStrings::new(&["x"]).unwrap();
        let mut out = String::new();
        assert_eq!(stop.push("axb", &mut out), Some(0));
        assert_eq!(stop.push("c", &mut out), Some(0));
        stop.finish(&mut out);
        assert_eq!(out, "a");
    }

    #[test]
    fn refuses_what_cannot_be_a_stop_string() {
        assert_eq!(StopStrings::new(&["a", ""]).unwrap_err(), StopError::Empty { index: 1 });
        let long = "x".repeat(STOP_STRING_BYTES_MAX + 1);
        assert_eq!(
            StopStrings::new(&[long]).unwrap_err(),
            StopError::TooLong { index: 0, n_bytes: STOP_STRING_BYTES_MAX + 1 }
        );
        let many = vec!["x"; N_STOP_STRINGS_MAX + 1];
        assert_eq!(
            StopStrings::new(&many).unwrap_err(),
            StopError::TooMany { n_strings: N_STOP_STRINGS_MAX + 1 }
        );
    }
}
