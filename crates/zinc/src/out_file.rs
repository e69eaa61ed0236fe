//! Files that long computations write: opened before the work, so that a path that cannot be written is
//! an error at once, and gone if the work fails.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A file that is removed again unless it is finished.
pub struct OutFile {
    path: PathBuf,
    out: BufWriter<File>,
    is_finished: bool,
}

impl OutFile {
    /// Creates the file, or empties the one that is there.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path) -> anyhow::Result<OutFile> {
        let out = File::create(path).with_context(|| format!("writing {}", path.display()))?;
        Ok(OutFile { path: path.to_owned(), out: BufWriter::new(out), is_finished: false })
    }

    /// Writes with `write`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(
        &mut self,
        write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        write(&mut self.out).with_context(|| format!("writing {}", self.path.display()))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.write(BufWriter::flush)?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for OutFile {
    fn drop(&mut self) {
        // Not a device such as /dev/null. What cannot be removed stays, the error is told anyway.
        if !self.is_finished && self.path.is_file() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
