//! Compiled modules on the disk, by card, driver and text. Failing costs a compilation, nothing else.

use std::fs::DirEntry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Where Linux says which driver it has loaded: `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  ...`, then
/// what it was built with. The driver's library only tells its CUDA version, which many drivers share.
const LOADED_DRIVER: &str = "/proc/driver/nvidia/version";

/// So long another driver or another zinc may still want its own: hosts that share a home differ in both.
const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A file that is not whole yet is this old when whoever wrote it is gone.
const MAX_PART_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The compiled modules of one card.
pub(super) struct Cache {
    dir: PathBuf,
    capability: u32,
    driver: String,
}

impl Cache {
    /// `cuda` is the version of CUDA that the driver serves: all that is known where Linux does not say more.
    pub(super) fn new(dir: PathBuf, capability: u32, cuda: i32) -> Cache {
        let loaded = std::fs::read_to_string(LOADED_DRIVER).unwrap_or_default();
        let driver = format!("{cuda} {}", loaded.lines().next().unwrap_or_default());
        Cache { dir, capability, driver }
    }

    /// Where the module `name` with this text is kept.
    pub(super) fn path(&self, name: &str, text: &[u8]) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        (text, &self.driver).hash(&mut hasher);
        self.dir.join(format!("{}{:016x}.cubin", self.prefix(name), hasher.finish()))
    }

    /// What the files of a module for this card begin with, whatever their driver and text.
    fn prefix(&self, name: &str) -> String {
        format!("{name}-sm{}-", self.capability)
    }

    /// Writes a module to its [`path`](Cache::path), whole or not at all, in place of those that it replaces.
    pub(super) fn keep(&self, name: &str, path: &Path, image: &[u8]) {
        let part = path.with_extension(format!("part{}", std::process::id()));
        let write = || {
            std::fs::create_dir_all(&self.dir)?;
            std::fs::write(&part, image)?;
            std::fs::rename(&part, path)
        };
        match write() {
            Ok(()) => self.remove_old(name, path),
            Err(_) => drop(std::fs::remove_file(&part)),
        }
    }

    /// Removes what other drivers or texts left of the module long ago, and what processes that were killed left.
    fn remove_old(&self, name: &str, kept: &Path) {
        let prefix = self.prefix(name);
        let is_older = |entry: &DirEntry, age: Duration| {
            let written = entry.metadata().and_then(|data| data.modified());
            let found = written.map(|at| SystemTime::now().duration_since(at));
            matches!(found, Ok(Ok(found)) if found > age)
        };
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let (path, file) = (entry.path(), entry.file_name());
            let extension = path.extension().and_then(|extension| extension.to_str());
            let is_old = match extension {
                Some("cubin") => {
                    path != kept
                        && file.to_string_lossy().starts_with(&prefix)
                        && is_older(&entry, MAX_AGE)
                }
                Some(part) if part.starts_with("part") => is_older(&entry, MAX_PART_AGE),
                _ => false,
            };
            if is_old {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(dir: &Path, capability: u32, driver: &str) -> Cache {
        Cache { dir: dir.to_owned(), capability, driver: driver.to_owned() }
    }

    fn keep(cache: &Cache, name: &str, text: &[u8]) -> PathBuf {
        let path = cache.path(name, text);
        cache.keep(name, &path, b"image");
        assert_eq!(std::fs::read(&path).expect("it is kept"), b"image");
        path
    }

    #[test]
    fn a_module_replaces_old_ones_of_other_drivers_and_texts() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("made/when/needed");
        let old = cache(&dir, 90, "13000 580.1");
        let first = keep(&old, "norm", b"text");
        assert_eq!(keep(&old, "norm", b"text"), first, "one name for one thing");
        let others = [
            keep(&old, "norm_two", b"text"),
            keep(&old, "moe", b"text"),
            keep(&cache(&dir, 80, "13000 580.1"), "norm", b"text"),
        ];
        let newer = cache(&dir, 90, "13000 580.2");
        let second = keep(&newer, "norm", b"text");
        assert!(first != second && first.exists(), "the other driver's is new");
        let long_ago = SystemTime::now() - MAX_AGE - Duration::from_secs(1);
        for path in others.iter().chain([&first, &second]) {
            let file = std::fs::File::options().write(true).open(path).expect("it is there");
            file.set_modified(long_ago).expect("a time to set");
        }
        let third = keep(&newer, "norm", b"other text");
        assert!(second != third && !second.exists(), "the kernels are others");
        assert!(!first.exists(), "the driver is another one");
        assert!(others.iter().all(|path| path.exists()));
        assert_eq!(std::fs::read_dir(&dir).expect("it is there").count(), 4);
    }

    #[test]
    fn parts_of_killed_processes_go_after_a_day() {
        let dir = tempfile::tempdir().expect("a directory");
        let [old, young, foreign] =
            ["moe-sm90-1.part7", "moe-sm90-2.part8", "notes.txt"].map(|name| dir.path().join(name));
        for path in [&old, &young, &foreign] {
            let file = std::fs::File::create(path).expect("a file");
            let age = if path == &young { MAX_PART_AGE / 2 } else { MAX_PART_AGE * 2 };
            file.set_modified(SystemTime::now() - age).expect("its time");
        }
        keep(&cache(dir.path(), 90, "13000"), "norm", b"text");
        assert!(!old.exists() && young.exists() && foreign.exists());
    }
}
