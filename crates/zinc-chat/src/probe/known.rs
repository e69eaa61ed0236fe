//! What cannot be learned by rendering: formats whose templates show no reasoning or no calls, known by
//! the words in them.

use crate::format::Thinking;
use crate::syntax::{CallSyntax, Form, Mark, Syntax};

/// Whether a template writes GPT-OSS's channels.
pub(super) fn is_harmony(source: &str) -> bool {
    ["<|channel|>", "<|message|>", "analysis", "final"].iter().all(|word| source.contains(word))
}

/// Tags of reasoning, where a template mentions the closing one.
const THINKING: [(&str, &str); 9] = [
    ("<think>", "</think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel>thought", "<channel|>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
];

pub(super) fn thinking(source: &str) -> Option<Thinking> {
    let known = THINKING.iter().find(|(_, close)| source.contains(close));
    let (open, close) = match known {
        Some((open, close)) => ((*open).to_owned(), (*close).to_owned()),
        None => think_tag(source)?,
    };
    let close_text = format!("\n{close}\n\n");
    Some(Thinking { open, close, close_text })
}

/// A closing tag whose name speaks of thinking, such as `</mm:think>`.
fn think_tag(source: &str) -> Option<(String, String)> {
    let mut rest = source;
    while let Some(at) = rest.find("</") {
        rest = &rest[at + 2..];
        let name = &rest[..rest.find('>')?];
        let is_name = name.len() < 40 && !name.contains(|c: char| c.is_whitespace() || c == '<');
        if is_name && name.contains("think") {
            return Some((format!("<{name}>"), format!("</{name}>")));
        }
    }
    None
}

fn calls(name: &'static str, form: Form) -> CallSyntax {
    CallSyntax {
        text_open: String::new(),
        name,
        section_open: Mark::default(),
        section_close: Mark::default(),
        list: false,
        open: Mark::default(),
        form,
        close: Mark::default(),
        other_opens: Vec::new(),
        parallel: true,
        between: "\n".into(),
    }
}

fn object() -> Form {
    Form::Object { name: "name".into(), arguments: "arguments".into() }
}

/// JSON between tags, which most models follow even if their template shows no call.
fn tagged(name: &'static str, open: &str, close: &str) -> CallSyntax {
    CallSyntax { open: Mark::new(open), close: Mark::new(close), ..calls(name, object()) }
}

fn deepseek(source: &str) -> CallSyntax {
    let is_v3 = source.contains("<｜tool▁call▁begin｜>function") || source.contains("```json");
    let (name, open, mid, close) = match is_v3 {
        true => (
            "deepseek-v3",
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
            "\n```json\n",
            "\n```<｜tool▁call▁end｜>",
        ),
        false => {
            ("deepseek-v3.1", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>")
        }
    };
    CallSyntax {
        section_open: Mark::new("<｜tool▁calls▁begin｜>"),
        section_close: Mark::new("<｜tool▁calls▁end｜>"),
        open: Mark::new(open),
        close: Mark::new(close),
        ..calls(name, Form::Named { mid: Mark::new(mid) })
    }
}

fn mistral(source: &str) -> CallSyntax {
    match source.contains("[ARGS]") {
        true => CallSyntax {
            open: Mark::new("[TOOL_CALLS]"),
            between: String::new(),
            ..calls("mistral-args", Form::Named { mid: Mark::new("[ARGS]") })
        },
        false => CallSyntax {
            section_open: Mark::new("[TOOL_CALLS]"),
            list: true,
            ..calls("mistral", object())
        },
    }
}

/// A syntax by the words of a template that mentions tools but shows no call.
pub(super) fn syntax(source: &str) -> CallSyntax {
    let has = |word: &str| source.contains(word);
    if has("<｜tool▁call") {
        return deepseek(source);
    }
    if has("[TOOL_CALLS]") {
        return mistral(source);
    }
    if has("<|tool_call_argument_begin|>") {
        let mid =
            Mark::unify(":0<|tool_call_argument_begin|>", ":1<|tool_call_argument_begin|>", '#');
        return CallSyntax {
            section_open: Mark::new("<|tool_calls_section_begin|>"),
            section_close: Mark::new("<|tool_calls_section_end|>"),
            open: Mark::new("<|tool_call_begin|>functions."),
            close: Mark::new("<|tool_call_end|>"),
            between: String::new(),
            ..calls("named-json", Form::Named { mid: mid.unwrap_or_default() })
        };
    }
    if has("<|tool_call_start|>") || has("<|tool_list_start|>") {
        return CallSyntax {
            section_open: Mark::new("<|tool_call_start|>"),
            section_close: Mark::new("<|tool_call_end|>"),
            list: true,
            ..calls("python", Form::Python)
        };
    }
    if has("<|tool_call|>") {
        let section_open = Mark::new("<|tool_call|>");
        return CallSyntax { section_open, list: true, ..calls("json", object()) };
    }
    if has("<tool_calls>") {
        return CallSyntax {
            section_open: Mark::new("<tool_calls>"),
            section_close: Mark::new("</tool_calls>"),
            list: true,
            ..calls("json", object())
        };
    }
    let name = if has("<tool_call>") { "hermes" } else { "generic" };
    tagged(name, "<tool_call>\n", "\n</tool_call>")
}

/// The name of a syntax that was learned.
pub(super) fn name_of(calls: &CallSyntax) -> &'static str {
    let opens = |text: &str| {
        calls.open.first_text().starts_with(text)
            || calls.section_open.first_text().starts_with(text)
    };
    match &calls.form {
        Form::Object { .. } if calls.is_bare() => "llama3",
        Form::Object { .. } if opens("[TOOL_CALLS]") => "mistral",
        Form::Object { .. } if opens("<tool_call>") => "hermes",
        Form::Object { .. } | Form::Keyed => "json",
        Form::Named { .. } if opens("[TOOL_CALLS]") => "mistral-args",
        Form::Named { mid } if opens("<｜tool▁call") => {
            let is_v3 = mid.texts().iter().any(|text| text.contains("```json"));
            if is_v3 { "deepseek-v3" } else { "deepseek-v3.1" }
        }
        Form::Named { .. } => "named-json",
        Form::Params(_) if calls.open.texts().iter().any(|text| text.ends_with("<function=")) => {
            "qwen3-coder"
        }
        Form::Params(_) => "parameters",
        Form::Gemma => "gemma4",
        Form::Python => "python",
    }
}

/// GPT-OSS's syntax.
pub(super) fn harmony() -> Syntax {
    Syntax::Harmony
}
