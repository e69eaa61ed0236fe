//! One process for each card, unless they share it: file locks that go with the process, however it ends.
//!
//! A card has two files. Who wants it alone holds the first, and looks at the second whether somebody shares the card;
//! who shares it holds the second, together with others. So a card that is shared is not to be had alone, and the
//! first file alone keeps apart those who ask for that.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Held while a card is in use.
#[derive(Debug)]
pub struct CardLock {
    _file: File,
}

/// Why a card is not to be had.
#[derive(Debug)]
pub enum LockError {
    /// Another process has it.
    InUse,
    /// The lock file cannot be made or locked.
    File(PathBuf, io::Error),
}

impl CardLock {
    /// Takes the card with this UUID alone; `dir` is where all processes of this machine look.
    ///
    /// # Errors
    /// [`LockError::InUse`] by another process, alone or not.
    pub fn alone(dir: &Path, uuid: &str) -> Result<CardLock, LockError> {
        let (file, path) = open(dir, &format!("zinc-cuda-{uuid}.lock"))?;
        try_lock(&file, path)?;
        // Only looked at: later ones may share the card.
        let (sharers, path) = open(dir, &format!("zinc-cuda-{uuid}-shared.lock"))?;
        try_lock(&sharers, path.clone())?;
        sharers.unlock().map_err(|error| LockError::File(path, error))?;
        Ok(CardLock { _file: file })
    }

    /// Takes the card together with whoever has it, and with other sharers.
    ///
    /// # Errors
    /// The lock file cannot be made or locked.
    pub fn shared(dir: &Path, uuid: &str) -> Result<CardLock, LockError> {
        let (file, path) = open(dir, &format!("zinc-cuda-{uuid}-shared.lock"))?;
        // Waits for nothing but a look of [`CardLock::alone`].
        file.lock_shared().map_err(|error| LockError::File(path, error))?;
        Ok(CardLock { _file: file })
    }
}

fn try_lock(file: &File, path: PathBuf) -> Result<(), LockError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => LockError::InUse,
        TryLockError::Error(error) => LockError::File(path, error),
    })
}

/// Where the locks lie: the same directory for all users and services of this machine, so not the one for temporary
/// files, which services have of their own and `TMPDIR` moves.
pub fn machine_dir() -> PathBuf {
    // Options are made often, and the look writes a file.
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| common_dir().unwrap_or_else(std::env::temp_dir)).clone()
}

/// The first directory that everybody may write to, by its mode: what this process may do would give another answer
/// to each. One that is mounted read-only, as in some containers, serves nobody who sees it so.
#[cfg(unix)]
fn common_dir() -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let is_common = |dir: &PathBuf| {
        std::fs::metadata(dir).is_ok_and(|found| found.is_dir() && found.mode() & 0o002 != 0)
            && !is_read_only(dir)
    };
    ["/run/lock", "/dev/shm"].map(PathBuf::from).into_iter().find(is_common)
}

#[cfg(unix)]
fn is_read_only(dir: &Path) -> bool {
    let probe = dir.join(format!("zinc-probe-{}", std::process::id()));
    match File::create_new(&probe) {
        Ok(_) => {
            let _ = std::fs::remove_file(&probe);
            false
        }
        Err(error) => error.kind() == ErrorKind::ReadOnlyFilesystem,
    }
}

#[cfg(not(unix))]
fn common_dir() -> Option<PathBuf> {
    None
}

/// Opens a lock file, which is made the first time.
fn open(dir: &Path, name: &str) -> Result<(File, PathBuf), LockError> {
    let path = dir.join(name);
    // The file of another user can be read, and locked so; systems refuse to open it as one to be made.
    let found = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => create(dir, &path),
        found => found,
    };
    match found {
        Ok(file) => Ok((file, path)),
        Err(error) => Err(LockError::File(path, error)),
    }
}

fn create(dir: &Path, path: &Path) -> io::Result<File> {
    std::fs::create_dir_all(dir)?;
    let file = match OpenOptions::new().create_new(true).write(true).open(path) {
        // Another process was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return File::open(path),
        made => made?,
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Others must be able to read it, whatever this user's umask.
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Take = fn(&Path, &str) -> Result<CardLock, LockError>;

    /// Whether the second process gets the card that the first one has.
    fn second(first: Take, second: Take) -> bool {
        let dir = tempfile::tempdir().expect("a directory");
        let held = first(dir.path(), "aa").expect("free");
        first(dir.path(), "bb").expect("another card");
        let got = match second(dir.path(), "aa") {
            Ok(_) => true,
            Err(LockError::InUse) => false,
            Err(error) => panic!("{error:?}"),
        };
        drop(held);
        CardLock::alone(dir.path(), "aa").expect("free again");
        got
    }

    #[test]
    fn a_card_is_taken_once_unless_the_second_one_shares() {
        assert!(!second(CardLock::alone, CardLock::alone));
        assert!(second(CardLock::alone, CardLock::shared));
        assert!(second(CardLock::shared, CardLock::shared));
        assert!(!second(CardLock::shared, CardLock::alone));
    }

    #[test]
    fn the_last_sharer_keeps_it_from_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let alone = CardLock::alone(dir.path(), "aa").expect("free");
        let sharers = [(); 2].map(|()| CardLock::shared(dir.path(), "aa").expect("shared"));
        drop(alone);
        for sharer in sharers {
            assert!(matches!(CardLock::alone(dir.path(), "aa"), Err(LockError::InUse)));
            // Who was refused holds nothing.
            CardLock::shared(dir.path(), "aa").expect("shared");
            drop(sharer);
        }
        CardLock::alone(dir.path(), "aa").expect("free again");
    }

    #[test]
    fn many_at_once_get_it_together_or_one_of_them_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let at_once = |take: Take| {
            let path = dir.path();
            std::thread::scope(|scope| {
                let takers: Vec<_> =
                    (0..8).map(|_| scope.spawn(move || take(path, "aa"))).collect();
                let taken = takers.into_iter().map(|taker| taker.join().expect("no panic"));
                taken.filter_map(Result::ok).collect::<Vec<_>>()
            })
        };
        assert_eq!(at_once(CardLock::alone).len(), 1);
        assert_eq!(at_once(CardLock::shared).len(), 8);
    }

    /// The file of another user, and of a strict umask.
    #[cfg(unix)]
    #[test]
    fn a_file_that_can_only_be_read_is_enough() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        for take in [CardLock::alone, CardLock::shared] {
            drop(take(dir.path(), "aa").expect("free"));
        }
        for file in std::fs::read_dir(dir.path()).expect("readable") {
            let path = file.expect("readable").path();
            let mode = std::fs::metadata(&path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o644, "{}", path.display());
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).expect("ours");
        }
        let _held = CardLock::alone(dir.path(), "aa").expect("free");
        CardLock::shared(dir.path(), "aa").expect("shared");
        assert!(matches!(CardLock::alone(dir.path(), "aa"), Err(LockError::InUse)));
    }

    #[cfg(unix)]
    #[test]
    fn the_directory_is_the_same_for_all() {
        use std::os::unix::fs::MetadataExt;
        let dir = machine_dir();
        let mode = std::fs::metadata(&dir).expect("there").mode();
        assert!(dir == std::env::temp_dir() || mode & 0o002 != 0, "{}", dir.display());
    }
}
