//! Several models.

use std::time::Duration;

use serde_json::json;

use crate::support::{Setup, TestServer, chat, model, with};

const CHAT: &str = "/v1/chat/completions";

fn status(server: &TestServer, id: &str) -> String {
    let entry = server.get(&format!("/v1/models/{id}")).json();
    entry["status"]["value"].as_str().unwrap().to_owned()
}

#[test]
fn a_request_loads_its_model_and_none_is_lost() {
    let mut setup = Setup { models: vec![model("a"), model("b")], ..Setup::default() };
    setup.models[1].aliases = vec!["beta".into()];
    let server = TestServer::start(setup);
    assert_eq!(
        (status(&server, "a").as_str(), status(&server, "b").as_str()),
        ("loaded", "unloaded")
    );
    let expected = server.ok(CHAT, &chat("x"))["choices"][0]["message"].clone();
    std::thread::scope(|scope| {
        let server = &server;
        let ask = |i: usize| {
            let name = ["a", "b", "beta"][i % 3];
            let answer = server.ok(CHAT, &with(chat("x"), json!({"model": name})));
            (["a", "b", "b"][i % 3], answer)
        };
        let threads: Vec<_> = (0..12).map(|i| scope.spawn(move || ask(i))).collect();
        for thread in threads {
            let (id, answer) = thread.join().unwrap();
            assert_eq!(
                (&answer["model"], &answer["choices"][0]["message"]),
                (&json!(id), &expected)
            );
        }
    });
    // One at a time.
    let loaded = ["a", "b"].map(|id| status(&server, id)).iter().filter(|s| *s == "loaded").count();
    assert!(loaded <= 1);
}

#[test]
fn models_are_listed_loaded_and_unloaded() {
    let mut setup = Setup { models: vec![model("a"), model("b")], ..Setup::default() };
    setup.options.models_max = 2;
    let server = TestServer::start(setup);
    let list = server.get("/v1/models").json();
    assert_eq!(
        (&list["data"][0]["id"], &list["data"][1]["object"]),
        (&json!("a"), &json!("model"))
    );
    server.ok("/v1/models/load", &json!({"model": "b"}));
    assert_eq!(
        (status(&server, "a").as_str(), status(&server, "b").as_str()),
        ("loaded", "loaded")
    );
    server.ok("/models/unload", &json!({"model": "a"}));
    assert_eq!(status(&server, "a"), "unloaded");
    assert_eq!(server.post("/v1/models/load", &json!({"model": "c"})).error().0, 404);
    assert_eq!(server.get("/v1/models/c").error().0, 404);
    // Whoever asks for it gets it back.
    server.ok(CHAT, &with(chat("x"), json!({"model": "a"})));
    assert_eq!(status(&server, "a"), "loaded");
}

#[test]
fn another_model_is_made_the_default() {
    let setup = Setup { models: vec![model("a"), model("b")], ..Setup::default() };
    let server = TestServer::start(setup);
    assert_eq!(server.ok(CHAT, &chat("x"))["model"], "a");
    assert_eq!(server.post("/v1/models/activate", &json!({"model": "c"})).error().0, 404);
    assert_eq!(server.ok(CHAT, &chat("x"))["model"], "a");
    let answer = server.ok("/v1/models/activate", &json!({"model": "b"}));
    assert_eq!((&answer["model"], &answer["status"]["value"]), (&json!("b"), &json!("loaded")));
    assert_eq!(server.ok(CHAT, &chat("x"))["model"], "b");
    assert_eq!(server.get("/props").json()["model_alias"], "b");
    let active =
        ["a", "b"].map(|id| server.get(&format!("/v1/models/{id}")).json()["active"].clone());
    assert_eq!(active, [json!(false), json!(true)]);
}

#[test]
fn models_tell_when_their_file_was_written() {
    let server = TestServer::plain();
    let entry = server.get("/v1/models").json()["data"][0].clone();
    let file = model("demo").path.unwrap().metadata().unwrap().modified().unwrap();
    let seconds = file.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(entry["created"], seconds);
    assert!(entry["created_at"].as_str().unwrap().starts_with("20"), "{entry}");
}

#[test]
fn metrics_name_their_model_loaded_or_not() {
    let server =
        TestServer::start(Setup { models: vec![model("a"), model("b")], ..Setup::default() });
    server.ok(CHAT, &with(chat("x"), json!({"model": "b"})));
    server.ok("/v1/models/unload", &json!({"model": "b"}));
    let text = server.get("/metrics").text();
    assert!(!text.contains("model_name=\"\""), "{text}");
    for line in [
        "vllm:num_requests_running{model_name=\"a\"} 0\n",
        "vllm:num_requests_waiting{model_name=\"b\"} 0\n",
        "vllm:kv_cache_usage_perc{model_name=\"b\"} 0\n",
        "vllm:request_prompt_tokens_count{model_name=\"b\"} 1\n",
        "vllm:request_generation_tokens_count{model_name=\"b\"} 1\n",
        "vllm:time_to_first_token_seconds_count{model_name=\"b\"} 1\n",
        "vllm:request_time_per_output_token_seconds_count{model_name=\"b\"} 1\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    assert!(!text.contains("cache_config_info{model_name=\"b\""), "{text}");
}

#[test]
fn requests_that_wait_for_a_model_are_counted_under_it() {
    let setup = Setup { models: vec![model("a"), model("b")], ..Setup::default() };
    let server = TestServer::start(setup);
    // While its answer runs, "a" stays, and there is room for one.
    let long = with(chat("x"), json!({"max_tokens": 1900, "ignore_eos": true, "stream": true}));
    let send = |body: serde_json::Value| {
        let mut stream = server.connect();
        let raw = crate::support::request("POST", CHAT, "", &body.to_string());
        std::io::Write::write_all(&mut stream, raw.as_bytes()).unwrap();
        stream
    };
    let running = send(with(long, json!({"model": "a"})));
    server.wait_for_metric("vllm:num_requests_running{model_name=\"a\"}", |n| n == 1.0);
    let waiting = send(with(chat("x"), json!({"model": "b"})));
    server.wait_for_metric("vllm:num_requests_waiting{model_name=\"b\"}", |n| n == 1.0);
    server.wait_for_metric("zinc_requests_waiting_for_model{model_name=\"b\"}", |n| n == 1.0);
    drop(running);
    let mut waiting = waiting;
    assert_eq!(crate::support::Response::read(&mut waiting).status, 200);
}

#[test]
fn nobody_needs_it_nobody_keeps_it() {
    let mut setup = Setup::default();
    setup.options.idle_unload = Some(Duration::from_millis(300));
    let server = TestServer::start(setup);
    server.ok(CHAT, &chat("x"));
    let begin = std::time::Instant::now();
    while status(&server, "demo") != "unloaded" {
        assert!(begin.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(server.get("/health").status, 200);
    server.ok(CHAT, &chat("x"));
}

#[test]
fn a_model_that_cannot_be_loaded_is_an_error_of_its_requests() {
    let mut broken = model("broken");
    broken.path = Some("/nowhere.gguf".into());
    let server =
        TestServer::start(Setup { models: vec![model("demo"), broken], ..Setup::default() });
    let response = server.post(CHAT, &with(chat("x"), json!({"model": "broken"})));
    assert_eq!((response.error().0, response.error().1.as_str()), (500, "model_load_failed"));
    // Clients that try again by themselves are told that it is of no use.
    assert_eq!(response.header("retry-after"), None);
    assert_eq!(response.header("x-should-retry"), Some("false"));
    let entry = server.get("/v1/models/broken").json();
    assert_eq!(
        (&entry["status"]["value"], &entry["status"]["failed"]),
        (&json!("failed"), &json!(true))
    );
    server.ok(CHAT, &chat("x"));
}

#[test]
fn defaults_of_a_model_hold_where_a_request_says_nothing() {
    let mut greedy = model("greedy");
    greedy.defaults.temperature = Some(0.0);
    greedy.defaults.max_tokens = Some(5);
    let server = TestServer::start(Setup { models: vec![greedy], ..Setup::default() });
    let body = json!({"messages": [{"role": "user", "content": "Tell me a story."}]});
    let (one, two) = (server.ok(CHAT, &body), server.ok(CHAT, &body));
    assert_eq!(one["choices"][0]["message"], two["choices"][0]["message"]);
    assert_eq!(one["usage"]["completion_tokens"], 5);
}
