//! API keys, and the names under which a server may be called.

use std::net::{IpAddr, SocketAddr};

use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, header};

use crate::{ApiError, ServeOptions};

/// The keys that open the server; none at all leave it open.
#[derive(Debug, Default)]
pub struct Keys {
    keys: Vec<String>,
}

impl Keys {
    /// Takes keys; blank ones would let everybody in and are left out by the caller.
    pub fn new(keys: Vec<String>) -> Keys {
        Keys { keys }
    }

    /// Whether any key is needed.
    pub fn is_open(&self) -> bool {
        self.keys.is_empty()
    }

    /// Lets a request in that has a key as `Authorization: Bearer KEY` or `x-api-key: KEY`; of both, one
    /// has to be right.
    ///
    /// # Errors
    /// 401 without a key or with a wrong one.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.is_open() {
            return Ok(());
        }
        let bearer = headers.get(header::AUTHORIZATION).map(|value| {
            let value = value.as_bytes();
            let is_bearer = value.len() > 7 && value[..7].eq_ignore_ascii_case(b"bearer ");
            if is_bearer { &value[7..] } else { b"" }
        });
        let given = [bearer, headers.get("x-api-key").map(|value| value.as_bytes())];
        if given == [None, None] {
            let what = "this server needs an API key; send Authorization: Bearer KEY or x-api-key";
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, "missing_api_key", what));
        }
        // Every key is compared, so that the time does not tell which one was close.
        let matches =
            |given: &[u8]| self.keys.iter().filter(|key| same(key.as_bytes(), given)).count();
        if given.into_iter().flatten().map(matches).sum::<usize>() > 0 {
            return Ok(());
        }
        Err(ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", "wrong API key"))
    }
}

/// The names under which a server may be called.
///
/// A server that this machine alone reaches trusts its callers, but a page of any site can have its own
/// name mean 127.0.0.1 and call the server as its own origin (DNS rebinding). Browsers tell that name.
/// Where a key is needed the name is not. On other addresses names of this machine are not known, and the
/// server warns that everybody may use it.
#[derive(Debug)]
pub struct Hosts {
    /// Besides localhost and addresses; `None` allows every name.
    allowed: Option<Vec<String>>,
}

impl Hosts {
    /// What a server on `address` may be called.
    pub fn new(address: SocketAddr, options: &ServeOptions) -> Hosts {
        let origins = &options.cors_origins;
        let is_open = !options.api_keys.is_empty() || origins.iter().any(|origin| origin == "*");
        if is_open || !address.ip().to_canonical().is_loopback() {
            return Hosts { allowed: None };
        }
        let host = |origin: &String| {
            let origin = origin.parse::<Uri>().ok()?;
            let is_site = matches!(origin.scheme_str(), Some("http" | "https"));
            origin.host().filter(|_| is_site).map(str::to_owned)
        };
        Hosts { allowed: Some(origins.iter().filter_map(host).collect()) }
    }

    /// Lets a request in that calls the server by a name of this machine. One that names no host comes
    /// from no browser.
    ///
    /// # Errors
    /// 403 under another name.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let (Some(allowed), Some(given)) = (&self.allowed, headers.get(header::HOST)) else {
            return Ok(());
        };
        let given = String::from_utf8_lossy(given.as_bytes());
        let host = given.parse::<Authority>();
        let host = host.as_ref().map_or("", Authority::host).trim_matches(['[', ']']);
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        // Names that no public server of names has: single words, and those kept for local networks.
        let is_local = match host.rsplit_once('.') {
            Some((_, last)) => ["localhost", "local", "internal"].contains(&last),
            None => !host.is_empty(),
        };
        if is_local || host.parse::<IpAddr>().is_ok() || allowed.contains(&host) {
            return Ok(());
        }
        let shown: String = given.chars().take(64).collect();
        let message = format!(
            "this server answers to local names and to addresses, not to {shown:?}; behind a proxy start it \
             with --api-key, or with --cors and the origin of its pages",
        );
        Err(ApiError::new(StatusCode::FORBIDDEN, "wrong_host", message))
    }
}

/// Whether two byte strings are equal, in time that depends on the length of `given` alone.
fn same(key: &[u8], given: &[u8]) -> bool {
    let mut difference = key.len() ^ given.len();
    for (i, &byte) in given.iter().enumerate() {
        let expected = if key.is_empty() { 0 } else { key[i % key.len()] };
        difference |= usize::from(std::hint::black_box(expected ^ byte));
    }
    difference == 0 && !key.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(keys: &[&str], name: &'static str, value: &str) -> Option<&'static str> {
        let keys = Keys::new(keys.iter().map(|key| (*key).to_owned()).collect());
        let mut headers = HeaderMap::new();
        if !name.is_empty() {
            headers.insert(name, value.parse().unwrap());
        }
        keys.check(&headers).err().map(|error| error.code)
    }

    #[test]
    fn only_a_whole_key_opens() {
        assert_eq!(status(&[], "", ""), None);
        assert_eq!(status(&["abc"], "", ""), Some("missing_api_key"));
        for (name, prefix) in
            [("authorization", "Bearer "), ("authorization", "bearer "), ("x-api-key", "")]
        {
            assert_eq!(status(&["zz", "abc"], name, &format!("{prefix}abc")), None);
            for wrong in ["", "ab", "abcd", "abcabc", "ABC", "zzz"] {
                let value = format!("{prefix}{wrong}");
                assert_eq!(
                    status(&["zz", "abc"], name, &value),
                    Some("invalid_api_key"),
                    "{value}"
                );
            }
        }
        assert_eq!(status(&["abc"], "authorization", "Basic abc"), Some("invalid_api_key"));
    }

    /// A proxy has its own use for the first, and some clients send both.
    #[test]
    fn either_header_opens() {
        let keys = Keys::new(vec!["abc".into()]);
        for (bearer, key, is_open) in [
            ("Basic dXNlcg==", "abc", true),
            ("Bearer abc", "other", true),
            ("Bearer other", "ab", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", bearer.parse().unwrap());
            headers.insert("x-api-key", key.parse().unwrap());
            assert_eq!(keys.check(&headers).is_ok(), is_open, "{bearer}, {key}");
        }
    }
}
