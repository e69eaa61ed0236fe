//! What the tests have in common.

#![allow(dead_code)] // Each test uses a part of it.

pub mod draw;
pub mod schemas;
pub mod syntaxes;

use std::path::PathBuf;

use serde_json::{Value, json};
use zinc_chat::{AnswerParser, Delta, Tools};
use zinc_engine::Model;
use zinc_gguf::Gguf;
use zinc_token::{Tokenizer, VocabSpec};

/// The folder of shared material.
pub fn shared() -> PathBuf {
    std::env::var_os("ZINC_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    )
}

/// A real vocabulary, if it is here.
pub fn tokenizer(name: &str) -> Option<Tokenizer> {
    let path = shared().join(format!("vocab/ggml-vocab-{name}.gguf"));
    let Ok(gguf) = Gguf::open(&path) else {
        eprintln!("skipped: {} is not here", path.display());
        return None;
    };
    Some(Tokenizer::from_gguf(gguf.metadata()).unwrap())
}

/// What an answer says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// All text.
    pub content: String,
    /// All reasoning.
    pub reasoning: String,
    /// Names and arguments.
    pub calls: Vec<(String, Value)>,
}

/// Joins deltas; panics where they contradict their contract.
pub fn join(deltas: impl IntoIterator<Item = Delta>) -> Said {
    let mut said = Said::default();
    let mut texts: Vec<(String, String, bool)> = Vec::new();
    for delta in deltas {
        match delta {
            Delta::Content(text) => said.content.push_str(&text),
            Delta::Reasoning(text) => said.reasoning.push_str(&text),
            Delta::ToolCallStart { index, name } => {
                assert_eq!(index, texts.len(), "calls are numbered in order");
                assert!(texts.iter().all(|call| call.2), "one call after another");
                texts.push((name, String::new(), false));
            }
            Delta::ToolCallArguments { index, json } => {
                assert!(!texts[index].2, "nothing follows the end of a call");
                texts[index].1.push_str(&json);
            }
            Delta::ToolCallEnd { index } => {
                assert!(!std::mem::replace(&mut texts[index].2, true), "a call ends once");
            }
        }
    }
    for (name, arguments, ended) in texts {
        assert!(ended, "every call ends");
        let value: Value = serde_json::from_str(&arguments)
            .unwrap_or_else(|error| panic!("arguments {arguments:?}: {error}"));
        assert!(value.is_object(), "{arguments}");
        said.calls.push((name, value));
    }
    said
}

/// Parses a text in pieces of `n` characters.
pub fn parse(mut parser: AnswerParser, text: &str, n: usize) -> Said {
    let chars: Vec<char> = text.chars().collect();
    let mut deltas = Vec::new();
    for chunk in chars.chunks(n) {
        deltas.extend(parser.push(&chunk.iter().collect::<String>()));
    }
    deltas.extend(parser.finish());
    join(deltas)
}

/// A vocabulary of all bytes, which any text can be written in.
pub fn small_tokenizer() -> Tokenizer {
    tokenizer_with(&[])
}

/// The same with control tokens for the marks of the small templates.
pub fn marked_tokenizer() -> Tokenizer {
    tokenizer_with(&[
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁sep｜>",
        "<|tool_call>",
        "<tool_call|>",
        "<|\"|>",
        "<|tool_call_start|>",
        "<|tool_call_end|>",
        "<|channel|>",
        "<|message|>",
        "<|start|>",
        "<|end|>",
        "<|constrain|>",
        "<|return|>",
        "<|call|>",
        "<think>",
        "</think>",
    ])
}

fn tokenizer_with(control: &[&str]) -> Tokenizer {
    let texts: Vec<String> = (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut tokens = vec![b"<unk>".to_vec(), b"<s>".to_vec(), b"</s>".to_vec()];
    tokens.extend(texts.iter().map(|text| text.clone().into_bytes()));
    let mut types = vec![2, 3, 3];
    types.extend(vec![6; 256]);
    // A blank, as such vocabularies write it.
    tokens.push("▁".as_bytes().to_vec());
    types.push(1);
    tokens.extend(control.iter().map(|text| text.as_bytes().to_vec()));
    types.extend(vec![3; control.len()]);
    let spec = VocabSpec {
        model: "llama".into(),
        tokens: tokens.iter().map(Vec::as_slice).collect(),
        scores: Some(vec![0.0; tokens.len()]),
        token_types: Some(types),
        add_bos: Some(false),
        add_space_prefix: Some(false),
        ..VocabSpec::default()
    };
    Tokenizer::new(&spec).unwrap()
}

/// One tool.
pub fn small_tools() -> Tools {
    let properties = json!({"city": {"type": "string"}, "days": {"type": "integer"}});
    let parameters = json!({"type": "object", "properties": properties, "required": ["city"]});
    let function =
        json!({"name": "get_weather", "description": "A tool", "parameters": parameters});
    Tools::from_json(&[json!({"type": "function", "function": function})]).unwrap()
}

/// The demonstration model.
pub fn builtin() -> Model {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../builtin/zinc-demo.gguf");
    Model::open(&path).unwrap()
}
