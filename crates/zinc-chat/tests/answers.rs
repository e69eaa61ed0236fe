//! Whatever a model emits, and however it is cut: the deltas keep their contract.

#![allow(clippy::unwrap_used)] // A test that unwraps fails, as it should.

mod support;

use proptest::prelude::*;
use serde_json::json;
use support::syntaxes::{TEMPLATES, call, format_of};
use support::{Said, parse, small_tokenizer, small_tools};
use zinc_chat::{AnswerParser, ChatFormat, ChatInput, ChatPrompt, Delta, Tools};

fn prompt(opens_thinking: bool) -> ChatPrompt {
    ChatPrompt { opens_thinking, ..ChatPrompt::plain(Vec::new()) }
}

fn said(format: &ChatFormat, text: &str, n: usize) -> Said {
    parse(AnswerParser::new(format, &prompt(false), &small_tools()), text, n)
}

#[test]
fn the_templates_are_recognised() {
    for (name, calls) in TEMPLATES {
        assert_eq!(format_of(&small_tokenizer(), calls).tool_syntax(), Some(name));
    }
}

#[test]
fn calls_are_told_and_text_stays_text() {
    let rome = json!({"city": "Rome", "days": 2});
    for (name, calls) in TEMPLATES {
        let format = format_of(&small_tokenizer(), calls);
        for n in [1, 2, 7, 1000] {
            let text = call(name, "get_weather");
            let found = said(&format, &text, n);
            assert_eq!(found.calls, [("get_weather".to_owned(), rome.clone())], "{name} by {n}");
            assert_eq!(found.content, "", "{name} by {n}");
            if name != "harmony" {
                // No tool of that name: all of it is text.
                let text = call(name, "rm_rf");
                assert_eq!(said(&format, &text, n).content, text, "{name} by {n}");
                let plain = "Use <tool or [TOOL, a < b, {x}; that is all.\n";
                assert_eq!(said(&format, plain, n).content, plain, "{name} by {n}");
                let none = parse(
                    AnswerParser::new(&format, &prompt(false), &Tools::default()),
                    &call(name, "get_weather"),
                    n,
                );
                assert_eq!(none.content, call(name, "get_weather"), "{name} by {n}");
            }
            if !["llama3", "harmony"].contains(&name) {
                let text = format!(
                    "<think>\nhm\n</think>\n\nWell.\n\n{}\nDone.",
                    call(name, "get_weather")
                );
                let found = said(&format, &text, n);
                assert_eq!(found.reasoning, "hm", "{name} by {n}");
                assert_eq!(found.content, "Well.Done.", "{name} by {n}");
                assert_eq!(found.calls.len(), 1, "{name} by {n}");
            }
        }
    }
}

/// What a text says of calls whose arguments may break off: content, arguments by call, ended calls, and
/// whether one broke off.
fn cut_off(format: &ChatFormat, text: &str, n: usize) -> (String, Vec<String>, usize, bool) {
    let mut parser = AnswerParser::new(format, &prompt(false), &small_tools());
    let chars: Vec<char> = text.chars().collect();
    let pieces = chars.chunks(n).map(String::from_iter);
    let mut deltas: Vec<Delta> = pieces.flat_map(|piece: String| parser.push(&piece)).collect();
    deltas.extend(parser.cut());
    let (mut content, mut calls, mut n_ended) = (String::new(), Vec::new(), 0);
    for delta in deltas {
        match delta {
            Delta::Content(text) => content.push_str(&text),
            Delta::Reasoning(text) => panic!("{text:?} is no reasoning"),
            Delta::ToolCallStart { .. } => calls.push(String::new()),
            Delta::ToolCallArguments { index, json } => calls[index].push_str(&json),
            Delta::ToolCallEnd { .. } => n_ended += 1,
        }
    }
    (content, calls, n_ended, parser.broke_off())
}

#[test]
fn a_call_that_is_cut_off_stays_as_far_as_it_came() {
    for (name, calls) in TEMPLATES {
        let format = format_of(&small_tokenizer(), calls);
        let text = call(name, "get_weather");
        let all = cut_off(&format, &text, 1).1[0].clone();
        assert!(serde_json::from_str::<serde_json::Value>(&all).is_ok(), "{name} {all}");
        for at in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
            let begin = &text[..at];
            let (content, calls, n_ended, broke_off) = cut_off(&format, begin, 1);
            assert_eq!(cut_off(&format, begin, 1000), cut_off(&format, begin, 1), "{name} {begin}");
            // The first characters of a mark may be any text's; without marks all of it may be.
            let is_text = content.len() < 4 || (name == "llama3" && calls.is_empty());
            assert!(is_text && begin.starts_with(&content), "{name} {begin:?}: {content:?}");
            match calls.as_slice() {
                [] => assert_eq!(n_ended, 0, "{name} {begin:?}"),
                [arguments] => {
                    assert!(all.starts_with(arguments), "{name} {begin:?}: {arguments}");
                    assert_eq!(n_ended == 1, *arguments == all, "{name} {begin:?}: {arguments}");
                    assert_eq!(broke_off, n_ended == 0, "{name} {begin:?}");
                }
                more => panic!("{name} {begin:?}: {more:?}"),
            }
        }
    }
}

#[test]
fn a_call_before_the_one_that_is_cut_off_is_whole() {
    let format = format_of(&small_tokenizer(), TEMPLATES[0].1);
    let whole = call("hermes", "get_weather");
    let rome = "{\"city\": \"Rome\", \"days\": 2}".to_owned();
    for n in [1, 1000] {
        let found = cut_off(&format, &format!("{whole}\n<tool_call>\n{{\"name\": \"get_we"), n);
        assert_eq!(found, (String::new(), vec![rome.clone()], 1, true));
        let begun = "{\"city\": \"Ro";
        let text =
            format!("{whole}\n<tool_call>\n{{\"name\": \"get_weather\", \"arguments\": {begun}");
        let found = cut_off(&format, &text, n);
        assert_eq!(found, (String::new(), vec![rome.clone(), begun.to_owned()], 1, true));
        let found = cut_off(&format, &format!("{whole}\n<tool"), n);
        assert_eq!(found, (String::new(), vec![rome.clone()], 1, true));
        let found = cut_off(&format, &format!("{whole}\nand a <"), n);
        assert_eq!(found, ("and a <".to_owned(), vec![rome.clone()], 1, false));
    }
}

#[test]
fn channels_are_told_apart() {
    let format = format_of(&small_tokenizer(), TEMPLATES[9].1);
    let text = "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant<|channel|>commentary<|message|>I look. <|end|><|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>{\"city\": \"Rome\"}<|call|>";
    let last = "<|channel|>final<|message|>It is <b>.<|return|>";
    for n in [1, 3, 1000] {
        let found = said(&format, text, n);
        assert_eq!((found.reasoning.as_str(), found.content.as_str()), ("Let me see.", "I look. "));
        assert_eq!(found.calls, [("get_weather".to_owned(), json!({"city": "Rome"}))]);
        assert_eq!(said(&format, last, n).content, "It is <b>.");
        assert_eq!(said(&format, "Plain <words", n).content, "Plain <words");
    }
}

#[test]
fn the_prompt_says_where_the_answer_begins() {
    let format = format_of(&small_tokenizer(), TEMPLATES[0].1);
    let tokenizer = small_tokenizer();
    let mut input = ChatInput::new(vec![json!({"role": "user", "content": "Hi"})]);
    let prompt = format.prompt(&tokenizer, &input).unwrap();
    assert!(!prompt.opens_thinking && prompt.text.ends_with("<|assistant|>"));
    input.messages.push(json!({"role": "assistant", "content": "<think>so"}));
    input.continue_final_message = true;
    let prompt = format.prompt(&tokenizer, &input).unwrap();
    assert!(prompt.opens_thinking && prompt.text.ends_with("<think>so"), "{}", prompt.text);
}

/// Pieces that answers are made of, right and wrong.
fn pieces() -> impl Strategy<Value = String> {
    let marks: Vec<String> = [
        "<tool_call>",
        "</tool_call>",
        "<function=",
        "get_weather",
        ">",
        "\n",
        "<parameter=",
        "city",
        "</parameter>",
        "</function>",
        "[TOOL_CALLS]",
        "[",
        "]",
        "[ARGS]",
        "{",
        "}",
        "\"name\"",
        ":",
        "\"arguments\"",
        "\"parameters\"",
        ",",
        "\"get_weather\"",
        "\"city\"",
        "\"Ro",
        "me\"",
        "12",
        "-0",
        ".5",
        "true",
        "nul",
        "\\",
        "\\u00",
        "\\ud83d",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "function<｜tool▁sep｜>",
        "<｜tool▁sep｜>",
        "```json",
        "```",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
        "<|tool_call>call:",
        "<|\"|>",
        "<tool_call|>",
        "<|tool_call_start|>",
        "<|tool_call_end|>",
        "(",
        ")",
        "='",
        "'",
        "<think>",
        "</think>",
        "<|",
        "<|channel|>",
        "<|message|>",
        "<|start|>",
        "<|end|>",
        "analysis",
        "final",
        "commentary",
        " to=functions.get_weather",
        "é",
        "😀",
        "text ",
        "<",
    ]
    .iter()
    .map(|piece| (*piece).to_owned())
    .collect();
    let whole: Vec<String> = TEMPLATES.iter().map(|(name, _)| call(name, "get_weather")).collect();
    // Calls that break off, at any character.
    let broken = (prop::sample::select(whole), 0.0..1.0).prop_map(|(text, part)| {
        let n = (text.chars().count() as f64 * part) as usize;
        text.chars().take(n).collect::<String>()
    });
    prop_oneof![4 => prop::sample::select(marks), 1 => broken]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]
    #[test]
    fn any_text_in_any_pieces(pieces in prop::collection::vec(pieces(), 0..24), n in 2usize..9) {
        let text = pieces.concat();
        thread_local! {
            static FORMATS: Vec<(&'static str, ChatFormat)> =
                TEMPLATES.iter().map(|(name, calls)| (*name, format_of(&small_tokenizer(), calls))).collect();
        }
        FORMATS.with(|formats| {
            for (name, format) in formats {
                let whole = said(format, &text, usize::MAX);
                prop_assert_eq!(&said(format, &text, 1), &whole, "{} {:?}", name, text);
                prop_assert_eq!(&said(format, &text, n), &whole, "{} {:?}", name, text);
                if whole.calls.is_empty() && *name != "harmony" && !text.contains("<think>") {
                    prop_assert_eq!(&whole.content, &text, "{}", name);
                }
            }
            Ok(())
        })?;
    }
}
