//! A device that fails, and code that panics.

use std::sync::atomic::Ordering;

use serde_json::json;

use crate::support::{LOST, PANIC, TestServer, chat};

const CHAT: &str = "/v1/chat/completions";

#[test]
fn a_panic_ends_the_requests_in_work_and_nothing_else() {
    let server = TestServer::plain();
    let expected = server.ok(CHAT, &chat("x"));
    server.fault.store(PANIC, Ordering::Relaxed);
    let response = server.post(CHAT, &chat("x"));
    assert_eq!((response.error().0, response.error().1.as_str()), (500, "internal_error"));
    assert_eq!(server.get("/health").status, 200);
    let after = server.ok(CHAT, &chat("x"));
    assert_eq!(after["choices"][0]["message"], expected["choices"][0]["message"]);
}

#[test]
fn a_lost_device_is_told_until_the_model_is_loaded_anew() {
    let server = TestServer::plain();
    server.fault.store(LOST, Ordering::Relaxed);
    for _ in 0..2 {
        let response = server.post(CHAT, &chat("x"));
        assert_eq!((response.error().0, response.error().1.as_str()), (503, "device_lost"));
    }
    assert_eq!(server.get("/health").error().1, "device_lost");
    server.ok("/v1/models/unload", &json!({"model": "demo"}));
    server.ok("/v1/models/load", &json!({"model": "demo"}));
    assert_eq!(server.get("/health").status, 200);
    server.ok(CHAT, &chat("x"));
}
