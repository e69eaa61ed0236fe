//! Errors as clients see them: one value, written in the envelope of the API that was called.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use zinc_engine::EngineError;
use zinc_engine::sampler::SamplerError;

use crate::schema::Problem;

/// Whose envelope an error is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `{"error": {"message", "type", "param", "code"}}`.
    OpenAi,
    /// `{"type": "error", "error": {"type", "message"}}`.
    Anthropic,
}

impl Dialect {
    /// The API that a path belongs to.
    pub fn of_path(path: &str) -> Dialect {
        if path == "/v1/messages" || path.starts_with("/v1/messages/") {
            Dialect::Anthropic
        } else {
            Dialect::OpenAi
        }
    }
}

/// Why a request gets no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Status of the response.
    pub status: StatusCode,
    /// A word for programs, in OpenAI's `code`.
    pub code: &'static str,
    /// The field that is to blame.
    pub param: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
    /// Seconds after which another try makes sense.
    pub retry_after: Option<u32>,
    /// Another try fails alike, whatever the status says to clients that try again by themselves.
    pub is_lasting: bool,
}

impl ApiError {
    /// An error with a status, a code and a message.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        let message = message.into();
        ApiError { status, code, param: None, message, retry_after: None, is_lasting: false }
    }

    /// The request is wrong as a whole.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// A field of the request cannot be used.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        let param = Some(param.into());
        ApiError { param, ..ApiError::bad_request("invalid_value", message) }
    }

    /// A field asks for what zinc, or this model, does not do.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError { code: "unsupported_value", ..ApiError::field(param, message) }
    }

    /// The server cannot answer now; another try in `seconds` may succeed.
    pub fn unavailable(code: &'static str, message: impl Into<String>, seconds: u32) -> ApiError {
        let retry_after = Some(seconds);
        ApiError { retry_after, ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message) }
    }

    /// The error in the words of a route: fields of `/v1/completions`, which the engine's errors name, by
    /// the names that they have there.
    pub fn in_words_of(mut self, names: &[(&str, &str)]) -> ApiError {
        let named = names.iter().find(|(name, _)| self.param.as_deref() == Some(name));
        if let Some((_, name)) = named {
            self.param = Some((*name).to_owned());
        }
        self
    }

    /// Something failed that is not the client's fault.
    pub fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// Something is broken that is not the client's fault and stays broken until somebody mends it.
    pub fn lasting(code: &'static str, message: impl Into<String>) -> ApiError {
        let error = ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, code, message);
        ApiError { is_lasting: true, ..error }
    }

    /// OpenAI's name for the sort of error.
    fn openai_type(&self) -> &'static str {
        match self.status.as_u16() {
            401 | 403 => "authentication_error",
            429 => "rate_limit_error",
            503 => "service_unavailable_error",
            504 => "timeout_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// Anthropic's name for the sort of error.
    fn anthropic_type(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            504 => "timeout_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        }
    }

    /// The error in the envelope of an API.
    pub fn envelope(&self, dialect: Dialect) -> Value {
        let message = match &self.param {
            Some(param) => format!("{param}: {}", self.message),
            None => self.message.clone(),
        };
        match dialect {
            Dialect::OpenAi => json!({"error": {
                "message": message,
                "type": self.openai_type(),
                "param": self.param,
                "code": self.code,
            }}),
            Dialect::Anthropic => json!({
                "type": "error",
                "error": {"type": self.anthropic_type(), "message": message},
            }),
        }
    }

    /// The whole response in the envelope of an API.
    pub fn render(&self, dialect: Dialect) -> Response {
        let mut response = crate::reply::json(&self.envelope(dialect));
        *response.status_mut() = self.status;
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.is_lasting {
            // OpenAI's and Anthropic's clients ask this first.
            response.headers_mut().insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// The error travels in the response's extensions to the outermost layer, which knows the API and
/// writes the body.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> ApiError {
        let code = if problem.is_unsupported { "unsupported_value" } else { "invalid_value" };
        ApiError { param: Some(problem.param), ..ApiError::bad_request(code, problem.what) }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> ApiError {
        let message = error.to_string();
        match error {
            EngineError::PromptTooLong { .. } => {
                let code = "context_length_exceeded";
                ApiError { code, ..ApiError::field("prompt", message) }
            }
            EngineError::Sampler(SamplerError::Param { field, value, allowed }) => {
                ApiError::field(field, format!("is {value}; allowed: {allowed}"))
            }
            EngineError::EmptyPrompt | EngineError::TokenId { .. } => {
                ApiError::field("prompt", message)
            }
            EngineError::Stop(_) => ApiError::field("stop", message),
            EngineError::Sampler(_) | EngineError::Option { .. } => {
                ApiError::bad_request("invalid_value", message)
            }
            EngineError::QueueFull { .. } => too_busy(message),
            _ => ApiError::internal(message),
        }
    }
}

/// More requests than the server takes.
pub fn too_busy(message: impl Into<String>) -> ApiError {
    let retry_after = Some(1);
    let busy = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "server_busy", message);
    ApiError { retry_after, ..busy }
}

/// 499, which proxies log for requests whose client went away first.
pub fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_has_its_envelope() {
        let error = ApiError::field("n", "expected an integer");
        assert_eq!(
            error.envelope(Dialect::OpenAi),
            json!({"error": {
                "message": "n: expected an integer",
                "type": "invalid_request_error",
                "param": "n",
                "code": "invalid_value",
            }})
        );
        assert_eq!(
            error.envelope(Dialect::Anthropic),
            json!({"type": "error", "error": {
                "type": "invalid_request_error",
                "message": "n: expected an integer",
            }})
        );
    }

    #[test]
    fn paths_belong_to_apis() {
        assert_eq!(Dialect::of_path("/v1/messages"), Dialect::Anthropic);
        assert_eq!(Dialect::of_path("/v1/messages/count_tokens"), Dialect::Anthropic);
        assert_eq!(Dialect::of_path("/v1/messagesx"), Dialect::OpenAi);
    }
}
