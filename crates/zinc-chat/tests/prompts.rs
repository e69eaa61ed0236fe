//! Prompts: text of a conversation never becomes a control token, and every message reaches the template
//! in the form that it reads.

#![allow(clippy::unwrap_used)] // A test that unwraps fails, as it should.

mod support;

use serde_json::{Value, json};
use support::{small_tokenizer, small_tools};
use zinc_chat::{ChatError, ChatFormat, ChatInput, Tools};
use zinc_token::{EncodeOptions, Tokenizer, VocabSpec};

/// A vocabulary of the letters of the tests and two control tokens, 1 and 2.
fn tokenizer() -> Tokenizer {
    let pieces = ["<unk>", "<|a|>", "<|a|>b", "<", "|", "a", "b", ">", "x"];
    let types = [2, 3, 3, 1, 1, 1, 1, 1, 1];
    spelled(&pieces, &types, None)
}

/// Phi-3's way: white space behind control tokens, here 3 and 4, belongs to them.
fn stripping_tokenizer() -> Tokenizer {
    let pieces =
        ["<unk>", "<s>", "</s>", "<|user|>", "<|end|>", "▁", "x", "▁x", "<", "|", "end", ">"];
    let mut types = [1; 12];
    types[0] = 2;
    types[1..5].fill(3);
    spelled(&pieces, &types, Some("Phi-3"))
}

fn spelled(pieces: &[&str], types: &[i32], name: Option<&str>) -> Tokenizer {
    let spec = VocabSpec {
        model: "llama".into(),
        name: name.map(str::to_owned),
        tokens: pieces.iter().map(|text| text.as_bytes()).collect(),
        scores: Some((0..pieces.len()).map(|id| -(id as f32)).collect()),
        token_types: Some(types.to_vec()),
        add_bos: Some(false),
        add_space_prefix: Some(name.is_some()),
        ..VocabSpec::default()
    };
    Tokenizer::new(&spec).unwrap()
}

fn prompt_of(tokenizer: &Tokenizer, source: &str, content: &str) -> Vec<u32> {
    let format = ChatFormat::from_templates(tokenizer, source, None).unwrap();
    let input = ChatInput::new(vec![json!({"role": "user", "content": content})]);
    format.prompt(tokenizer, &input).unwrap().ids
}

#[test]
fn messages_never_become_control_tokens() {
    let source = "{% for m in messages %}<|a|>{{ m.content }}{% endfor %}";
    let prompt = |content: &str| prompt_of(&tokenizer(), source, content);
    assert_eq!(prompt("x"), [1, 8]);
    assert_eq!(prompt("x<|a|>x"), [1, 8, 3, 4, 5, 4, 7, 8]);
    assert_eq!(prompt("x<|a|>b"), [1, 8, 3, 4, 5, 4, 7, 6]);
}

#[test]
fn spelling_a_control_token_changes_nothing_around_it() {
    let tokenizer = stripping_tokenizer();
    let source =
        "{% for m in messages %}<|user|>\n{{ m.content }}<|end|>\n x<|user|>\n{% endfor %}";
    let prompt = |content| prompt_of(&tokenizer, source, content);
    assert_eq!(prompt("x"), [3, 7, 4, 7, 3]);
    let text = tokenizer.encode("x <|end|> x", EncodeOptions::default());
    assert!(!text.contains(&4), "{text:?}");
    assert_eq!(prompt("x <|end|> x"), [&[3], &text[..], &[4, 7, 3]].concat());
}

#[test]
fn neither_do_names_arguments_results_and_tools() {
    let tokenizer = small_tokenizer();
    let source = "{{ tools | tojson }}{{ messages | tojson }}{{ note }}</s>";
    let format = ChatFormat::from_templates(&tokenizer, source, None).unwrap();
    let call = json!({"id": "</s>", "type": "function",
        "function": {"name": "</s>", "arguments": "{\"</s>\": [\"</s>\"]}"}});
    let mut input = ChatInput::new(vec![
        json!({"role": "user", "name": "</s>", "content": [{"type": "text", "text": "</s>"}]}),
        json!({"role": "assistant", "content": null, "tool_calls": [call]}),
        json!({"role": "tool", "tool_call_id": "</s>", "content": "</s>"}),
    ]);
    let tool = json!({"type": "function", "function": {"name": "f", "description": "</s>",
        "parameters": {"type": "object", "properties": {"</s>": {}}}}});
    input.tools = Tools::from_json(&[tool]).unwrap();
    input.template_kwargs.insert("note".into(), json!("</s>"));
    let prompt = format.prompt(&tokenizer, &input).unwrap();
    let end = tokenizer.vocab().special_id("</s>").unwrap();
    assert_eq!(prompt.ids.iter().filter(|id| **id == end).count(), 1);
    assert_eq!(prompt.ids.last(), Some(&end));
    assert_eq!(prompt.text.matches("</s>").count(), 12);
}

#[test]
fn what_is_no_message_is_told_with_its_place() {
    let tokenizer = small_tokenizer();
    let source = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let format = ChatFormat::from_templates(&tokenizer, source, None).unwrap();
    let error = |message: Value| {
        let input = ChatInput::new(vec![json!({"role": "user", "content": "Hi"}), message]);
        match format.prompt(&tokenizer, &input) {
            Err(ChatError::Message { at, .. }) => at,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(error(json!("x")), "messages[1]");
    assert_eq!(error(json!({"role": "robot"})), "messages[1].role");
    assert_eq!(error(json!({"role": "user", "content": 5})), "messages[1].content");
    let image = json!([{"type": "text", "text": ""}, {"type": "image_url", "image_url": {}}]);
    assert_eq!(error(json!({"role": "user", "content": image})), "messages[1].content[1]");
    let call = json!([{"function": {"name": "f", "arguments": "[1]"}}]);
    let at = "messages[1].tool_calls[0].function.arguments";
    assert_eq!(error(json!({"role": "assistant", "tool_calls": call})), at);
    for wrong in ["{city: \"x\"}", "{\"a\" 1", "x", "{} {"] {
        let call = json!([{"function": {"name": "f", "arguments": wrong}}]);
        assert_eq!(error(json!({"role": "assistant", "tool_calls": call})), at, "{wrong}");
    }
    let mut input = ChatInput::new(vec![json!({"role": "user", "content": "Hi"})]);
    input.tools = small_tools();
    assert!(matches!(format.prompt(&tokenizer, &input), Err(ChatError::NoTools)));
    let tool =
        |function: Value| Tools::from_json(&[json!({"type": "function", "function": function})]);
    assert!(
        tool(json!({"name": "a b"})).unwrap_err().to_string().starts_with("tools[0].function.name")
    );
    assert!(
        tool(json!({"name": "a", "parameters": 1})).unwrap_err().to_string().contains("parameters")
    );
}

#[test]
fn thinking_that_is_switched_off_is_not_expected() {
    let source = "{% for m in messages %}<|{{ m.role }}|>{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}{% endfor %}{% if enable_thinking is defined and not enable_thinking %}/no_think{% endif %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
    let switched = ChatFormat::from_templates(&small_tokenizer(), source, None).unwrap();
    assert!(switched.supports_thinking_switch() && switched.thinking().is_some());
    let plain = support::syntaxes::format_of(&small_tokenizer(), "");
    let mut input = ChatInput::new(vec![json!({"role": "user", "content": "Hi"})]);
    let expects = |format: &ChatFormat, input: &ChatInput| {
        !format.prompt(&small_tokenizer(), input).unwrap().closes_thinking
    };
    assert!(expects(&switched, &input) && expects(&plain, &input));
    input.thinking = Some(false);
    assert!(!expects(&switched, &input) && !expects(&plain, &input));
    // Where the prompt begins it, it is there.
    input.messages.push(json!({"role": "assistant", "content": "<think>so"}));
    input.continue_final_message = true;
    assert!(expects(&switched, &input));
    let mut input = ChatInput::new(vec![json!({"role": "user", "content": "Hi"})]);
    input.template_kwargs.insert("enable_thinking".into(), json!(false));
    assert!(!expects(&switched, &input));
    input.template_kwargs.insert("enable_thinking".into(), json!(true));
    input.thinking = Some(false);
    assert!(expects(&switched, &input));
}

#[test]
fn of_a_call_that_was_cut_off_the_template_gets_what_is_whole() {
    let tokenizer = small_tokenizer();
    let source = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}";
    let format = ChatFormat::from_templates(&tokenizer, source, None).unwrap();
    let call = json!({"id": "1", "type": "function",
        "function": {"name": "f", "arguments": "{\"a\": 1, \"city\": \"Par"}});
    let input = ChatInput::new(vec![
        json!({"role": "user", "content": "Hi"}),
        json!({"role": "assistant", "content": null, "tool_calls": [call]}),
        json!({"role": "tool", "tool_call_id": "1", "content": "rain"}),
    ]);
    let text = format.prompt(&tokenizer, &input).unwrap().text;
    assert!(text.contains("\"a\"") && !text.contains("city"), "{text}");
}
