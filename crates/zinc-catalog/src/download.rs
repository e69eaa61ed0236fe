//! One file from a server to the disk: over several connections, going on after whatever happens.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::CatalogError;
use crate::http::{Answer, Attempt, Auth, Http, Tries, again, content_range};
use crate::part::{self, CloseAtEnd, Identity, Part};

/// Least and most bytes asked for in one request.
const PIECE_BYTES: (u64, u64) = (4 << 20, 64 << 20);
/// Requests that a file takes, within those bounds.
const N_PIECES: u64 = 256;
/// Bytes gathered before they are written, unless they come slowly.
const WRITE_BYTES: usize = 1 << 20;
/// Longest time that bytes are gathered.
const WRITE_AFTER: Duration = Duration::from_millis(250);
/// Room that stays free on the disk.
const SPARE_BYTES: u64 = 16 << 20;

/// A file on a server.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub url: Url,
    pub auth: Auth,
    /// SHA-256 that it must have, and who says so.
    pub sha256: Option<(String, &'static str)>,
}

/// What a download tells while it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Another process downloads the same file; this one waits for it.
    Waiting,
    /// The download begins, or goes on, with `done` of `total` bytes there.
    Begin {
        /// Bytes there.
        done: u64,
        /// Length of the file; `None` if the server does not say.
        total: Option<u64>,
    },
    /// More bytes are there.
    Bytes {
        /// Bytes there.
        done: u64,
    },
    /// The server has another version of the file than the one begun; it is fetched from its beginning.
    Changed,
    /// The server sends the file only whole; what was there of it is fetched again.
    NoRanges,
    /// An attempt failed; the next one follows.
    Retry {
        /// What went wrong.
        reason: String,
        /// The wait before it.
        wait: Duration,
    },
}

/// A whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Downloaded {
    pub size: u64,
    pub sha256: String,
}

/// What the server says about a file before it is fetched.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    /// Length, if it says so.
    pub size: Option<u64>,
    /// Whether it sends parts.
    pub has_ranges: bool,
    /// SHA-256, where the Hub tells it.
    pub sha256: Option<String>,
    /// Its mark of this version.
    pub etag: Option<String>,
}

pub(crate) type Tell = Arc<dyn Fn(Step) + Send + Sync>;

/// Asks for the first byte, which tells everything.
pub(crate) async fn probe(http: &Http, remote: &Remote) -> Result<Probe, Attempt> {
    let answer = http.get(&remote.url, &remote.auth, Some((0, 0))).await?;
    let number = |name: &str| answer.header(name).and_then(|text| text.parse().ok());
    let has_ranges = answer.response.status() == 206;
    let size = match has_ranges {
        true => content_range(&answer.response).and_then(|(_, _, whole)| whole),
        // Without ranges the length is that of this answer, unless it is compressed.
        false => answer.response.content_length(),
    };
    let linked = answer.header("x-linked-etag").map(|etag| bare(&etag).to_owned());
    let is_hash = |text: &String| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    Ok(Probe {
        size: size.or_else(|| number("x-linked-size")),
        has_ranges,
        sha256: linked.filter(is_hash),
        etag: mark(&answer),
    })
}

/// What the server marks this version of the file with.
fn mark(answer: &Answer) -> Option<String> {
    let mark = answer.header("etag").map(|etag| bare(&etag).to_owned());
    mark.or_else(|| answer.header("last-modified"))
}

fn bare(etag: &str) -> &str {
    etag.trim().trim_start_matches("W/").trim_matches('"')
}

/// Takes the lock at `lock` and holds it until the file is dropped; tells if it has to wait.
async fn lock(path: &Path, tell: &Tell) -> Result<File, CatalogError> {
    let fail = |error| CatalogError::io(path, error);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(fail)?;
    }
    let file = File::create(path).map_err(fail)?;
    let mut is_told = false;
    while let Err(refused) = file.try_lock() {
        if let fs::TryLockError::Error(error) = refused {
            return Err(fail(error));
        }
        if !std::mem::replace(&mut is_told, true) {
            tell(Step::Waiting);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(file)
}

/// Fetches `remote` to `target`. What is there already is not fetched again; when this returns, the
/// file is whole and has the hash it must have, or everything that came is kept for the next time.
/// Giving up the future is allowed at any moment.
///
/// # Errors
/// The server refuses or stays out of reach, the disk is full, or the file has the wrong hash.
pub(crate) async fn download(
    http: &Http,
    remote: &Remote,
    target: &Path,
    lock_path: &Path,
    n_connections: usize,
    tell: Tell,
) -> Result<Downloaded, Attempt> {
    let _lock = lock(lock_path, &tell).await.map_err(Attempt::Final)?;
    if let Some(there) = already_there(remote, target).await.map_err(Attempt::Final)? {
        return Ok(there);
    }
    let probe = probe(http, remote).await?;
    let Some(size) = probe.size else {
        return stream(http, remote, target, tell).await;
    };
    let expected =
        remote.sha256.clone().or(probe.sha256.clone().map(|hash| (hash, "the Hub says")));
    let sha256 = expected.as_ref().map(|(hash, _)| hash.clone());
    let etag = probe.etag.filter(|_| sha256.is_none());
    let identity = Identity { size, sha256, etag };
    let is_other = part::left_over(target).is_some_and(|(left, n)| n > 0 && left != identity);
    if is_other {
        tell(Step::Changed);
    }
    let part = open(target, identity, probe.has_ranges, &tell).map_err(Attempt::Final)?;
    tell(Step::Begin { done: part.n_done(), total: Some(size) });
    let hash = fetch(http, remote, &part, probe.has_ranges, n_connections, &tell).await?;
    check_hash(target, &hash, expected).map_err(Attempt::Final)?;
    part.finish(target).map_err(Attempt::Final)?;
    Ok(Downloaded { size, sha256: hash })
}

/// Another process may have finished the file while this one waited.
async fn already_there(remote: &Remote, target: &Path) -> Result<Option<Downloaded>, CatalogError> {
    let Some((expected, _)) = &remote.sha256 else {
        return Ok(None);
    };
    let Ok(metadata) = fs::metadata(target) else {
        return Ok(None);
    };
    let path = target.to_owned();
    let found = blocking(move || part::hash_file(&path, &mut |_| {})).await?;
    let there = Downloaded { size: metadata.len(), sha256: found };
    Ok(Some(there).filter(|there| there.sha256 == *expected))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CatalogError> + Send + 'static,
) -> Result<T, CatalogError> {
    let joined = spawn_blocking(work).await;
    joined.unwrap_or_else(|error| Err(CatalogError::Worker(error.to_string())))
}

fn open(
    target: &Path,
    identity: Identity,
    has_ranges: bool,
    tell: &Tell,
) -> Result<Arc<Part>, CatalogError> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(|error| CatalogError::io(parent, error))?;
    }
    let part = Part::open(target, identity)?;
    if !has_ranges && part.n_done() > 0 {
        tell(Step::NoRanges);
        part.restart();
    }
    check_space(target, part.size() - part.n_done())?;
    Ok(Arc::new(part))
}

/// Refuses to begin what cannot end.
pub(crate) fn check_space(target: &Path, needed: u64) -> Result<(), CatalogError> {
    match crate::size::free_space(target) {
        Some(free) if free < needed.saturating_add(SPARE_BYTES) && needed > 0 => {
            let path = target.parent().unwrap_or(target).to_owned();
            Err(CatalogError::Space { path, needed, free })
        }
        _ => Ok(()),
    }
}

fn check_hash(
    target: &Path,
    found: &str,
    expected: Option<(String, &'static str)>,
) -> Result<(), CatalogError> {
    match expected {
        Some((expected, said_by)) if expected != found => {
            part::discard(target)?;
            let file = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Err(CatalogError::Hash { file, expected, found: found.to_owned(), said_by })
        }
        _ => Ok(()),
    }
}

/// Fetches what is missing, and returns the hash of the whole.
async fn fetch(
    http: &Http,
    remote: &Remote,
    part: &Arc<Part>,
    has_ranges: bool,
    n_connections: usize,
    tell: &Tell,
) -> Result<String, Attempt> {
    let (saver, hasher) = (Arc::clone(part), Arc::clone(part));
    let saving = spawn_blocking(move || saver.keep_saving());
    let hashing: JoinHandle<_> = spawn_blocking(move || hasher.hash());
    let closing = CloseAtEnd(Arc::clone(part));
    // Each request has a price; but small pieces keep all connections busy to the end, and hashing,
    // which goes from the first byte to the last, keeps up.
    let piece = match has_ranges {
        true => (part.size() / N_PIECES).clamp(PIECE_BYTES.0, PIECE_BYTES.1),
        false => u64::MAX,
    };
    let work = Arc::new(Work {
        http: http.clone(),
        remote: remote.clone(),
        part: Arc::clone(part),
        has_ranges,
        pieces: Mutex::new(part.missing(piece).into()),
        tell: Arc::clone(tell),
    });
    let n_workers = if has_ranges { n_connections.max(1) } else { 1 };
    let mut workers = JoinSet::new();
    for _ in 0..n_workers {
        workers.spawn(Arc::clone(&work).run());
    }
    while let Some(joined) = workers.join_next().await {
        // The first failure ends the others: the set is dropped.
        joined.map_err(|error| Attempt::Final(CatalogError::Worker(error.to_string())))??;
    }
    let hash = hashing.await.unwrap_or_else(|e| Err(CatalogError::Worker(e.to_string())));
    drop(closing);
    let _ = saving.await;
    match hash.map_err(Attempt::Final)? {
        Some(hash) => Ok(hash),
        None => Err(Attempt::Final(CatalogError::Worker("the hash was not finished".into()))),
    }
}

/// What the connections of one download share.
struct Work {
    http: Http,
    remote: Remote,
    part: Arc<Part>,
    has_ranges: bool,
    /// What is missing and nobody fetches.
    pieces: Mutex<VecDeque<Range<u64>>>,
    tell: Tell,
}

impl Work {
    async fn run(self: Arc<Self>) -> Result<(), Attempt> {
        let mut tries = Tries::default();
        let mut n_done = self.part.n_done();
        while let Some(mut piece) = self.next() {
            while piece.start < piece.end {
                let Err(failed) = self.fetch(&mut piece).await.map_err(expired) else {
                    break;
                };
                // Whatever another connection got is progress too.
                let before = std::mem::replace(&mut n_done, self.part.n_done());
                if n_done > before && self.has_ranges {
                    tries.progress();
                }
                let (patience, auth) = (&self.http.patience, &self.remote.auth);
                let reason = reason(&failed);
                let wait = tries.failed(patience, failed, &self.remote.url, auth)?;
                (self.tell)(Step::Retry { reason, wait });
                tokio::time::sleep(wait).await;
                if !self.has_ranges {
                    self.part.restart();
                    piece.start = 0;
                }
            }
            tries.progress();
        }
        Ok(())
    }

    fn next(&self) -> Option<Range<u64>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Fetches a piece, whose start moves with what is written.
    async fn fetch(&self, piece: &mut Range<u64>) -> Result<(), Attempt> {
        let range = self.has_ranges.then_some((piece.start, piece.end - 1));
        let answer = self.http.attempt(&self.remote.url, &self.remote.auth, range).await?;
        self.check(&answer, piece)?;
        let mut response = answer.response;
        let mut held = Vec::with_capacity(WRITE_BYTES);
        let mut last_write = Instant::now();
        loop {
            // A server that falls silent does not keep what came before from being written.
            let chunk = match held.is_empty() {
                true => Some(response.chunk().await),
                false => timeout(WRITE_AFTER, response.chunk()).await.ok(),
            };
            if let Some(Ok(Some(bytes))) = &chunk {
                held.extend_from_slice(bytes);
            }
            let goes_on = matches!(chunk, Some(Ok(Some(_))));
            let is_late = last_write.elapsed() >= WRITE_AFTER;
            let is_due = held.len() >= WRITE_BYTES || is_late || !goes_on;
            if is_due && !held.is_empty() {
                let n = usize::try_from(piece.end - piece.start).unwrap_or(usize::MAX);
                // A server that sends more than was asked for harms nobody.
                held.truncate(n);
                self.write(std::mem::take(&mut held), piece).await?;
                last_write = Instant::now();
            }
            match chunk {
                None => {}
                Some(Ok(Some(_))) if piece.start < piece.end => {}
                Some(Ok(_)) if piece.start == piece.end => return Ok(()),
                Some(Ok(_)) => return Err(cut("the connection was closed early")),
                Some(Err(error)) => return Err(again(&error)),
            }
        }
    }

    async fn write(&self, bytes: Vec<u8>, piece: &mut Range<u64>) -> Result<(), Attempt> {
        let (part, at, n) = (Arc::clone(&self.part), piece.start, bytes.len() as u64);
        blocking(move || part.write(&bytes, at)).await.map_err(Attempt::Final)?;
        piece.start += n;
        (self.tell)(Step::Bytes { done: self.part.n_done() });
        Ok(())
    }

    /// Refuses an answer to another question.
    fn check(&self, answer: &Answer, piece: &Range<u64>) -> Result<(), Attempt> {
        let url = self.remote.url.to_string();
        let refuse = |reason: String| Err(Attempt::Final(CatalogError::Protocol { url, reason }));
        let known = self.part.etag();
        let is_other = known.is_some_and(|known| mark(answer).is_some_and(|m| m != known));
        if !self.has_ranges {
            return match is_other {
                true => refuse("the file became another one meanwhile".into()),
                false => Ok(()),
            };
        }
        match content_range(&answer.response) {
            Some((first, _, whole)) => {
                if is_other || whole.is_some_and(|whole| whole != self.part.size()) {
                    return refuse("the file became another one meanwhile".into());
                }
                match first == piece.start {
                    true => Ok(()),
                    false => refuse(format!("it sent byte {first}, not {}", piece.start)),
                }
            }
            // Some servers answer so when they are busy.
            None => Err(cut("it sent the whole file, not the part that was asked for")),
        }
    }
}

/// Addresses that redirects lead to are signed for some time; a refusal in the middle asks for a new one.
fn expired(failed: Attempt) -> Attempt {
    match failed {
        Attempt::Refused { status, .. } if status == 403 => cut("it says 403 Forbidden"),
        other => other,
    }
}

fn cut(reason: &str) -> Attempt {
    Attempt::Again { reason: reason.into(), wait: None, is_rate_limit: false }
}

fn reason(failed: &Attempt) -> String {
    match failed {
        Attempt::Again { reason, .. } => reason.clone(),
        Attempt::Refused { status, .. } => format!("it says {status}"),
        Attempt::Final(error) => error.to_string(),
    }
}

/// Fetches a file of unknown length: in one go, from its beginning.
async fn stream(
    http: &Http,
    remote: &Remote,
    target: &Path,
    tell: Tell,
) -> Result<Downloaded, Attempt> {
    let mut tries = Tries::default();
    loop {
        match stream_once(http, remote, target, &tell).await {
            Err(failed @ Attempt::Again { .. }) => {
                let reason = reason(&failed);
                let wait = tries.failed(&http.patience, failed, &remote.url, &remote.auth)?;
                tell(Step::Retry { reason, wait });
                tokio::time::sleep(wait).await;
            }
            done => return done,
        }
    }
}

async fn stream_once(
    http: &Http,
    remote: &Remote,
    target: &Path,
    tell: &Tell,
) -> Result<Downloaded, Attempt> {
    let mut response = http.attempt(&remote.url, &remote.auth, None).await?.response;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(|e| Attempt::Final(CatalogError::io(parent, e)))?;
    }
    part::discard(target).map_err(Attempt::Final)?;
    // Longer than any file: what there is of it can be found by nobody.
    let identity = Identity { size: u64::MAX, sha256: None, etag: None };
    let part = Arc::new(Part::open(target, identity).map_err(Attempt::Final)?);
    tell(Step::Begin { done: 0, total: None });
    let mut at = 0;
    while let Some(bytes) = response.chunk().await.map_err(|error| again(&error))? {
        let (part, n) = (Arc::clone(&part), bytes.len() as u64);
        blocking(move || part.write(&bytes, at)).await.map_err(Attempt::Final)?;
        at += n;
        tell(Step::Bytes { done: at });
    }
    let path = part::part_path(target);
    let hash =
        blocking(move || part::hash_file(&path, &mut |_| {})).await.map_err(Attempt::Final)?;
    check_hash(target, &hash, remote.sha256.clone()).map_err(Attempt::Final)?;
    part.finish(target).map_err(Attempt::Final)?;
    Ok(Downloaded { size: at, sha256: hash })
}
