//! The catalog and the models of this machine, as the server sees them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use zinc_catalog::{
    CatalogError, Entry, Event, Listener, Plan, Puller, Quant, Record, Reference, Sampling, Step,
    Thinking,
};
use zinc_engine::Model;
use zinc_server::{
    FitNote, KnownModel, ModelDefaults, ModelSource, Offer, Progress, Pulling, Tell,
};

use crate::commands::models::find::{self, Devices};
use crate::commands::models::params;
use crate::library::Library;
use crate::report;

/// Offers what the catalog has, and pulls it.
pub struct CatalogSource {
    puller: Puller,
    /// Context that fit is computed for.
    n_ctx: u32,
    /// Device that it is computed for; all of them if none is named.
    device: Option<String>,
    /// Opened when somebody asks what fits; `None` if there is no such device.
    devices: OnceLock<Option<Devices>>,
    /// What was found out about the files of models.
    fits: Mutex<HashMap<PathBuf, Option<FitNote>>>,
}

/// Contexts that fit is computed for where the flags name none.
const N_CTX: u32 = 8192;

/// This user's catalog, for a server with so much context on that device; `None` with a warning where
/// it cannot be used, because a server needs none.
pub fn open(n_ctx: Option<u32>, device: Option<&str>) -> Option<Arc<CatalogSource>> {
    match Library::open() {
        Ok(library) => Some(Arc::new(CatalogSource {
            puller: library.puller.clone(),
            n_ctx: n_ctx.unwrap_or(N_CTX),
            device: device.map(str::to_owned),
            devices: OnceLock::new(),
            fits: Mutex::default(),
        })),
        Err(error) => {
            report::note(report::render(&error).replacen("error:", "warning: no catalog:", 1));
            None
        }
    }
}

impl std::fmt::Debug for CatalogSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CatalogSource").field("puller", &self.puller).finish_non_exhaustive()
    }
}

impl CatalogSource {
    fn offer(&self, entry: &Entry, records: &[Record]) -> Option<Offer> {
        let quant = entry.quants.first()?;
        Some(Offer {
            id: entry.id.clone(),
            name: entry.id.clone(),
            family: entry.family.clone(),
            parameters: params(entry),
            quant: quant.name.clone(),
            bytes: entry.about_bytes(quant),
            license: entry.license.clone(),
            n_ctx: entry.context,
            thinking: entry.thinking != Thinking::No,
            tools: entry.tools,
            installed: records.iter().any(|record| record.catalog.as_ref() == Some(&entry.id)),
            fit: self.fit_about(entry, quant),
        })
    }

    fn devices(&self) -> Option<&Devices> {
        let open = || Devices::with(self.device.as_deref(), self.n_ctx).ok();
        self.devices.get_or_init(open).as_ref()
    }

    fn fit_about(&self, entry: &Entry, quant: &Quant) -> Option<FitNote> {
        let devices = self.devices()?;
        let fit = devices.fit_about(entry, quant)?;
        let mut text = find::sentence(&fit);
        let fits = fit.longest_ctx.is_some();
        if !fits && let Some(nearest) = devices.nearest(&self.puller.catalog, entry, quant) {
            text = format!("{text}; {nearest} fits");
        }
        Some(FitNote { fits, text })
    }

    /// A model of this machine as the server knows it, with the sampling that its authors recommend.
    ///
    /// # Errors
    /// A file of it is gone.
    pub fn known(&self, record: &Record) -> Result<KnownModel, CatalogError> {
        let path = self.puller.store.paths(record)?.into_iter().next();
        let entry = record.catalog.as_ref().and_then(|id| self.puller.catalog.find(id));
        let defaults = entry.map(|entry| defaults(&entry.sampling)).unwrap_or_default();
        Ok(KnownModel { id: record.name.clone(), aliases: Vec::new(), path, defaults })
    }

    /// All models of this machine; those whose files are gone are left out.
    pub fn installed(&self) -> Vec<KnownModel> {
        let records = self.puller.store.records(&mut |_| {}).unwrap_or_default();
        records.iter().filter_map(|record| self.known(record).ok()).collect()
    }
}

/// The sampling that a model's authors recommend, as a server's defaults.
pub fn defaults(sampling: &Sampling) -> ModelDefaults {
    ModelDefaults {
        temperature: sampling.temp,
        top_k: sampling.top_k,
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        presence_penalty: sampling.presence_penalty,
        ..ModelDefaults::default()
    }
}

impl ModelSource for CatalogSource {
    fn offers(&self) -> Result<Vec<Offer>, String> {
        let records = self.puller.store.records(&mut |_| {}).map_err(said)?;
        let entries = self.puller.catalog.models.iter();
        Ok(entries.filter_map(|entry| self.offer(entry, &records)).collect())
    }

    fn fit(&self, known: &KnownModel) -> Option<FitNote> {
        let path = known.path.as_ref()?;
        let mut fits = self.fits.lock().unwrap_or_else(PoisonError::into_inner);
        let look = || {
            let fit = self.devices()?.fit_of(&Model::open(path).ok()?)?;
            Some(FitNote { fits: fit.longest_ctx.is_some(), text: find::sentence(&fit) })
        };
        fits.entry(path.clone()).or_insert_with(look).clone()
    }

    fn pull(self: Arc<Self>, model: String, tell: Tell) -> Pulling {
        Box::pin(async move {
            let reference = Reference::parse(&model).map_err(said)?;
            let plan = self.puller.plan(&reference).await.map_err(said)?;
            let record = self.puller.pull(&plan, listener(&plan, tell)).await.map_err(said)?;
            self.known(&record).map_err(said)
        })
    }

    fn remove(&self, known: &KnownModel) -> Result<Option<u64>, String> {
        let Some(path) = &known.path else { return Ok(None) };
        let store = &self.puller.store;
        let is_it = |record: &&Record| {
            let paths = store.paths(record).unwrap_or_default();
            record.name == known.id && paths.first() == Some(path)
        };
        let records = store.records(&mut |_| {}).map_err(said)?;
        let Some(record) = records.iter().find(is_it) else { return Ok(None) };
        let n_bytes = store.remove(record).map_err(said)?;
        self.fits.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
        Ok(Some(n_bytes))
    }
}

/// An error in one line.
fn said(error: CatalogError) -> String {
    super::one_line(&error.into())
}

/// Tells the progress of all files of a plan together.
fn listener(plan: &Plan, tell: Tell) -> Listener {
    let total = plan.size();
    let there: Mutex<Vec<u64>> = Mutex::new(plan.files.iter().map(|file| file.n_done).collect());
    Arc::new(move |event| {
        let (index, step) = match event {
            Event::Checking { done, total, .. } => {
                return tell(Progress { phase: "verify", done, total: Some(total) });
            }
            Event::File { index, step } => (index, step),
        };
        let (phase, n_bytes) = match step {
            Step::Waiting => ("wait", None),
            Step::Retry { .. } => ("retry", None),
            Step::Begin { done, .. } | Step::Bytes { done } => ("download", Some(done)),
            Step::Changed | Step::NoRanges => ("download", Some(0)),
        };
        let mut there = there.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(file), Some(n_bytes)) = (there.get_mut(index), n_bytes) {
            *file = n_bytes;
        }
        tell(Progress { phase, done: there.iter().sum(), total });
    })
}
