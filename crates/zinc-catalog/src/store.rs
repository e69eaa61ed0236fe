//! The models of this machine: a record for each, the files they name, and which one is active.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::part::{self, hash_file, write_atomically};
use crate::{CatalogError, Home, Reference};

/// What is known of a model on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name, as in `-m NAME`.
    pub name: String,
    /// Id in the catalog, if it came from there.
    pub catalog: Option<String>,
    /// Quantisation, as its file's name says it.
    pub quant: Option<String>,
    /// Where it came from.
    pub source: Source,
    /// Its files, the first part first.
    pub files: Vec<RecordedFile>,
    /// When it came, in seconds since 1970.
    pub added: u64,
}

/// Where a model came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Source {
    /// A repository of the Hub.
    Hub {
        /// `OWNER/REPO`.
        repo: String,
        /// Commit.
        revision: String,
    },
    /// An address.
    Url {
        /// The address.
        url: String,
    },
    /// A file of this machine.
    Import {
        /// Where it was.
        path: PathBuf,
    },
}

/// A file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedFile {
    /// Where it is: relative to the directory of models for files that are zinc's own.
    path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// The program whose file it is; none for zinc's own.
    pub belongs_to: Option<String>,
}

impl RecordedFile {
    /// A file; inside `models` it is zinc's own unless it belongs to somebody else.
    pub(crate) fn new(
        models: &Path,
        path: &Path,
        size: u64,
        sha256: String,
        owner: Option<String>,
    ) -> Self {
        let path = path.strip_prefix(models).unwrap_or(path).to_owned();
        RecordedFile { path, size, sha256, belongs_to: owner }
    }
}

impl Record {
    /// Bytes of all its files.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// The first hash seen of a file, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pin {
    pub sha256: String,
    pub size: u64,
    pub revision: String,
}

/// The directory of models.
#[derive(Clone, Debug)]
pub struct Store {
    home: Home,
}

/// Something in the directory of models that no record needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub kind: LeftoverKind,
}

/// Why nothing needs a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LeftoverKind {
    /// A download that did not end; pulling again would go on with it.
    Unfinished,
    /// No model has it.
    Orphan,
    /// A record whose files are gone.
    Record,
}

impl Store {
    /// The models under `home`.
    pub fn new(home: Home) -> Store {
        Store { home }
    }

    /// The directories.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Where a file of `record` is.
    pub fn path_of(&self, file: &RecordedFile) -> PathBuf {
        self.home.models().join(&file.path)
    }

    /// All records, by name. Damaged ones are told to `damaged`, and left out.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn records(
        &self,
        damaged: &mut dyn FnMut(CatalogError),
    ) -> Result<Vec<Record>, CatalogError> {
        let dir = self.home.records();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(CatalogError::io(dir, error)),
        };
        let mut records = Vec::new();
        for entry in entries.flatten().map(|entry| entry.path()) {
            if entry.extension().is_some_and(|end| end == "json") {
                match read_record(&entry) {
                    Ok(record) => records.push(record),
                    Err(error) => damaged(error),
                }
            }
        }
        records.sort_by(|a: &Record, b| a.name.cmp(&b.name));
        Ok(records)
    }

    fn sound_records(&self) -> Result<Vec<Record>, CatalogError> {
        self.records(&mut |_| {})
    }

    /// The model called `id` in `quant`: a record of that name, or one of that catalog id, in its
    /// default quantisation if several are there.
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn find(&self, id: &str, quant: Option<&str>) -> Result<Option<Record>, CatalogError> {
        let records = self.sound_records()?;
        let full = quant.map(|quant| format!("{id}:{quant}"));
        let wanted = full.as_deref().unwrap_or(id);
        let same = |name: &str| name.eq_ignore_ascii_case(wanted);
        if let Some(record) = records.iter().find(|record| same(&record.name)) {
            return Ok(Some(record.clone()));
        }
        let of_catalog = |record: &&Record| {
            record.catalog.as_deref() == Some(id)
                && quant.is_none_or(|quant| record.quant.as_deref() == Some(quant))
        };
        let found = records.iter().filter(of_catalog);
        let rank =
            |record: &&Record| record.quant.as_deref().map_or(usize::MAX, crate::names::preference);
        Ok(found.min_by_key(rank).cloned())
    }

    /// The model that `reference` means, if this machine has it.
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn find_reference(&self, reference: &Reference) -> Result<Option<Record>, CatalogError> {
        let records = self.sound_records()?;
        let found = match reference {
            Reference::Name { id, quant } => return self.find(id, quant.as_deref()),
            Reference::Hub(wanted) => {
                let of_repo = |record: &&Record| match &record.source {
                    Source::Hub { repo, revision } => {
                        repo.eq_ignore_ascii_case(&wanted.repo)
                            && wanted.revision.as_ref().is_none_or(|wanted| wanted == revision)
                            && wanted
                                .quant
                                .as_ref()
                                .is_none_or(|q| Some(q) == record.quant.as_ref())
                    }
                    _ => false,
                };
                let has_file = |record: &&Record| {
                    wanted.file.as_ref().is_none_or(|file| {
                        let path = Path::new("hf").join(&wanted.repo).join(file);
                        record.files.iter().any(|f| f.path == path || f.path.ends_with(file))
                    })
                };
                let rank = |record: &&Record| {
                    record.quant.as_deref().map_or(usize::MAX, crate::names::preference)
                };
                records.iter().filter(of_repo).filter(has_file).min_by_key(rank)
            }
            Reference::Url(wanted) => records.iter().find(|record| match &record.source {
                Source::Url { url } => wanted.split(['?', '#']).next() == Some(url),
                _ => false,
            }),
            Reference::File(_) | Reference::Ollama(_) => None,
        };
        Ok(found.cloned())
    }

    /// Keeps a record; one of the same name is replaced.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep(&self, record: &Record) -> Result<(), CatalogError> {
        let path = self.record_path(&record.name);
        create_parent(&path)?;
        write_atomically(&path, &serde_json::to_vec_pretty(record).unwrap_or_default())
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.home.records().join(format!("{}.json", file_name(name)))
    }

    /// Paths of a model's files, after a look whether they are as they were.
    ///
    /// # Errors
    /// A file is gone or has another length.
    pub fn paths(&self, record: &Record) -> Result<Vec<PathBuf>, CatalogError> {
        let check = |file: &RecordedFile| {
            let path = self.path_of(file);
            let found = fs::metadata(&path).ok().map(|there| there.len());
            match found == Some(file.size) {
                true => Ok(path),
                false => Err(CatalogError::Damaged {
                    path,
                    expected: file.size,
                    found,
                    hint: again(record),
                }),
            }
        };
        record.files.iter().map(check).collect()
    }

    /// Reads all files of a model and compares their hashes; `progress` is told bytes done and in all.
    ///
    /// # Errors
    /// A file is gone, has another length or another hash.
    pub fn verify(
        &self,
        record: &Record,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), CatalogError> {
        let total = record.size();
        let mut before = 0;
        for (file, path) in record.files.iter().zip(self.paths(record)?) {
            let found = hash_file(&path, &mut |done| progress(before + done, total))?;
            if found != file.sha256 {
                return Err(CatalogError::Hash {
                    file: path.display().to_string(),
                    expected: file.sha256.clone(),
                    found,
                    said_by: "when it came",
                });
            }
            before += file.size;
        }
        Ok(())
    }

    /// Removes a model: its record, and its files unless they are another program's or another record
    /// names them too. Returns the bytes that became free.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn remove(&self, record: &Record) -> Result<u64, CatalogError> {
        let others = self.sound_records()?;
        let others: Vec<_> = others.iter().filter(|other| other.name != record.name).collect();
        let mut n_bytes = 0;
        for file in record.files.iter().filter(|file| file.belongs_to.is_none()) {
            let is_shared =
                others.iter().flat_map(|other| &other.files).any(|f| f.path == file.path);
            if is_shared || file.path.is_absolute() {
                continue;
            }
            let path = self.path_of(file);
            if remove_if_there(&path)? {
                n_bytes += file.size;
            }
            part::discard(&path)?;
            self.remove_empty_parents(&path);
        }
        remove_if_there(&self.record_path(&record.name))?;
        if self.active()?.as_deref() == Some(&record.name) {
            self.set_active(None)?;
        }
        Ok(n_bytes)
    }

    fn remove_empty_parents(&self, path: &Path) {
        let models = self.home.models();
        for parent in path.ancestors().skip(1).take_while(|parent| *parent != models) {
            if !parent.starts_with(&models) || fs::remove_dir(parent).is_err() {
                return;
            }
        }
    }

    /// Name of the model that is used when none is named.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn active(&self) -> Result<Option<String>, CatalogError> {
        let path = self.active_path();
        match fs::read_to_string(&path) {
            Ok(name) => Ok(Some(name.trim().to_owned()).filter(|name| !name.is_empty())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CatalogError::io(path, error)),
        }
    }

    /// Sets it, or with `None` goes back to the built-in model.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_active(&self, name: Option<&str>) -> Result<(), CatalogError> {
        let path = self.active_path();
        let Some(name) = name else {
            return remove_if_there(&path).map(drop);
        };
        create_parent(&path)?;
        write_atomically(&path, format!("{name}\n").as_bytes())
    }

    fn active_path(&self) -> PathBuf {
        self.home.data().join("active")
    }

    /// Puts another catalog in place of the one in the program. It was understood before.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set_catalog(&self, text: &str) -> Result<(), CatalogError> {
        let path = self.home.catalog_file();
        create_parent(&path)?;
        write_atomically(&path, text.as_bytes())
    }

    fn pins_path(&self) -> PathBuf {
        self.home.data().join("pins.json")
    }

    /// First hashes of all files that were ever pulled, by `OWNER/REPO/FILE`.
    pub(crate) fn pins(&self) -> Result<BTreeMap<String, Pin>, CatalogError> {
        let path = self.pins_path();
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| CatalogError::Record { path, reason: error.to_string() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(CatalogError::io(path, error)),
        }
    }

    /// Adds pins; nobody else changes the file meanwhile.
    pub(crate) fn pin(&self, new: &[(String, Pin)]) -> Result<(), CatalogError> {
        let lock = self.home.locks().join("pins.lock");
        create_parent(&lock)?;
        let file = fs::File::create(&lock).map_err(|error| CatalogError::io(&lock, error))?;
        file.lock().map_err(|error| CatalogError::io(&lock, error))?;
        let mut pins = self.pins()?;
        pins.extend(new.iter().cloned());
        write_atomically(&self.pins_path(), &serde_json::to_vec_pretty(&pins).unwrap_or_default())
    }

    /// What no record needs, the unfinished downloads of running processes excepted.
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn leftovers(&self) -> Result<Vec<Leftover>, CatalogError> {
        let models = self.home.models();
        let records = self.sound_records()?;
        let used: Vec<_> =
            records.iter().flat_map(|r| &r.files).map(|file| self.path_of(file)).collect();
        let mut found = Vec::new();
        self.walk(&models, &used, &mut found);
        for record in &records {
            if record.files.iter().all(|file| !self.path_of(file).exists()) {
                let path = self.record_path(&record.name);
                found.push(Leftover { path, size: 0, kind: LeftoverKind::Record });
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    fn walk(&self, dir: &Path, used: &[PathBuf], found: &mut Vec<Leftover>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                self.walk(&path, used, found);
                continue;
            }
            if used.contains(&path) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let target = name.strip_suffix(".part").or_else(|| name.strip_suffix(".part.json"));
            let target = target.map(|name| path.with_file_name(name));
            if target.as_ref().is_some_and(|target| self.is_locked(target)) {
                continue;
            }
            let kind = match target {
                Some(_) => LeftoverKind::Unfinished,
                None => LeftoverKind::Orphan,
            };
            let size = entry.metadata().map_or(0, |there| disk_bytes(&there));
            found.push(Leftover { path, size, kind });
        }
    }

    /// Whether some process downloads `target` now.
    fn is_locked(&self, target: &Path) -> bool {
        let lock = fs::File::open(self.lock_path(target));
        lock.is_ok_and(|file| matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)))
    }

    /// The lock of a download.
    pub(crate) fn lock_path(&self, target: &Path) -> PathBuf {
        let inside = target.strip_prefix(self.home.models()).unwrap_or(target);
        self.home.locks().join(format!("{}.lock", file_name(&inside.to_string_lossy())))
    }

    /// Removes leftovers.
    ///
    /// # Errors
    /// One cannot be removed.
    pub fn prune(&self, leftovers: &[Leftover]) -> Result<(), CatalogError> {
        for leftover in leftovers {
            remove_if_there(&leftover.path)?;
            self.remove_empty_parents(&leftover.path);
        }
        Ok(())
    }
}

fn read_record(path: &Path) -> Result<Record, CatalogError> {
    let damaged = |reason: String| CatalogError::Record { path: path.to_owned(), reason };
    let text = fs::read(path).map_err(|error| CatalogError::io(path, error))?;
    let record: Record =
        serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    match record.files.is_empty() {
        true => Err(damaged("it names no file".into())),
        false => Ok(record),
    }
}

/// Bytes on the disk; a file with holes has fewer than its length.
#[cfg(unix)]
fn disk_bytes(there: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(there).saturating_mul(512).min(there.len())
}

#[cfg(not(unix))]
fn disk_bytes(there: &fs::Metadata) -> u64 {
    there.len()
}

fn remove_if_there(path: &Path) -> Result<bool, CatalogError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CatalogError::io(path, error)),
    }
}

pub(crate) fn create_parent(path: &Path) -> Result<(), CatalogError> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(|error| CatalogError::io(parent, error)),
        None => Ok(()),
    }
}

/// A name for a file that tells of `name` and differs from that of any other: its plain characters,
/// and a hash where there are others.
pub(crate) fn file_name(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
    let plain: String = name
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if is_plain(c) { c } else { '_' })
        .take(100)
        .collect();
    if plain == name {
        return plain;
    }
    let hash = <sha2::Sha256 as sha2::Digest>::digest(name.as_bytes());
    format!("{plain}-{}", part::hex(&hash[..4]))
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// How to get the files of a model again.
fn again(record: &Record) -> String {
    let name = &record.name;
    match &record.source {
        Source::Import { path } => {
            format!("zinc model rm {name}, then zinc model import {}", path.display())
        }
        _ => format!("zinc model pull {name} --force"),
    }
}
