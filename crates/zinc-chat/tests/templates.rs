//! Real templates: what is recognised of each, and that calls it renders are parsed again.

#![allow(clippy::unwrap_used)] // A test that unwraps fails, as it should.

mod support;

use std::fmt::Write;

use serde_json::{Value, json};
use support::{parse, shared, tokenizer};
use zinc_chat::{AnswerParser, ChatFormat, ChatInput, ChatPrompt, Tools};
use zinc_token::Tokenizer;

/// Template, syntax of its calls, opening tag of its reasoning; `-` for none.
const RECOGNISED: &str = include_str!("recognised.txt");

/// Templates by name; none if they are not here.
fn templates() -> Vec<(String, String)> {
    let dir = shared().join("templates");
    let Ok(entries) = std::fs::read_dir(&dir) else {
        eprintln!("skipped: {} is not here", dir.display());
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jinja"));
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(path).unwrap())
    };
    paths.iter().map(read).collect()
}

fn format(tokenizer: &Tokenizer, source: &str) -> ChatFormat {
    ChatFormat::from_templates(tokenizer, source, None).unwrap()
}

#[test]
fn every_template_is_recognised() {
    let Some(tokenizer) = tokenizer("qwen2") else { return };
    let mut found = String::new();
    for (name, source) in templates() {
        let format = format(&tokenizer, &source);
        let calls = format.tool_syntax().unwrap_or("-");
        let thinking = format.thinking().map_or("-", |thinking| &thinking.open);
        writeln!(found, "{name} | {calls} | {thinking}").unwrap();
    }
    if !found.is_empty() {
        assert_eq!(found, RECOGNISED, "recognised:\n{found}");
    }
}

fn tools() -> Tools {
    let properties = json!({
        "city": {"type": "string"}, "unit": {"type": "string"}, "days": {"type": "integer"},
        "precise": {"type": "boolean"}, "tags": {"type": "array", "items": {"type": "string"}},
        "at": {"type": "object"}, "ratio": {"type": "number"}, "note": {"type": ["string", "null"]},
    });
    let weather = json!({"type": "object", "properties": properties, "required": ["city"]});
    let add =
        json!({"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}});
    let tool = |name: &str, parameters: Value| {
        json!({"type": "function", "function":
            {"name": name, "description": "A tool", "parameters": parameters}})
    };
    Tools::from_json(&[tool("get_weather", weather), tool("add", add)]).unwrap()
}

fn assistant(calls: &[(&str, Value)]) -> Value {
    let call = |(i, (name, arguments)): (usize, &(&str, Value))| {
        let function = json!({"name": name, "arguments": arguments.to_string()});
        json!({"id": format!("call{i:05}"), "type": "function", "function": function})
    };
    let calls: Vec<_> = calls.iter().enumerate().map(call).collect();
    json!({"role": "assistant", "content": null, "tool_calls": calls})
}

/// What the template writes behind its generation prompt for an answer with these calls.
fn rendered(
    format: &ChatFormat,
    tokenizer: &Tokenizer,
    calls: &[(&str, Value)],
) -> Option<(ChatPrompt, String)> {
    let user = json!({"role": "user", "content": "Weather?"});
    let mut input = ChatInput::new(vec![user]);
    input.tools = tools();
    let prompt = format.prompt(tokenizer, &input).ok()?;
    input.messages.push(assistant(calls));
    input.add_generation_prompt = false;
    let whole = format.prompt(tokenizer, &input).ok()?;
    let mut prompt = prompt;
    // Where the two part; a prompt that opens or closes the reasoning may do so otherwise.
    let same = prompt.text.chars().zip(whole.text.chars()).take_while(|(a, b)| a == b);
    let mut n = same.map(|(a, _)| a.len_utf8()).sum::<usize>();
    if let Some(open) = whole.text[..n].rfind('<')
        && !whole.text[open..n].contains('>')
    {
        n = open;
    }
    prompt.opens_thinking &= n == prompt.text.len();
    Some((prompt, whole.text[n..].to_owned()))
}

/// Tokens that end a turn, and with it the answer.
const ENDS: [&str; 22] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|call|>",
    "<|calls|>",
    "<turn|>",
    "<|tool_response>",
    "<|endoftext|>",
    "</s>",
    "<|end_of_text|>",
    "<｜end▁of▁sentence｜>",
    "<seed:eos>",
    "<|END_OF_TURN_TOKEN|>",
    "<end_of_sentence>",
    "[e~[",
    "<sep>",
    "<|role_end|>",
    "</assistant>",
    "<SPECIAL_12>",
    "<｜hy_eos:opensource｜>",
    "\n<|end|>\n",
    "<|observation|>",
];

fn without_end(text: &str) -> &str {
    let end = ENDS.iter().filter_map(|end| text.find(end)).min();
    &text[..end.unwrap_or(text.len())]
}

/// Whether the template shows such calls; what goes wrong is added to `wrong`.
fn round_trip(
    format: &ChatFormat,
    tokenizer: &Tokenizer,
    calls: &[(&str, Value)],
    wrong: &mut String,
) -> bool {
    let Some((prompt, text)) = rendered(format, tokenizer, calls) else { return false };
    let text = without_end(&text);
    if !calls.iter().all(|(name, _)| text.contains(name)) {
        // It shows one call of a message only.
        return false;
    }
    let want: Vec<_> =
        calls.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    for n in [1, 3, 1000] {
        let said = parse(AnswerParser::new(format, &prompt, &tools()), text, n);
        let content = said.content.replace("<think>", "").replace("</think>", "");
        if said.calls != want || !content.trim().is_empty() {
            writeln!(wrong, "  by {n}: {text:?}\n    {said:?}").unwrap();
            break;
        }
    }
    true
}

/// Templates whose calls are not parsed again, and why.
const ONE_WAY: [(&str, &str); 8] = [
    ("Kimi-K2-Instruct", "shows ids in place of names"),
    ("Kimi-K3", "marks made of several tokens with text between them"),
    ("LFM2-8B-A1B", "shows no calls"),
    ("ibm-granite-granite-3.3-2B-Instruct", "shows no calls"),
    ("muse-glimmer", "a message per call"),
    ("GigaChat3-10B-A1.8B", "a message per call"),
    ("GigaChat3.1-10B-A1.8B", "a message per call"),
    ("MiniMax-M3", "nests tags for nested values"),
];

#[test]
fn rendered_calls_are_parsed_again() {
    let Some(tokenizer) = tokenizer("qwen2") else { return };
    let (mut n_one, mut n_two) = (0, 0);
    let mut failures = String::new();
    for (name, source) in templates() {
        let format = format(&tokenizer, &source);
        if format.tool_syntax().is_none() || ONE_WAY.iter().any(|(one_way, _)| *one_way == name) {
            continue;
        }
        let mut wrong = String::new();
        let mut check = |calls: &[(&str, Value)]| {
            usize::from(round_trip(&format, &tokenizer, calls, &mut wrong))
        };
        let plain = json!({"city": "São Paulo", "unit": "celsius"});
        n_one += check(&[("get_weather", plain.clone())]);
        let typed = json!({"city": "5", "days": 3, "precise": true, "tags": ["a", "b \"c\""],
            "at": {"x": {"y": null}}, "ratio": -0.5, "note": "line one\nline two"});
        check(&[("get_weather", typed)]);
        check(&[("get_weather", json!({}))]);
        n_two += check(&[("get_weather", plain), ("add", json!({"a": 1, "b": 2.5}))]);
        if !wrong.is_empty() {
            write!(failures, "{name}\n{wrong}").unwrap();
        }
    }
    eprintln!("{n_one} templates with one call, {n_two} with two");
    assert!(failures.is_empty(), "{failures}");
}
