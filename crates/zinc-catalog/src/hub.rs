//! The Hub: which files a repository has, and which of them make up a quantisation.

use reqwest::Url;
use serde::Deserialize;

use crate::http::{Attempt, Auth, Http};
use crate::names::{self, PartName};
use crate::reference::{HubReference, is_path_safe};
use crate::{CatalogError, home};

/// Where the Hub is, unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";
/// Longest listing of a repository that is read.
const LISTING_BYTES_MAX: usize = 32 << 20;

/// A Hub and who asks there.
#[derive(Clone, Debug)]
pub struct Hub {
    endpoint: Url,
    auth: Auth,
}

/// A repository at one commit.
#[derive(Clone, Debug)]
pub struct Repo {
    /// `OWNER/REPO`.
    pub name: String,
    /// The commit.
    pub commit: String,
    /// Its GGUF files, in the order of their names.
    pub files: Vec<RepoFile>,
    /// The licence, as its card says.
    pub license: Option<String>,
}

/// A GGUF file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoFile {
    /// Path in the repository.
    pub path: String,
    /// Bytes, if the Hub says so.
    pub size: Option<u64>,
    /// SHA-256 in hexadecimal, if the Hub says so.
    pub sha256: Option<String>,
}

/// A model of a repository: one file, or all parts of a split one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Its quantisation as the file's name says it, in capitals; empty if it does not.
    pub quant: String,
    /// The files, the first part first.
    pub files: Vec<RepoFile>,
}

impl Variant {
    /// Bytes of all files, if the Hub told all.
    pub fn size(&self) -> Option<u64> {
        self.files.iter().map(|file| file.size).sum()
    }
}

#[derive(Deserialize)]
struct Listing {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
    #[serde(rename = "cardData")]
    card: Option<Card>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    oid: Option<String>,
    size: Option<u64>,
}

#[derive(Deserialize)]
struct Card {
    license: Option<serde_json::Value>,
}

impl Hub {
    /// The Hub at `endpoint`.
    ///
    /// # Errors
    /// It is no HTTP address.
    pub fn new(endpoint: &str, token: Option<String>) -> Result<Hub, CatalogError> {
        let parsed = Url::parse(&format!("{}/", endpoint.trim_end_matches('/'))).ok();
        match parsed.filter(|url| matches!(url.scheme(), "http" | "https")) {
            Some(endpoint) => Ok(Hub { endpoint, auth: Auth::new(token) }),
            None => Err(CatalogError::Reference {
                text: endpoint.to_owned(),
                reason: "HF_ENDPOINT must begin with https:// or http://".into(),
            }),
        }
    }

    /// `HF_ENDPOINT`, or the Hub itself, with this user's token.
    ///
    /// # Errors
    /// As [`Hub::new`].
    pub fn from_env() -> Result<Hub, CatalogError> {
        let named = std::env::var("HF_ENDPOINT").ok().filter(|text| !text.trim().is_empty());
        Hub::new(named.as_deref().unwrap_or(ENDPOINT).trim(), home::hub_token())
    }

    /// Who asks.
    pub(crate) fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Whether `url` is one of this Hub's.
    pub(crate) fn owns(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// Where the bytes of a file are.
    pub(crate) fn file_url(&self, repo: &str, revision: &str, path: &str) -> Url {
        self.join(repo.split('/').chain(["resolve", revision]).chain(path.split('/')))
    }

    fn join<'a>(&self, parts: impl Iterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(parts);
        }
        url
    }

    fn endpoint_text(&self) -> String {
        self.endpoint.as_str().trim_end_matches('/').to_owned()
    }

    /// The GGUF files of a repository.
    ///
    /// # Errors
    /// There is no such repository or revision, this user may not read it, or the Hub is out of reach.
    pub async fn repo(&self, http: &Http, wanted: &HubReference) -> Result<Repo, CatalogError> {
        let revision = wanted.revision.as_deref().unwrap_or("main");
        let start = ["api", "models"].into_iter().chain(wanted.repo.split('/'));
        let mut url = self.join(start.chain(["revision", revision]));
        url.set_query(Some("blobs=true"));
        let answer = http.read_attempt(&url, &self.auth, LISTING_BYTES_MAX).await;
        let bytes = answer.map_err(|failed| self.explain(failed, wanted, &url))?;
        let listing: Listing = serde_json::from_slice(&bytes).map_err(|error| {
            CatalogError::Protocol { url: url.to_string(), reason: format!("no listing: {error}") }
        })?;
        let mut files: Vec<_> = listing.siblings.into_iter().filter_map(repo_file).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let license = listing.card.and_then(|card| card.license);
        Ok(Repo {
            name: wanted.repo.clone(),
            commit: listing.sha.filter(|sha| is_path_safe(sha)).unwrap_or_else(|| revision.into()),
            files,
            license: license.and_then(|value| value.as_str().map(str::to_owned)),
        })
    }

    /// Says what a refusal of the Hub means.
    pub(crate) fn explain(
        &self,
        failed: Attempt,
        wanted: &HubReference,
        url: &Url,
    ) -> CatalogError {
        let Attempt::Refused { status, code, .. } = &failed else {
            return failed.into_error(url);
        };
        let (repo, endpoint) = (wanted.repo.clone(), self.endpoint_text());
        let has_token = self.auth.has_token();
        match (status.as_u16(), code.as_deref()) {
            (_, Some("GatedRepo")) | (403, None) => {
                CatalogError::Gated { repo, endpoint, has_token }
            }
            (404, Some("RevisionNotFound")) => CatalogError::NoRevision {
                repo,
                revision: wanted.revision.clone().unwrap_or_else(|| "main".into()),
            },
            // The Hub does not tell strangers whether a private repository exists.
            (401 | 404, Some("RepoNotFound") | None) => {
                CatalogError::NoRepo { repo, endpoint, has_token }
            }
            _ => failed.into_error(url),
        }
    }
}

fn repo_file(sibling: Sibling) -> Option<RepoFile> {
    let path = sibling.rfilename;
    if !path.to_ascii_lowercase().ends_with(".gguf") || !is_path_safe(&path) {
        return None;
    }
    let is_hash = |text: &String| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let (sha256, size) = match sibling.lfs {
        Some(lfs) => (lfs.sha256.or(lfs.oid), lfs.size),
        None => (None, None),
    };
    let sha256 = sha256.filter(is_hash).map(|text| text.to_ascii_lowercase());
    Some(RepoFile { path, size: size.or(sibling.size), sha256 })
}

impl Repo {
    /// The models in it, in the order of their files. Files that are no model of text (projectors,
    /// importance matrices) are left out.
    pub fn variants(&self) -> Vec<Variant> {
        let mut variants: Vec<(String, Variant)> = Vec::new();
        for file in self.files.iter().filter(|file| names::is_model(&file.path)) {
            let part = PartName::parse(&file.path);
            let stem = part.as_ref().map_or(file.path.as_str(), |part| part.stem);
            match variants.iter_mut().find(|(known, _)| known == stem && part.is_some()) {
                Some((_, variant)) => variant.files.push(file.clone()),
                None => {
                    let quant = names::quant(&file.path).unwrap_or_default();
                    variants.push((stem.to_owned(), Variant { quant, files: vec![file.clone()] }));
                }
            }
        }
        let is_whole = |variant: &Variant| match PartName::parse(&variant.files[0].path) {
            Some(part) => part.number == 1 && part.count as usize == variant.files.len(),
            None => true,
        };
        variants.into_iter().map(|(_, variant)| variant).filter(is_whole).collect()
    }

    /// The model that `wanted` means: the file it names, its quantisation, or else the one that most
    /// people want.
    ///
    /// # Errors
    /// There is none.
    pub fn choose(&self, wanted: &HubReference) -> Result<Variant, CatalogError> {
        let variants = self.variants();
        let found = match (&wanted.file, &wanted.quant) {
            (Some(file), _) => {
                variants.iter().find(|variant| variant.files.iter().any(|f| f.path == *file))
            }
            (None, Some(quant)) => variants.iter().find(|variant| variant.quant == *quant),
            (None, None) => variants.iter().min_by_key(|variant| names::preference(&variant.quant)),
        };
        found.cloned().ok_or_else(|| {
            let words = |variant: &Variant| match variant.size() {
                Some(size) => format!("{} ({})", variant.quant, zinc_backend::human_bytes(size)),
                None => variant.quant.clone(),
            };
            CatalogError::NoFile {
                repo: self.name.clone(),
                quant: wanted.quant.clone().or_else(|| wanted.file.clone()),
                known: variants.iter().map(words).collect(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo(paths: &[&str]) -> Repo {
        let file = |path: &&str| RepoFile { path: (*path).into(), size: Some(1), sha256: None };
        Repo {
            name: "o/r".into(),
            commit: "c".into(),
            files: paths.iter().map(file).collect(),
            license: None,
        }
    }

    fn wanted(text: &str) -> HubReference {
        match crate::Reference::parse(text) {
            Ok(crate::Reference::Hub(hub)) => hub,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn parts_belong_together() {
        let repo = repo(&[
            "Q8_0/m-Q8_0-00001-of-00002.gguf",
            "Q8_0/m-Q8_0-00002-of-00002.gguf",
            "m-Q4_K_M.gguf",
            "m-Q5_K_M-00002-of-00002.gguf",
            "mmproj-F16.gguf",
        ]);
        let quants: Vec<_> =
            repo.variants().into_iter().map(|v| (v.quant, v.files.len())).collect();
        assert_eq!(quants, [("Q8_0".to_owned(), 2), ("Q4_K_M".to_owned(), 1)]);
        assert_eq!(repo.choose(&wanted("hf:o/r")).unwrap().quant, "Q4_K_M");
        assert_eq!(repo.choose(&wanted("hf:o/r:q8_0")).unwrap().files.len(), 2);
        let part = wanted("hf:o/r/Q8_0/m-Q8_0-00002-of-00002.gguf");
        assert_eq!(repo.choose(&part).unwrap().files.len(), 2);
        let error = repo.choose(&wanted("hf:o/r:Q2_K")).unwrap_err().to_string();
        assert!(error.contains("no GGUF file in Q2_K"), "{error}");
        assert!(error.contains("Q4_K_M (1 B)"), "{error}");
    }
}
