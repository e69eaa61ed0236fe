//! Cancellation, slow and silent clients, limits, and the end of a server.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Response, Setup, TestServer, chat, request, streamed_content, with};

const CHAT: &str = "/v1/chat/completions";

/// A request whose answer takes as long as the context lasts.
fn endless(more: Value) -> String {
    let body = with(
        chat("Tell me a story."),
        json!({"max_tokens": 1900, "ignore_eos": true, "stream": true}),
    );
    request("POST", CHAT, "", &with(body, more).to_string())
}

/// Sends an endless request and waits for its first bytes.
fn started(server: &TestServer, more: Value) -> TcpStream {
    let mut stream = server.connect();
    stream.write_all(endless(more).as_bytes()).unwrap();
    stream.read_exact(&mut [0; 300]).unwrap();
    stream
}

fn running(server: &TestServer) -> impl Fn(f64) -> bool + use<> {
    let _ = server;
    |n| n == 0.0
}

#[test]
fn whoever_goes_away_is_cancelled() {
    let server = TestServer::plain();
    drop(started(&server, json!({})));
    server.wait_for_metric("zinc_requests_cancelled_total", |n| n == 1.0);
    // Also before anything was sent back.
    let mut silent = server.connect();
    silent.write_all(endless(json!({"stream": false})).as_bytes()).unwrap();
    server.wait_for_metric("vllm:num_requests_running", |n| n == 1.0);
    drop(silent);
    server.wait_for_metric("zinc_requests_cancelled_total", |n| n == 2.0);
    server.wait_for_metric("vllm:num_requests_running", running(&server));
    server.wait_for_metric(LOST, |n| n == 1.0);
    // And with the next request sent already, behind which its end is hidden.
    let mut hasty = server.connect();
    hasty.write_all(endless(json!({"stream": false})).as_bytes()).unwrap();
    hasty.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    server.wait_for_metric("vllm:num_requests_running", |n| n == 1.0);
    drop(hasty);
    server.wait_for_metric("zinc_requests_cancelled_total", |n| n == 3.0);
    server.ok(CHAT, &chat("x"));
}

/// Requests whose client went before their answer was there.
const LOST: &str = "zinc_responses_total{route=\"/v1/chat/completions\",status=\"499\"}";

/// Sends a request, closes the sending side, and reads what comes.
fn half_closed(server: &TestServer, path: &str, body: &Value) -> Response {
    let mut stream = server.connect();
    stream.write_all(request("POST", path, "", &body.to_string()).as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    Response::read(&mut stream)
}

#[test]
fn whoever_sends_no_more_may_still_read() {
    let server = TestServer::plain();
    let text = json!({"content": "Tell me a story."});
    assert_eq!(half_closed(&server, "/tokenize", &text).json(), server.ok("/tokenize", &text));
    let body = with(chat("Tell me a story."), json!({"stream": true, "max_tokens": 40}));
    let expected = server.post(CHAT, &body).chunks();
    let chunks = half_closed(&server, CHAT, &body).chunks();
    assert_eq!(streamed_content(&chunks, 0), streamed_content(&expected, 0));
    // A whole answer that is in work cannot tell such a client from one that has gone, and says so.
    let mut whole = server.connect();
    whole.write_all(endless(json!({"stream": false})).as_bytes()).unwrap();
    server.wait_for_metric("vllm:num_requests_running", |n| n == 1.0);
    whole.shutdown(Shutdown::Write).unwrap();
    let refused = Response::read(&mut whole).error();
    assert_eq!((refused.0, refused.1.as_str()), (499, "client_closed_request"));
    server.wait_for_metric("zinc_requests_cancelled_total", |n| n == 1.0);
    assert_eq!(server.metric(LOST), 1.0);
}

#[test]
fn whoever_reads_nothing_is_cut_off_and_holds_up_nobody() {
    let mut setup = Setup::default();
    setup.options.limits.unread_tokens = 32;
    setup.options.limits.write_timeout = Duration::from_secs(2);
    let server = TestServer::start(setup);
    // Log-probabilities make events large, so that sockets do not hold all of them.
    let lazy = started(&server, json!({"logprobs": true, "top_logprobs": 128}));
    server.ok(CHAT, &chat("x"));
    server.wait_for_metric("zinc_requests_too_slow_total", |n| n == 1.0);
    server.wait_for_metric("vllm:num_requests_running", running(&server));
    // The connection itself ends too.
    server.wait_for_metric("zinc_connections", |n| n == 1.0);
    drop(lazy);
}

#[test]
fn more_requests_than_places_are_sent_away() {
    let mut setup = Setup { parallel: 1, ..Setup::default() };
    setup.options.limits.requests = 2;
    let server = TestServer::start(setup);
    let (first, second) = (started(&server, json!({})), {
        let mut stream = server.connect();
        stream.write_all(endless(json!({})).as_bytes()).unwrap();
        stream
    });
    server.wait_for_metric("vllm:num_requests_waiting", |n| n == 1.0);
    let response = server.post(CHAT, &chat("x"));
    assert_eq!((response.error().0, response.error().1.as_str()), (429, "server_busy"));
    assert_eq!(response.header("retry-after"), Some("1"));
    drop((first, second));
    server.wait_for_metric("vllm:num_requests_running", running(&server));
    server.ok(CHAT, &chat("x"));
}

/// The head of a request whose body does not come.
const NO_BODY: &[u8] = b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
    content-type: application/json\r\ncontent-length: 100\r\n\r\n{";

#[test]
fn connections_are_bounded() {
    let mut setup = Setup::default();
    setup.options.limits.connections = 2;
    let server = TestServer::start(setup);
    // They are accepted in the order in which they came.
    let (half_head, half_body) = (server.connect(), server.connect());
    (&half_head).write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n").unwrap();
    (&half_body).write_all(NO_BODY).unwrap();
    let get = || server.get("/health").status;
    assert_eq!(get(), 503);
    drop(half_body);
    let status = std::iter::repeat_with(get).find(|status| *status != 503);
    assert_eq!(status, Some(200));
    drop(half_head);
}

#[test]
fn a_head_has_to_come() {
    let mut setup = Setup::default();
    setup.options.limits.header_timeout = Duration::from_millis(300);
    let server = TestServer::start(setup);
    let mut slow = server.connect();
    slow.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n").unwrap();
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).unwrap();
    let text = String::from_utf8_lossy(&rest);
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{text:?}");
}

#[test]
fn bodies_have_to_come_and_are_bounded() {
    let mut setup = Setup::default();
    setup.options.limits.body_timeout = Duration::from_millis(300);
    let server = TestServer::start(setup);
    assert_eq!(server.raw(NO_BODY).status, 408);
    let mut setup = Setup::default();
    setup.options.limits.body_bytes = 1000;
    let server = TestServer::start(setup);
    let large = json!({"content": "x".repeat(2000)});
    assert_eq!(server.post("/tokenize", &large).error().0, 413);
    // Who asks first, or announces far more, is told before it sends.
    let head = "POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    for more in ["expect: 100-continue\r\ncontent-length: 1500", "content-length: 90000000000"] {
        assert_eq!(server.raw(format!("{head}{more}\r\n\r\n").as_bytes()).error().0, 413);
    }
    // Without a length, too.
    let chunk = format!(
        "POST /tokenize HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n7d0\r\n{}\r\n0\r\n\r\n",
        "x".repeat(2000)
    );
    assert_eq!(server.raw(chunk.as_bytes()).error().0, 413);
    drop(server);
    // Who sends all before it reads is told all the same.
    let mut setup = Setup::default();
    setup.options.limits.body_bytes = 16 << 20;
    let server = TestServer::start(setup);
    let huge = json!({"content": "x".repeat(30 << 20)});
    assert_eq!(server.post("/tokenize", &huge).error().0, 413);
}

#[test]
fn a_request_has_an_end() {
    let mut setup = Setup::default();
    setup.options.limits.request_timeout = Duration::from_millis(200);
    let server = TestServer::start(setup);
    let body = with(chat("Tell me a story."), json!({"max_tokens": 1900, "ignore_eos": true}));
    let whole = server.post(CHAT, &body);
    assert_eq!((whole.error().0, whole.error().1.as_str()), (504, "request_timeout"));
    let events = server.post(CHAT, &with(body, json!({"stream": true}))).events();
    // An answer that was cut has no end.
    let last: Value = serde_json::from_str(&events.last().unwrap().1).unwrap();
    assert_eq!(last["error"]["code"], "request_timeout");
}

#[test]
fn running_answers_finish_when_a_server_ends() {
    let mut server = TestServer::plain();
    let mut running = started(&server, json!({"max_tokens": 150}));
    let mut idle = server.connect();
    server.tell_to_end();
    while server.get("/health").status == 200 {
        std::thread::sleep(Duration::from_millis(5));
    }
    // Nobody new is taken, on old connections or new ones.
    idle.write_all(request("POST", CHAT, "", &chat("x").to_string()).as_bytes()).unwrap();
    let refused = Response::read(&mut idle);
    assert_eq!((refused.error().0, refused.error().1.as_str()), (503, "shutting_down"));
    assert!(refused.header("retry-after").is_some());
    let mut rest = String::new();
    running.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]\n\n"), "{rest}");
    assert!(rest.ends_with("0\r\n\r\n"));
    let address = server.address;
    server.end();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn what_does_not_finish_in_time_is_cut_off() {
    let mut setup = Setup::default();
    setup.options.drain = Duration::from_millis(100);
    let mut server = TestServer::start(setup);
    let mut running = started(&server, json!({}));
    server.tell_to_end();
    let mut rest = String::new();
    running.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"code\":\"shutting_down\""), "{rest}");
    assert!(!rest.contains("[DONE]"), "{rest}");
    server.end();
}
