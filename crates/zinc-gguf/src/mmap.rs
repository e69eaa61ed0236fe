//! Mapping a file into memory: the one place of this crate with unsafe code.
#![allow(unsafe_code)]

use crate::GgufError;
use bytes::Bytes;
use std::fs::File;
use std::path::Path;

/// The bytes of the regular file at `path`, mapped read-only; the mapping lives as long as any slice.
pub(crate) fn map(path: &Path) -> Result<Bytes, GgufError> {
    // Opening a pipe would wait for a writer, so its kind is asked first.
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(GgufError::NotAFile { what: "a directory" });
    }
    if !metadata.is_file() {
        return Err(GgufError::NotAFile { what: "a pipe, socket or device" });
    }
    if metadata.len() == 0 {
        return Err(GgufError::Empty);
    }
    let file = File::open(path)?;
    // SAFETY: a mapping is sound while nobody changes or truncates the file underneath. The user
    // upholds this: a model file must not be modified while it is in use. Tools that update models
    // replace the file (write aside, then rename), which leaves this mapping on the old contents.
    // If it is violated, reading past the new end raises SIGBUS and changed bytes give wrong
    // numbers; strings and offsets were validated on copies or are bounds-checked on each use, so a
    // change cannot send this crate's safe code out of bounds.
    let mapping = unsafe { memmap2::Mmap::map(&file) }?;
    Ok(Bytes::from_owner(mapping))
}
