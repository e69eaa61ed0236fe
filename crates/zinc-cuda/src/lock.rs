//! One process for each card: a file lock that goes with the process, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

/// Held while a card is in use.
pub struct CardLock {
    _file: File,
}

/// Why a card is not to be had.
#[derive(Debug)]
pub enum LockError {
    /// Another process has it.
    InUse,
    /// The lock file cannot be made.
    File(PathBuf, std::io::Error),
}

impl CardLock {
    /// Takes the card with this UUID; `dir` is where all processes of this machine look.
    pub fn take(dir: &Path, uuid: &str) -> Result<CardLock, LockError> {
        let path = dir.join(format!("zinc-cuda-{uuid}.lock"));
        let open = || {
            std::fs::create_dir_all(dir)?;
            OpenOptions::new().create(true).truncate(false).write(true).open(&path)
        };
        let file = open().map_err(|error| LockError::File(path.clone(), error))?;
        match file.try_lock() {
            Ok(()) => Ok(CardLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::InUse),
            Err(TryLockError::Error(error)) => Err(LockError::File(path, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_taken_once_until_it_is_free() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = CardLock::take(dir.path(), "aa").expect("free");
        assert!(matches!(CardLock::take(dir.path(), "aa"), Err(LockError::InUse)));
        CardLock::take(dir.path(), "bb").expect("another card");
        drop(first);
        CardLock::take(dir.path(), "aa").expect("free again");
    }
}
