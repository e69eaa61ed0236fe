//! A file that is being downloaded: its bytes in `NAME.part`, and what is known of them in
//! `NAME.part.json`.
//!
//! What the second file says to be there is on the disk before it says so. So neither a killed process
//! nor a crash of the machine can make it lie; at most the last second of a download is fetched again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::CatalogError;
use crate::ranges::Ranges;

/// How often what is there is written down.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Bytes hashed at a time.
const HASH_BYTES: usize = 1 << 20;

/// What tells one version of a file from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Length in bytes.
    pub size: u64,
    /// SHA-256, where it is known before.
    pub sha256: Option<String>,
    /// The server's mark, where there is no hash.
    pub etag: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    identity: Identity,
    done: Ranges,
}

/// The file and what is there of it, shared by those who fetch, hash and save.
#[derive(Debug)]
pub(crate) struct Part {
    path: PathBuf,
    file: File,
    identity: Identity,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    done: Ranges,
    /// How often all bytes were forgotten.
    n_restarts: u32,
    /// Nobody writes any more.
    closed: bool,
}

/// Where the bytes of `target` are while it is not whole.
pub(crate) fn part_path(target: &Path) -> PathBuf {
    with_suffix(target, ".part")
}

fn state_path(part: &Path) -> PathBuf {
    with_suffix(part, ".json")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// What an earlier download left of `target`: its identity and how many bytes.
pub(crate) fn left_over(target: &Path) -> Option<(Identity, u64)> {
    let saved = load(&part_path(target))?;
    Some((saved.identity, saved.done.total()))
}

fn load(part: &Path) -> Option<Saved> {
    let text = fs::read(state_path(part)).ok()?;
    let saved: Saved = serde_json::from_slice(&text).ok()?;
    let len = fs::metadata(part).ok()?.len();
    saved.done.are_sound(saved.identity.size.min(len)).then_some(saved)
}

/// Removes what an earlier download left of `target`.
pub(crate) fn discard(target: &Path) -> Result<(), CatalogError> {
    let part = part_path(target);
    for path in [state_path(&part), part] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(CatalogError::io(path, error));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Part {
    /// Goes on with what is there of `target`, if it is of the same version; else begins anew.
    pub(crate) fn open(target: &Path, identity: Identity) -> Result<Part, CatalogError> {
        let path = part_path(target);
        let done = match load(&path) {
            Some(saved) if saved.identity == identity => saved.done,
            _ => {
                discard(target)?;
                Ranges::default()
            }
        };
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| CatalogError::io(&path, error))?;
        let state = Mutex::new(State { done, ..State::default() });
        Ok(Part { path, file, identity, state, changed: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the ranges as they were before or after an addition.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Length of the whole file.
    pub(crate) fn size(&self) -> u64 {
        self.identity.size
    }

    /// The server's mark of this version, where no hash is known.
    pub(crate) fn etag(&self) -> Option<&str> {
        self.identity.etag.as_deref()
    }

    /// Bytes that are there.
    pub(crate) fn n_done(&self) -> u64 {
        self.state().done.total()
    }

    /// What is missing, in pieces.
    pub(crate) fn missing(&self, piece: u64) -> Vec<std::ops::Range<u64>> {
        self.state().done.missing(self.identity.size, piece)
    }

    /// Forgets all bytes: the server can only send the file from its beginning.
    pub(crate) fn restart(&self) {
        let mut state = self.state();
        state.done = Ranges::default();
        state.n_restarts += 1;
    }

    /// Puts bytes in their place.
    pub(crate) fn write(&self, bytes: &[u8], at: u64) -> Result<(), CatalogError> {
        write_at(&self.file, bytes, at).map_err(|error| CatalogError::io(&self.path, error))?;
        self.state().done.add(at, at + bytes.len() as u64);
        self.changed.notify_all();
        Ok(())
    }

    /// Writes down what is there, after making sure that it is.
    pub(crate) fn save(&self) -> Result<(), CatalogError> {
        let done = self.state().done.clone();
        self.file.sync_data().map_err(|error| CatalogError::io(&self.path, error))?;
        let saved = Saved { identity: self.identity.clone(), done };
        write_atomically(&state_path(&self.path), &serde_json::to_vec(&saved).unwrap_or_default())
    }

    /// Tells that nobody writes any more.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Saves now and then until the part is closed. Runs in a thread of its own.
    pub(crate) fn keep_saving(&self) {
        let mut last = 0;
        let mut state = self.state();
        while !state.closed {
            let waited = self.changed.wait_timeout_while(state, SAVE_EVERY, |s| !s.closed);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            let total = state.done.total();
            if total != last {
                last = total;
                drop(state);
                // A disk that cannot take it stops the writers as well, and they say so.
                let _ = self.save();
                state = self.state();
            }
        }
    }

    /// The SHA-256 of the file, computed behind the bytes as they arrive; `None` if the part is closed
    /// before it is whole. Runs in a thread of its own.
    pub(crate) fn hash(&self) -> Result<Option<String>, CatalogError> {
        let file = File::open(&self.path).map_err(|error| CatalogError::io(&self.path, error))?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; HASH_BYTES];
        let (mut at, mut n_restarts) = (0, 0);
        while at < self.identity.size {
            let Some((end, restarts)) = self.wait_for_more_than(at, n_restarts) else {
                return Ok(None);
            };
            if restarts != n_restarts {
                (hash, at, n_restarts) = (Sha256::new(), 0, restarts);
            }
            // A piece at a time, so that an end or a restart is noticed soon.
            let n = usize::try_from(end - at).unwrap_or(HASH_BYTES).min(HASH_BYTES);
            let bytes = &mut buffer[..n];
            read_at(&file, bytes, at).map_err(|error| CatalogError::io(&self.path, error))?;
            hash.update(&*bytes);
            at += n as u64;
        }
        Ok(Some(hex(&hash.finalize())))
    }

    /// Waits until the beginning of the file is longer than `at`, or there was a restart since
    /// `n_restarts`; tells how long it is and how often there was one. `None` if the part is closed
    /// before it is whole.
    fn wait_for_more_than(&self, at: u64, n_restarts: u32) -> Option<(u64, u32)> {
        let has_more = |state: &State| match state.n_restarts == n_restarts {
            true => state.done.prefix() > at,
            false => state.done.prefix() > 0,
        };
        let is_waiting = |state: &mut State| !state.closed && !has_more(state);
        let waited = self.changed.wait_while(self.state(), is_waiting);
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        let is_over = state.closed && state.done.prefix() < self.identity.size;
        (!is_over && has_more(&state)).then(|| (state.done.prefix(), state.n_restarts))
    }

    /// Gives the whole file its name.
    pub(crate) fn finish(&self, target: &Path) -> Result<(), CatalogError> {
        let fail = |error| CatalogError::io(target, error);
        // Names survive a crash only if the bytes do.
        self.file.sync_all().map_err(fail)?;
        fs::rename(&self.path, target).map_err(fail)?;
        sync_directory(target);
        let _ = fs::remove_file(state_path(&self.path));
        Ok(())
    }
}

/// Closes a part whatever way its download ends, also by being given up.
pub(crate) struct CloseAtEnd(pub Arc<Part>);

impl Drop for CloseAtEnd {
    fn drop(&mut self) {
        let _ = self.0.save();
        self.0.close();
    }
}

/// Replaces the file at `path` in one step.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), CatalogError> {
    let fail = |error| CatalogError::io(path, error);
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    file.as_file().sync_data().map_err(fail)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    Ok(())
}

/// Makes a new name in the directory of `path` survive a crash, where directories can be synced.
fn sync_directory(path: &Path) {
    if let Some(directory) = path.parent().and_then(|parent| File::open(parent).ok()) {
        let _ = directory.sync_all();
    }
}

/// SHA-256 of a file; `progress` is told how many bytes are done.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn hash_file(
    path: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<String, CatalogError> {
    let fail = |error| CatalogError::io(path, error);
    let mut file = File::open(path).map_err(fail)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; HASH_BYTES];
    let mut n_bytes = 0;
    loop {
        let n = io::Read::read(&mut file, &mut buffer).map_err(fail)?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
        n_bytes += n as u64;
        progress(n_bytes);
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, at)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => (bytes, at) = (&bytes[n..], at + n as u64),
        }
    }
    Ok(())
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => (bytes, at) = (&mut bytes[n..], at + n as u64),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(size: u64) -> Identity {
        Identity { size, sha256: None, etag: Some("e".into()) }
    }

    #[test]
    fn a_part_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("m.gguf");
        let part = Part::open(&target, identity(6)).unwrap();
        part.write(b"def", 3).unwrap();
        part.save().unwrap();
        part.write(b"a", 0).unwrap();
        drop(part);
        assert_eq!(left_over(&target), Some((identity(6), 3)));
        let part = Part::open(&target, identity(6)).unwrap();
        assert_eq!(part.missing(100).first(), Some(&(0..3)));
        part.write(b"abc", 0).unwrap();
        let hash = part.hash().unwrap();
        let abcdef = "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721";
        assert_eq!(hash.as_deref(), Some(abcdef));
        part.finish(&target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"abcdef");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn another_version_or_a_damaged_state_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("m.gguf");
        let begin = |identity: Identity| Part::open(&target, identity).unwrap();
        let part = begin(identity(6));
        part.write(b"abc", 0).unwrap();
        part.save().unwrap();
        assert_eq!(begin(identity(7)).n_done(), 0);
        begin(identity(6)).save().unwrap();
        fs::write(state_path(&part_path(&target)), b"{\"done\":[[0,9]]").unwrap();
        assert_eq!(begin(identity(6)).n_done(), 0);
    }
}
