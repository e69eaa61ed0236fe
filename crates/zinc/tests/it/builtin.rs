//! The built-in model answers its table of samples (`builtin/samples.json`, computed by PyTorch).

use serde_json::{Value, json};

use crate::Place;

fn samples() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../builtin/samples.json");
    serde_json::from_str(&crate::read(path.as_ref())).unwrap()
}

/// The question of a sample that is nothing but a question.
fn question(sample: &Value) -> Option<&str> {
    let [message] = sample["messages"].as_array()?.as_slice() else {
        return None;
    };
    message["content"].as_str().filter(|_| sample["tools"].is_null() && message["role"] == "user")
}

#[test]
fn run_answers_the_samples() {
    let place = Place::new();
    let mut n_questions = 0;
    for sample in samples() {
        let Some(question) = question(&sample) else {
            continue;
        };
        n_questions += 1;
        let thinks = sample["enable_thinking"] == true;
        // Thinking is off unless asked for.
        let flags = if thinks { &["--think", "--json"][..] } else { &["--json"] };
        let answer = place.zinc(&[&["run", "--temp", "0"], flags, &[question]].concat()).json();
        assert_eq!(answer["ids"], sample["output_tokens"], "{question}");
        assert_eq!(answer["finish_reason"], "stop", "{question}");
        assert_eq!(answer["reasoning"].is_string(), thinks, "{question}");
        if !thinks {
            assert_eq!(answer["text"], sample["output"], "{question}");
        }
    }
    assert!(n_questions > 20, "{n_questions}");
}

#[test]
fn the_template_renders_the_samples_prompts() {
    let place = Place::new();
    for sample in samples() {
        if sample["messages"].is_null() {
            continue;
        }
        let mut input = json!({ "messages": sample["messages"] });
        for key in ["tools", "enable_thinking"] {
            if !sample[key].is_null() {
                input[key] = sample[key].clone();
            }
        }
        place.write("input.json", input.to_string().as_bytes());
        assert_eq!(place.zinc(&["template", "--input", "input.json"]).ok(), sample["prompt"]);
        place.write("prompt.txt", sample["prompt"].as_str().unwrap().as_bytes());
        let ids = place.zinc(&["tokenize", "--parse-special", "--file", "prompt.txt"]).json();
        assert_eq!(ids, sample["prompt_tokens"]);
    }
}

#[test]
fn rendered_prompts_are_continued() {
    let place = Place::new();
    for sample in samples() {
        if question(&sample).is_some() {
            continue;
        }
        place.write("prompt.txt", sample["prompt"].as_str().unwrap().as_bytes());
        let ids = sample["output_tokens"].as_array().unwrap();
        let n = ids.len().to_string();
        let args = [
            "run",
            "--raw",
            "--parse-special",
            "--temp",
            "0",
            "-n",
            &n,
            "--file",
            "prompt.txt",
            "--json",
        ];
        assert_eq!(
            place.zinc(&args).json()["ids"],
            sample["output_tokens"],
            "{}",
            sample["prompt"]
        );
    }
}
