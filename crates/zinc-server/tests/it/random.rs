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
    let tool = json!({"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}});
    let messages = json!([{"role": "user", "content": "x"}]);
    for seed in 0..50 {
        let noise =
            json!({"temperature": 100, "top_k": 0, "top_p": 1, "seed": seed, "max_tokens": 12});
        let more = json!({"ignore_eos": true, "logprobs": true, "top_logprobs": 2});
        let chat = with(
            with(noise.clone(), more),
            json!({
                "messages": messages, "tools": [{"type": "function", "function": tool}],
                "chat_template_kwargs": {"enable_thinking": seed % 2 == 0},
            }),
        );
        check_chat(&server, &chat);
        let completion = with(
            noise.clone(),
            json!({"prompt": "x", "logprobs": 2, "echo": true, "ignore_eos": true}),
        );
        let streamed = server
            .post("/v1/completions", &with(completion.clone(), json!({"stream": true})))
            .chunks();
        let text: String =
            streamed.iter().filter_map(|c| c["choices"][0]["text"].as_str()).collect();
        assert_eq!(server.ok("/v1/completions", &completion)["choices"][0]["text"], text);
        let message = with(
            noise,
            json!({"messages": messages, "tools": [{"name": "f", "input_schema": tool["parameters"]}]}),
        );
        server.ok("/v1/messages", &message);
        for (_, data) in
            server.post("/v1/messages", &with(message, json!({"stream": true}))).events()
        {
            serde_json::from_str::<Value>(&data).unwrap();
        }
        let response = json!({"input": "x", "temperature": 100, "top_k": 0, "top_p": 1, "seed": seed, "max_output_tokens": 12});
        server.ok("/v1/responses", &response);
        for (_, data) in
            server.post("/v1/responses", &with(response, json!({"stream": true}))).events()
        {
            serde_json::from_str::<Value>(&data).unwrap();
        }
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
