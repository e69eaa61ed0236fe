//! Models that other programs have pulled: the Hub's own cache, Ollama, LM Studio. They are used where
//! they are.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::home::Home;
use crate::hub::{Repo, RepoFile};
use crate::reference::{HubReference, is_path_safe};
use crate::{CatalogError, names};

/// Largest manifest of Ollama that is read.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// Files looked at in one cache.
const N_FILES_MAX: usize = 10_000;

/// A model file of another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whose it is.
    pub program: &'static str,
    /// What names it: `hf:OWNER/REPO/FILE.gguf`, `ollama:NAME:TAG`, or the path.
    pub reference: String,
    /// Where it is; the first part of a split model.
    pub path: PathBuf,
    /// Bytes of this file.
    pub size: u64,
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
}

impl Home {
    /// A file of a repository that some program has already, with the size and, where the program
    /// keeps files by their hash, the hash that are wanted.
    pub(crate) fn elsewhere(
        &self,
        repo: &str,
        path: &str,
        size: Option<u64>,
        sha256: Option<&str>,
    ) -> Option<(&'static str, PathBuf)> {
        let fits = |path: &PathBuf| {
            let there = fs::metadata(path).ok().filter(fs::Metadata::is_file);
            there.is_some_and(|there| size.is_none_or(|size| there.len() == size))
        };
        let hub = self.in_hub_cache(repo, path, sha256).filter(fits);
        let studio =
            || self.lm_studio.iter().map(|dir| dir.join(repo).join(base_name(path))).find(fits);
        let ollama = || {
            let name = format!("sha256-{}", sha256?);
            self.ollama.iter().map(|dir| dir.join("blobs").join(&name)).find(fits)
        };
        hub.map(|path| ("the Hub's cache", path))
            .or_else(|| studio().map(|path| ("LM Studio", path)))
            .or_else(|| ollama().map(|path| ("Ollama", path)))
    }

    /// The name of a file in the Hub's cache: a link in some snapshot to the blob of that hash.
    fn in_hub_cache(&self, repo: &str, path: &str, sha256: Option<&str>) -> Option<PathBuf> {
        let snapshots = self.hub_repo(repo)?.join("snapshots");
        let commits = fs::read_dir(snapshots).ok()?.flatten().take(N_FILES_MAX);
        let mut paths = commits.map(|commit| commit.path().join(path));
        paths.find(|path| {
            let blob = fs::canonicalize(path).ok();
            let is_blob = |sha256: &str| blob.as_ref().is_some_and(|blob| blob.ends_with(sha256));
            sha256.is_none_or(is_blob) && blob.is_some()
        })
    }

    fn hub_repo(&self, repo: &str) -> Option<PathBuf> {
        Some(self.hub_cache.as_ref()?.join(format!("models--{}", repo.replace('/', "--"))))
    }

    /// What the caches of other programs have of a repository; what can be used without asking the Hub.
    pub(crate) fn cached_repo(&self, wanted: &HubReference) -> Repo {
        let revision = wanted.revision.as_deref().unwrap_or("main");
        let mut files = Vec::new();
        let mut add = |dir: &Path| {
            let mut paths = Vec::new();
            collect(dir, 3, &mut paths);
            for path in paths {
                let name = path.strip_prefix(dir).ok().and_then(Path::to_str);
                let Some(name) = name.map(|name| name.replace('\\', "/")) else { continue };
                if files.iter().all(|file: &RepoFile| file.path != name) {
                    let size = fs::metadata(&path).ok().map(|there| there.len());
                    files.push(RepoFile { path: name, size, sha256: blob_hash(&path) });
                }
            }
        };
        let hub = self.hub_repo(&wanted.repo);
        let commit = hub.as_ref().and_then(|dir| {
            let commit = fs::read_to_string(dir.join("refs").join(revision)).ok();
            commit.map(|text| text.trim().to_owned()).filter(|commit| is_path_safe(commit))
        });
        let commit = commit.unwrap_or_else(|| revision.to_owned());
        if let Some(dir) = hub {
            add(&dir.join("snapshots").join(&commit));
        }
        for dir in self.lm_studio.iter().filter(|_| wanted.revision.is_none()) {
            add(&dir.join(&wanted.repo));
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Repo { name: wanted.repo.clone(), commit, files, license: None }
    }

    /// The file of a model that Ollama has.
    ///
    /// # Errors
    /// It has none of that name.
    pub fn ollama_model(&self, name: &str) -> Result<(PathBuf, String), CatalogError> {
        let (path, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
        let path = match path.split('/').count() {
            1 => format!("registry.ollama.ai/library/{path}"),
            2 => format!("registry.ollama.ai/{path}"),
            _ => path.to_owned(),
        };
        for dir in &self.ollama {
            let manifest = dir.join("manifests").join(&path).join(tag);
            if let Some(digest) = model_digest(&manifest) {
                let blob = dir.join("blobs").join(format!("sha256-{digest}"));
                if blob.is_file() {
                    return Ok((blob, digest));
                }
            }
        }
        let known: Vec<_> =
            self.found().into_iter().filter(|found| found.program == "Ollama").collect();
        let hint = match known.is_empty() {
            true => "OLLAMA_MODELS says where its models are".to_owned(),
            false => {
                let names: Vec<_> = known.into_iter().map(|found| found.reference).collect();
                format!("it has {}", names.join(", "))
            }
        };
        Err(CatalogError::Foreign { program: "Ollama", name: name.to_owned(), hint })
    }

    /// All models of other programs.
    pub fn found(&self) -> Vec<Found> {
        let mut found = self.found_in_hub_cache();
        found.extend(self.found_in_ollama());
        for dir in &self.lm_studio {
            let mut files = Vec::new();
            collect(dir, 3, &mut files);
            let entry = |path: PathBuf| {
                let reference = path.display().to_string();
                entry("LM Studio", reference, path)
            };
            found.extend(files.into_iter().filter_map(entry));
        }
        found.retain(|found| {
            found.program == "Ollama" || {
                let name = found.path.to_string_lossy().replace('\\', "/");
                let part = names::PartName::parse(&name);
                names::is_model(&name) && part.is_none_or(|part| part.number == 1)
            }
        });
        found.sort_by(|a, b| (a.program, &a.reference).cmp(&(b.program, &b.reference)));
        found.dedup_by(|a, b| a.reference == b.reference);
        found
    }

    fn found_in_hub_cache(&self) -> Vec<Found> {
        let Some(repos) = self.hub_cache.as_ref().and_then(|dir| fs::read_dir(dir).ok()) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for dir in repos.flatten().take(N_FILES_MAX) {
            let name = dir.file_name();
            let repo = name.to_str().and_then(|name| name.strip_prefix("models--"));
            let Some(repo) = repo.map(|repo| repo.replacen("--", "/", 1)) else {
                continue;
            };
            let Ok(commits) = fs::read_dir(dir.path().join("snapshots")) else {
                continue;
            };
            for commit in commits.flatten().take(N_FILES_MAX) {
                let mut files = Vec::new();
                collect(&commit.path(), 3, &mut files);
                for path in files {
                    let Ok(inside) = path.strip_prefix(commit.path()) else { continue };
                    let inside = inside.to_string_lossy().replace('\\', "/");
                    found.extend(entry(
                        "the Hub's cache",
                        format!("hf:{repo}/{inside}"),
                        path.clone(),
                    ));
                }
            }
        }
        found
    }

    fn found_in_ollama(&self) -> Vec<Found> {
        let mut found = Vec::new();
        for dir in &self.ollama {
            let manifests = dir.join("manifests");
            let mut files = Vec::new();
            walk(&manifests, 5, &mut files);
            for path in files {
                let Some(digest) = model_digest(&path) else { continue };
                let Ok(inside) = path.strip_prefix(&manifests) else { continue };
                let inside = inside.to_string_lossy().replace('\\', "/");
                let short = inside.strip_prefix("registry.ollama.ai/").unwrap_or(&inside);
                let short = short.strip_prefix("library/").unwrap_or(short);
                let Some((name, tag)) = short.rsplit_once('/') else { continue };
                let blob = dir.join("blobs").join(format!("sha256-{digest}"));
                found.extend(entry("Ollama", format!("ollama:{name}:{tag}"), blob));
            }
        }
        found
    }
}

fn entry(program: &'static str, reference: String, path: PathBuf) -> Option<Found> {
    let size = fs::metadata(&path).ok()?.len();
    Some(Found { program, reference, path, size })
}

/// The hash of the weights that a manifest of Ollama names.
fn model_digest(manifest: &Path) -> Option<String> {
    if fs::metadata(manifest).ok()?.len() > MANIFEST_BYTES_MAX {
        return None;
    }
    let manifest: Manifest = serde_json::from_slice(&fs::read(manifest).ok()?).ok()?;
    let mut layers = manifest.layers.into_iter();
    let model = layers.find(|layer| layer.media_type == "application/vnd.ollama.image.model")?;
    let digest = model.digest.strip_prefix("sha256:")?;
    let is_hash = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
    is_hash.then(|| digest.to_ascii_lowercase())
}

/// The hash that the Hub's cache gives the file behind a link as its name.
fn blob_hash(path: &Path) -> Option<String> {
    let blob = fs::canonicalize(path).ok()?;
    let name = blob.file_name()?.to_str()?;
    let is_hash = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    is_hash.then(|| name.to_ascii_lowercase())
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// GGUF files under `dir`, not deeper than that.
fn collect(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    walk(dir, depth, files);
    files.retain(|path| path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")));
}

fn walk(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        if files.len() >= N_FILES_MAX {
            return;
        }
        let path = entry.path();
        match fs::metadata(&path) {
            Ok(there) if there.is_dir() && depth > 0 => walk(&path, depth - 1, files),
            Ok(there) if there.is_file() => files.push(path),
            _ => {}
        }
    }
}
