//! Whatever the model emits, responses are valid: at a temperature that makes every token of the
//! vocabulary about as probable as any other, control tokens and broken characters included.

use serde_json::{Value, json};

use zinc_server::ModelDefaults;

use crate::support::{Setup, TestServer, model, with};

#[test]
fn random_tokens_make_valid_responses() {
    // Not every API has a field for it, and at its default the text would be ordinary.
    let mut known = model("demo");
    known.defaults = ModelDefaults { min_p: Some(0.0), ..known.defaults };
    let server = TestServer::start(Setup { models: vec![known], ..Setup::default() });
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let messages = json!([{"role": "user", "content": "x"}]);
    // Each seed is one API's.
    for seed in 0..50 {
        let noise = json!({"temperature": 100, "top_k": 0, "top_p": 1, "seed": seed});
        let body = |more: Value| with(noise.clone(), more);
        match seed % 4 {
            0 => check_chat(
                &server,
                &body(json!({
                    "messages": messages, "max_tokens": 12, "ignore_eos": true,
                    "logprobs": true, "top_logprobs": 2,
                    "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}],
                    "chat_template_kwargs": {"enable_thinking": seed % 8 == 0},
                })),
            ),
            1 => check_completion(
                &server,
                &body(json!({"prompt": "x", "max_tokens": 12, "logprobs": 2, "echo": true,
                             "ignore_eos": true})),
            ),
            2 => check_events(
                &server,
                "/v1/messages",
                &body(json!({"messages": messages, "max_tokens": 12,
                             "tools": [{"name": "f", "input_schema": schema}]})),
            ),
            _ => check_events(
                &server,
                "/v1/responses",
                &body(json!({"input": "x", "max_output_tokens": 12})),
            ),
        }
    }
}

/// Whole and streamed say the same.
fn check_completion(server: &TestServer, body: &Value) {
    let stream = with(body.clone(), json!({"stream": true}));
    let streamed = server.post("/v1/completions", &stream).chunks();
    let text: String = streamed.iter().filter_map(|c| c["choices"][0]["text"].as_str()).collect();
    assert_eq!(server.ok("/v1/completions", body)["choices"][0]["text"], text);
}

/// Whole and streamed are JSON.
fn check_events(server: &TestServer, path: &str, body: &Value) {
    server.ok(path, body);
    for (_, data) in server.post(path, &with(body.clone(), json!({"stream": true}))).events() {
        serde_json::from_str::<Value>(&data).unwrap();
    }
}

/// Whole and streamed say the same, and arguments of calls are JSON.
fn check_chat(server: &TestServer, body: &Value) {
    let whole = server.ok("/v1/chat/completions", body);
    let message = &whole["choices"][0]["message"];
    for call in message["tool_calls"].as_array().into_iter().flatten() {
        let arguments = call["function"]["arguments"].as_str().unwrap();
        assert!(serde_json::from_str::<Value>(arguments).unwrap().is_object(), "{arguments}");
    }
    let chunks =
        server.post("/v1/chat/completions", &with(body.clone(), json!({"stream": true}))).chunks();
    let joined = |key: &str| -> String {
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"][key].as_str()).collect()
    };
    assert_eq!(joined("content"), message["content"].as_str().unwrap_or_default());
    assert_eq!(
        joined("reasoning_content"),
        message["reasoning_content"].as_str().unwrap_or_default()
    );
}
