//! GPT-OSS's answers: messages with a header, which names a channel and perhaps a recipient, and a body.
//!
//! ```text
//! <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>commentary
//!     to=functions.NAME <|constrain|>json<|message|>{...}<|call|>
//! ```

use crate::Tools;

use super::Deltas;
use super::json::{Bad, Dialect, JsonScan, Step};

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const END: &str = "<|end|>";
const CALL: &str = "<|call|>";
const RETURN: &str = "<|return|>";

enum State {
    /// Before a body.
    Header,
    Reasoning,
    Content,
    /// The header of a call; its arguments must follow.
    Called {
        name: String,
        header: String,
    },
    Call {
        index: usize,
        scan: JsonScan,
    },
    /// Behind a call's arguments.
    Ended,
}

/// The state of one answer.
pub(super) struct HarmonyParser {
    tools: Tools,
    state: State,
    held: String,
    n_calls: usize,
    broke_off: bool,
}

impl HarmonyParser {
    pub fn new(tools: Tools) -> Self {
        Self { tools, state: State::Header, held: String::new(), n_calls: 0, broke_off: false }
    }

    /// Takes more text; at the end, nothing stays held back.
    pub fn push(&mut self, text: &str, at_end: bool, out: &mut Deltas) {
        self.held.push_str(text);
        while self.step(at_end, out) {}
    }

    /// Ends an answer that was cut off: a call's arguments stay as far as they came, and the header of a
    /// call is no text.
    pub fn cut(&mut self, out: &mut Deltas) {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Called { name, .. } => {
                out.start(self.n_calls, &name);
                self.broke_off = true;
            }
            State::Call { index, scan } => {
                out.arguments(index, &scan.rest());
                self.broke_off = true;
            }
            State::Header if is_header(self.held.trim_start()) => {
                self.broke_off = self.held.contains("to=");
            }
            State::Ended => {}
            state => {
                self.state = state;
                return self.push("", true, out);
            }
        }
        self.held.clear();
    }

    /// Whether [`HarmonyParser::cut`] found a call that was not complete.
    pub fn broke_off(&self) -> bool {
        self.broke_off
    }

    /// Makes one transition; false if more text is needed.
    fn step(&mut self, at_end: bool, out: &mut Deltas) -> bool {
        match self.state {
            State::Header => self.header(at_end, out),
            State::Reasoning | State::Content => self.body(at_end, out),
            State::Called { .. } => self.called(at_end, out),
            State::Call { .. } => self.arguments(at_end, out),
            State::Ended => self.ended(at_end, out),
        }
    }

    fn header(&mut self, at_end: bool, out: &mut Deltas) -> bool {
        let begin = self.held.trim_start();
        let heads = [CHANNEL, START, MESSAGE, "to="];
        let may_begin = |head: &&str| begin.starts_with(*head) || head.starts_with(begin);
        if !heads.iter().any(may_begin) {
            // No header at all.
            self.state = State::Content;
            return !self.held.is_empty();
        }
        let Some(at) = self.held.find(MESSAGE) else {
            if at_end {
                // A header that broke off says nothing, unless it is none.
                let is_header = [CHANNEL, START].iter().any(|head| begin.starts_with(head));
                if !is_header {
                    out.content(&self.held);
                }
                self.held.clear();
            }
            return false;
        };
        let header = self.held[..at].to_owned();
        self.held.drain(..at + MESSAGE.len());
        self.state = self.state_of(&header, out);
        true
    }

    /// What a header says of its body.
    fn state_of(&mut self, header: &str, out: &mut Deltas) -> State {
        let is_analysis = match header.split_once(CHANNEL) {
            Some((_, channel)) => channel.trim_start().starts_with("analysis"),
            None => false,
        };
        let ends = |c: char| c.is_whitespace() || c == '<';
        let Some((_, recipient)) = header.split_once("to=") else {
            return if is_analysis { State::Reasoning } else { State::Content };
        };
        let recipient = recipient.split(ends).next().unwrap_or_default();
        let name = recipient.strip_prefix("functions.").unwrap_or(recipient);
        match self.tools.get(name) {
            Some(tool) => State::Called { name: tool.name.clone(), header: header.to_owned() },
            None => {
                // A tool that nobody offered: all of it is text.
                out.content(header);
                out.content(MESSAGE);
                State::Content
            }
        }
    }

    /// Tells a call once its arguments begin.
    fn called(&mut self, at_end: bool, out: &mut Deltas) -> bool {
        let State::Called { name, header } = &self.state else { return false };
        match self.held.trim_start().chars().next() {
            None if !at_end => return false,
            Some('{') => {
                let index = self.n_calls;
                self.n_calls += 1;
                out.start(index, name);
                self.state = State::Call { index, scan: JsonScan::new(Dialect::Json) };
            }
            _ => {
                out.content(header);
                out.content(MESSAGE);
                self.state = State::Content;
            }
        }
        true
    }

    fn body(&mut self, at_end: bool, out: &mut Deltas) -> bool {
        let marks = [END, START, CALL, RETURN];
        let found = marks.iter().filter_map(|mark| Some((self.held.find(mark)?, *mark)));
        let found = found.min_by_key(|(at, _)| *at);
        let end = match found {
            Some((at, _)) => at,
            None if at_end => self.held.len(),
            None => self.held.len() - held_back(&self.held, &marks),
        };
        let text = &self.held[..end];
        match self.state {
            State::Reasoning => out.reasoning(text),
            _ => out.content(text),
        }
        let Some((at, mark)) = found else {
            self.held.drain(..end);
            return false;
        };
        self.next_message(at, mark);
        true
    }

    fn next_message(&mut self, at: usize, mark: &str) {
        // The header's own first token stays for the header.
        self.held.drain(..if mark == START { at } else { at + mark.len() });
        self.state = State::Header;
    }

    fn arguments(&mut self, at_end: bool, out: &mut Deltas) -> bool {
        let State::Call { index, scan } = &mut self.state else { return false };
        let index = *index;
        let mut json = String::new();
        let mut n = 0;
        let mut step = Ok(Step::More);
        for c in self.held.chars() {
            step = scan.push(c, &mut json);
            match step {
                Ok(Step::DoneBefore) | Err(Bad) => break,
                Ok(Step::More) => n += c.len_utf8(),
                Ok(Step::Done) => {
                    n += c.len_utf8();
                    break;
                }
            }
        }
        let (completion, left) = (scan.completion(), scan.held_source().to_owned());
        self.held.drain(..n);
        match step {
            Ok(Step::More) if !at_end => {
                out.arguments(index, &json);
                return false;
            }
            Ok(Step::Done | Step::DoneBefore) => out.arguments(index, &json),
            Ok(Step::More) | Err(Bad) => {
                json.push_str(&completion);
                self.held.insert_str(0, &left);
                out.arguments(index, &json);
            }
        }
        out.end(index);
        self.state = State::Ended;
        true
    }

    /// Behind a call: the next message, or text that does not belong here.
    fn ended(&mut self, at_end: bool, out: &mut Deltas) -> bool {
        let begin = self.held.len() - self.held.trim_start().len();
        let rest = &self.held[begin..];
        let marks = [END, CALL, RETURN, START];
        if let Some(mark) = marks.iter().find(|mark| rest.starts_with(**mark)) {
            self.next_message(begin, mark);
            return true;
        }
        if rest.is_empty() || marks.iter().any(|mark| mark.starts_with(rest)) {
            if at_end {
                out.content(rest);
                self.held.clear();
            }
            return false;
        }
        self.state = State::Content;
        true
    }
}

/// Whether a text that was cut off is the begin of a header.
fn is_header(begin: &str) -> bool {
    let heads = [CHANNEL, START, MESSAGE, "to="];
    begin.len() > 2 && heads.iter().any(|head| begin.starts_with(head) || head.starts_with(begin))
}

/// Bytes at the end of `text` that may begin one of `marks`.
fn held_back(text: &str, marks: &[&str]) -> usize {
    let longest =
        |mark: &&str| (1..mark.len()).rev().find(|n| text.ends_with(&mark[..*n])).unwrap_or(0);
    marks.iter().map(longest).max().unwrap_or(0)
}
