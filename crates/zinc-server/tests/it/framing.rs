//! Bytes on the wire.

use std::io::{BufRead, BufReader, Write};

use serde_json::json;

use crate::support::{Response, Setup, TestServer, chat, request, streamed_content, with};

#[test]
fn a_stream_says_what_a_whole_answer_says() {
    let server = TestServer::plain();
    let whole = server.ok("/v1/chat/completions", &chat("Tell me a story."));
    assert_eq!(whole["object"], "chat.completion");
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["role"], "assistant");
    let more = json!({"stream": true, "stream_options": {"include_usage": true}});
    let response = server.post("/v1/chat/completions", &with(chat("Tell me a story."), more));
    assert_eq!(response.header("cache-control"), Some("no-cache"));
    let chunks = response.chunks();
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(streamed_content(&chunks, 0), message["content"].as_str().unwrap());
    let (usage, rest) = chunks.split_last().unwrap();
    assert_eq!(
        (&usage["choices"], &usage["usage"]["completion_tokens"]),
        (&json!([]), &whole["usage"]["completion_tokens"])
    );
    assert_eq!(usage["usage"]["prompt_tokens"], whole["usage"]["prompt_tokens"]);
    let last = rest.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], whole["choices"][0]["finish_reason"]);
    for chunk in &chunks {
        assert_eq!(
            (&chunk["id"], &chunk["object"]),
            (&chunks[0]["id"], &json!("chat.completion.chunk"))
        );
    }
}

#[test]
fn tokens_leave_one_by_one() {
    let server = TestServer::plain();
    let mut stream = server.connect();
    let body = with(
        chat("Tell me a long story."),
        json!({"stream": true, "max_tokens": 200, "ignore_eos": true}),
    );
    stream
        .write_all(request("POST", "/v1/chat/completions", "", &body.to_string()).as_bytes())
        .unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut n_seen = 0;
    while n_seen < 5 {
        n_seen += usize::from(lines.next().unwrap().unwrap().starts_with("data: {"));
    }
    // The answer is far from its end when its beginning is here.
    assert!(server.metric("vllm:generation_tokens_total") < 200.0);
}

#[test]
fn a_connection_serves_one_request_after_another() {
    let server = TestServer::plain();
    let mut stream = server.connect();
    for _ in 0..3 {
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut reader = BufReader::new(&stream);
        let (mut line, mut length) = (String::new(), 0);
        loop {
            line.clear();
            reader.read_line(&mut line).unwrap();
            if let Some(n) = line.strip_prefix("content-length: ") {
                length = n.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        std::io::Read::read_exact(&mut reader, &mut body).unwrap();
        assert_eq!(body, br#"{"status":"ok"}"#);
    }
}

#[test]
fn requests_have_names() {
    let server = TestServer::plain();
    let named = server.send("GET", "/health", "x-request-id: abc-1\r\n", "");
    assert_eq!(named.header("x-request-id"), Some("abc-1"));
    let long = format!("x-request-id: {}\r\n", "x".repeat(500));
    for headers in ["", &long] {
        let response = server.send("GET", "/health", headers, "");
        assert!(response.header("x-request-id").unwrap().starts_with("req_"));
    }
}

#[test]
fn broken_requests_get_an_answer_or_the_door() {
    let server = TestServer::plain();
    for (raw, status) in [
        (&b"GARBAGE\r\n\r\n"[..], 400),
        (b"GET / HTTP/1.1\r\nhost test\r\n\r\n", 400),
        (b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n", 400),
    ] {
        let mut stream = server.connect();
        stream.write_all(raw).unwrap();
        assert_eq!(
            Response::read(&mut stream).status,
            status,
            "{:?}",
            String::from_utf8_lossy(raw)
        );
    }
    // Whoever sends a head without end may be cut off before all of it is sent.
    let head = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}", "y".repeat(1 << 20));
    let mut stream = server.connect();
    let _ = stream.write_all(head.as_bytes());
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{answer:?}");
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_local_server_answers_to_no_name_of_another_site() {
    let status = |server: &TestServer, host: &str| {
        let request =
            format!("GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        server.raw(request.as_bytes()).status
    };
    let server = TestServer::plain();
    for host in [
        "localhost",
        "LOCALHOST:8080",
        "zinc.localhost",
        "127.0.0.1:80",
        "[::1]:8080",
        "192.168.0.7",
        "my-machine:8080",
        "host.docker.internal:80",
        "nas.local",
    ] {
        assert_eq!(status(&server, host), 200, "{host}");
    }
    for host in ["evil.test", "evil.test:8080", "localhost.evil.test", "", "a b"] {
        assert_eq!(status(&server, host), 403, "{host}");
    }
    assert_eq!(server.raw(b"GET /v1/models HTTP/1.0\r\n\r\n").status, 200);
    drop(server);
    // Where pages of a site may call the server, that site's proxy may too; where a key is needed, all.
    let mut setup = Setup::default();
    setup.options.cors_origins = vec!["https://app.test:8443".into()];
    let server = TestServer::start(setup);
    assert_eq!([status(&server, "app.test"), status(&server, "evil.test")], [200, 403]);
    drop(server);
    let mut setup = Setup::default();
    setup.options.api_keys = vec!["k".into()];
    assert_eq!(status(&TestServer::start(setup), "evil.test"), 401);
}

#[test]
fn pages_of_other_sites_are_kept_out_unless_named() {
    let preflight = "origin: http://app.test\r\naccess-control-request-method: POST\r\n\
                     access-control-request-headers: content-type\r\n";
    let server = TestServer::plain();
    let response = server.send("OPTIONS", "/v1/chat/completions", preflight, "");
    assert_eq!((response.status, response.header("access-control-allow-origin")), (405, None));
    drop(server);
    let mut setup = Setup::default();
    setup.options.cors_origins = vec!["http://app.test".into()];
    setup.options.api_keys = vec!["k".into()];
    let server = TestServer::start(setup);
    let response = server.send("OPTIONS", "/v1/chat/completions", preflight, "");
    assert_eq!(
        (response.status, response.header("access-control-allow-origin")),
        (200, Some("http://app.test"))
    );
    let other = preflight.replace("app.test", "evil.test");
    let response = server.send("OPTIONS", "/v1/chat/completions", &other, "");
    assert_eq!(response.header("access-control-allow-origin"), None);
}
