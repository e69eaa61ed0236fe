//! The chat page: the files of `ui/dist`, which are part of the program. Scripts and styles are kept gzipped, as browsers
//! take them; other clients get them unpacked.
//!
//! The page is the one thing here that browsers execute, so it comes with a policy under which it can
//! run its own scripts and nothing else: nothing inline, nothing from other hosts, and no way from
//! text to HTML. The page and its assets need no key; what the page asks the API for does.

use std::io::Read;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::read::GzDecoder;
use include_dir::{Dir, include_dir};

use crate::{ApiError, reply};

/// What `ui/build.mjs` made of `ui/src`.
static DIST: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/ui/dist");

/// What the page may do.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; \
    img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Headers of every file.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Whether a path is one of the page's.
pub fn is_page(path: &str) -> bool {
    matches!(path, "/" | "/icon.svg" | "/licenses.txt") || path.starts_with("/assets/")
}

/// The page.
///
/// # Errors
/// See [`file`].
pub async fn page(headers: HeaderMap) -> Result<Response, ApiError> {
    file("index.html", &headers)
}

/// Its icon.
///
/// # Errors
/// See [`file`].
pub async fn icon(headers: HeaderMap) -> Result<Response, ApiError> {
    file("icon.svg", &headers)
}

/// The licences of what the page is made of.
///
/// # Errors
/// See [`file`].
pub async fn licences(headers: HeaderMap) -> Result<Response, ApiError> {
    file("licenses.txt", &headers)
}

/// A script, style or font.
///
/// # Errors
/// See [`file`].
pub async fn asset(
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    // A name that cannot be read is the name of no file.
    let name = name.map(|Path(name)| name).unwrap_or_default();
    file(&format!("assets/{name}"), &headers)
}

/// A file, or the news that the browser's copy is still right.
///
/// # Errors
/// 404 if there is none of this name.
fn file(name: &str, request: &HeaderMap) -> Result<Response, ApiError> {
    let Some((bytes, is_packed)) = stored(name) else {
        let message = "the chat page has no such file; reload the page";
        return Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", message));
    };
    let tag = format!("\"{:016x}\"", fnv1a(bytes));
    let is_known = request.get(header::IF_NONE_MATCH).is_some_and(|tags| {
        tags.to_str().is_ok_and(|tags| tags.split(',').any(|each| matches(each.trim(), &tag)))
    });
    let takes_gzip = takes_gzip(request);
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false if is_packed && !takes_gzip => reply::typed(media_type(name), unpacked(bytes)?),
        false => reply::typed(media_type(name), bytes),
    };
    let headers = response.headers_mut();
    if is_packed {
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if takes_gzip && !is_known {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
    }
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // The names of assets change with their contents.
    let cache = match name.starts_with("assets/") {
        true => "public, max-age=31536000, immutable",
        false => "no-cache",
    };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    // Weak: the same for packed and unpacked bytes.
    if let Ok(tag) = HeaderValue::try_from(format!("W/{tag}")) {
        headers.insert(header::ETAG, tag);
    }
    Ok(response)
}

/// Whether a tag of `if-none-match` is this one by weak comparison (RFC 9110, section 13.1.2).
fn matches(given: &str, tag: &str) -> bool {
    given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag
}

/// A file's bytes, and whether they are gzipped. Those have their names without the ending.
fn stored(name: &str) -> Option<(&'static [u8], bool)> {
    if name.ends_with(".gz") {
        return None;
    }
    let plain = DIST.get_file(name).map(|file| (file.contents(), false));
    plain.or_else(|| DIST.get_file(format!("{name}.gz")).map(|file| (file.contents(), true)))
}

fn unpacked(bytes: &[u8]) -> Result<Vec<u8>, ApiError> {
    let mut text = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut text).map_err(|error| {
        let message = format!("a file of the chat page is damaged: {error}");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    })?;
    Ok(text)
}

/// Whether a request's `accept-encoding` names gzip and does not refuse it (RFC 9110, section 12.5.3).
fn takes_gzip(request: &HeaderMap) -> bool {
    let lists =
        request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let refuses = |part: &str| {
            let weight = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
            weight.is_some_and(|weight| weight.parse() == Ok(0.0))
        };
        is_gzip && !parts.any(refuses)
    })
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("woff2") => "font/woff2",
        _ => "text/plain; charset=utf-8",
    }
}

/// FNV-1a of 64 bits: tells versions of a file apart, nothing more.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str) -> &'static str {
        DIST.get_file(name).unwrap().contents_utf8().unwrap()
    }

    #[test]
    fn the_page_names_only_files_that_are_there() {
        let page = text("index.html");
        let names: Vec<_> = page.split('"').filter(|part| part.starts_with("assets/")).collect();
        assert!(names.len() >= 5, "{names:?}");
        for name in names {
            assert!(stored(name).is_some(), "{name} is missing; run cargo xtask ui");
        }
        assert!(!page.contains("http"), "the page names other hosts");
        assert!(
            !page.contains("<style") && !page.contains(" style="),
            "the page has inline styles"
        );
    }

    #[test]
    fn assets_are_small() {
        let assets = DIST.get_dir("assets").unwrap();
        let total: usize = assets.files().map(|file| file.contents().len()).sum();
        assert!(total < 800_000, "{total} bytes");
    }

    #[test]
    fn scripts_are_packed_for_those_who_take_it() {
        let page = text("index.html");
        let name = page.split('"').find(|part| part.ends_with(".js")).unwrap();
        let bytes = |accept: &'static str| {
            let request =
                HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(accept))]);
            let response = file(name, &request).unwrap();
            let is_packed = response.headers().contains_key(header::CONTENT_ENCODING);
            assert_eq!(response.headers()[header::VARY], "accept-encoding");
            assert_eq!(response.headers()[header::CONTENT_TYPE], "text/javascript; charset=utf-8");
            let body = axum::body::to_bytes(response.into_body(), usize::MAX);
            (
                tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap()
                    .block_on(body)
                    .unwrap(),
                is_packed,
            )
        };
        assert!(file(&format!("{name}.gz"), &HeaderMap::new()).is_err());
        let any = HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static("*"))]);
        let known = file(name, &any).unwrap();
        assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(known.headers()[header::VARY], "accept-encoding");
        let (packed, is_packed) = bytes("br, GZIP;q=0.5");
        assert!(is_packed);
        for refusal in ["", "br", "gzip;q=0", "gzip; q=0.000, deflate"] {
            let (plain, is_packed) = bytes(refusal);
            assert!(!is_packed, "{refusal}");
            assert_eq!(unpacked(&packed).unwrap(), plain);
        }
    }

    #[test]
    fn files_have_types_and_are_cached() {
        let request = HeaderMap::new();
        let page = file("index.html", &request).unwrap();
        assert_eq!(page.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
        assert_eq!(page.headers()[header::CACHE_CONTROL], "no-cache");
        assert_eq!(page.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
        let tag = page.headers()[header::ETAG].clone();
        let request = HeaderMap::from_iter([(header::IF_NONE_MATCH, tag)]);
        assert_eq!(file("index.html", &request).unwrap().status(), StatusCode::NOT_MODIFIED);
        let strong = page.headers()[header::ETAG].to_str().unwrap().trim_start_matches("W/");
        for known in ["*".into(), format!("\"x\", {strong}")] {
            let value = HeaderValue::try_from(known).unwrap();
            let request = HeaderMap::from_iter([(header::IF_NONE_MATCH, value)]);
            assert_eq!(file("index.html", &request).unwrap().status(), StatusCode::NOT_MODIFIED);
        }
        assert_eq!(file("icon.svg", &request).unwrap().status(), StatusCode::OK);
        assert_eq!(
            file("assets/../index.html", &request).unwrap_err().status,
            StatusCode::NOT_FOUND
        );
    }
}
