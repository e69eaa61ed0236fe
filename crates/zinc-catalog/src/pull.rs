//! From a name to a model on this machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use reqwest::Url;
use zinc_gguf::{Gguf, GgufError};

use crate::catalog::{Catalog, Entry};
use crate::download::{self, Remote, Step};
use crate::http::Http;
use crate::hub::{Hub, Repo, RepoFile, Variant};
use crate::names::PartName;
use crate::reference::HubReference;
use crate::store::{self, Pin, Record, RecordedFile, Source, Store};
use crate::{CatalogError, Reference, part};

/// Connections per file.
const N_CONNECTIONS: usize = 4;

/// Everything a pull needs.
#[derive(Clone, Debug)]
pub struct Puller {
    /// The models of this machine.
    pub store: Store,
    /// The models known by name.
    pub catalog: Arc<Catalog>,
    /// Where repositories are.
    pub hub: Hub,
    /// How they are asked.
    pub http: Http,
    /// Take files whose hash is not the pinned one, and pin them anew.
    pub repin: bool,
}

/// What a pull will do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name that the model will have.
    pub name: String,
    /// Id in the catalog, if it is from there.
    pub catalog: Option<String>,
    /// Quantisation.
    pub quant: Option<String>,
    /// Licence, if it is known.
    pub license: Option<String>,
    /// The files.
    pub files: Vec<PlannedFile>,
    source: Source,
}

/// A file of a [`Plan`].
#[derive(Clone, Debug)]
pub struct PlannedFile {
    /// Its name.
    pub name: String,
    /// Bytes, if known.
    pub size: Option<u64>,
    /// Bytes that an earlier pull left.
    pub n_done: u64,
    /// Another program that has it, and where; it is used there.
    pub elsewhere: Option<(&'static str, PathBuf)>,
    sha256: Option<(String, &'static str)>,
    url: Url,
    target: PathBuf,
    pin: Option<String>,
}

impl PlannedFile {
    /// Where its bytes are.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }
}

impl Plan {
    /// Bytes of all files, if known.
    pub fn size(&self) -> Option<u64> {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Bytes to download, if known.
    pub fn to_download(&self) -> Option<u64> {
        let needed = self.files.iter().filter(|file| file.elsewhere.is_none());
        needed.map(|file| file.size.map(|size| size.saturating_sub(file.n_done))).sum()
    }
}

/// What a pull tells while it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something about the download of file `index`.
    File {
        /// Position in [`Plan::files`].
        index: usize,
        /// What happened.
        step: Step,
    },
    /// A file is read and hashed: `done` of `total` bytes.
    Checking {
        /// Position in [`Plan::files`].
        index: usize,
        /// Bytes read.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
}

/// Who is told.
pub type Listener = Arc<dyn Fn(Event) + Send + Sync>;

impl Puller {
    /// Finds out what `reference` is and what pulling it takes. Asks the Hub where it must.
    ///
    /// # Errors
    /// There is no such model, it may not be read, or the Hub is out of reach.
    pub async fn plan(&self, reference: &Reference) -> Result<Plan, CatalogError> {
        match reference {
            Reference::Hub(wanted) => self.plan_hub(wanted).await,
            Reference::Url(url) => self.plan_url(url).await,
            Reference::Name { id, quant } => {
                let Some(entry) = self.catalog.find(id) else {
                    return Err(self.unknown(id));
                };
                self.plan_entry(entry, quant.as_deref()).await
            }
            Reference::File(path) => Err(CatalogError::Reference {
                text: path.display().to_string(),
                reason: "it is a file; hint: -m uses it where it is, zinc model import adds it"
                    .into(),
            }),
            Reference::Ollama(name) => Err(CatalogError::Reference {
                text: format!("ollama:{name}"),
                reason: "zinc uses what Ollama has; hint: -m ollama:NAME, or zinc model import"
                    .into(),
            }),
        }
    }

    /// The error for a name that nothing has.
    pub fn unknown(&self, id: &str) -> CatalogError {
        CatalogError::Unknown { name: id.to_owned(), near: self.catalog.near(id) }
    }

    async fn plan_entry(&self, entry: &Entry, quant: Option<&str>) -> Result<Plan, CatalogError> {
        let quant = entry.quant(quant)?;
        let wanted = wanted_of(entry, &quant.name);
        let (repo, variant) = match quant.files.is_empty() {
            true => self.resolve(&wanted).await?,
            false => pinned_by_catalog(entry, quant),
        };
        self.plan_pinned(entry, quant, &repo, variant)
    }

    /// The repository and what is wanted of it; where the Hub is out of reach, from other programs'
    /// caches.
    async fn resolve(&self, wanted: &HubReference) -> Result<(Repo, Variant), CatalogError> {
        match self.hub.repo(&self.http.hasty(), wanted).await {
            Ok(repo) => repo.choose(wanted).map(|variant| (repo, variant)),
            Err(error @ (CatalogError::Network { .. } | CatalogError::RateLimited { .. })) => {
                let cached = self.store.home().cached_repo(wanted);
                cached.choose(wanted).map(|variant| (cached, variant)).map_err(|_| error)
            }
            Err(error) => Err(error),
        }
    }

    /// What other programs have of `reference`, without asking anybody.
    ///
    /// # Errors
    /// The pins cannot be read.
    pub fn local(&self, reference: &Reference) -> Result<Option<Plan>, CatalogError> {
        let plan = match reference {
            Reference::Hub(wanted) => {
                let cached = self.store.home().cached_repo(wanted);
                let Ok(variant) = cached.choose(wanted) else { return Ok(None) };
                self.plan_chosen(wanted, &cached, variant)?
            }
            Reference::Name { id, quant } => {
                let Some(entry) = self.catalog.find(id) else { return Ok(None) };
                let quant = entry.quant(quant.as_deref())?;
                let wanted = wanted_of(entry, &quant.name);
                let cached = self.store.home().cached_repo(&wanted);
                let Ok(variant) = cached.choose(&wanted) else { return Ok(None) };
                self.plan_pinned(entry, quant, &cached, variant)?
            }
            _ => return Ok(None),
        };
        Ok(Some(plan).filter(|plan| plan.files.iter().all(|file| file.elsewhere.is_some())))
    }

    fn plan_pinned(
        &self,
        entry: &Entry,
        quant: &crate::catalog::Quant,
        repo: &Repo,
        variant: Variant,
    ) -> Result<Plan, CatalogError> {
        let mut plan = self.plan_variant(repo, variant)?;
        for (file, pinned) in plan.files.iter_mut().zip(&quant.files) {
            file.sha256 = Some((pinned.sha256.clone(), "the catalog says"));
        }
        plan.name = format!("{}:{}", entry.id, quant.name);
        plan.catalog = Some(entry.id.clone());
        plan.license = Some(entry.license.clone());
        Ok(plan)
    }

    async fn plan_hub(&self, wanted: &HubReference) -> Result<Plan, CatalogError> {
        let (repo, variant) = self.resolve(wanted).await?;
        self.plan_chosen(wanted, &repo, variant)
    }

    fn plan_chosen(
        &self,
        wanted: &HubReference,
        repo: &Repo,
        variant: Variant,
    ) -> Result<Plan, CatalogError> {
        let quant = variant.quant.clone();
        let mut plan = self.plan_variant(repo, variant)?;
        plan.name = match &wanted.file {
            Some(file) => format!("hf:{}/{file}", repo.name),
            None => format!("hf:{}:{quant}", repo.name),
        };
        plan.license = repo.license.clone();
        Ok(plan)
    }

    /// The files of a variant with their places; the name is still to be given.
    fn plan_variant(&self, repo: &Repo, variant: Variant) -> Result<Plan, CatalogError> {
        let pins = self.store.pins()?;
        let plan_file = |file: &RepoFile| self.plan_file(repo, file, &pins);
        let files = variant.files.iter().map(plan_file).collect::<Result<_, _>>()?;
        let source = Source::Hub { repo: repo.name.clone(), revision: repo.commit.clone() };
        let quant = Some(variant.quant).filter(|quant| !quant.is_empty());
        Ok(Plan { name: String::new(), catalog: None, quant, license: None, files, source })
    }

    fn plan_file(
        &self,
        repo: &Repo,
        file: &RepoFile,
        pins: &BTreeMap<String, Pin>,
    ) -> Result<PlannedFile, CatalogError> {
        let key = format!("{}/{}", repo.name, file.path);
        let offered = file.sha256.clone();
        let pinned = pins.get(&key).filter(|_| !self.repin).map(|pin| pin.sha256.clone());
        if let (Some(pinned), Some(offered)) = (&pinned, &offered)
            && pinned != offered
        {
            let (pinned, offered) = (pinned.clone(), offered.clone());
            return Err(CatalogError::Pinned { file: key, pinned, offered });
        }
        let sha256 = pinned
            .map(|hash| (hash, "when it was first pulled"))
            .or(offered.map(|hash| (hash, "the Hub says")));
        let target = self.store.home().models().join("hf").join(&repo.name).join(&file.path);
        let hash = sha256.as_ref().map(|(hash, _)| hash.as_str());
        // A copy of one's own comes first; it may be complete or begun.
        let has_own = target.exists() || part::part_path(&target).exists();
        let elsewhere = match has_own {
            true => None,
            false => self.store.home().elsewhere(&repo.name, &file.path, file.size, hash),
        };
        Ok(PlannedFile {
            name: file.path.clone(),
            size: file.size,
            n_done: n_done(&target, file.size),
            elsewhere,
            sha256,
            url: self.hub.file_url(&repo.name, &repo.commit, &file.path),
            target,
            pin: Some(key),
        })
    }

    async fn plan_url(&self, text: &str) -> Result<Plan, CatalogError> {
        let refuse = |reason: &str| CatalogError::Reference {
            text: text.to_owned(),
            reason: reason.to_owned(),
        };
        let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
        let name = url.path_segments().and_then(|mut parts| parts.next_back());
        let name = name.unwrap_or_default().to_owned();
        let is_name =
            crate::reference::is_path_safe(&name) && name.to_lowercase().ends_with(".gguf");
        if !is_name {
            return Err(refuse(
                "its path does not end in .gguf; hint: give the address of the file",
            ));
        }
        if PartName::parse(&name).is_some_and(|part| part.count > 1) {
            return Err(refuse(
                "it is one part of a split model; hint: hf:OWNER/REPO:QUANT pulls all parts",
            ));
        }
        let dir =
            store::file_name(&format!("{}{}", url.host_str().unwrap_or_default(), url.path()));
        let target = self.store.home().models().join("url").join(dir).join(&name);
        let auth = crate::http::Auth::default();
        let remote = Remote { url: url.clone(), auth, sha256: None };
        let probe = download::probe(&self.http, &remote).await.map_err(|f| f.into_error(&url))?;
        let stem = name[..name.len() - 5].to_ascii_lowercase();
        if stem == crate::names::BUILTIN_NAME {
            let hint = "download it, and zinc model import FILE --name NAME gives it another";
            return Err(CatalogError::NameReserved { name: stem, hint });
        }
        let key = plain_url(&url);
        let pins = self.store.pins()?;
        let pinned = pins.get(&key).filter(|_| !self.repin).map(|pin| pin.sha256.clone());
        let file = PlannedFile {
            name: name.clone(),
            size: probe.size,
            n_done: n_done(&target, probe.size),
            elsewhere: None,
            sha256: pinned.map(|hash| (hash, "when it was first pulled")),
            url,
            target,
            pin: Some(key.clone()),
        };
        Ok(Plan {
            name: stem,
            catalog: None,
            quant: crate::names::quant(&name),
            license: None,
            files: vec![file],
            source: Source::Url { url: key },
        })
    }

    /// Does what the plan says. When this returns, all files are there, have the hashes they must have
    /// and are GGUF files, and the model has a record; or what came is kept for the next time.
    /// Giving up the future is allowed at any moment.
    ///
    /// # Errors
    /// As the crate's documentation says.
    pub async fn pull(&self, plan: &Plan, listener: Listener) -> Result<Record, CatalogError> {
        let needed = plan.to_download().unwrap_or(0);
        if let Some(first) = plan.files.iter().find(|file| file.elsewhere.is_none()) {
            download::check_space(&first.target, needed)?;
        }
        let models = self.store.home().models();
        let (mut files, mut pins) = (Vec::new(), Vec::new());
        for (index, file) in plan.files.iter().enumerate() {
            let recorded = match &file.elsewhere {
                Some((program, path)) => {
                    let found = check_elsewhere(file, index, path, &listener).await?;
                    let size = fs::metadata(path).map_err(|e| CatalogError::io(path, e))?.len();
                    RecordedFile::new(&models, path, size, found, Some((*program).to_owned()))
                }
                None => {
                    let got = self.fetch(file, index, &listener).await?;
                    check_gguf(&file.target)?;
                    RecordedFile::new(&models, &file.target, got.size, got.sha256, None)
                }
            };
            if let Some(key) = &file.pin {
                let revision = match &plan.source {
                    Source::Hub { revision, .. } => revision.clone(),
                    _ => String::new(),
                };
                let (sha256, size) = (recorded.sha256.clone(), recorded.size);
                pins.push((key.clone(), Pin { sha256, size, revision }));
            }
            files.push(recorded);
        }
        let record = Record {
            name: plan.name.clone(),
            catalog: plan.catalog.clone(),
            quant: plan.quant.clone(),
            source: plan.source.clone(),
            files,
            added: store::now(),
        };
        self.store.pin(&pins)?;
        self.store.keep(&record)?;
        Ok(record)
    }

    async fn fetch(
        &self,
        file: &PlannedFile,
        index: usize,
        listener: &Listener,
    ) -> Result<download::Downloaded, CatalogError> {
        let auth = match &file.url {
            url if self.hub.owns(url) => self.hub.auth().clone(),
            _ => crate::http::Auth::default(),
        };
        let remote = Remote { url: file.url.clone(), auth, sha256: file.sha256.clone() };
        let lock = self.store.lock_path(&file.target);
        let told = Arc::clone(listener);
        let tell = Arc::new(move |step: Step| told(Event::File { index, step }));
        let result =
            download::download(&self.http, &remote, &file.target, &lock, N_CONNECTIONS, tell).await;
        result.map_err(|failed| match file.pin.as_deref().and_then(repo_of) {
            Some(wanted) => self.hub.explain(failed, &wanted, &file.url),
            None => failed.into_error(&file.url),
        })
    }
}

fn wanted_of(entry: &Entry, quant: &str) -> HubReference {
    HubReference {
        repo: entry.repo.clone(),
        revision: entry.revision.clone(),
        quant: Some(quant.to_owned()),
        file: None,
    }
}

/// The repository in the key of a pin.
fn repo_of(key: &str) -> Option<HubReference> {
    match Reference::parse(&format!("hf:{key}")) {
        Ok(Reference::Hub(hub)) => Some(hub),
        _ => None,
    }
}

fn plain_url(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.to_string()
}

fn pinned_by_catalog(entry: &Entry, quant: &crate::catalog::Quant) -> (Repo, Variant) {
    let file = |file: &crate::catalog::PinnedFile| RepoFile {
        path: file.path.clone(),
        size: Some(file.size),
        sha256: Some(file.sha256.clone()),
    };
    let files: Vec<_> = quant.files.iter().map(file).collect();
    let repo = Repo {
        name: entry.repo.clone(),
        commit: entry.revision.clone().unwrap_or_else(|| "main".into()),
        files: files.clone(),
        license: Some(entry.license.clone()),
    };
    (repo, Variant { quant: quant.name.clone(), files })
}

/// Bytes of `target` that are there from earlier.
fn n_done(target: &Path, size: Option<u64>) -> u64 {
    match fs::metadata(target) {
        Ok(there) if size.is_none_or(|size| size == there.len()) => there.len(),
        _ => part::left_over(target).map_or(0, |(_, n)| n),
    }
}

/// Reads a file of another program and checks that it is what is wanted.
async fn check_elsewhere(
    file: &PlannedFile,
    index: usize,
    path: &Path,
    listener: &Listener,
) -> Result<String, CatalogError> {
    check_gguf(path)?;
    let total = fs::metadata(path).map_err(|error| CatalogError::io(path, error))?.len();
    let (told, at) = (Arc::clone(listener), path.to_owned());
    let hashing = tokio::task::spawn_blocking(move || {
        part::hash_file(&at, &mut |done| told(Event::Checking { index, done, total }))
    });
    let found = hashing.await.unwrap_or_else(|e| Err(CatalogError::Worker(e.to_string())))?;
    match &file.sha256 {
        Some((expected, said_by)) if *expected != found => Err(CatalogError::Hash {
            file: path.display().to_string(),
            expected: expected.clone(),
            found,
            said_by,
        }),
        _ => Ok(found),
    }
}

/// Refuses what is no GGUF file, such as the page of a portal that wants a login.
fn check_gguf(path: &Path) -> Result<(), CatalogError> {
    use std::io::Read;
    let file = fs::File::open(path).map_err(|error| CatalogError::io(path, error))?;
    let mut head = Vec::new();
    let read = file.take(8).read_to_end(&mut head);
    read.map_err(|error| CatalogError::io(path, error))?;
    match Gguf::from_bytes(Bytes::from(head)) {
        Err(error @ (GgufError::BadMagic { .. } | GgufError::Empty)) => {
            Err(CatalogError::NotGguf {
                path: path.to_owned(),
                reason: error.to_string(),
                hint: "check the address or the file",
            })
        }
        _ => Ok(()),
    }
}
