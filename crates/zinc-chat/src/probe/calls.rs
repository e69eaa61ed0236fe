//! Learns how calls are written.

use serde_json::{Value, json};

use super::{ANSWER, Probe, common_prefix, common_suffix, known, user};
use crate::format::Thinking;
use crate::syntax::{CallSyntax, Form, GEMMA_QUOTE, Mark, Params, Syntax};

/// What was learned of calls.
pub(crate) struct LearnedCalls {
    pub arguments_as_text: bool,
    pub syntax: Syntax,
}

/// Ids of nine letters and digits, as Mistral's templates insist.
const IDS: [&str; 2] = ["zqid00001", "zqid00002"];
const NAMES: [&str; 2] = ["zq_alpha", "zq_beta"];
const KEYS: [&str; 2] = ["zq_k1", "zq_k2"];
const VALUES: [&str; 2] = ["zq_v1", "zq_v2"];
/// What ends a message in the field's templates; a call's closing mark goes no further.
const ENDS: [&str; 12] = [
    "<|eom_id|>",
    "<|eot_id|>",
    "<|im_end|>",
    "<|call|>",
    "<|calls|>",
    "<|end|>",
    "<|tool_response>",
    "<turn|>",
    "<end_of_turn>",
    "<｜end▁of▁sentence｜>",
    "<|end_of_text|>",
    "</s>",
];

/// An assistant's message that calls tools.
pub(super) fn message(names: &[&str], arguments: &Value, as_text: bool) -> Value {
    let arguments = if as_text { json!(arguments.to_string()) } else { arguments.clone() };
    let call = |(name, id): (&&str, &&str)| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let calls: Value = names.iter().zip(&IDS).map(call).collect();
    json!({"role": "assistant", "content": "", "tool_calls": calls})
}

fn tools() -> Value {
    let tool = |name: &&str| {
        let text = json!({"type": "string", "description": "text"});
        let parameters = json!({"type": "object", "properties": {KEYS[0]: text, KEYS[1]: text}});
        json!({"type": "function", "function":
            {"name": name, "description": "a tool", "parameters": parameters}})
    };
    NAMES.iter().map(tool).collect()
}

/// A call found in a rendered text: what it is made of, and its place.
struct Located {
    form: RawForm,
    begin: usize,
    end: usize,
}

/// A form whose marks are still texts.
#[derive(PartialEq)]
enum RawForm {
    Object { name: String, arguments: String },
    Keyed,
    Named { mid: String },
    Params { head: String, key_end: String, next: String },
    Gemma,
    Python,
}

impl Probe<'_> {
    /// How the template writes calls; `None` if it knows no tools.
    pub(super) fn calls(&self, thinking: Option<&Thinking>) -> Option<LearnedCalls> {
        if known::is_harmony(self.source) {
            return Some(LearnedCalls { arguments_as_text: false, syntax: known::harmony() });
        }
        for arguments_as_text in [false, true] {
            if let Some(mut calls) = self.rendered_calls(arguments_as_text, thinking) {
                if calls.is_bare() && self.source.contains("<|python_tag|>") {
                    calls.other_opens.push(Mark::new("<|python_tag|>"));
                }
                calls.name = known::name_of(&calls);
                return Some(LearnedCalls {
                    arguments_as_text,
                    syntax: Syntax::Calls(Box::new(calls)),
                });
            }
        }
        // Shows tools, but no call: its words may tell.
        let shows_tools = self.answered(None).is_some_and(|text| text.contains(NAMES[0]));
        shows_tools.then(|| LearnedCalls {
            arguments_as_text: false,
            syntax: Syntax::Calls(Box::new(known::syntax(self.source))),
        })
    }

    /// A conversation that ends with `message`, or with a plain answer.
    fn answered(&self, message: Option<Value>) -> Option<String> {
        let answer = json!({"role": "assistant", "content": ANSWER});
        self.render(json!([user(), message.unwrap_or(answer)]), |input| {
            input.tools = Some(tools());
            input.add_generation_prompt = false;
        })
    }

    fn rendered_calls(&self, as_text: bool, thinking: Option<&Thinking>) -> Option<CallSyntax> {
        let plain = self.answered(None)?;
        let eos = self.specials.eos.as_deref();
        let render = |names: &[&str], arguments: &Value| {
            let text = self.answered(Some(message(names, arguments, as_text)))?;
            Some(body_of(&text, &plain, eos))
        };
        let arguments = json!({KEYS[0]: VALUES[0], KEYS[1]: VALUES[1]});
        let one = render(&NAMES[..1], &arguments)?;
        let first = locate(&one, 0, NAMES[0], &arguments)?;
        let mut before = slotted(&one[..first.begin]);
        if let Some(Thinking { close, .. }) = thinking
            && let Some(at) = before.rfind(close.as_str())
        {
            before.drain(..at + close.len());
        }
        let mut behind = slotted(&one[first.end..]);
        let both = render(&NAMES, &arguments).and_then(|two| {
            let a = locate(&two, 0, NAMES[0], &arguments)?;
            let b = locate(&two, a.end, NAMES[1], &arguments)?;
            Some((slotted(&two[a.end..b.begin]), b.form))
        });
        let (mut between, second) = both.unzip();
        let form = match &first.form {
            RawForm::Params { head, key_end, next } => {
                let typed = render(&NAMES[..1], &json!({KEYS[0]: 7}));
                let (params, n) = params(head, key_end, next, &behind, typed.as_deref())?;
                behind.drain(..n);
                between = between.and_then(|text| Some(text.get(n..)?.to_owned()));
                Form::Params(params)
            }
            other => finish(other, second.as_ref().unwrap_or(other))?,
        };
        let syntax = assemble(&before, between.as_deref(), &behind, form);
        Some(self.opened_by_prompt(syntax, &plain))
    }

    /// A syntax whose opening mark stands between calls alone, because the prompt of every answer ends with
    /// it (`>>>NAME` and `>>>all`): with that mark, and what opens texts behind it in the conversation
    /// `plain`.
    fn opened_by_prompt(&self, syntax: CallSyntax, plain: &str) -> CallSyntax {
        let open = syntax.between.trim().to_owned();
        let prompt = self.render(json!([user()]), |input| input.tools = Some(tools()));
        let text_open = plain.rfind(ANSWER).and_then(|at| {
            let before = &plain[..at];
            Some(&before[before.rfind(&open)? + open.len()..])
        });
        match (prompt, text_open) {
            (Some(prompt), Some(text_open))
                if syntax.is_bare()
                    && matches!(syntax.form, Form::Named { .. })
                    && !(open.is_empty() || text_open.trim().is_empty())
                    && prompt.ends_with(&open) =>
            {
                let (open, text_open) = (Mark::new(&open), text_open.to_owned());
                CallSyntax { open, text_open, between: String::new(), ..syntax }
            }
            _ => syntax,
        }
    }
}

/// Stands for a name, key or id that was put in.
const SLOT: char = '\u{1}';

fn slotted(text: &str) -> String {
    let put_in = NAMES.iter().chain(&IDS).chain(&KEYS);
    put_in.fold(text.to_owned(), |text, put_in| text.replace(put_in, &SLOT.to_string()))
}

/// The part of a rendered call that is the assistant's own: behind what it shares with a plain answer,
/// up to the end of the message.
fn body_of(text: &str, plain: &str, eos: Option<&str>) -> String {
    let n_shared = text.char_indices().zip(plain.chars()).find(|((_, a), b)| a != b);
    let mut begin = n_shared.map_or(text.len().min(plain.len()), |((at, _), _)| at);
    begin = text.floor_char_boundary(begin);
    // Not in the middle of a tag.
    if let Some(open) = text[..begin].rfind('<')
        && !text[open..begin].contains('>')
    {
        begin = open;
    }
    let end_of_plain = plain.rfind(ANSWER).map_or("", |at| &plain[at + ANSWER.len()..]);
    let body = &text[begin..];
    let body = &body[..body.len() - common_suffix(body, end_of_plain).len()];
    let ends = ENDS.into_iter().chain(eos.filter(|eos| !eos.is_empty()));
    let end = ends.filter_map(|end| body.rfind(end));
    // Only ends behind the call count; tags inside it are no ends.
    let last_name = body.rfind("zq_").unwrap_or(0);
    let end = end.filter(|at| *at > last_name).min().unwrap_or(body.len());
    body[..end].to_owned()
}

/// Finds the call of `name` at or behind `from`.
fn locate(body: &str, from: usize, name: &str, arguments: &Value) -> Option<Located> {
    let key_at = body[from..].find(KEYS[0]).map(|at| from + at)?;
    // The name may stand in a header too; the last one before the arguments counts.
    let name_at = body[from..key_at].rfind(name).map(|at| from + at);
    if let Some(located) = locate_object(body, from, name, arguments) {
        return Some(located);
    }
    let begin = name_at?;
    let behind = begin + name.len();
    if let Some(at) = body[behind..].find('{').map(|at| behind + at)
        && let Some((value, n)) = json_at(&body[at..])
        && value == *arguments
    {
        let mid = body[behind..at].to_owned();
        return Some(Located { form: RawForm::Named { mid }, begin, end: at + n });
    }
    let rest = &body[key_at + KEYS[0].len()..];
    let end_of = |text: &str| body[key_at..].find(text).map(|at| key_at + at + text.len());
    if rest.starts_with(&format!(":{GEMMA_QUOTE}")) {
        let end = end_of(&format!("{}{GEMMA_QUOTE}}}", VALUES[1]))?;
        return Some(Located { form: RawForm::Gemma, begin, end });
    }
    if rest.starts_with("='") || rest.starts_with("=\"") {
        let end = end_of(&format!("{}{})", VALUES[1], &rest[1..2]))?;
        return Some(Located { form: RawForm::Python, begin, end });
    }
    let head = body[behind..key_at].to_owned();
    let value_at = body[key_at..].find(VALUES[0]).map(|at| key_at + at)?;
    let key_end = body[key_at + KEYS[0].len()..value_at].to_owned();
    let next_at = body[value_at..].find(KEYS[1]).map(|at| value_at + at)?;
    let next = body[value_at + VALUES[0].len()..next_at].to_owned();
    let end = end_of(VALUES[1])?;
    Some(Located { form: RawForm::Params { head, key_end, next }, begin, end })
}

/// A JSON object that holds the name, as a value or as a key.
fn locate_object(body: &str, from: usize, name: &str, arguments: &Value) -> Option<Located> {
    for at in body[from..].match_indices('{').map(|(at, _)| from + at) {
        let Some((value, n)) = json_at(&body[at..]) else { continue };
        let Some(fields) = value.as_object() else { continue };
        let key_of = |wanted: &dyn Fn(&Value) -> bool| {
            fields.iter().find(|(_, value)| wanted(value)).map(|(key, _)| key.clone())
        };
        let (begin, end) = (at, at + n);
        let is_arguments = |value: &Value| {
            let text = value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
            value == arguments || text.as_ref() == Some(arguments)
        };
        let keys = (key_of(&|value| value == name), key_of(&is_arguments));
        if let (Some(name), Some(arguments)) = keys {
            return Some(Located { form: RawForm::Object { name, arguments }, begin, end });
        }
        if fields.get(name) == Some(arguments) {
            return Some(Located { form: RawForm::Keyed, begin, end });
        }
    }
    None
}

/// The JSON value at the begin of a text, and its length.
fn json_at(text: &str) -> Option<(Value, usize)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next()?.ok()?;
    Some((value, values.byte_offset()))
}

/// Marks of a form from two instances of it.
fn finish(first: &RawForm, second: &RawForm) -> Option<Form> {
    Some(match (first, second) {
        (RawForm::Object { name, arguments }, _) => {
            Form::Object { name: name.clone(), arguments: arguments.clone() }
        }
        (RawForm::Named { mid: a }, RawForm::Named { mid: b }) => {
            Form::Named { mid: Mark::unify(&slotted(a), &slotted(b), SLOT)? }
        }
        (RawForm::Keyed, _) => Form::Keyed,
        (RawForm::Gemma, _) => Form::Gemma,
        (RawForm::Python, _) => Form::Python,
        (RawForm::Named { .. } | RawForm::Params { .. }, _) => return None,
    })
}

/// Splits the texts around two arguments into marks; returns the length of the last value's mark too.
fn params(
    head: &str,
    key_end: &str,
    next: &str,
    behind: &str,
    typed: Option<&str>,
) -> Option<(Params, usize)> {
    let next = &slotted(next);
    let value_end = common_prefix(next, behind);
    let open = next[value_end.len()..].trim_start();
    let head = slotted(head);
    let mid = head.trim_end().strip_suffix(open.trim_end())?;
    if open.is_empty() || value_end.trim().is_empty() {
        return None;
    }
    let key_end_json = typed.and_then(|text| {
        let at = text.find(KEYS[0])? + KEYS[0].len();
        let n = text[at..].find('7')?;
        let other = &text[at..at + n];
        (other.trim() != key_end.trim()).then(|| Mark::new(other))
    });
    let params = Params {
        mid: Mark::with_slots(mid, SLOT),
        open: Mark::with_slots(open, SLOT),
        key_end: Mark::new(key_end),
        key_end_json,
        value_end: Mark::with_slots(value_end, SLOT),
        lines: key_end.ends_with('\n') && value_end.starts_with('\n'),
    };
    Some((params, value_end.len()))
}

/// The marks around calls, from the texts before one, between two, and behind.
fn assemble(before: &str, between: Option<&str>, behind: &str, form: Form) -> CallSyntax {
    let has_objects = matches!(form, Form::Object { .. } | Form::Keyed | Form::Python);
    let list_of = |between: &str| between.trim() == ",";
    let (before_list, behind_list) =
        (before.trim_end().strip_suffix('['), behind.trim_start().strip_prefix(']'));
    let mark = |text: &str| Mark::with_slots(text, SLOT);
    let empty = CallSyntax {
        name: "json",
        section_open: Mark::default(),
        section_close: Mark::default(),
        list: false,
        open: Mark::default(),
        form,
        close: Mark::default(),
        other_opens: Vec::new(),
        parallel: between.is_some(),
        between: between.unwrap_or_default().to_owned(),
        text_open: String::new(),
    };
    if let (true, Some(before), Some(behind)) = (has_objects, before_list, behind_list)
        && between.is_none_or(list_of)
    {
        let (section_open, section_close) = (mark(before), mark(behind));
        return CallSyntax { section_open, section_close, list: true, ..empty };
    }
    let Some(between) = between else {
        return CallSyntax { open: mark(before), close: mark(behind), ..empty };
    };
    let open = common_suffix(between, before);
    let close = common_prefix(&between[..between.len() - open.len()], behind);
    let close = close.to_owned();
    let between_calls = between[close.len()..between.len() - open.len()].to_owned();
    let section_open = &before[..before.len() - open.len()];
    CallSyntax {
        section_open: mark(section_open),
        section_close: mark(&behind[close.len()..]),
        open: mark(open),
        close: mark(&close),
        between: between_calls,
        ..empty
    }
}
