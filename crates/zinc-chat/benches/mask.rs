//! What holding an answer costs per token: the mask, and taking note of the token.
//!
//! `cargo bench -p zinc-chat [-- VOCABULARY.gguf]`; without a file, the demonstration model's vocabulary.
//! Each line: how many tokens, median, 95th and 99th percentile and maximum of a token's cost.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zinc_chat::{GuideFactory, ResponseFormat};
use zinc_engine::{Allowed, Steer};
use zinc_gguf::Gguf;
use zinc_token::{EncodeOptions, Tokenizer};

/// Schemas with a text that satisfies each.
fn cases() -> Vec<(&'static str, Value, String)> {
    let person = json!({"type": "object", "properties": {
        "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "email": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"type": "string"}}},
        "required": ["name", "age", "email", "tags"], "additionalProperties": false});
    let text =
        "Words of every kind, as a model writes them into a long field of an answer. ".repeat(8);
    let one =
        json!({"name": text, "age": 42, "email": "someone@example.com", "tags": ["a b", "c"]});
    let tree = json!({"$defs": {"n": {"type": "object", "properties": {"v": {"type": "number"},
        "l": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]},
        "r": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}},
        "required": ["v", "l", "r"], "additionalProperties": false}}, "$ref": "#/$defs/n"});
    let leaf = json!({"v": 1.5, "l": null, "r": null});
    let branch = (0..6).fold(leaf.clone(), |l, i| json!({"v": i, "l": l, "r": leaf}));
    let many: Vec<Value> =
        (0..20).map(|i| json!({"id": i, "kind": "blue", "note": "short"})).collect();
    let list = json!({"type": "array", "items": {"type": "object", "properties": {
        "id": {"type": "integer"}, "kind": {"enum": ["red", "green", "blue"]},
        "note": {"type": "string", "maxLength": 40}}, "required": ["id", "kind", "note"],
        "additionalProperties": false}});
    let any = json!({"type": "object"});
    vec![
        ("object with a long text", person, one.to_string()),
        ("recursive tree", tree, branch.to_string()),
        ("list of objects", list, json!(many).to_string()),
        ("any JSON object", any, json!({"a": many}).to_string()),
    ]
}

fn main() {
    let file = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let demo = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../builtin/zinc-demo.gguf");
    let path = file.map_or(demo, PathBuf::from);
    let gguf = Gguf::open(&path).unwrap();
    let tokenizer = Tokenizer::from_gguf(gguf.metadata()).unwrap();
    let begin = Instant::now();
    let factory = GuideFactory::new(&tokenizer).unwrap();
    println!("{} tokens, tables in {:.0?}", tokenizer.vocab().n_tokens(), begin.elapsed());
    for (name, schema, text) in cases() {
        let format = ResponseFormat::JsonSchema(schema);
        let begin = Instant::now();
        let guide = factory.plain_guide(&tokenizer, &format).unwrap().unwrap();
        let compiled = begin.elapsed();
        let mut times = answer(guide, &tokenizer.encode(&text, EncodeOptions::default()));
        times.sort();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
        println!(
            "{name}: compiled in {compiled:.1?}; {} tokens, median {:.1?}, p95 {:.1?}, p99 {:.1?}, max {:.1?}",
            times.len(),
            at(0.5),
            at(0.95),
            at(0.99),
            at(1.0)
        );
    }
}

/// Time of each token of an answer.
fn answer(mut guide: Box<dyn Steer>, ids: &[u32]) -> Vec<Duration> {
    let mut times = Vec::with_capacity(ids.len());
    for &id in ids {
        let begin = Instant::now();
        let allowed = guide.next().unwrap();
        let Allowed::Mask(mask) = allowed else { panic!("{allowed:?}") };
        assert!(mask[id as usize / 32] >> (id % 32) & 1 == 1, "the text satisfies the schema");
        guide.accept(id).unwrap();
        times.push(begin.elapsed());
    }
    times
}
