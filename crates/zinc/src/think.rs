//! Tells a model's reasoning, between `<think>` and `</think>`, from its answer while text streams in.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// A piece of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Of the reasoning.
    Reasoning(&'a str),
    /// Of the answer.
    Text(&'a str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but blanks yet; reasoning can only begin here.
    Start,
    Reasoning,
    /// Blanks between reasoning and answer, which belong to neither.
    Gap,
    Answer,
}

/// The state of one answer.
#[derive(Clone, Debug)]
pub struct ThinkSplitter {
    state: State,
    held: String,
}

impl ThinkSplitter {
    /// An answer that may begin with reasoning, or is inside it from its first character.
    pub fn new(inside: bool) -> Self {
        let state = if inside { State::Reasoning } else { State::Start };
        Self { state, held: String::new() }
    }

    /// Everything is answer.
    pub fn off() -> Self {
        Self { state: State::Answer, held: String::new() }
    }

    /// Takes more text and gives out what is certain; at the end, all of it.
    pub fn push(&mut self, text: &str, at_end: bool, out: &mut dyn FnMut(Piece<'_>)) {
        self.held.push_str(text);
        while self.advance(at_end, out) {}
    }

    /// Makes one transition; false if more text is needed.
    fn advance(&mut self, at_end: bool, out: &mut dyn FnMut(Piece<'_>)) -> bool {
        match self.state {
            State::Start => {
                let begin = self.held.trim_start();
                if let Some(rest) = begin.strip_prefix(OPEN) {
                    self.held = rest.to_owned();
                    self.state = State::Reasoning;
                    return true;
                }
                let undecided = begin.len() < OPEN.len() && OPEN.starts_with(begin);
                if undecided && !at_end {
                    return false;
                }
                self.state = State::Answer;
                true
            }
            State::Reasoning => match self.held.find(CLOSE) {
                Some(at) => {
                    let rest = self.held.split_off(at + CLOSE.len());
                    give(Piece::Reasoning(self.held[..at].trim_end()), out);
                    self.held = rest;
                    self.state = State::Gap;
                    true
                }
                None => {
                    let keep = if at_end { 0 } else { held_back(&self.held) };
                    let rest = self.held.split_off(self.held.len() - keep);
                    give(Piece::Reasoning(&self.held), out);
                    self.held = rest;
                    false
                }
            },
            State::Gap => {
                self.held = self.held.trim_start().to_owned();
                let begun = !self.held.is_empty();
                if begun {
                    self.state = State::Answer;
                }
                begun
            }
            State::Answer => {
                give(Piece::Text(&self.held), out);
                self.held.clear();
                false
            }
        }
    }
}

fn give(piece: Piece<'_>, out: &mut dyn FnMut(Piece<'_>)) {
    let (Piece::Reasoning(text) | Piece::Text(text)) = piece;
    if !text.is_empty() {
        out(piece);
    }
}

/// Bytes at the end of `text` that may begin [`CLOSE`], and the blanks before it.
fn held_back(text: &str) -> usize {
    let partial = (1..CLOSE.len()).rev().find(|n| text.ends_with(&CLOSE[..*n])).unwrap_or(0);
    let before = &text[..text.len() - partial];
    text.len() - before.trim_end().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces of `n` characters and joins what comes out.
    fn split(text: &str, n: usize, mut splitter: ThinkSplitter) -> (String, String) {
        let (mut reasoning, mut answer) = (String::new(), String::new());
        let chars: Vec<char> = text.chars().collect();
        let mut out = |piece: Piece<'_>| match piece {
            Piece::Reasoning(text) => reasoning.push_str(text),
            Piece::Text(text) => answer.push_str(text),
        };
        for chunk in chars.chunks(n) {
            splitter.push(&chunk.iter().collect::<String>(), false, &mut out);
        }
        splitter.push("", true, &mut out);
        (reasoning, answer)
    }

    #[test]
    fn reasoning_and_answer_in_pieces_of_any_size() {
        for n in 1..30 {
            let check = |text: &str, reasoning: &str, answer: &str| {
                let found = split(text, n, ThinkSplitter::new(false));
                assert_eq!(found, (reasoning.to_owned(), answer.to_owned()), "{text:?} by {n}");
            };
            check("<think>\na < b\n</think>\n\nYes.", "\na < b", "Yes.");
            check("Yes, <think>.", "", "Yes, <think>.");
            check(" <thin", "", " <thin");
            check("<think>never ends </thi", "never ends </thi", "");
            check("  indented", "", "  indented");
            let inside = split("so</think>So.", n, ThinkSplitter::new(true));
            assert_eq!(inside, ("so".to_owned(), "So.".to_owned()));
            let off = split("<think>x", n, ThinkSplitter::off());
            assert_eq!(off, (String::new(), "<think>x".to_owned()));
        }
    }
}
