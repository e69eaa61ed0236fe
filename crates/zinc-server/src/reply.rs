//! Responses: JSON bodies, and streams of server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use serde_json::Value;

/// Between comments that keep a silent stream alive through proxies.
pub const HEARTBEAT: Duration = Duration::from_secs(10);

/// A response with a JSON body.
pub fn json(value: &Value) -> Response {
    typed("application/json", value.to_string())
}

/// A response with a body of a media type.
pub fn typed(media_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Something that says, piece by piece, what a stream of events sends.
pub trait Script: Send + 'static {
    /// What keeps a silent stream alive.
    const HEARTBEAT: &'static str = ": keep-alive\n\n";

    /// The next events, already framed; `None` at the end. May be dropped at any await, when the
    /// client goes away, and is called again after a heartbeat, so it must not lose anything then.
    fn next(&mut self) -> impl Future<Output = Option<String>> + Send;
}

/// A response whose body are the events of `script`. A comment goes out whenever it is silent for
/// [`HEARTBEAT`]. When the client goes away, the script is dropped.
pub fn events<S: Script>(script: S) -> Response {
    let body = stream::unfold(script, |mut script| async move {
        let frame = match tokio::time::timeout(HEARTBEAT, script.next()).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return None,
            Err(_) => S::HEARTBEAT.to_owned(),
        };
        Some((Ok::<_, Infallible>(Bytes::from(frame)), script))
    });
    let mut response = typed("text/event-stream", Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would gather the events otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Appends an event without a name. JSON in one line has no line breaks, so one `data` line is
/// enough whatever the model wrote.
pub fn push_data(out: &mut String, data: &Value) {
    use std::fmt::Write as _;
    let _ = write!(out, "data: {data}\n\n");
}

/// Appends an event with a name.
pub fn push_event(out: &mut String, name: &str, data: &Value) {
    use std::fmt::Write as _;
    let _ = write!(out, "event: {name}\ndata: {data}\n\n");
}

/// The end of a stream of OpenAI's.
pub const DONE: &str = "data: [DONE]\n\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_stay_inside_an_event() {
        let mut out = String::new();
        push_data(&mut out, &serde_json::json!({"a": "x\n\ny\r\u{2028}"}));
        assert_eq!(out, "data: {\"a\":\"x\\n\\ny\\r\u{2028}\"}\n\n");
    }
}
