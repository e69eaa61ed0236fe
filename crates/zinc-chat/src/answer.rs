//! From the text of an answer to what it says, while it streams in.
//!
//! An answer is reasoning, then text and calls. What is passed on is certain: a tag or a call that may
//! yet begin is held back. A call is told as soon as its tool is known and its arguments have begun;
//! from then on its arguments are valid JSON whatever follows, and characters that do not fit are text.
//! Until then a text that turns out not to be a call is text again, with every character.
//!
//! An answer that was cut off, by a limit or a stop string, is not made whole: a call's arguments break off
//! where the text did and have no end, and of a call whose tool is not known yet nothing is told.

mod calls;
mod harmony;
pub(crate) mod json;
mod object;
mod params;
mod python;
mod think;

use crate::syntax::Syntax;
use crate::{ChatFormat, ChatPrompt, Tools};

pub(crate) use params::{Kind, kind_of};

use calls::CallParser;
use harmony::HarmonyParser;
use think::{Part, ThinkSplitter};

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// Text of the answer.
    Content(String),
    /// Text of the reasoning.
    Reasoning(String),
    /// A call begins.
    ToolCallStart {
        /// Its place among the answer's calls, from 0.
        index: usize,
        /// The tool.
        name: String,
    },
    /// A piece of a call's arguments; the pieces joined are a JSON object, or the begin of one in an answer
    /// that was cut off.
    ToolCallArguments {
        /// Which call.
        index: usize,
        /// The next characters of the JSON.
        json: String,
    },
    /// A call's arguments are complete. Every call has an end unless the answer was cut off in it.
    ToolCallEnd {
        /// Which call.
        index: usize,
    },
}

/// The state of one answer.
pub struct AnswerParser {
    reader: Reader,
}

enum Reader {
    Marked { think: ThinkSplitter, calls: Option<Box<CallParser>> },
    Harmony(Box<HarmonyParser>),
}

impl AnswerParser {
    /// A parser of the answer to `prompt`. Without tools nothing is taken for a call.
    pub fn new(format: &ChatFormat, prompt: &ChatPrompt, tools: &Tools) -> Self {
        let reader = match format.syntax() {
            _ if format.is_harmony() => {
                Reader::Harmony(Box::new(HarmonyParser::new(tools.clone())))
            }
            Some(Syntax::Calls(syntax)) if !tools.is_empty() || prompt.opens_call => {
                let calls = CallParser::new((**syntax).clone(), tools.clone(), prompt.opens_call);
                let think = ThinkSplitter::new(format.thinking(), prompt);
                Reader::Marked { think, calls: Some(Box::new(calls)) }
            }
            _ => {
                Reader::Marked { think: ThinkSplitter::new(format.thinking(), prompt), calls: None }
            }
        };
        Self { reader }
    }

    /// A parser for which everything is content.
    pub fn plain() -> Self {
        Self { reader: Reader::Marked { think: ThinkSplitter::off(), calls: None } }
    }

    /// Takes more text and gives out what is certain.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        self.advance(text, false)
    }

    /// Ends the answer: gives out all that was held back, and closes a call that broke off.
    pub fn finish(&mut self) -> Vec<Delta> {
        self.advance("", true)
    }

    /// Ends, instead of [`AnswerParser::finish`], an answer that was cut off before the model ended it: gives
    /// out text that was held back, and of a call no more than what came of it.
    pub fn cut(&mut self) -> Vec<Delta> {
        let mut out = Deltas::default();
        match &mut self.reader {
            Reader::Harmony(parser) => parser.cut(&mut out),
            Reader::Marked { think, calls } => {
                read_parts(think, calls, "", true, &mut out);
                if let Some(calls) = calls {
                    calls.cut(&mut out);
                }
            }
        }
        out.list
    }

    /// Whether [`AnswerParser::cut`] found a call that was not complete.
    pub fn broke_off(&self) -> bool {
        match &self.reader {
            Reader::Harmony(parser) => parser.broke_off(),
            Reader::Marked { calls, .. } => calls.as_ref().is_some_and(|calls| calls.broke_off()),
        }
    }

    fn advance(&mut self, text: &str, at_end: bool) -> Vec<Delta> {
        let mut out = Deltas::default();
        match &mut self.reader {
            Reader::Harmony(parser) => parser.push(text, at_end, &mut out),
            Reader::Marked { think, calls } => {
                read_parts(think, calls, text, at_end, &mut out);
                if let (true, Some(calls)) = (at_end, calls) {
                    calls.push("", true, &mut out);
                }
            }
        }
        out.list
    }
}

/// Takes reasoning from the text, and calls from the rest.
fn read_parts(
    think: &mut ThinkSplitter,
    calls: &mut Option<Box<CallParser>>,
    text: &str,
    at_end: bool,
    out: &mut Deltas,
) {
    think.push(text, at_end, &mut |part| match (part, &mut *calls) {
        (Part::Reasoning(text), _) => out.reasoning(text),
        (Part::Text(text), Some(calls)) => calls.push(text, false, out),
        (Part::Text(text), None) => out.content(text),
    });
}

/// Deltas of one push; neighbours of a kind are joined.
#[derive(Default)]
pub(crate) struct Deltas {
    list: Vec<Delta>,
}

impl Deltas {
    pub(crate) fn content(&mut self, text: &str) {
        match self.list.last_mut() {
            _ if text.is_empty() => {}
            Some(Delta::Content(last)) => last.push_str(text),
            _ => self.list.push(Delta::Content(text.to_owned())),
        }
    }

    pub(crate) fn reasoning(&mut self, text: &str) {
        match self.list.last_mut() {
            _ if text.is_empty() => {}
            Some(Delta::Reasoning(last)) => last.push_str(text),
            _ => self.list.push(Delta::Reasoning(text.to_owned())),
        }
    }

    pub(crate) fn start(&mut self, index: usize, name: &str) {
        self.list.push(Delta::ToolCallStart { index, name: name.to_owned() });
    }

    pub(crate) fn arguments(&mut self, index: usize, json: &str) {
        match self.list.last_mut() {
            _ if json.is_empty() => {}
            Some(Delta::ToolCallArguments { index: last, json: text }) if *last == index => {
                text.push_str(json);
            }
            _ => self.list.push(Delta::ToolCallArguments { index, json: json.to_owned() }),
        }
    }

    pub(crate) fn end(&mut self, index: usize) {
        self.list.push(Delta::ToolCallEnd { index });
    }
}
