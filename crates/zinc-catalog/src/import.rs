//! Files of this machine as models with a name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use zinc_gguf::{Gguf, GgufError};

use crate::names::{self, PartName};
use crate::store::{self, Record, RecordedFile, Source, Store};
use crate::{CatalogError, part};

/// What happens to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportMode {
    /// It stays where it is, and the model refers to it.
    Refer,
    /// It gets a second name in zinc's directory (a hard link; on another disk a symbolic one).
    Link,
    /// It is copied.
    Copy,
}

impl Store {
    /// Gives the model at `path` (of a split model: its first part) a name. `progress` is told bytes
    /// hashed and bytes in all.
    ///
    /// # Errors
    /// It is no GGUF file, a part is missing, the name is taken or the built-in model's, or it cannot be linked or copied.
    pub fn import(
        &self,
        path: &Path,
        name: Option<&str>,
        mode: ImportMode,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Record, CatalogError> {
        let parts = parts(path)?;
        let name = name.map_or_else(|| default_name(path), str::to_ascii_lowercase);
        check_name(&name)?;
        if name == names::BUILTIN_NAME {
            return Err(CatalogError::NameReserved { name, hint: "--name gives it another" });
        }
        if self.find(&name, None)?.is_some_and(|record| record.name == name) {
            return Err(CatalogError::NameTaken { name });
        }
        // Before hashing, which takes long: what was cut off is no model.
        Gguf::open(&parts[0]).map_err(|error| {
            let (path, reason) = match error {
                GgufError::InFile { path, source } => (path, source.to_string()),
                other => (parts[0].clone(), other.to_string()),
            };
            CatalogError::NotGguf { path, reason, hint: "get the file again" }
        })?;
        let sizes: Result<Vec<u64>, _> = parts.iter().map(|path| size_of(path)).collect();
        let sizes = sizes?;
        let total = sizes.iter().sum();
        if mode == ImportMode::Copy {
            crate::download::check_space(&self.home().models().join("x"), total)?;
        }
        let models = self.home().models();
        let dir = models.join("local").join(store::file_name(&name));
        let (mut files, mut before) = (Vec::new(), 0);
        for (source, size) in parts.iter().zip(sizes) {
            let hash = part::hash_file(source, &mut |done| progress(before + done, total))?;
            let target = dir.join(source.file_name().unwrap_or_default());
            let (place, owner) = match mode {
                ImportMode::Refer => {
                    (source.clone(), Some("the file that was imported".to_owned()))
                }
                ImportMode::Link => (link(source, &target)?, None),
                ImportMode::Copy => (copy(source, &target)?, None),
            };
            files.push(RecordedFile::new(&models, &place, size, hash, owner));
            before += size;
        }
        let record = Record {
            name,
            catalog: None,
            quant: names::quant(&path.to_string_lossy()),
            source: Source::Import { path: path.to_owned() },
            files,
            added: store::now(),
        };
        self.keep(&record)?;
        Ok(record)
    }
}

fn size_of(path: &Path) -> Result<u64, CatalogError> {
    Ok(fs::metadata(path).map_err(|error| CatalogError::io(path, error))?.len())
}

fn default_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = PartName::parse(&name).map_or_else(
        || name.trim_end_matches(".gguf").trim_end_matches(".GGUF").to_owned(),
        |part| part.stem.to_owned(),
    );
    stem.to_ascii_lowercase()
}

fn check_name(name: &str) -> Result<(), CatalogError> {
    let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    if !name.is_empty() && name.len() <= 100 && name.chars().all(is_good) && !name.starts_with('.')
    {
        return Ok(());
    }
    Err(CatalogError::Reference {
        text: name.to_owned(),
        reason: "a name has letters, digits, . _ and -; hint: --name NAME".into(),
    })
}

/// All parts of the model at `path`, with absolute paths.
fn parts(path: &Path) -> Result<Vec<PathBuf>, CatalogError> {
    let path = fs::canonicalize(path).map_err(|error| CatalogError::io(path, error))?;
    if !path.is_file() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "this is no file");
        return Err(CatalogError::io(path, error));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some(part) = PartName::parse(&name) else {
        return Ok(vec![path]);
    };
    if part.number != 1 {
        return Err(CatalogError::Reference {
            text: name.clone(),
            reason: "it is a later part of a split model; hint: give the first".into(),
        });
    }
    let nth = |number| {
        path.with_file_name(format!("{}-{number:05}-of-{:05}.gguf", part.stem, part.count))
    };
    let parts: Vec<_> = (1..=part.count).map(nth).take_while(|path| path.is_file()).collect();
    match parts.len() == part.count as usize {
        true => Ok(parts),
        false => {
            let missing = nth(parts.len() as u32 + 1);
            let error =
                io::Error::new(io::ErrorKind::NotFound, "this part of the model is missing");
            Err(CatalogError::io(missing, error))
        }
    }
}

fn link(source: &Path, target: &Path) -> Result<PathBuf, CatalogError> {
    store::create_parent(target)?;
    let linked = fs::hard_link(source, target).or_else(|error| match error.kind() {
        io::ErrorKind::CrossesDevices => symlink(source, target),
        _ => Err(error),
    });
    linked.map_err(|error| CatalogError::io(target, error))?;
    Ok(target.to_owned())
}

#[cfg(unix)]
fn symlink(source: &Path, target: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(source, target)
}

#[cfg(windows)]
fn symlink(source: &Path, target: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(source, target)
}

fn copy(source: &Path, target: &Path) -> Result<PathBuf, CatalogError> {
    store::create_parent(target)?;
    // A copy that is cut short has another name.
    let part = part::part_path(target);
    fs::copy(source, &part).map_err(|error| CatalogError::io(&part, error))?;
    fs::rename(&part, target).map_err(|error| CatalogError::io(target, error))?;
    Ok(target.to_owned())
}
