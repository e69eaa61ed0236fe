//! What is refused, and in which words.

use serde_json::{Value, json};

use crate::support::{Setup, TestServer, chat, with};

#[test]
fn wrong_bodies_are_named() {
    let server = TestServer::plain();
    let post = |path: &str, body: Value| server.post(path, &body).error();
    let cases = [
        ("/v1/chat/completions", json!({}), "invalid_value", json!("messages")),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({"tempratur": 1})),
            "unsupported_value",
            json!("tempratur"),
        ),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({"temperature": "hot"})),
            "invalid_value",
            json!("temperature"),
        ),
        ("/v1/chat/completions", with(chat("x"), json!({"n": 0})), "invalid_value", json!("n")),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({"verbosity": "low"})),
            "unsupported_value",
            json!("verbosity"),
        ),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({"top_logprobs": 3})),
            "invalid_value",
            json!("top_logprobs"),
        ),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({"stop": [""]})),
            "invalid_value",
            json!("stop"),
        ),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({"logit_bias": {"99999999": 1}})),
            "invalid_value",
            json!("logit_bias"),
        ),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({"stop_token_ids": [99_999_999]})),
            "invalid_value",
            json!("stop_token_ids"),
        ),
        (
            "/v1/completions",
            json!({"prompt": "x", "min_tokens": 20}),
            "invalid_value",
            json!("min_tokens"),
        ),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
            "unsupported_value",
            json!("messages[0].content[0].type"),
        ),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({"tool_choice": "required"})),
            "invalid_value",
            json!("tool_choice"),
        ),
        (
            "/v1/completions",
            json!({"prompt": "x", "suffix": "y"}),
            "unsupported_value",
            json!("suffix"),
        ),
        (
            "/v1/completions",
            json!({"prompt": "x", "best_of": 3}),
            "unsupported_value",
            json!("best_of"),
        ),
        ("/v1/completions", json!({"prompt": [99_999_999]}), "invalid_value", json!("prompt")),
        ("/v1/completions", json!({"prompt": "x", "stop": ""}), "invalid_value", json!("stop")),
        ("/v1/completions", json!({"prompt": ""}), "invalid_value", json!("prompt")),
        ("/v1/embeddings", json!({"input": ["a", ""]}), "invalid_value", json!("input")),
        ("/v1/embeddings", json!({"input": [[1], [99_999_999]]}), "invalid_value", json!("input")),
        (
            "/v1/completions",
            json!({"prompt": "x", "timings_per_token": true}),
            "unsupported_value",
            json!("timings_per_token"),
        ),
        (
            "/v1/completions",
            json!({"prompt": "x", "guided_json": {"properties": {"a": {"type": "obj"}}}}),
            "invalid_value",
            json!("response_format.json_schema.schema.properties.a.type"),
        ),
        (
            "/v1/completions",
            json!({"prompt": "x", "guided_json": {"type": "object", "required": ["a"],
                   "properties": {"a": {"$ref": "#/properties/a"}}}}),
            "unsupported_value",
            json!("response_format.json_schema.schema.properties.a.$ref"),
        ),
        (
            "/v1/completions",
            json!({"prompt": "x", "grammar": "root ::= root \"a\""}),
            "unsupported_value",
            json!("grammar"),
        ),
        (
            "/v1/completions",
            json!({"prompt": "x", "guided_regex": "a", "response_format": {"type": "json_object"}}),
            "invalid_value",
            json!("guided_regex"),
        ),
        (
            "/v1/completions",
            json!({"prompt": "x", "guided_regex": "a", "grammar": "b"}),
            "invalid_value",
            json!("grammar"),
        ),
        (
            "/v1/completions",
            json!({"prompt": "x", "guided_regex": "a", "min_tokens": 9, "max_tokens": 20}),
            "unsupported_value",
            json!("min_tokens"),
        ),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({"grammar": "root ::= \"a\"", "ignore_eos": true})),
            "unsupported_value",
            json!("ignore_eos"),
        ),
        (
            "/v1/chat/completions",
            with(
                chat("x"),
                json!({
                    "tools": [{"type": "function", "function": {"name": "f"}}],
                    "tool_choice": "required", "min_tokens": 2,
                }),
            ),
            "unsupported_value",
            json!("min_tokens"),
        ),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({"chat_template_kwargs": {"messages": []}})),
            "unsupported_value",
            json!("chat_template_kwargs.messages"),
        ),
        (
            "/v1/responses",
            json!({"input": "x", "chat_template_kwargs": {"a": 1, "tools": []}}),
            "unsupported_value",
            json!("chat_template_kwargs.tools"),
        ),
        (
            "/apply-template",
            json!({"messages": [{"role": "user", "content": "x"}],
                   "chat_template_kwargs": {"add_generation_prompt": false}}),
            "unsupported_value",
            json!("chat_template_kwargs.add_generation_prompt"),
        ),
        (
            "/v1/responses",
            json!({"input": "x", "previous_response_id": "r"}),
            "unsupported_value",
            json!("previous_response_id"),
        ),
        (
            "/v1/embeddings",
            json!({"input": "x", "dimensions": 3}),
            "unsupported_value",
            json!("dimensions"),
        ),
        ("/tokenize", json!({"text": "x"}), "unsupported_value", json!("text")),
        ("/detokenize", json!({"tokens": [99_999_999]}), "invalid_value", json!("tokens[0]")),
    ];
    for (path, body, code, param) in cases {
        assert_eq!(post(path, body.clone()), (400, code.to_owned(), param), "{path} {body}");
    }
    let long = "fox ".repeat(5000);
    for (path, field, body) in [
        ("/v1/chat/completions", "messages", chat(&long)),
        ("/v1/completions", "prompt", json!({"prompt": long})),
        ("/v1/responses", "input", json!({"input": long})),
        ("/v1/embeddings", "input", json!({"input": ["a", long]})),
    ] {
        assert_eq!(
            post(path, body),
            (400, "context_length_exceeded".into(), json!(field)),
            "{path}"
        );
    }
    let wrong_model = with(chat("x"), json!({"model": "gpt-9"}));
    assert_eq!(
        post("/v1/chat/completions", wrong_model),
        (404, "model_not_found".into(), json!("model"))
    );
}

#[test]
fn bookkeeping_is_accepted() {
    let server = TestServer::plain();
    let more = json!({
        "user": "u", "metadata": {"a": "b"}, "store": true, "service_tier": "auto", "seed": 1,
        "safety_identifier": "s", "prompt_cache_key": "k", "cache_prompt": true, "model": null,
        "parallel_tool_calls": true, "modalities": ["text"], "logit_bias": {}, "tools": [],
        "presence_penalty": 0, "top_logprobs": null, "verbosity": "medium",
    });
    server.ok("/v1/chat/completions", &with(chat("x"), more));
    // What Codex sends beside its tools.
    let tool = json!({"type": "function", "name": "shell", "description": "Runs a command.",
        "strict": false, "parameters": {"type": "object", "additionalProperties": false,
            "required": ["command"],
            "properties": {"command": {"type": "array", "items": {"type": "string"}},
                           "timeout_ms": {"type": "number"}}}});
    server.ok(
        "/v1/responses",
        &json!({
            "model": "demo", "instructions": "You are a coding agent.",
            "input": [{"type": "message", "role": "developer",
                       "content": [{"type": "input_text", "text": "Be brief."}]},
                      {"type": "message", "role": "user",
                       "content": [{"type": "input_text", "text": "hello"}]}],
            "tools": [tool], "tool_choice": "auto", "parallel_tool_calls": false, "reasoning": null,
            "store": false, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k",
            "client_metadata": {"x-codex-installation-id": "i"}, "max_output_tokens": 4,
        }),
    );
    // And Claude Code.
    let message = json!({
        "model": "demo", "max_tokens": 4, "metadata": {"user_id": "u"},
        "system": [{"type": "text", "text": "You are a coding agent.",
                    "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": "hello", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}],
        "tools": [{"name": "Read", "description": "Reads a file.", "input_schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
            "properties": {"file_path": {"type": "string"}}, "required": ["file_path"],
            "additionalProperties": false}}],
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    });
    server.ok("/v1/messages", &message);
    let none = json!({"context_management": {"edits": []}});
    server.ok("/v1/messages", &with(message.clone(), none));
    for edit in [
        json!({"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns", "value": 1}}),
        json!({"type": "clear_thinking_20251015"}),
        json!({"type": "clear_tool_uses_20250919"}),
    ] {
        let cuts = json!({"context_management": {"edits": [edit]}});
        let response = server.post("/v1/messages", &with(message.clone(), cuts));
        let text = response.text();
        let is_named = text.contains("context_management.edits[0].") && text.contains("never cuts");
        assert!(response.status == 400 && is_named, "{text}");
    }
}

#[test]
fn wrong_requests_are_told() {
    let server = TestServer::plain();
    let chat_path = "/v1/chat/completions";
    assert_eq!(server.send("POST", chat_path, "", "{\"messages\":").error().1, "invalid_json");
    assert_eq!(server.send("POST", chat_path, "", "").error().1, "invalid_json");
    let deep = "[".repeat(100_000);
    assert_eq!(server.send("POST", chat_path, "", &deep).error().1, "invalid_json");
    assert_eq!(server.raw(b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n{\"content\":\"\xff\"}").status, 400);
    let form = b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 14\r\n\r\n{\"content\":\"\"}";
    assert_eq!(server.raw(form).error().0, 415);
    let response = server.get(chat_path);
    assert_eq!((response.error().0, response.header("allow")), (405, Some("post")));
    assert_eq!(server.get("/nope").error(), (404, "not_found".into(), Value::Null));
    let nobody = server.get("/props?model=no%2Fbody");
    assert_eq!(nobody.error(), (404, "model_not_found".into(), json!("model")));
    assert!(nobody.text().contains("no/body"), "{}", nobody.text());
    assert_eq!(server.get("/props?model=demo").json()["model_alias"], "demo");
}

#[test]
fn anthropic_errors_have_their_own_envelope() {
    let server = TestServer::plain();
    let response = server.post("/v1/messages", &json!({"max_tokens": 1}));
    let json = response.json();
    assert_eq!(
        (response.status, &json["type"], &json["error"]["type"]),
        (400, &json!("error"), &json!("invalid_request_error"))
    );
    assert!(json["error"]["message"].as_str().unwrap().starts_with("messages: "));
    assert!(response.header("request-id").is_some());
}

#[test]
fn a_key_opens_every_route() {
    let mut setup = Setup::default();
    setup.options.api_keys = vec!["one".into(), "two".into()];
    let server = TestServer::start(setup);
    assert_eq!(server.get("/health").status, 200);
    let document = zinc_server::openapi();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 20);
    for (path, operations) in paths {
        let method = operations.as_object().unwrap().keys().next().unwrap().to_uppercase();
        if path == "/health" {
            continue;
        }
        let path = path.replace("{id}", "demo");
        for headers in ["", "authorization: Bearer three\r\n", "x-api-key: \r\n"] {
            assert_eq!(server.send(&method, &path, headers, "{}").status, 401, "{method} {path}");
        }
        for headers in ["authorization: Bearer one\r\n", "x-api-key: two\r\n"] {
            assert_ne!(server.send(&method, &path, headers, "{}").status, 401, "{method} {path}");
        }
    }
    assert_eq!(server.get("/nope").status, 401);
}
