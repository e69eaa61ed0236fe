//! Learns a chat format from its template, by rendering small conversations and looking at what
//! stands around the names and values that were put in.

mod calls;
mod known;

use serde_json::{Value, json};
use zinc_token::Tokenizer;
use zinc_token::template::{ChatTemplate, DateTime, TemplateInput};

use crate::format::{SpecialTexts, Thinking};
use crate::input::MessageStyle;
use crate::syntax::Syntax;

/// What was learned.
pub(crate) struct Learned {
    pub style: MessageStyle,
    pub thinking: Option<Thinking>,
    pub switches: Vec<&'static str>,
    pub syntax: Option<Syntax>,
    /// The answers are written in channels.
    pub harmony: bool,
}

/// Renders a template.
pub(crate) struct Probe<'a> {
    template: &'a ChatTemplate,
    source: &'a str,
    specials: SpecialTexts,
}

/// Any time will do.
const NOW: DateTime = DateTime { year: 2026, month: 1, day: 1, hour: 0, minute: 0, second: 0 };

/// Fields that templates read reasoning from.
const REASONING_FIELDS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// Variables that templates switch thinking by.
const SWITCHES: [&str; 2] = ["enable_thinking", "thinking"];

const QUESTION: &str = "Zq-question";
const ANSWER: &str = "Qz-answer";
const REASON: &str = "Zq-reason";

impl<'a> Probe<'a> {
    pub(crate) fn new(template: &'a ChatTemplate, source: &'a str, tokenizer: &Tokenizer) -> Self {
        Self { template, source, specials: SpecialTexts::of(tokenizer.vocab()) }
    }

    /// Learns everything. A template that refuses a probe does not have what the probe asks for.
    pub(crate) fn learn(&self) -> Learned {
        let (reasoning_field, learned) = self.reasoning();
        let harmony = known::is_harmony(self.source);
        let thinking = match harmony {
            true => None,
            false => learned.or_else(|| known::thinking(self.source)),
        };
        let calls = self.calls(thinking.as_ref());
        let style = MessageStyle {
            arguments_as_text: calls.as_ref().is_some_and(|calls| calls.arguments_as_text),
            reasoning_field,
            knows_developer: self.source.contains("developer"),
        };
        let syntax = calls.map(|calls| calls.syntax);
        Learned { style, thinking, switches: self.switches(), syntax, harmony }
    }

    fn render(&self, messages: Value, more: impl FnOnce(&mut TemplateInput)) -> Option<String> {
        let mut input = TemplateInput::new(messages);
        input.now = Some(NOW);
        self.specials.clone().fill(&mut input);
        more(&mut input);
        self.template.render(&input).ok()
    }

    /// The variables that change a prompt when they are switched.
    fn switches(&self) -> Vec<&'static str> {
        let prompt = |name: &str, on: bool| {
            self.render(json!([user()]), |input| drop(input.extra.insert(name.into(), json!(on))))
        };
        SWITCHES.into_iter().filter(|name| prompt(name, true) != prompt(name, false)).collect()
    }

    /// The field that reasoning is read from, and how it is written.
    fn reasoning(&self) -> (Option<&'static str>, Option<Thinking>) {
        for field in REASONING_FIELDS {
            let message = json!({"role": "assistant", "content": ANSWER, field: REASON});
            // Some templates show the reasoning of calls only.
            let mut with_call = calls::message(&["zq_alpha"], &json!({"zq_k1": "zq_v1"}), false);
            with_call[field] = json!(REASON);
            for message in [message, with_call] {
                let text = self.render(json!([user(), message]), |input| {
                    input.add_generation_prompt = false;
                    input.extra.insert("enable_thinking".into(), json!(true));
                    input.extra.insert("thinking".into(), json!(true));
                });
                if let Some(text) = text.filter(|text| text.contains(REASON)) {
                    return (Some(field), thinking_around(&text));
                }
            }
        }
        (None, None)
    }
}

pub(crate) fn user() -> Value {
    json!({"role": "user", "content": QUESTION})
}

/// The tags around the reasoning in a rendered message, if they say that they are.
fn thinking_around(text: &str) -> Option<Thinking> {
    let at = text.find(REASON)?;
    let before = text[..at].trim_end();
    let behind = &text[at + REASON.len()..];
    let n_blanks = behind.len() - behind.trim_start().len();
    let tag = unit(&behind[n_blanks..]);
    let mut close = tag.len();
    let mut open = before.rfind('<')?;
    if !names_thinking(&before[open..]) {
        // A tag of several parts, as `<|open|>think<|sep|>`.
        open = before[..open].rfind('<')?;
        if behind[n_blanks + close..].starts_with("think") {
            close += behind[n_blanks + close..].find('>')? + 1;
        }
    }
    let (open, end) = (&before[open..], n_blanks + close);
    let close = &behind[n_blanks..end];
    let is_tag = |text: &str| (3..64).contains(&text.len()) && !text.contains(['\n', ' ']);
    if !names_thinking(open) || !is_tag(open) || !is_tag(close) || !close.ends_with(['>', ']']) {
        return None;
    }
    let blanks = behind[end..].len() - behind[end..].trim_start().len();
    Some(Thinking {
        open: open.to_owned(),
        close: close.to_owned(),
        close_text: behind[..end + blanks].to_owned(),
    })
}

fn names_thinking(tag: &str) -> bool {
    let tag = tag.to_lowercase();
    ["think", "thought", "reason", "inner"].iter().any(|word| tag.contains(word))
}

/// The first unit of a text: a tag in angle or square brackets as a whole, else a character.
pub(crate) fn unit(text: &str) -> &str {
    let n = match text.chars().next() {
        Some('<') => tag_len(text, '<', '>'),
        Some('[') if text[1..].starts_with(|c: char| c == '/' || c.is_ascii_uppercase()) => {
            tag_len(text, '[', ']')
        }
        Some(c) => c.len_utf8(),
        None => 0,
    };
    &text[..n]
}

/// Bytes up to the closing bracket; an unclosed tag goes up to the next one or the end.
fn tag_len(text: &str, open: char, close: char) -> usize {
    let end = text[1..].find([open, close]).map(|at| at + 1);
    match end {
        Some(at) if text[at..].starts_with(close) => at + close.len_utf8(),
        Some(at) => at,
        None => text.len(),
    }
}

/// A text as units.
pub(crate) fn units(mut text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    while !text.is_empty() {
        let first = unit(text);
        found.push(first);
        text = &text[first.len()..];
    }
    found
}

/// The longest common prefix in units.
pub(crate) fn common_prefix<'a>(a: &'a str, b: &str) -> &'a str {
    let n =
        units(a).iter().zip(units(b)).take_while(|(a, b)| **a == *b).map(|(a, _)| a.len()).sum();
    &a[..n]
}

/// The longest common suffix in units.
pub(crate) fn common_suffix<'a>(a: &'a str, b: &str) -> &'a str {
    let (a_units, b_units) = (units(a), units(b));
    let same = a_units.iter().rev().zip(b_units.iter().rev()).take_while(|(a, b)| a == b);
    let n: usize = same.map(|(a, _)| a.len()).sum();
    &a[a.len() - n..]
}
