//! Tells reasoning from answer.

use crate::{ChatPrompt, Thinking};

/// A piece of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// Of the reasoning.
    Reasoning(&'a str),
    /// Of the answer.
    Text(&'a str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but blanks yet; reasoning can only begin here.
    Start,
    /// Blanks between the opening tag and the reasoning.
    Opened,
    Reasoning,
    /// Blanks between reasoning and answer, which belong to neither.
    Gap,
    Answer,
}

/// The state of one answer.
#[derive(Clone, Debug)]
pub(super) struct ThinkSplitter {
    open: String,
    close: String,
    state: State,
    held: String,
}

impl ThinkSplitter {
    /// An answer that may begin with reasoning, or is inside or behind it from its first character.
    pub fn new(thinking: Option<&Thinking>, prompt: &ChatPrompt) -> Self {
        let Some(Thinking { open, close, .. }) = thinking else {
            return Self::off();
        };
        let state = if prompt.opens_thinking { State::Opened } else { State::Start };
        Self { open: open.clone(), close: close.clone(), state, held: String::new() }
    }

    /// Everything is answer.
    pub fn off() -> Self {
        Self {
            open: String::new(),
            close: String::new(),
            state: State::Answer,
            held: String::new(),
        }
    }

    /// Takes more text and gives out what is certain; at the end, all of it.
    pub fn push(&mut self, text: &str, at_end: bool, out: &mut dyn FnMut(Part<'_>)) {
        self.held.push_str(text);
        while self.advance(at_end, out) {}
    }

    /// Makes one transition; false if more text is needed.
    fn advance(&mut self, at_end: bool, out: &mut dyn FnMut(Part<'_>)) -> bool {
        match self.state {
            State::Start => {
                let begin = self.held.trim_start();
                if let Some(rest) = begin.strip_prefix(self.open.as_str()) {
                    self.held = rest.to_owned();
                    self.state = State::Opened;
                    return true;
                }
                let undecided = begin.len() < self.open.len() && self.open.starts_with(begin);
                if undecided && !at_end {
                    return false;
                }
                self.state = State::Answer;
                true
            }
            State::Opened => {
                self.held = self.held.trim_start().to_owned();
                let begun = !self.held.is_empty();
                if begun {
                    self.state = State::Reasoning;
                }
                begun
            }
            State::Reasoning => self.reason(at_end, out),
            State::Gap => {
                self.held = self.held.trim_start().to_owned();
                let begun = !self.held.is_empty();
                if begun {
                    self.state = State::Answer;
                }
                begun
            }
            State::Answer => {
                give(Part::Text(&self.held), out);
                self.held.clear();
                false
            }
        }
    }

    fn reason(&mut self, at_end: bool, out: &mut dyn FnMut(Part<'_>)) -> bool {
        match self.held.find(self.close.as_str()) {
            Some(at) => {
                let rest = self.held.split_off(at + self.close.len());
                give(Part::Reasoning(self.held[..at].trim_end()), out);
                self.held = rest;
                self.state = State::Gap;
                true
            }
            None => {
                let keep = if at_end { 0 } else { held_back(&self.held, &self.close) };
                let rest = self.held.split_off(self.held.len() - keep);
                give(Part::Reasoning(&self.held), out);
                self.held = rest;
                false
            }
        }
    }
}

fn give(part: Part<'_>, out: &mut dyn FnMut(Part<'_>)) {
    let (Part::Reasoning(text) | Part::Text(text)) = part;
    if !text.is_empty() {
        out(part);
    }
}

/// Bytes at the end of `text` that may begin `tag`, and the blanks before it.
fn held_back(text: &str, tag: &str) -> usize {
    let starts = tag.char_indices().skip(1).map(|(at, _)| at);
    let partial = starts.filter(|n| text.ends_with(&tag[..*n])).max().unwrap_or(0);
    let before = &text[..text.len() - partial];
    text.len() - before.trim_end().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splitter(opens_thinking: bool) -> ThinkSplitter {
        let thinking = Thinking {
            open: "<think>".into(),
            close: "</think>".into(),
            close_text: "\n</think>\n\n".into(),
        };
        let prompt = ChatPrompt { opens_thinking, ..ChatPrompt::plain(Vec::new()) };
        ThinkSplitter::new(Some(&thinking), &prompt)
    }

    /// Feeds `text` in pieces of `n` characters and joins what comes out.
    fn split(text: &str, n: usize, mut splitter: ThinkSplitter) -> (String, String) {
        let (mut reasoning, mut answer) = (String::new(), String::new());
        let chars: Vec<char> = text.chars().collect();
        let mut out = |part: Part<'_>| match part {
            Part::Reasoning(text) => reasoning.push_str(text),
            Part::Text(text) => answer.push_str(text),
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
                let found = split(text, n, splitter(false));
                assert_eq!(found, (reasoning.to_owned(), answer.to_owned()), "{text:?} by {n}");
            };
            check("<think>\na < b\n</think>\n\nYes.", "a < b", "Yes.");
            check("Yes, <think>.", "", "Yes, <think>.");
            check(" <thin", "", " <thin");
            check("<think>never ends </thi", "never ends </thi", "");
            check("  indented", "", "  indented");
            let inside = split("so</think>So.", n, splitter(true));
            assert_eq!(inside, ("so".to_owned(), "So.".to_owned()));
            let off = split("<think>x", n, ThinkSplitter::off());
            assert_eq!(off, (String::new(), "<think>x".to_owned()));
        }
    }
}
