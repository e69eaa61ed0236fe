//! What happens to every request before and after its route: a name, keys, errors in the right
//! envelope, a record in the log.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::app::{App, Phase, shutting_down};
use crate::error::client_closed_request;
use crate::{ApiError, Dialect, ids, ui};

/// The name of a request, in its extensions.
#[derive(Debug, Clone)]
pub struct RequestId(pub HeaderValue);

/// The outermost layer of all routes.
pub async fn around(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let path = request.uri().path().to_owned();
    let mut record = Record::new(&app, &request, id.clone());
    let is_closing = app.phase() != Phase::Serving;
    let mut response = match admit(&app, request.headers(), &path) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    let dialect = Dialect::of_path(&path);
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        // Headers that the router set, such as `allow`, stay.
        let headers = std::mem::take(response.headers_mut());
        response = error.render(dialect);
        for (name, value) in headers {
            if let Some(name) = name.filter(|name| *name == header::ALLOW) {
                response.headers_mut().insert(name, value);
            }
        }
        tracing::debug!(id = shown(&id), code = error.code, message = error.message, "refused");
    }
    let headers = response.headers_mut();
    if dialect == Dialect::Anthropic {
        headers.insert("request-id", id.clone());
    }
    headers.insert("x-request-id", id.clone());
    if is_closing {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    record.status = response.status();
    response
}

/// What is counted and logged of a request: its status, or that its client went away before there was
/// one.
struct Record {
    app: Arc<App>,
    begin: Instant,
    id: HeaderValue,
    method: Method,
    path: String,
    route: String,
    status: StatusCode,
}

impl Record {
    fn new(app: &Arc<App>, request: &Request, id: HeaderValue) -> Record {
        let matched = request.extensions().get::<MatchedPath>();
        Record {
            app: Arc::clone(app),
            begin: Instant::now(),
            id,
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            route: matched.map_or_else(|| "unknown".to_owned(), |path| path.as_str().to_owned()),
            status: client_closed_request(),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let status = self.status.as_u16();
        self.app.metrics.count_response(&self.route, status);
        let ms = self.begin.elapsed().as_secs_f64() * 1e3;
        let (id, method, path) = (shown(&self.id), &self.method, &self.path);
        tracing::info!(id, %method, path, status, ms, "request");
    }
}

/// Whether a request may pass at all.
fn admit(app: &App, headers: &HeaderMap, path: &str) -> Result<(), ApiError> {
    // The chat page is the same for everybody; what it asks for needs the key.
    if path == "/health" || ui::is_page(path) {
        return Ok(());
    }
    app.hosts.check(headers)?;
    app.keys.check(headers)?;
    // Whoever watches the server may watch it end.
    if app.phase() != Phase::Serving && path != "/metrics" {
        return Err(shutting_down());
    }
    Ok(())
}

/// The client's name for the request if it is short and printable, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_usable = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=128).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    let given = headers.get("x-request-id").filter(is_usable).cloned();
    given.unwrap_or_else(|| {
        HeaderValue::try_from(ids::new("req_")).unwrap_or(HeaderValue::from_static("req"))
    })
}

/// A request's name as text.
pub fn shown(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or_default()
}
