//! An imitation of the Hub: an API, redirects to a content network on another address, and everything
//! that goes wrong in between.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

/// Bytes that are sent at a time.
const PIECE_BYTES: usize = 64 << 10;

/// What happens to one answer of the content network.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection ends after that many bytes.
    Cut(usize),
    /// An error, perhaps with `Retry-After`.
    Status(u16, Option<&'static str>),
    /// The whole file instead of the part.
    Whole,
}

#[derive(Clone)]
struct File {
    bytes: Bytes,
    /// What the API and the redirect say; not always the truth.
    sha256: String,
    size: u64,
}

#[derive(Default)]
struct Inner {
    files: HashMap<String, File>,
    faults: VecDeque<Fault>,
    hub_faults: VecDeque<Fault>,
    gated: bool,
    hidden: bool,
    no_ranges: bool,
    no_length: bool,
    gate: Option<Arc<Gate>>,
    /// Addresses of files that were told before are of no use when this has changed.
    run: u64,
    /// Requests of the content network that carried a token.
    leaked: u64,
}

/// Lets so many bytes of files through; then all connections are silent.
struct Gate {
    left: Mutex<usize>,
    opened: Notify,
}

impl Gate {
    /// Waits for a byte, and takes up to `n` of them.
    async fn take(&self, n: usize) -> usize {
        loop {
            let opened = self.opened.notified();
            {
                let mut left = self.left.lock().unwrap();
                if *left > 0 {
                    let n = n.min(*left);
                    *left -= n;
                    return n;
                }
            }
            opened.await;
        }
    }
}

/// The imitation; it ends with the test's runtime.
#[derive(Clone)]
pub struct FakeHub {
    inner: Arc<Mutex<Inner>>,
    /// Bytes of files that were sent.
    pub n_sent: Arc<AtomicU64>,
    /// Requests to the Hub itself.
    pub n_asked: Arc<AtomicU64>,
    hub: SocketAddr,
    cdn: SocketAddr,
}

/// Bytes that begin like a GGUF file, the same for the same seed.
pub fn content(n: usize, seed: u64) -> Bytes {
    let mut bytes = Vec::with_capacity(n + 8);
    bytes.extend_from_slice(b"GGUF\x03\0\0\0");
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while bytes.len() < n {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(n);
    bytes.into()
}

/// Bytes that the unfinished downloads under `dir` say to have.
pub fn n_saved(dir: &Path) -> u64 {
    let of_entry = |entry: std::fs::DirEntry| {
        let path = entry.path();
        if path.is_dir() {
            return n_saved(&path);
        }
        if !path.to_string_lossy().ends_with(".part.json") {
            return 0;
        }
        // It is replaced in one step, or gone when the file is whole.
        let text = std::fs::read(&path).unwrap_or_else(|_| b"{\"done\":[]}".to_vec());
        let saved: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let length =
            |range: &serde_json::Value| range[1].as_u64().unwrap() - range[0].as_u64().unwrap();
        saved["done"].as_array().unwrap().iter().map(length).sum()
    };
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(of_entry).sum()
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl FakeHub {
    pub async fn start() -> FakeHub {
        let listen = || tokio::net::TcpListener::bind("127.0.0.1:0");
        let (hub, cdn) = (listen().await.unwrap(), listen().await.unwrap());
        let fake = FakeHub {
            inner: Arc::default(),
            n_sent: Arc::default(),
            n_asked: Arc::default(),
            hub: hub.local_addr().unwrap(),
            cdn: cdn.local_addr().unwrap(),
        };
        let route = |fake: &FakeHub| Router::new().fallback(answer).with_state(fake.clone());
        let (hub_router, cdn_router) = (route(&fake), route(&fake));
        tokio::spawn(async move { axum::serve(hub, hub_router).await });
        tokio::spawn(async move { axum::serve(cdn, cdn_router).await });
        fake
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.hub)
    }

    /// The address of a file on the content network.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/cdn/{name}", self.cdn)
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Puts a file at `OWNER/REPO/PATH`.
    pub fn put(&self, path: &str, bytes: Bytes) {
        let (sha256, size) = (sha256(&bytes), bytes.len() as u64);
        self.inner().files.insert(path.into(), File { bytes, sha256, size });
    }

    /// As [`FakeHub::put`], with a wrong hash.
    pub fn put_lying(&self, path: &str, bytes: Bytes, sha256: String) {
        let size = bytes.len() as u64;
        self.inner().files.insert(path.into(), File { bytes, sha256, size });
    }

    /// A file that says to be larger than any disk.
    pub fn put_huge(&self, path: &str) {
        let bytes = content(100, 1);
        let file = File { sha256: sha256(&bytes), bytes, size: 1 << 60 };
        self.inner().files.insert(path.into(), file);
    }

    pub fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.inner().faults = faults.into_iter().collect();
    }

    pub fn hub_faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.inner().hub_faults = faults.into_iter().collect();
    }

    /// From now on sends `n` bytes of files, then nothing more: connections stay open and silent. So a
    /// pull is in its middle for as long as a test needs, on any machine.
    pub fn stall_after(&self, n: usize) {
        let gate = Gate { left: Mutex::new(n), opened: Notify::new() };
        self.inner().gate = Some(Arc::new(gate));
    }

    /// Connections that stall go on, and new ones do not stall.
    pub fn go_on(&self) {
        if let Some(gate) = self.inner().gate.take() {
            *gate.left.lock().unwrap() = usize::MAX;
            gate.opened.notify_waiters();
        }
    }

    /// What clients that were killed have asked for and the Hub has not read yet comes too late.
    pub fn forget_clients(&self) {
        self.inner().run += 1;
    }

    /// New connections do not stall; those that do are left to the client, which has gone.
    pub fn forget_stalled(&self) {
        self.inner().gate = None;
    }

    pub fn gated(&self, gated: bool) {
        self.inner().gated = gated;
    }

    pub fn hidden(&self, hidden: bool) {
        self.inner().hidden = hidden;
    }

    pub fn no_ranges(&self) {
        self.inner().no_ranges = true;
    }

    pub fn no_length(&self) {
        self.inner().no_length = true;
    }

    pub fn leaked(&self) -> u64 {
        self.inner().leaked
    }

    pub fn sent(&self) -> u64 {
        self.n_sent.load(Ordering::SeqCst)
    }

    pub fn reset_sent(&self) -> u64 {
        self.n_sent.swap(0, Ordering::SeqCst)
    }

    fn hub_answer(&self, path: &str, headers: &HeaderMap) -> Response {
        self.n_asked.fetch_add(1, Ordering::SeqCst);
        let mut inner = self.inner();
        if let Some(Fault::Status(status, wait)) = inner.hub_faults.pop_front() {
            return status_answer(status, wait);
        }
        let may = headers.get("authorization").is_some_and(|value| value == "Bearer good");
        let refuse = |status: u16, code: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            (status, [("x-error-code", code.to_owned())], "no").into_response()
        };
        if inner.hidden && !may {
            return refuse(401, "RepoNotFound");
        }
        if let Some(rest) = path.strip_prefix("api/models/") {
            let (repo, revision) = rest.split_once("/revision/").unwrap();
            return listing(&inner, repo, revision, &refuse);
        }
        let Some((repo, rest)) = path.split_once("/resolve/") else {
            return refuse(404, "EntryNotFound");
        };
        if inner.gated && !may {
            return refuse(
                if headers.contains_key("authorization") { 403 } else { 401 },
                "GatedRepo",
            );
        }
        let name = format!("{repo}/{}", rest.split_once('/').unwrap().1);
        let Some(file) = inner.files.get(&name) else {
            return refuse(404, "EntryNotFound");
        };
        let redirect = [
            (
                "location",
                format!("http://{}/cdn/{name}?signature=secret&run={}", self.cdn, inner.run),
            ),
            ("x-linked-etag", format!("\"{}\"", file.sha256)),
            ("x-linked-size", file.size.to_string()),
            ("x-repo-commit", "c0ffee".into()),
        ];
        (StatusCode::FOUND, redirect).into_response()
    }

    fn cdn_answer(&self, name: &str, query: &str, headers: &HeaderMap) -> Response {
        let mut inner = self.inner();
        if query.split_once("run=").is_some_and(|(_, run)| run != inner.run.to_string()) {
            return StatusCode::GONE.into_response();
        }
        inner.leaked += u64::from(headers.contains_key("authorization"));
        let Some(file) = inner.files.get(name).cloned() else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let range = headers.get("range").and_then(|value| {
            let (first, last) = value.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
            Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?))
        });
        let range = range.filter(|_| !inner.no_ranges);
        // The first byte alone asks what there is; faults are for what follows.
        let (fault, gate) = match range {
            Some((0, 0)) => (None, None),
            _ => (inner.faults.pop_front(), inner.gate.clone()),
        };
        if let Some(Fault::Status(status, wait)) = fault {
            return status_answer(status, wait);
        }
        let range = range.filter(|_| !matches!(fault, Some(Fault::Whole)));
        let (first, last) = range.unwrap_or((0, file.size - 1));
        let last = last.min(file.size - 1);
        let end = (last as usize + 1).min(file.bytes.len());
        let bytes = file.bytes.slice((first as usize).min(end)..end);
        let n_full = bytes.len();
        let cut = match fault {
            Some(Fault::Cut(n)) if n < n_full => Some(n),
            _ => None,
        };
        let body = self.body(bytes, cut, gate);
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        if !inner.no_length {
            headers.insert("content-length", n_full.into());
        }
        let etag = format!("\"cdn-{}\"", &sha256(&file.bytes)[..16]);
        headers.insert("etag", etag.parse().unwrap());
        if range.is_some() {
            let value = format!("bytes {first}-{last}/{}", file.size);
            headers.insert("content-range", value.parse().unwrap());
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        response
    }

    /// Pieces of 64 KiB, perhaps held at a gate, perhaps with an end before the end.
    fn body(&self, bytes: Bytes, cut: Option<usize>, gate: Option<Arc<Gate>>) -> Body {
        let n_sent = Arc::clone(&self.n_sent);
        let end = cut.unwrap_or(bytes.len());
        let steps = stream::unfold(0usize, move |at| {
            let (bytes, n_sent, gate) = (bytes.clone(), Arc::clone(&n_sent), gate.clone());
            async move {
                if at >= end {
                    let error = std::io::Error::other("cut");
                    return cut.is_some_and(|n| n == at).then(|| (Err(error), usize::MAX));
                }
                let wanted = PIECE_BYTES.min(end - at);
                let next = at
                    + match gate {
                        Some(gate) => gate.take(wanted).await,
                        None => wanted,
                    };
                n_sent.fetch_add((next - at) as u64, Ordering::SeqCst);
                Some((Ok(bytes.slice(at..next)), next))
            }
        });
        Body::from_stream(steps)
    }
}

fn status_answer(status: u16, wait: Option<&'static str>) -> Response {
    let mut response = StatusCode::from_u16(status).unwrap().into_response();
    if let Some(wait) = wait {
        response.headers_mut().insert("retry-after", wait.parse().unwrap());
    }
    response
}

fn listing(
    inner: &Inner,
    repo: &str,
    revision: &str,
    refuse: &dyn Fn(u16, &str) -> Response,
) -> Response {
    let prefix = format!("{repo}/");
    let files =
        inner.files.iter().filter_map(|(name, file)| Some((name.strip_prefix(&prefix)?, file)));
    let mut siblings: Vec<_> = files
        .map(|(path, file)| {
            let lfs = json!({ "sha256": file.sha256, "size": file.size, "pointerSize": 135 });
            json!({ "rfilename": path, "size": file.size, "lfs": lfs })
        })
        .collect();
    if siblings.is_empty() {
        return refuse(404, "RepoNotFound");
    }
    if !matches!(revision, "main" | "c0ffee") {
        return refuse(404, "RevisionNotFound");
    }
    siblings.push(json!({ "rfilename": "README.md", "size": 5 }));
    siblings.push(json!({ "rfilename": "../../evil-Q4_K_M.gguf", "size": 5 }));
    let answer = json!({ "sha": "c0ffee", "siblings": siblings, "cardData": { "license": "mit" } });
    axum::Json(answer).into_response()
}

async fn answer(State(hub): State<FakeHub>, request: Request) -> Response {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    match path.strip_prefix("cdn/") {
        Some(name) => {
            hub.cdn_answer(name, request.uri().query().unwrap_or_default(), request.headers())
        }
        None => hub.hub_answer(&path, request.headers()),
    }
}
