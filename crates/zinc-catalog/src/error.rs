//! What can go wrong on the way to a model file, each with the next step.

use std::io;
use std::path::PathBuf;

use zinc_backend::human_bytes;

/// Why a model could not be found, fetched or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // The messages say what each field is.
pub enum CatalogError {
    #[error("{text:?} names no model: {reason}")]
    Reference { text: String, reason: String },
    #[error("there is no model called {name}{}; hint: `zinc model list --all` shows what there is, hf:OWNER/REPO[:QUANT] names any other", did_you_mean(.near))]
    Unknown { name: String, near: Vec<String> },
    #[error(
        "{name} is not on this machine; hint: `zinc model list` shows what is, zinc model pull {name} fetches it"
    )]
    NotInstalled { name: String },
    #[error("catalog {origin}: {reason}")]
    Catalog { origin: String, reason: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: the record is damaged: {reason}; hint: remove it and pull the model again", path.display())]
    Record { path: PathBuf, reason: String },
    #[error("no directory for models: neither ZINC_HOME nor HOME is set; hint: set ZINC_HOME")]
    NoHome,
    #[error(
        "the HTTP client cannot start: {reason}; hint: install the system's certificates (Debian: apt install ca-certificates)"
    )]
    Client { reason: String },
    #[error(
        "{url} cannot be reached after {attempts} attempts: {reason}; hint: check the network (proxies are taken from HTTPS_PROXY); what was downloaded is kept, the same command goes on from there"
    )]
    Network { url: String, attempts: u32, reason: String },
    #[error("{url} says {status}{message}; hint: {hint}")]
    Status { url: String, status: u16, message: String, hint: &'static str },
    #[error("{url} still says 429 Too Many Requests after {attempts} attempts; hint: try again later{}; the same command goes on from there", match .has_token { true => "", false => ", or set HF_TOKEN: known users may ask more often" })]
    RateLimited { url: String, attempts: u32, has_token: bool },
    #[error("there is no repository {repo} at {endpoint}, or it is private; hint: check the name{}", match .has_token { true => "; your token may not see it", false => ", or set HF_TOKEN to a token that may read it" })]
    NoRepo { repo: String, endpoint: String, has_token: bool },
    #[error("{repo} is gated: its authors want to know who uses it; hint: accept the terms at {endpoint}/{repo}{}", match .has_token { true => " with the account of your token, then pull again", false => ", make a token at /settings/tokens there and set HF_TOKEN to it" })]
    Gated { repo: String, endpoint: String, has_token: bool },
    #[error("{repo} has no revision {revision}; hint: leave out @{revision}")]
    NoRevision { repo: String, revision: String },
    #[error("{repo} has no GGUF file{}; hint: {}", match .quant { Some(quant) => format!(" in {quant}"), None => String::new() }, match .known.is_empty() { true => "look for a repository whose name ends in -GGUF".into(), false => format!("it has {}", .known.join(", ")) })]
    NoFile { repo: String, quant: Option<String>, known: Vec<String> },
    #[error(
        "{url} did not send what was asked for: {reason}; hint: pull again; if it stays so, the server or a proxy between is broken"
    )]
    Protocol { url: String, reason: String },
    #[error(
        "{file} has the SHA-256 {found}, expected {expected} as {said_by}; hint: the wrong download is deleted, nothing else is changed; pull again, and if it stays so do not trust this source"
    )]
    Hash { file: String, expected: String, found: String, said_by: &'static str },
    #[error(
        "{file} is another file now: its SHA-256 was {pinned} when it was first pulled, the server offers {offered}; hint: `zinc model pull --repin` takes the new one, hf:OWNER/REPO@REVISION the old"
    )]
    Pinned { file: String, pinned: String, offered: String },
    #[error("{}: the download takes {} more, {} are free; hint: make room (zinc model prune, zinc model rm) or set ZINC_HOME to another disk", path.display(), human_bytes(*.needed), human_bytes(*.free))]
    Space { path: PathBuf, needed: u64, free: u64 },
    #[error("{}: the disk is full; hint: make room, then pull again: what was downloaded is kept", path.display())]
    Full { path: PathBuf },
    #[error("{}: this is no model file: {reason}; hint: {hint}", path.display())]
    NotGguf { path: PathBuf, reason: String, hint: &'static str },
    #[error("{}: {}; hint: {hint}", path.display(), match .found { Some(found) => format!("has {found} bytes, it had {expected} when it was added"), None => "is gone".to_owned() })]
    Damaged { path: PathBuf, expected: u64, found: Option<u64>, hint: String },
    #[error(
        "{name} is there already; hint: --name gives it another name, `zinc model rm {name}` removes the old"
    )]
    NameTaken { name: String },
    #[error("{name} is the name of the model that is part of the program; hint: {hint}")]
    NameReserved { name: String, hint: &'static str },
    #[error("{program} has no model {name}; hint: {hint}")]
    Foreign { program: &'static str, name: String, hint: String },
    #[error("a worker of the download stopped: {0}")]
    Worker(String),
}

impl CatalogError {
    /// An error of the file system at `path`; a full disk is told as such.
    pub(crate) fn io(path: impl Into<PathBuf>, source: io::Error) -> CatalogError {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let path = path.into();
        match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => CatalogError::Full { path },
            _ => CatalogError::Io { path, source },
        }
    }
}

fn did_you_mean(names: &[String]) -> String {
    match names {
        [] => String::new(),
        names => format!(" (did you mean {}?)", names.join(" or ")),
    }
}
