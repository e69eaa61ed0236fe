//! A file that appears under its name only when it is whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::output::human_bytes;
use crate::report;

/// A file being written beside the place where it will be; removed again unless it is finished.
pub struct NewFile {
    file: BufWriter<File>,
    path: PathBuf,
    part: PathBuf,
    finished: bool,
}

impl NewFile {
    /// Begins a file of `n_bytes` that will be at `path`.
    ///
    /// # Errors
    /// There is a file already and `force` is not given, `path` is one of `inputs`, there is not enough
    /// space, or the directory cannot be written.
    pub fn create(
        path: &Path,
        inputs: &[&Path],
        n_bytes: u64,
        force: bool,
    ) -> anyhow::Result<NewFile> {
        check_target(path, inputs, force)?;
        check_space(path, n_bytes)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let part = path.with_file_name(name);
        let file = File::create_new(&part).with_context(|| part.display().to_string())?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(NewFile { file, path: path.to_owned(), part, finished: false })
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// The rest cannot be written, or the file not renamed.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.file.flush()?;
        // A rename that outlives a crash must not lead to a file that does not.
        self.file.get_ref().sync_all()?;
        fs::rename(&self.part, &self.path).with_context(|| self.path.display().to_string())?;
        self.finished = true;
        Ok(())
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// Refuses what would destroy something.
///
/// # Errors
/// As [`NewFile::create`].
pub fn check_target(path: &Path, inputs: &[&Path], force: bool) -> anyhow::Result<()> {
    let Ok(there) = fs::canonicalize(path) else {
        return Ok(());
    };
    if inputs.iter().any(|input| fs::canonicalize(input).is_ok_and(|input| input == there)) {
        let what = format!("{}: is a file to be read", path.display());
        return Err(report::with_hint(what, "give --out another name"));
    }
    if there.is_dir() {
        let what = format!("{}: is a directory", path.display());
        return Err(report::with_hint(what, "name a file in it"));
    }
    if !there.is_file() {
        // It would be replaced, not written to.
        let what = format!("{}: is a device or the like, no file", path.display());
        return Err(report::with_hint(what, "name a file"));
    }
    if !force {
        let what = format!("{}: is there already", path.display());
        return Err(report::with_hint(what, "--force overwrites it"));
    }
    Ok(())
}

fn check_space(path: &Path, n_bytes: u64) -> anyhow::Result<()> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    match free_space(directory) {
        Some(free) if free < n_bytes => {
            let what = format!(
                "{}: the file takes {}, {} are free",
                path.display(),
                human_bytes(n_bytes),
                human_bytes(free)
            );
            Err(report::with_hint(what, "make room or write to another disk"))
        }
        _ => Ok(()),
    }
}

/// Bytes that this user can still write; `None` where the system does not tell.
#[cfg(unix)]
fn free_space(directory: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(directory).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

#[cfg(not(unix))]
fn free_space(_: &Path) -> Option<u64> {
    None
}
