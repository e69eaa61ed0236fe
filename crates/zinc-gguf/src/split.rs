//! Models split over several files by `llama-gguf-split`: `NAME-00001-of-0000N.gguf`, each part a GGUF
//! file with `split.no` (from 0), `split.count` and `split.tensors.count` (of the whole model). The first
//! part has the model's metadata.

use crate::GgufError;
use crate::metadata::Metadata;
use std::path::{Path, PathBuf};

/// Parts of the model this file belongs to; 1 if it is not split.
pub(crate) fn count(metadata: &Metadata) -> Result<u64, GgufError> {
    Ok(metadata.u64("split.count")?.unwrap_or(1).max(1))
}

/// Paths of parts 2…N when `first` has been opened; empty for a model of one file.
pub(crate) fn other_shards(first: &Path, metadata: &Metadata) -> Result<Vec<PathBuf>, GgufError> {
    let count = count(metadata)?;
    let name = ShardName::parse(first);
    if count == 1 {
        return match name {
            Some(name) if name.count > 1 => Err(mismatch(format!(
                "the file name says part {} of {}, but its metadata has no split.count",
                name.number, name.count
            ))),
            _ => Ok(Vec::new()),
        };
    }
    let Some(name) = name else {
        return Err(mismatch(format!(
            "this is one of {count} parts, whose names must end in -00001-of-{count:05}.gguf; \
             give the files their original names"
        )));
    };
    if name.count != count {
        return Err(mismatch(format!(
            "the file name says {} parts, split.count says {count}",
            name.count
        )));
    }
    let number = metadata.require_u64("split.no")?;
    if number != 0 {
        return Err(GgufError::NotFirstShard {
            number: number.saturating_add(1),
            first: name.path(1),
        });
    }
    if name.number != 1 {
        return Err(mismatch(format!(
            "the file name says part {}, split.no says part 1",
            name.number
        )));
    }
    // Checked before the list is built: a part that is not there ends the list, however large the count.
    (2..=count)
        .map(|number| {
            let path = name.path(number);
            match path.exists() {
                true => Ok(path),
                false => Err(mismatch(format!(
                    "part {number} of {count}, {}, is missing",
                    path.display()
                ))),
            }
        })
        .collect()
}

/// Checks that a part says it is part `index` (from 0) of `n_shards`.
pub(crate) fn check_shard(
    metadata: &Metadata,
    index: usize,
    n_shards: usize,
) -> Result<(), GgufError> {
    for (key, expected) in [("split.no", index), ("split.count", n_shards)] {
        let found = metadata.require_u64(key)?;
        if found != expected as u64 {
            return Err(mismatch(format!(
                "{key} is {found}, expected {expected}: the parts do not belong together"
            )));
        }
    }
    Ok(())
}

/// Checks that all parts together hold as many tensors as the first one promises.
pub(crate) fn check_tensor_count(metadata: &Metadata, n_tensors: usize) -> Result<(), GgufError> {
    if count(metadata)? == 1 {
        return Ok(());
    }
    let expected = metadata.require_u64("split.tensors.count")?;
    if expected != n_tensors as u64 {
        return Err(mismatch(format!(
            "split.tensors.count is {expected}, but the parts hold {n_tensors} tensors"
        )));
    }
    Ok(())
}

fn mismatch(reason: String) -> GgufError {
    GgufError::Split { reason }
}

/// `PREFIX-NUMBER-of-COUNT.gguf`, taken apart.
struct ShardName<'a> {
    directory: &'a Path,
    prefix: &'a str,
    number: u64,
    count: u64,
}

impl<'a> ShardName<'a> {
    fn parse(path: &'a Path) -> Option<ShardName<'a>> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let parse = |digits: &str| {
            let all_digits = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|_| all_digits)
        };
        Some(ShardName {
            directory: path.parent().unwrap_or(Path::new("")),
            prefix,
            number: parse(number)?,
            count: parse(count)?,
        })
    }

    fn path(&self, number: u64) -> PathBuf {
        let (prefix, count) = (self.prefix, self.count);
        self.directory.join(format!("{prefix}-{number:05}-of-{count:05}.gguf"))
    }
}
