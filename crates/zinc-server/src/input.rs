//! Reading of request bodies within their limits.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{BodyDataStream, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::Response;
use futures_util::StreamExt as _;
use serde_json::Value;

use crate::ApiError;
use crate::app::App;
use crate::http::Peer;
use crate::layers::{RequestId, shown};

/// How long the rest of a body that is too large is read, and how long nothing of it may come, before its
/// client is told.
const DRAIN: Duration = Duration::from_secs(5);
const DRAIN_IDLE: Duration = Duration::from_millis(300);

/// The JSON body of a request, and who sends it.
pub struct Input {
    /// The body.
    pub json: Value,
    /// Who sends it.
    pub caller: Caller,
}

/// Who sends a request.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// Names the request in the log.
    pub id: String,
    /// Clients share the engine when more wait than can run: one for each key.
    pub client: u64,
    /// Its end of the connection, where only that tells whether it is still there: a stream finds out
    /// when it writes.
    peer: Option<Peer>,
}

impl Caller {
    /// Resolves when the client has gone, as far as its answer does not find out by itself.
    pub async fn gone(&self) {
        match &self.peer {
            Some(peer) => peer.gone().await,
            None => std::future::pending().await,
        }
    }

    fn of(request: &Request) -> Caller {
        let id = request.extensions().get::<RequestId>();
        let headers = request.headers();
        let key = headers.get(header::AUTHORIZATION).or_else(|| headers.get("x-api-key"));
        let client = key.map_or(0, |key| {
            let mut hasher = DefaultHasher::new();
            key.as_bytes().hash(&mut hasher);
            hasher.finish()
        });
        let id = id.map(|id| shown(&id.0).to_owned()).unwrap_or_default();
        Caller { id, client, peer: request.extensions().get::<Peer>().cloned() }
    }
}

impl FromRequest<Arc<App>> for Input {
    type Rejection = Response;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Input, Response> {
        use axum::response::IntoResponse as _;
        let mut caller = Caller::of(&request);
        let json = read(request, app).await.map_err(ApiError::into_response)?;
        if json["stream"] == true {
            caller.peer = None;
        }
        Ok(Input { json, caller })
    }
}

/// A value of a query, decoded; the first of its name.
///
/// # Errors
/// It is no text.
pub fn query_value(uri: &Uri, name: &str) -> Result<Option<String>, ApiError> {
    let mut pairs = uri.query().unwrap_or_default().split('&');
    let found = pairs.find_map(|pair| match pair.split_once('=') {
        Some((key, value)) => (key == name).then_some(value),
        None => (pair == name).then_some(""),
    });
    let Some(value) = found else { return Ok(None) };
    let value = value.as_bytes();
    let (mut bytes, mut at) = (Vec::with_capacity(value.len()), 0);
    while let Some(&byte) = value.get(at) {
        let hex = value.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        // A sign is no digit.
        let hex = hex.filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let decoded = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let (byte, n) = match (byte, decoded) {
            (b'%', Some(decoded)) => (decoded, 3),
            (b'+', _) => (b' ', 1),
            (byte, _) => (byte, 1),
        };
        bytes.push(byte);
        at += n;
    }
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| ApiError::field(name, "the value in the query is no text"))
}

async fn read(request: Request, app: &App) -> Result<Value, ApiError> {
    check_type(request.headers())?;
    let limits = &app.options.limits;
    // Who asks before it sends gets its answer at once.
    let asks = request.headers().contains_key(header::EXPECT);
    let body = request.into_body();
    let announced = body.size_hint().lower();
    let mut stream = body.into_data_stream();
    let bytes = collect(&mut stream, announced, limits.body_bytes);
    let bytes = tokio::time::timeout(limits.body_timeout, bytes).await.map_err(|_| {
        let message = "the body did not arrive in time";
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
    })?;
    if let Err(error) = &bytes
        && error.status == StatusCode::PAYLOAD_TOO_LARGE
        && !asks
    {
        let _ = tokio::time::timeout(DRAIN, drain(stream, 2 * limits.body_bytes)).await;
    }
    let bytes = bytes?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let message = format!("the body is no JSON: {error}");
        ApiError::bad_request("invalid_json", message)
    })
}

/// Pages of other sites may send forms and plain text to a local server without asking; JSON they
/// may not.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let essence = given.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let message = format!(
        "the body must be JSON; send the header content-type: application/json, not {:?}",
        essence.chars().take(64).collect::<String>(),
    );
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
}

/// Reads and forgets what a client goes on to send: most read no answer before they have sent all, and a
/// connection closed before that is all they see of a refusal. Not beyond `max` bytes.
async fn drain(mut stream: BodyDataStream, max: usize) {
    let mut n_bytes = 0;
    while n_bytes < max {
        match tokio::time::timeout(DRAIN_IDLE, stream.next()).await {
            Ok(Some(Ok(chunk))) => n_bytes += chunk.len(),
            _ => return,
        }
    }
}

async fn collect(
    stream: &mut BodyDataStream,
    announced: u64,
    max: usize,
) -> Result<Vec<u8>, ApiError> {
    let too_large = || {
        let message = format!("the body has more than {max} bytes, which is the limit");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    };
    if announced > max as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(announced.min(1 << 20) as usize);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| {
            ApiError::bad_request("incomplete_body", format!("the body broke off: {error}"))
        })?;
        if bytes.len() + chunk.len() > max {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let value = |uri: &str| {
            let uri: Uri = uri.parse().expect("an address");
            query_value(&uri, "model").map_err(|error| error.param)
        };
        assert_eq!(value("/props"), Ok(None));
        assert_eq!(value("/props?models=a"), Ok(None));
        assert_eq!(value("/props?x=1&model=a%2Fb+c%3a%&model=d"), Ok(Some("a/b c:%".into())));
        assert_eq!(value("/props?model"), Ok(Some(String::new())));
        assert_eq!(value("/props?model=%FF"), Err(Some("model".into())));
    }
}
