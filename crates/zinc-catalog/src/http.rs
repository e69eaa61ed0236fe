//! Requests with redirects, retries and patience.
//!
//! Redirects are followed here, not by the client: the Hub tells a file's hash and size in the headers
//! of its redirect, and a token must not travel on to another host.

use std::time::{Duration, SystemTime};

use reqwest::header::{
    AUTHORIZATION, CONTENT_RANGE, HeaderMap, HeaderName, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Client, Response, StatusCode, Url, redirect};

use crate::CatalogError;

/// How often and how patiently is asked.
#[derive(Clone, Debug)]
pub struct Patience {
    /// Attempts without any progress before giving up.
    pub attempts: u32,
    /// Wait before the second attempt; doubled with each further one.
    pub first_wait: Duration,
    /// Longest wait between attempts, also where the server asks for a longer one.
    pub longest_wait: Duration,
    /// Silence after which a connection counts as dead.
    pub silence: Duration,
}

impl Default for Patience {
    /// Ten attempts over about three minutes: a laptop may change its network meanwhile.
    fn default() -> Self {
        Patience {
            attempts: 10,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
            silence: Duration::from_secs(30),
        }
    }
}

/// A client for HTTP and HTTPS; proxies come from the environment.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client,
    pub(crate) patience: Patience,
}

/// Who may see the token.
#[derive(Clone, Default)]
pub struct Auth {
    /// Sent as `Authorization: Bearer`.
    token: Option<String>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("token", &self.token.as_ref().map(|_| "..")).finish()
    }
}

impl Auth {
    /// With a token, or none.
    pub fn new(token: Option<String>) -> Auth {
        Auth { token }
    }

    /// Whether there is one.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }
}

/// An answer after all redirects.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The answer.
    pub response: Response,
    /// Headers of the redirects on the way, the first one's first.
    pub hops: Vec<HeaderMap>,
}

impl Answer {
    /// The header from the first hop that has it, else from the answer.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let all = self.hops.iter().chain([self.response.headers()]);
        let mut values = all.filter_map(|headers| headers.get(&name)?.to_str().ok());
        values.next().map(str::to_owned)
    }
}

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// Another may succeed; the server may have said how long to wait.
    Again { reason: String, wait: Option<Duration>, is_rate_limit: bool },
    /// The server answered with an error that stays.
    Refused { status: StatusCode, code: Option<String>, message: Option<String> },
    /// Something that no attempt changes.
    Final(CatalogError),
}

const REDIRECTS_MAX: usize = 10;

impl Http {
    /// A client with the usual patience.
    ///
    /// # Errors
    /// The system has no certificates or the proxy settings are wrong.
    pub fn new(patience: Patience) -> Result<Http, CatalogError> {
        // A second call finds it installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("zinc/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .connect_timeout(patience.silence.min(Duration::from_secs(20)))
            .read_timeout(patience.silence)
            .build()
            .map_err(|error| CatalogError::Client { reason: causes(&error) })?;
        Ok(Http { client, patience })
    }

    /// The same, for questions before anything is there: whoever is offline wants to know soon.
    pub(crate) fn hasty(&self) -> Http {
        let attempts = self.patience.attempts.min(4);
        Http {
            client: self.client.clone(),
            patience: Patience { attempts, ..self.patience.clone() },
        }
    }

    /// One attempt to GET `url`, or the bytes `range` (first, last) of it.
    pub(crate) async fn attempt(
        &self,
        url: &Url,
        auth: &Auth,
        range: Option<(u64, u64)>,
    ) -> Result<Answer, Attempt> {
        let mut at = url.clone();
        let mut hops = Vec::new();
        while hops.len() <= REDIRECTS_MAX {
            let mut request = self.client.get(at.clone());
            if let Some((first, last)) = range {
                request = request.header(RANGE, format!("bytes={first}-{last}"));
            }
            if let Some(token) = auth.token.as_ref().filter(|_| same_host(url, &at)) {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.send().await.map_err(|error| again(&error))?;
            if !response.status().is_redirection() {
                return check(response).await.map(|response| Answer { response, hops });
            }
            let target = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = target.and_then(|target| at.join(target).ok());
            let Some(next) = next.filter(|next| is_as_safe(&at, next)) else {
                let reason = "it redirects to nowhere, or from HTTPS to HTTP".to_owned();
                return Err(Attempt::Final(CatalogError::Protocol { url: at.to_string(), reason }));
            };
            hops.push(response.headers().clone());
            at = next;
        }
        let reason = format!("it redirects more than {REDIRECTS_MAX} times");
        Err(Attempt::Final(CatalogError::Protocol { url: url.to_string(), reason }))
    }

    /// GETs `url`, with as many attempts as patience allows.
    pub(crate) async fn get(
        &self,
        url: &Url,
        auth: &Auth,
        range: Option<(u64, u64)>,
    ) -> Result<Answer, Attempt> {
        let mut tries = Tries::default();
        loop {
            match self.attempt(url, auth, range).await {
                Err(failed @ Attempt::Again { .. }) => {
                    let wait = tries.failed(&self.patience, failed, url, auth)?;
                    tokio::time::sleep(wait).await;
                }
                done => return done,
            }
        }
    }

    /// GETs `url` and reads the answer, at most `n_bytes_max` of it.
    ///
    /// # Errors
    /// The server refuses or cannot be reached, or the answer is longer.
    pub async fn read(
        &self,
        url: &Url,
        auth: &Auth,
        n_bytes_max: usize,
    ) -> Result<Vec<u8>, CatalogError> {
        self.read_attempt(url, auth, n_bytes_max).await.map_err(|failed| failed.into_error(url))
    }

    /// As [`Http::read`], for callers that look at why.
    pub(crate) async fn read_attempt(
        &self,
        url: &Url,
        auth: &Auth,
        n_bytes_max: usize,
    ) -> Result<Vec<u8>, Attempt> {
        let mut tries = Tries::default();
        loop {
            let answer = self.get(url, auth, None).await?;
            match body(answer.response, n_bytes_max).await {
                Err(failed @ Attempt::Again { .. }) => {
                    let wait = tries.failed(&self.patience, failed, url, auth)?;
                    tokio::time::sleep(wait).await;
                }
                done => return done,
            }
        }
    }
}

/// The whole body, if it is no longer than that.
pub(crate) async fn body(mut response: Response, n_bytes_max: usize) -> Result<Vec<u8>, Attempt> {
    let url = response.url().to_string();
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| again(&error))? {
        if bytes.len() + chunk.len() > n_bytes_max {
            let reason = format!("its answer is longer than {n_bytes_max} bytes");
            return Err(Attempt::Final(CatalogError::Protocol { url, reason }));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Counts attempts that brought nothing.
#[derive(Debug, Default)]
pub(crate) struct Tries(u32);

impl Tries {
    /// Forgets earlier failures: something came.
    pub(crate) fn progress(&mut self) {
        self.0 = 0;
    }

    /// How long to wait before the next attempt; an error when patience is at its end, or `failed` is
    /// nothing that another attempt could mend.
    pub(crate) fn failed(
        &mut self,
        patience: &Patience,
        failed: Attempt,
        url: &Url,
        auth: &Auth,
    ) -> Result<Duration, Attempt> {
        let Attempt::Again { reason, wait, is_rate_limit } = failed else {
            return Err(failed);
        };
        self.0 += 1;
        let (url, attempts) = (plain(url), self.0);
        if attempts >= patience.attempts {
            return Err(Attempt::Final(match is_rate_limit {
                true => CatalogError::RateLimited { url, attempts, has_token: auth.has_token() },
                false => CatalogError::Network { url, attempts, reason },
            }));
        }
        let doubled = patience.first_wait.saturating_mul(1 << (attempts - 1).min(16));
        let wait = wait.unwrap_or(doubled.mul_f64(0.75 + 0.5 * jitter()));
        Ok(wait.min(patience.longest_wait))
    }
}

/// A number in 0..1 that differs between processes and moments, so that they do not all knock at once.
fn jitter() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    f64::from(now.subsec_nanos() % 1009) / 1009.0
}

impl Attempt {
    /// The error for a URL about which nothing more is known.
    pub(crate) fn into_error(self, url: &Url) -> CatalogError {
        match self {
            Attempt::Final(error) => error,
            Attempt::Again { reason, .. } => {
                CatalogError::Network { url: plain(url), attempts: 1, reason }
            }
            Attempt::Refused { status, message, .. } => CatalogError::Status {
                url: plain(url),
                status: status.as_u16(),
                message: message.map_or_else(String::new, |message| format!(" ({message})")),
                hint: match status.as_u16() {
                    401 | 403 => "the server wants to know who you are: for the Hub, set HF_TOKEN",
                    404 | 410 => "check the address",
                    _ => "try again later",
                },
            },
        }
    }
}

/// A URL without its query: signatures do not belong on screens.
fn plain(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

/// A failure of the connection.
pub(crate) fn again(error: &reqwest::Error) -> Attempt {
    Attempt::Again { reason: causes(error), wait: None, is_rate_limit: false }
}

/// The innermost cause says most, and has no URL with a signature.
fn causes(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    match error.to_string() {
        whole if whole.contains("timed out") => "nothing came for too long".into(),
        _ => last.to_string(),
    }
}

/// Takes the answer if it is a success.
async fn check(response: Response) -> Result<Response, Attempt> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let header = |name: &str| {
        response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    if matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502..=504) {
        let wait = header(RETRY_AFTER.as_str()).and_then(|value| retry_after(&value));
        let is_rate_limit = status == StatusCode::TOO_MANY_REQUESTS;
        return Err(Attempt::Again { reason: format!("it says {status}"), wait, is_rate_limit });
    }
    let code = header("x-error-code");
    let message = header("x-error-message").map(|text| text.chars().take(200).collect());
    Err(Attempt::Refused { status, code, message })
}

/// Seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(value.trim()).ok()?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

/// First byte, last byte and whole length in `Content-Range: bytes 0-9/100`.
pub(crate) fn content_range(response: &Response) -> Option<(u64, u64, Option<u64>)> {
    let value = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, whole) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, whole.parse().ok()))
}

fn same_host(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host() == b.host()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// Nothing leads from an encrypted connection to one that is not.
fn is_as_safe(from: &Url, to: &Url) -> bool {
    to.scheme() == "https" || to.scheme() == "http" && from.scheme() == "http"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        let patience = Patience {
            attempts: 4,
            first_wait: Duration::from_millis(100),
            longest_wait: Duration::from_millis(250),
            silence: Duration::from_secs(1),
        };
        let url = Url::parse("http://h/x?signature=s").unwrap();
        let auth = Auth::default();
        let failed =
            |wait, is_rate_limit| Attempt::Again { reason: "r".into(), wait, is_rate_limit };
        let mut tries = Tries::default();
        let mut next = |wait| tries.failed(&patience, failed(wait, true), &url, &auth);
        let millis = |wait: Result<Duration, Attempt>| wait.unwrap().as_millis();
        assert!((75..=125).contains(&millis(next(None))));
        assert!((150..=250).contains(&millis(next(None))));
        assert_eq!(millis(next(Some(Duration::from_secs(9)))), 250);
        let end = next(None).unwrap_err().into_error(&url).to_string();
        assert!(end.contains("http://h/x still says 429"), "{end}");
        assert!(end.contains("HF_TOKEN") && !end.contains("signature"), "{end}");
    }

    #[test]
    fn retry_after_in_both_forms() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after("soon"), None);
    }
}
