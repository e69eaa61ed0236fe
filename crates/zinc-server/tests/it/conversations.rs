//! Tools, thinking, and the three conversation APIs.

use serde_json::{Value, json};

use crate::support::{TestServer, chat, streamed_content, with};

fn tool() -> Value {
    json!({"type": "function", "function": {
        "name": "get_weather", "description": "Weather of a city",
        "parameters": {"type": "object", "required": ["city"], "additionalProperties": false,
                       "properties": {"city": {"type": "string", "maxLength": 12}}},
    }})
}

#[test]
fn a_required_call_is_made_and_streamed() {
    let server = TestServer::plain();
    let more = json!({"tools": [tool()], "tool_choice": "required", "max_tokens": 200});
    let body = with(chat("What is the weather in Paris?"), more);
    let answer = server.ok("/v1/chat/completions", &body);
    let choice = &answer["choices"][0];
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
    assert_eq!(call["function"]["name"], "get_weather");
    let arguments: Value =
        serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert!(arguments["city"].is_string());
    let chunks = server.post("/v1/chat/completions", &with(body, json!({"stream": true}))).chunks();
    let calls = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array())
        .flatten();
    let (mut name, mut text) = (String::new(), String::new());
    for call in calls {
        assert_eq!(call["index"], 0);
        name.push_str(call["function"]["name"].as_str().unwrap_or_default());
        text.push_str(call["function"]["arguments"].as_str().unwrap());
    }
    assert_eq!(
        (name.as_str(), serde_json::from_str::<Value>(&text).unwrap()),
        ("get_weather", arguments)
    );
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

/// A call of [`tool`] that is to be cut off, in the three APIs.
fn to_be_cut(path: &str, more: Value) -> Value {
    let function = tool()["function"].clone();
    let parameters = function["parameters"].clone();
    let ask = "What is the weather in Paris?";
    let body = match path {
        "/v1/chat/completions" => with(
            chat(ask),
            json!({"tools": [tool()], "tool_choice": "required", "max_tokens": 200}),
        ),
        "/v1/responses" => json!({
            "input": ask, "temperature": 0, "max_output_tokens": 200, "tool_choice": "required",
            "tools": [with(function, json!({"type": "function"}))],
        }),
        _ => with(
            chat(ask),
            json!({
                "tools": [{"name": "get_weather", "input_schema": parameters}],
                "tool_choice": {"type": "any"}, "max_tokens": 200,
            }),
        ),
    };
    with(body, more)
}

/// Name, arguments and content that a chat completion tells, streamed, and why it ended.
fn streamed_call(server: &TestServer, body: &Value) -> (String, String, String, String) {
    let chunks =
        server.post("/v1/chat/completions", &with(body.clone(), json!({"stream": true}))).chunks();
    let (mut name, mut arguments) = (String::new(), String::new());
    for chunk in &chunks {
        let function = &chunk["choices"][0]["delta"]["tool_calls"][0]["function"];
        name.push_str(function["name"].as_str().unwrap_or_default());
        arguments.push_str(function["arguments"].as_str().unwrap_or_default());
    }
    let reason = chunks.last().unwrap()["choices"][0]["finish_reason"].as_str().unwrap();
    (name, arguments, streamed_content(&chunks, 0), reason.to_owned())
}

#[test]
fn a_call_that_is_cut_off_is_not_made_whole() {
    let server = TestServer::plain();
    let path = "/v1/chat/completions";
    let whole = server.ok(path, &to_be_cut(path, json!({})));
    let n = whole["usage"]["completion_tokens"].as_u64().unwrap();
    let all = |answer: &Value| {
        let function = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
        function["arguments"].as_str().map(str::to_owned)
    };
    let full = all(&whole).unwrap();
    for max_tokens in 1..n {
        let body = to_be_cut(path, json!({"max_tokens": max_tokens}));
        let answer = server.ok(path, &body);
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "length", "{answer}");
        let content = choice["message"]["content"].as_str().unwrap_or_default();
        assert_eq!(content, "", "{answer}");
        let arguments = all(&answer);
        assert!(arguments.as_ref().is_none_or(|begun| full.starts_with(begun)), "{answer}");
        let streamed = streamed_call(&server, &body);
        let name = arguments.as_ref().map_or("", |_| "get_weather").to_owned();
        let expected = (name, arguments.unwrap_or_default(), String::new(), "length".to_owned());
        assert_eq!(streamed, expected);
    }
    let city: Value = serde_json::from_str(&full).unwrap();
    let last: String = city["city"].as_str().unwrap().chars().skip(1).collect();
    for (stop, before) in [(last.as_str(), &full[..full.find(&last).unwrap()]), ("city", "{\"")] {
        let body = to_be_cut(path, json!({"stop": [stop]}));
        let answer = server.ok(path, &body);
        assert_eq!(all(&answer).as_deref(), Some(before), "{answer}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        assert_eq!(answer["choices"][0]["message"]["content"], Value::Null);
        let streamed = ("get_weather".to_owned(), before.to_owned(), String::new(), "stop".into());
        assert_eq!(streamed_call(&server, &body), streamed);
    }
    // Before its name is there, nothing is told; behind its end it is a call.
    let nameless = server.ok(path, &to_be_cut(path, json!({"stop": ["get_"]})));
    assert_eq!(nameless["choices"][0]["message"]["content"], "");
    assert!(nameless["choices"][0]["message"].get("tool_calls").is_none(), "{nameless}");
    assert_eq!(nameless["choices"][0]["finish_reason"], "stop");
    let closed = server.ok(path, &to_be_cut(path, json!({"stop": ["}\n"]})));
    assert_eq!(all(&closed), Some(full));
    assert_eq!(closed["choices"][0]["finish_reason"], "tool_calls");
}

#[test]
fn a_response_whose_call_is_cut_off_is_incomplete() {
    let server = TestServer::plain();
    let path = "/v1/responses";
    let whole = server.ok(path, &to_be_cut(path, json!({})));
    let full = whole["output"][0]["arguments"].as_str().unwrap().to_owned();
    let n = whole["usage"]["output_tokens"].as_u64().unwrap();
    for (more, reason) in [
        (json!({"max_output_tokens": n - 5}), "max_output_tokens"),
        (json!({"stop": ["city"]}), "stop"),
    ] {
        let body = to_be_cut(path, more);
        let cut = server.ok(path, &body);
        assert_eq!(cut["status"], "incomplete", "{cut}");
        assert_eq!(cut["incomplete_details"]["reason"], reason);
        let item = &cut["output"][0];
        assert_eq!(
            (&item["type"], &item["status"]),
            (&json!("function_call"), &json!("incomplete"))
        );
        let begun = item["arguments"].as_str().unwrap();
        assert!(full.starts_with(begun) && begun.len() < full.len(), "{cut}");
        let events = server.post(path, &with(body, json!({"stream": true}))).events();
        let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
        assert!(!names.contains(&"response.function_call_arguments.done"), "{names:?}");
        assert_eq!(names[names.len() - 2..], ["response.output_item.done", "response.incomplete"]);
    }
}

#[test]
fn a_message_whose_call_is_cut_off_tells_whole_members() {
    let server = TestServer::plain();
    let path = "/v1/messages";
    let whole = server.ok(path, &to_be_cut(path, json!({})));
    let n = whole["usage"]["output_tokens"].as_u64().unwrap();
    let city = whole["content"][0]["input"]["city"].as_str().unwrap();
    let last: String = city.chars().skip(1).collect();
    for (more, reason, stop) in [
        (json!({"stop_sequences": [last]}), "stop_sequence", json!(last)),
        (json!({"max_tokens": n - 5}), "max_tokens", Value::Null),
    ] {
        let body = to_be_cut(path, more);
        let cut = server.ok(path, &body);
        assert_eq!((&cut["stop_reason"], &cut["stop_sequence"]), (&json!(reason), &stop), "{cut}");
        let block = &cut["content"][0];
        assert_eq!((&block["type"], &block["input"]), (&json!("tool_use"), &json!({})), "{cut}");
        let events = server.post(path, &with(body, json!({"stream": true}))).events();
        let data = events.iter().map(|(_, data)| serde_json::from_str::<Value>(data).unwrap());
        let text: String = data
            .filter_map(|data| data["delta"]["partial_json"].as_str().map(str::to_owned))
            .collect();
        assert!(text.starts_with("{\"city\":") && !text.ends_with('}'), "{text}");
    }
}

#[test]
fn tool_choice_in_all_forms() {
    let server = TestServer::plain();
    let body = |choice: Value| {
        with(
            chat("What is the weather in Rome?"),
            json!({"tools": [tool()], "tool_choice": choice, "max_tokens": 120}),
        )
    };
    let named = json!({"type": "function", "function": {"name": "get_weather"}});
    let allowed = json!({"type": "allowed_tools", "allowed_tools": {
        "mode": "required", "tools": [{"type": "function", "function": {"name": "get_weather"}}],
    }});
    for choice in [named, allowed] {
        let answer = server.ok("/v1/chat/completions", &body(choice));
        assert_eq!(
            answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"],
            "get_weather"
        );
    }
    let answer = server.ok("/v1/chat/completions", &body(json!("none")));
    assert!(answer["choices"][0]["message"].get("tool_calls").is_none(), "{answer}");
    let unknown = json!({"type": "function", "function": {"name": "other"}});
    assert_eq!(server.post("/v1/chat/completions", &body(unknown)).error().2, "tool_choice");
}

#[test]
fn tools_that_may_not_be_called_are_not_shown() {
    let server = TestServer::plain();
    let ask = || chat("What is the weather in Rome?");
    let more =
        json!({"tools": [tool()], "tool_choice": "none", "max_tokens": 60, "temperature": 0});
    let none = server.ok("/v1/chat/completions", &with(ask(), more));
    let bare = server
        .ok("/v1/chat/completions", &with(ask(), json!({"max_tokens": 60, "temperature": 0})));
    assert_eq!(none["choices"][0]["message"], bare["choices"][0]["message"]);
    assert_eq!(none["usage"]["prompt_tokens"], bare["usage"]["prompt_tokens"]);
    let content = none["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(!content.contains("<tool_call>"), "{content}");
}

/// A tool of which one keyword cannot be held, in the three APIs, and what each needs to call it.
fn partly_held(strict: Option<bool>) -> [(&'static str, Value); 3] {
    let schema = json!({"type": "object", "required": ["city"], "additionalProperties": false,
        "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
        "dependentSchemas": {"city": {"minProperties": 1}}});
    let with_strict = |mut tool: Value| {
        if let Some(strict) = strict {
            tool["strict"] = json!(strict);
        }
        tool
    };
    let function = with_strict(json!({"name": "f", "parameters": schema}));
    let flat = with(function.clone(), json!({"type": "function"}));
    let theirs = with_strict(json!({"name": "f", "input_schema": schema}));
    let more = json!({"temperature": 1, "seed": 3});
    [
        (
            "/v1/chat/completions",
            with(
                with(chat("Call f."), more.clone()),
                json!({"tools": [{"type": "function", "function": function}],
                       "tool_choice": "required", "max_tokens": 100}),
            ),
        ),
        (
            "/v1/responses",
            with(
                more.clone(),
                json!({"input": "Call f.", "tools": [flat], "tool_choice": "required",
                       "max_output_tokens": 100}),
            ),
        ),
        (
            "/v1/messages",
            with(
                with(chat("Call f."), more),
                json!({"tools": [theirs], "tool_choice": {"type": "any"}, "max_tokens": 100}),
            ),
        ),
    ]
}

#[test]
fn a_strict_tool_is_held_whole_or_refused() {
    let server = TestServer::plain();
    for (path, body) in partly_held(Some(true)) {
        let response = server.post(path, &body);
        let text = response.text();
        let is_named = text.contains("tools.f.parameters.dependentSchemas: ");
        assert!(response.status == 400 && is_named, "{path} {text}");
    }
}

#[test]
fn another_tool_is_held_but_for_what_cannot_be() {
    let server = TestServer::plain();
    for strict in [None, Some(false)] {
        for (path, body) in partly_held(strict) {
            let answer = server.ok(path, &body);
            let text = |value: &Value| serde_json::from_str(value.as_str().unwrap()).unwrap();
            let arguments: Value = match path {
                "/v1/chat/completions" => {
                    text(&answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])
                }
                "/v1/responses" => text(&answer["output"][0]["arguments"]),
                _ => answer["content"][0]["input"].clone(),
            };
            let is_held =
                arguments == json!({"city": "Rome"}) || arguments == json!({"city": "Oslo"});
            assert!(is_held, "{path} {answer}");
        }
    }
}

#[test]
fn results_of_tools_are_read() {
    let server = TestServer::plain();
    let call = json!({"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\":\"Rome\"}"}});
    let answer = server.ok("/v1/chat/completions", &json!({
        "messages": [
            {"role": "user", "content": "What is the weather in Rome?"},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sunny"}]},
        ],
        "tools": [tool()], "max_tokens": 30, "temperature": 0,
    }));
    assert!(answer["choices"][0]["message"]["content"].is_string());
}

#[test]
fn thinking_is_told_apart_and_limited() {
    let server = TestServer::plain();
    let body = |more| with(with(chat("What is 2 + 3?"), json!({"max_tokens": 300})), more);
    let off = server.ok("/v1/chat/completions", &body(json!({"reasoning_effort": "none"})));
    assert!(off["choices"][0]["message"].get("reasoning_content").is_none(), "{off}");
    let on = server.ok(
        "/v1/chat/completions",
        &body(json!({"reasoning_effort": "high", "thinking_budget": 6})),
    );
    let message = &on["choices"][0]["message"];
    assert!(message["reasoning_content"].as_str().is_some_and(|text| !text.is_empty()), "{on}");
    assert!(!message["content"].as_str().unwrap().is_empty(), "{on}");
    let n = on["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
    assert!((1..=12).contains(&n), "{n}");
}

#[test]
fn without_thinking_a_constrained_answer_begins_at_once() {
    let server = TestServer::plain();
    let schema = json!({"type": "string", "enum": ["x", "y"]});
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "choice", "schema": schema}});
    let off = json!({"chat_template_kwargs": {"enable_thinking": false}});
    for seed in 0..12 {
        let base = with(
            chat("Is it x or y? Think about it."),
            json!({"seed": seed, "temperature": 1, "max_tokens": 60}),
        );
        for body in [
            with(base.clone(), json!({"reasoning_effort": "none", "response_format": format})),
            with(with(base.clone(), off.clone()), json!({"guided_regex": "[xy]"})),
            with(
                with(base.clone(), off.clone()),
                json!({"tools": [tool()], "tool_choice": "required"}),
            ),
        ] {
            let answer = server.ok("/v1/chat/completions", &body);
            let message = &answer["choices"][0]["message"];
            assert!(message.get("reasoning_content").is_none(), "{body} {answer}");
            let content = message["content"].as_str();
            let is_right = match body.get("tools") {
                None => content.is_some_and(|text| ["x", "y", "\"x\"", "\"y\""].contains(&text)),
                Some(_) => message["tool_calls"][0]["function"]["name"] == "get_weather",
            };
            assert!(is_right, "{body} {answer}");
        }
    }
}

#[test]
fn responses_whole_and_streamed() {
    let server = TestServer::plain();
    let body = json!({"input": "Tell me a story.", "temperature": 0, "max_output_tokens": 12,
                      "instructions": "Be brief.", "metadata": {"a": "b"}});
    let whole = server.ok("/v1/responses", &body);
    assert_eq!((&whole["object"], &whole["status"]), (&json!("response"), &json!("incomplete")));
    assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens");
    let text = whole["output"][0]["content"][0]["text"].as_str().unwrap().to_owned();
    let events = server.post("/v1/responses", &with(body, json!({"stream": true}))).events();
    let events: Vec<(String, Value)> = events
        .into_iter()
        .map(|(name, data)| (name, serde_json::from_str(&data).unwrap()))
        .collect();
    for (i, (name, data)) in events.iter().enumerate() {
        assert_eq!((&data["type"], &data["sequence_number"]), (&json!(name), &json!(i)));
    }
    let names: Vec<&str> =
        events.iter().map(|(name, _)| name.as_str()).filter(|n| !n.ends_with(".delta")).collect();
    assert_eq!(
        names,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.incomplete",
        ]
    );
    let deltas: String = events.iter().filter_map(|(_, data)| data["delta"].as_str()).collect();
    assert_eq!(deltas, text);
    let last = &events.last().unwrap().1["response"];
    assert_eq!(
        (&last["output"][0]["content"], &last["usage"]["output_tokens"]),
        (&whole["output"][0]["content"], &json!(12))
    );
}

#[test]
fn responses_call_tools() {
    let server = TestServer::plain();
    let mut flat = tool()["function"].clone();
    flat["type"] = json!("function");
    let body = json!({"input": "What is the weather in Paris?", "tools": [flat], "temperature": 0,
                      "tool_choice": {"type": "function", "name": "get_weather"}, "max_output_tokens": 200});
    let whole = server.ok("/v1/responses", &body);
    let call = &whole["output"][0];
    assert_eq!(
        (&call["type"], &call["name"], &call["status"]),
        (&json!("function_call"), &json!("get_weather"), &json!("completed"))
    );
    let events = server.post("/v1/responses", &with(body, json!({"stream": true}))).events();
    let deltas = events.iter().filter(|(name, _)| name == "response.function_call_arguments.delta");
    let text: String = deltas
        .map(|(_, data)| {
            serde_json::from_str::<Value>(data).unwrap()["delta"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(text, call["arguments"].as_str().unwrap());
}

#[test]
fn messages_whole_and_streamed() {
    let server = TestServer::plain();
    let body = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "Tell me a story."}]}],
                      "system": "Be brief.", "max_tokens": 12, "temperature": 0, "metadata": {"user_id": "u"}});
    let whole = server.ok("/v1/messages", &body);
    assert_eq!((&whole["type"], &whole["stop_reason"]), (&json!("message"), &json!("max_tokens")));
    let counted = server.ok(
        "/v1/messages/count_tokens",
        &json!({"messages": body["messages"], "system": "Be brief."}),
    );
    assert_eq!(counted["input_tokens"], whole["usage"]["input_tokens"]);
    let events = server.post("/v1/messages", &with(body, json!({"stream": true}))).events();
    let names: Vec<&str> = events
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|n| *n != "content_block_delta")
        .collect();
    assert_eq!(
        names,
        [
            "message_start",
            "ping",
            "content_block_start",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    let data: Vec<Value> =
        events.iter().map(|(_, data)| serde_json::from_str(data).unwrap()).collect();
    for (event, data) in events.iter().zip(&data) {
        assert_eq!(data["type"], event.0);
    }
    let text: String = data.iter().filter_map(|data| data["delta"]["text"].as_str()).collect();
    assert_eq!(text, whole["content"][0]["text"].as_str().unwrap());
}

#[test]
fn messages_call_tools_and_read_results() {
    let server = TestServer::plain();
    let function = tool()["function"].clone();
    let tools = json!([{"name": "get_weather", "description": "Weather", "input_schema": function["parameters"]}]);
    let ask = json!({"role": "user", "content": "What is the weather in Paris?"});
    let body = json!({"messages": [ask], "tools": tools, "tool_choice": {"type": "any"}, "max_tokens": 200, "temperature": 0});
    let whole = server.ok("/v1/messages", &body);
    assert_eq!(whole["stop_reason"], "tool_use", "{whole}");
    let block = &whole["content"][0];
    assert_eq!((&block["type"], &block["name"]), (&json!("tool_use"), &json!("get_weather")));
    assert!(block["input"]["city"].is_string());
    let result = json!({"type": "tool_result", "tool_use_id": block["id"], "content": "sunny"});
    let next = json!({"messages": [ask, {"role": "assistant", "content": whole["content"]}, {"role": "user", "content": [result]}],
                      "tools": tools, "max_tokens": 20, "temperature": 0});
    let answer = server.ok("/v1/messages", &next);
    assert_eq!(answer["role"], "assistant");
    let events = server.post("/v1/messages", &with(body, json!({"stream": true}))).events();
    let parts = events.iter().map(|(_, data)| serde_json::from_str::<Value>(data).unwrap());
    let text: String = parts
        .filter_map(|data| data["delta"]["partial_json"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), block["input"]);
}

#[test]
fn a_prefilled_message_goes_on() {
    let server = TestServer::plain();
    let body = json!({"messages": [{"role": "user", "content": "Tell me a story."}, {"role": "assistant", "content": "Once upon a"}],
                      "max_tokens": 3, "temperature": 0});
    let messages = server.ok("/v1/messages", &body);
    let chat =
        server.ok("/v1/chat/completions", &with(body, json!({"continue_final_message": true})));
    assert_eq!(messages["content"][0]["text"], chat["choices"][0]["message"]["content"]);
}

#[test]
fn responses_tell_log_probabilities_with_their_texts() {
    let server = TestServer::plain();
    let body = json!({"input": "Tell me a story.", "temperature": 0, "max_output_tokens": 8,
                      "include": ["message.output_text.logprobs"], "top_logprobs": 1});
    let whole = server.ok("/v1/responses", &body);
    let part = &whole["output"][0]["content"][0];
    let tokens =
        part["logprobs"].as_array().unwrap().iter().map(|entry| entry["token"].as_str().unwrap());
    assert_eq!(tokens.collect::<String>(), part["text"].as_str().unwrap());
    let events = server.post("/v1/responses", &with(body, json!({"stream": true}))).events();
    for (_, data) in events.iter().filter(|(name, _)| name == "response.output_text.delta") {
        let data: Value = serde_json::from_str(data).unwrap();
        let tokens = data["logprobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["token"].as_str().unwrap());
        assert_eq!(tokens.collect::<String>(), data["delta"].as_str().unwrap());
    }
}
