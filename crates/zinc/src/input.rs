//! Text from files and stdin.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::Context;

use crate::report;

/// Largest text that is read; far above any context.
const TEXT_BYTES_MAX: u64 = 1 << 30;

/// The text in the file at `path`; `-` is stdin.
///
/// # Errors
/// The file cannot be read, is larger than 1 GiB or is not UTF-8.
pub fn read_text(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        return read_stdin();
    }
    let file = File::open(path).with_context(|| path.display().to_string())?;
    read(file, &path.display().to_string())
}

/// The text on stdin.
///
/// # Errors
/// As [`read_text`].
pub fn read_stdin() -> anyhow::Result<String> {
    read(io::stdin().lock(), "stdin")
}

fn read(source: impl Read, name: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let limited = &mut source.take(TEXT_BYTES_MAX + 1);
    limited.read_to_end(&mut bytes).with_context(|| name.to_owned())?;
    if bytes.len() as u64 > TEXT_BYTES_MAX {
        anyhow::bail!("{name}: the text is larger than 1 GiB");
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let what = format!("{name}: byte {at} begins no UTF-8 character");
        report::with_hint(what, "convert the file to UTF-8")
    })
}
