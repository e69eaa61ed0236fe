//! Answers: numbers of them, log-probabilities, constraints, embeddings, tokens.

use serde_json::{Value, json};

use crate::support::{TestServer, chat, streamed_content, with};

const CHAT: &str = "/v1/chat/completions";

#[test]
fn n_answers_have_seeds_of_their_own() {
    let server = TestServer::plain();
    let many = with(
        chat("Tell me a story."),
        json!({"n": 3, "seed": 5, "temperature": 1, "max_tokens": 20}),
    );
    let answer = server.ok(CHAT, &many);
    let text = |choice: &Value| choice["message"]["content"].as_str().unwrap().to_owned();
    let texts: Vec<_> = answer["choices"].as_array().unwrap().iter().map(text).collect();
    assert_eq!(texts.len(), 3);
    for (i, expected) in texts.iter().enumerate() {
        let alone = with(many.clone(), json!({"n": 1, "seed": 5 + i}));
        assert_eq!(text(&server.ok(CHAT, &alone)["choices"][0]), *expected);
    }
    let streamed = server.post(CHAT, &with(many, json!({"stream": true}))).chunks();
    for (i, expected) in texts.iter().enumerate() {
        assert_eq!(streamed_content(&streamed, i), *expected);
    }
}

#[test]
fn stop_strings_end_an_answer_and_are_not_in_it() {
    let server = TestServer::plain();
    let body = with(chat("Tell me a story."), json!({"max_tokens": 60}));
    let whole = server.ok(CHAT, &body);
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let word = text.split(' ').nth(4).unwrap();
    let stopped = server.ok(CHAT, &with(body.clone(), json!({"stop": [word]})));
    let expected = &text[..text.find(word).unwrap()];
    assert_eq!(stopped["choices"][0]["message"]["content"], expected);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    let streamed = server.post(CHAT, &with(body, json!({"stop": word, "stream": true}))).chunks();
    assert_eq!(streamed_content(&streamed, 0), expected);
}

#[test]
fn stop_tokens_end_an_answer_but_not_before_its_least_tokens() {
    let server = TestServer::plain();
    let chat_body = with(chat("Tell me a story."), json!({"max_tokens": 30, "logprobs": true}));
    let answer = server.ok(CHAT, &chat_body);
    let entries = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let tokens: Vec<&str> = entries.iter().map(|entry| entry["token"].as_str().unwrap()).collect();
    let id = |token: &str| {
        let ids = server.ok("/tokenize", &json!({"content": token}))["tokens"].clone();
        ids.as_array().filter(|ids| ids.len() == 1).map(|ids| ids[0].clone())
    };
    // The first token behind the third that did not stand before it.
    let is_new = |at: &usize| !tokens[..*at].contains(&tokens[*at]) && id(tokens[*at]).is_some();
    let at = (3..tokens.len()).find(is_new).unwrap();
    let stop = json!({"stop_token_ids": [id(tokens[at])]});
    let stopped = server.ok(CHAT, &with(chat_body.clone(), stop.clone()));
    assert_eq!(stopped["usage"]["completion_tokens"], at);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    let text = stopped["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(text.trim(), tokens[..at].concat().trim());
    let held = with(with(chat_body, stop.clone()), json!({"min_tokens": at + 1}));
    let held = server.ok(CHAT, &held);
    assert!(held["usage"]["completion_tokens"].as_u64().unwrap() > at as u64);
    let entries = held["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_ne!(entries[at]["token"], tokens[at]);

    // The same in completions, where stop strings wait as well.
    let body = json!({"prompt": "Once there was a", "temperature": 0, "max_tokens": 12});
    let path = "/v1/completions";
    let whole = server.ok(path, &body)["choices"][0]["text"].as_str().unwrap().to_owned();
    let word = whole.split(' ').nth(2).unwrap();
    let stopped = server.ok(path, &with(body.clone(), json!({"stop": word})));
    assert!(stopped["usage"]["completion_tokens"].as_u64().unwrap() < 12);
    let held = server.ok(path, &with(body, json!({"stop": word, "min_tokens": 12})));
    assert_eq!(held["choices"][0]["text"], whole);
    assert_eq!(held["choices"][0]["finish_reason"], "length");
}

#[test]
fn log_probabilities_belong_to_their_tokens() {
    let server = TestServer::plain();
    let body = with(chat("Tell me a story."), json!({"logprobs": true, "top_logprobs": 3}));
    let answer = server.ok(CHAT, &body);
    let entries = answer["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(entries.len(), answer["usage"]["completion_tokens"].as_u64().unwrap() as usize);
    let text: String = entries.iter().map(|entry| entry["token"].as_str().unwrap()).collect();
    assert_eq!(text.trim(), answer["choices"][0]["message"]["content"].as_str().unwrap().trim());
    for entry in &entries {
        let top = entry["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // Greedy: the token is the first of the alternatives.
        assert_eq!((&top[0]["token"], &top[0]["logprob"]), (&entry["token"], &entry["logprob"]));
        assert!(entry["logprob"].as_f64().unwrap() <= 0.0);
    }
    let chunks = server.post(CHAT, &with(body, json!({"stream": true}))).chunks();
    let streamed =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array());
    assert_eq!(streamed.flatten().cloned().collect::<Vec<_>>(), entries);
}

/// The tokens that an answer's log-probabilities are told of, joined; they are the same when streamed.
fn told_tokens(server: &TestServer, body: &Value) -> (String, Value) {
    let answer = server.ok(CHAT, body);
    let choice = &answer["choices"][0];
    let entries = choice["logprobs"]["content"].as_array().unwrap();
    let chunks = server.post(CHAT, &with(body.clone(), json!({"stream": true}))).chunks();
    let streamed =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array());
    assert_eq!(streamed.flatten().cloned().collect::<Vec<_>>(), *entries);
    let tokens = entries.iter().map(|entry| entry["token"].as_str().unwrap());
    (tokens.collect(), choice["message"].clone())
}

#[test]
fn log_probabilities_are_those_of_the_content() {
    let server = TestServer::plain();
    let base = |more| with(with(chat("What is 2 + 3?"), json!({"logprobs": true})), more);
    for more in [
        json!({"reasoning_effort": "high", "max_tokens": 300}),
        json!({"reasoning_effort": "high", "max_tokens": 300, "thinking_budget": 6}),
    ] {
        let (tokens, message) = told_tokens(&server, &base(more));
        assert!(message["reasoning_content"].is_string(), "{message}");
        assert_eq!(tokens, message["content"].as_str().unwrap());
    }
    // What a stop string takes away is not content.
    let story = |more| with(with(chat("Tell me a story."), json!({"logprobs": true})), more);
    let (whole, _) = told_tokens(&server, &story(json!({"max_tokens": 40})));
    let word = whole.split(' ').nth(4).unwrap();
    let (tokens, message) = told_tokens(&server, &story(json!({"max_tokens": 40, "stop": [word]})));
    let content = message["content"].as_str().unwrap();
    assert_eq!((tokens.trim_end(), content), (content.trim_end(), &whole[..content.len()]));
    // Calls are not either.
    let schema = json!({"type": "object", "properties": {"city": {"type": "string", "maxLength": 9}},
                        "required": ["city"]});
    let tool =
        json!({"type": "function", "function": {"name": "get_weather", "parameters": schema}});
    let more = json!({"tools": [tool], "tool_choice": "required", "max_tokens": 100});
    let (tokens, message) = told_tokens(&server, &base(more));
    assert_eq!((tokens.as_str(), &message["content"]), ("", &Value::Null));
    assert!(message["tool_calls"][0]["function"]["name"].is_string());
}

#[test]
fn offsets_are_those_of_the_text() {
    let server = TestServer::plain();
    let body = json!({"prompt": "é🦊 Once there was a", "max_tokens": 12, "temperature": 0, "logprobs": 5, "echo": true});
    let path = "/v1/completions";
    let answer = server.ok(path, &body);
    let (text, logprobs) = (&answer["choices"][0]["text"], &answer["choices"][0]["logprobs"]);
    let text: Vec<char> = text.as_str().unwrap().chars().collect();
    let tokens = logprobs["tokens"].as_array().unwrap();
    let offsets = logprobs["text_offset"].as_array().unwrap();
    assert_eq!(tokens.len(), offsets.len());
    assert_eq!(offsets[..7], [0, 0, 1, 1, 1, 1, 2]);
    let mut n_whole = 0;
    for (token, offset) in tokens.iter().zip(offsets) {
        let (token, offset) = (token.as_str().unwrap(), offset.as_u64().unwrap() as usize);
        // Special tokens have no text.
        if !token.starts_with("bytes:") && !token.starts_with("<|") {
            n_whole += 1;
            assert!(text[offset..].iter().collect::<String>().starts_with(token), "{answer}");
        }
    }
    assert!(n_whole > 6 && tokens.iter().any(|t| t.as_str().unwrap().starts_with("bytes:\\x")));
    for top in logprobs["top_logprobs"].as_array().unwrap().iter().filter_map(Value::as_object) {
        // The five most probable, and the token itself.
        assert!((5..=6).contains(&top.len()) && !top.contains_key("\u{FFFD}"), "{top:?}");
    }
    // Streamed, a token comes with the text that it begins, and all of them come.
    let streamed = server.post(path, &with(body.clone(), json!({"stream": true}))).chunks();
    let list = |chunk: &Value, name: &str| {
        chunk["choices"][0]["logprobs"][name].as_array().cloned().unwrap_or_default()
    };
    for name in ["tokens", "text_offset"] {
        let all: Vec<Value> = streamed.iter().flat_map(|chunk| list(chunk, name)).collect();
        assert_eq!(Value::from(all), logprobs[name]);
    }
    let word: String =
        text[19..].iter().collect::<String>().trim().split(' ').nth(1).unwrap().into();
    let stopped = server.ok(path, &with(body, json!({"stop": word})));
    let n = stopped["choices"][0]["text"].as_str().unwrap().chars().count() as u64;
    let offsets = stopped["choices"][0]["logprobs"]["text_offset"].as_array().unwrap();
    assert!(offsets.iter().all(|offset| offset.as_u64().unwrap() < n), "{stopped}");
}

#[test]
fn completions_echo_and_score() {
    let server = TestServer::plain();
    let path = "/v1/completions";
    let tokens = server.ok("/tokenize", &json!({"content": "Once upon a time"}))["tokens"].clone();
    let n = tokens.as_array().unwrap().len();
    let body =
        json!({"prompt": tokens, "max_tokens": 3, "temperature": 0, "logprobs": 2, "echo": true});
    let scored = server.ok(path, &body);
    let logprobs = &scored["choices"][0]["logprobs"];
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[list].as_array().unwrap().len(), n + 3, "{list}");
    }
    assert!(logprobs["token_logprobs"][0].is_null() && logprobs["token_logprobs"][1].is_number());
    assert!(scored["choices"][0]["text"].as_str().unwrap().starts_with("Once upon a time"));
    // Scoring alone: nothing is generated, and the same numbers come out.
    let alone = server.ok(path, &with(body.clone(), json!({"max_tokens": 0})));
    let first = |value: &Value| value["token_logprobs"].as_array().unwrap()[..n].to_vec();
    assert_eq!(first(&alone["choices"][0]["logprobs"]), first(logprobs));
    assert_eq!(alone["usage"]["completion_tokens"], 0);
    let streamed = server.post(path, &with(body, json!({"stream": true}))).chunks();
    let text: String = streamed.iter().filter_map(|c| c["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, scored["choices"][0]["text"].as_str().unwrap());
    let several = server.ok(path, &json!({"prompt": ["One", "Two"], "n": 2, "max_tokens": 1}));
    assert_eq!(several["choices"].as_array().unwrap().len(), 4);
}

#[test]
fn answers_keep_to_a_schema_or_a_grammar() {
    let server = TestServer::plain();
    let schema = json!({
        "type": "object", "required": ["name", "age"], "additionalProperties": false,
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    let base =
        with(chat("Invent a person."), json!({"max_tokens": 200, "temperature": 1, "seed": 3}));
    for more in [
        json!({"response_format": format}),
        json!({"guided_json": schema}),
        json!({"json_schema": schema}),
    ] {
        let answer = server.ok(CHAT, &with(base.clone(), more));
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let value: Value =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
        assert!(value["name"].is_string() && value["age"].is_u64(), "{value}");
    }
    for (more, allowed) in [
        (json!({"guided_choice": ["red", "blue"]}), vec!["red", "blue"]),
        (json!({"guided_regex": "(yes|no)!"}), vec!["yes!", "no!"]),
        (json!({"grammar": "root ::= \"a\" | \"b\""}), vec!["a", "b"]),
        (json!({"structured_outputs": {"choice": ["x"]}}), vec!["x"]),
    ] {
        let answer = server.ok(CHAT, &with(base.clone(), more.clone()));
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(allowed.contains(&text), "{more}: {text:?}");
        let mut plain = with(json!({"prompt": "Say: ", "max_tokens": 20, "seed": 1}), more.clone());
        plain["temperature"] = json!(1);
        let answer = server.ok("/v1/completions", &plain);
        assert!(allowed.contains(&answer["choices"][0]["text"].as_str().unwrap()), "{answer}");
    }
    let unsupported = json!({"guided_json": {"type": "array", "uniqueItems": true}});
    assert_eq!(server.post(CHAT, &with(base, unsupported)).error().0, 400);
}

#[test]
fn embeddings_have_length_one() {
    let server = TestServer::plain();
    let body = json!({"input": ["a fox", "a fox", "numbers"]});
    let floats = server.ok("/v1/embeddings", &body);
    let vectors: Vec<Vec<f64>> = floats["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            entry["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
        })
        .collect();
    for vector in &vectors {
        let length: f64 = vector.iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-4, "{length}");
    }
    assert_eq!(vectors[0], vectors[1]);
    assert_ne!(vectors[0], vectors[2]);
    let encoded = server.ok("/v1/embeddings", &with(body, json!({"encoding_format": "base64"})));
    let text = encoded["data"][2]["embedding"].as_str().unwrap();
    use base64::Engine as _;
    let bytes = base64::prelude::BASE64_STANDARD.decode(text).unwrap();
    let values =
        bytes.chunks_exact(4).map(|four| f64::from(f32::from_le_bytes(four.try_into().unwrap())));
    assert_eq!(
        values.map(|v| v as f32).collect::<Vec<_>>(),
        vectors[2].iter().map(|v| *v as f32).collect::<Vec<_>>()
    );
    let ranked = server.ok("/v1/rerank", &json!({
        "query": "a fox", "documents": ["numbers", {"text": "a fox"}], "return_documents": true, "top_n": 1,
    }));
    assert_eq!(ranked["results"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&ranked["results"][0]["index"], &ranked["results"][0]["document"]["text"]),
        (&json!(1), &json!("a fox"))
    );
}

#[test]
fn tokens_and_templates() {
    let server = TestServer::plain();
    let text = "A fox, naïve 🦊.";
    let tokens = server.ok("/tokenize", &json!({"content": text}));
    let back = server.ok("/detokenize", &tokens);
    assert_eq!(back["content"], text);
    let pieces = server.ok("/tokenize", &json!({"content": "fox", "with_pieces": true}));
    assert!(pieces["tokens"][0]["piece"].is_string());
    let body = json!({"messages": [{"role": "user", "content": "hi"}]});
    let prompt = server.ok("/apply-template", &body)["prompt"].as_str().unwrap().to_owned();
    assert!(prompt.contains("hi"), "{prompt}");
    let props = server.get("/props").json();
    assert_eq!((&props["model_alias"], &props["total_slots"]), (&json!("demo"), &json!(4)));
    assert_eq!(server.get("/slots").json(), json!([]));
}

#[test]
fn the_prefix_cache_shows_in_usage_and_metrics() {
    let server = TestServer::plain();
    let body = chat(&"Tell me about zinc, copper, tin and lead. ".repeat(10));
    server.ok(CHAT, &body);
    let again = server.ok(CHAT, &body);
    let cached = again["usage"]["prompt_tokens_details"]["cached_tokens"].as_f64().unwrap();
    assert!(cached > 0.0);
    assert_eq!(server.metric("vllm:prefix_cache_hits_total"), cached);
}
