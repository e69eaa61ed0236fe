//! Opening the model that the flags name: the only place that does.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use zinc_backend::Device;
use zinc_catalog::{Entry, Home, Reference, Sampling, Store};
use zinc_engine::{EngineError, EngineOptions, LoadedModel, MemoryNeed, Model};
use zinc_gguf::Gguf;
use zinc_models::PlanOptions;
use zinc_plan::CacheGroup;
use zinc_quant::GgmlType;
use zinc_token::Tokenizer;

use crate::args::ModelArgs;
use crate::library::Library;
use crate::output::human_bytes;
use crate::progress::{Progress, Unit};
use crate::{builtin, report};

/// The model that the flags mean.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// What messages call it.
    pub name: String,
    /// Its file; none for the built-in model.
    pub path: Option<PathBuf>,
    /// Its entry in the catalog, if it has one.
    pub entry: Option<Entry>,
}

impl Chosen {
    /// Sampling that its authors recommend, as far as the catalog knows.
    pub fn sampling(&self) -> Sampling {
        self.entry.as_ref().map(|entry| entry.sampling.clone()).unwrap_or_default()
    }

    fn builtin() -> Chosen {
        Chosen { name: builtin::NAME.into(), path: None, entry: None }
    }
}

impl ModelArgs {
    /// The model called `name`, or in the file of that name.
    pub fn named(name: Option<String>) -> ModelArgs {
        ModelArgs { model: name, ..ModelArgs::default() }
    }

    /// The model in that file, or the built-in one.
    pub fn of_file(path: Option<PathBuf>) -> ModelArgs {
        let args = ModelArgs::default();
        let name = path.as_ref().map_or_else(|| builtin::NAME.into(), |p| p.display().to_string());
        let _ = args.found.set(Chosen { name, path, entry: None });
        args
    }

    /// The model that the flags mean. The first call looks it up, and pulls it if it is not here.
    ///
    /// # Errors
    /// There is no such model, or it cannot be pulled.
    pub fn choose(&self) -> anyhow::Result<&Chosen> {
        if self.found.get().is_none() {
            let chosen = self.look_up()?;
            return Ok(self.found.get_or_init(|| chosen));
        }
        self.found.get().context("the model was looked up")
    }

    fn look_up(&self) -> anyhow::Result<Chosen> {
        match &self.model {
            // A file needs no library, so that it works without a home directory.
            Some(text) if matches!(Reference::parse(text), Ok(Reference::File(_))) => {
                Ok(Chosen { name: text.clone(), path: Some(text.into()), entry: None })
            }
            Some(text) if is_builtin(text) => Ok(Chosen::builtin()),
            Some(text) => {
                let library = Library::open()?;
                let path = library.locate(text, self.yes)?;
                Ok(Chosen { name: text.clone(), path: Some(path), entry: entry_of(&library, text) })
            }
            None => active(),
        }
    }

    /// What messages call the model.
    pub fn name(&self) -> String {
        match (self.found.get(), &self.model) {
            (Some(chosen), _) => chosen.name.clone(),
            (None, Some(text)) => text.clone(),
            (None, None) => builtin::NAME.into(),
        }
    }

    /// Its file; none for the built-in model.
    ///
    /// # Errors
    /// As [`ModelArgs::choose`].
    pub fn path(&self) -> anyhow::Result<Option<&PathBuf>> {
        Ok(self.choose()?.path.as_ref())
    }

    /// Opens the file without asking whether zinc can run it.
    ///
    /// # Errors
    /// The file cannot be read or is no GGUF file; no file is named and none is built in.
    pub fn open_gguf(&self) -> anyhow::Result<Gguf> {
        match self.path()? {
            Some(path) => Gguf::open(path).map_err(|error| explain(error, path)),
            None => Gguf::from_bytes(builtin_file()?).context(builtin::NAME),
        }
    }

    /// The file's tokenizer.
    ///
    /// # Errors
    /// The file names a tokenizer that zinc does not have, or describes none.
    pub fn tokenizer(&self, gguf: &Gguf) -> anyhow::Result<Tokenizer> {
        Tokenizer::from_gguf(gguf.metadata()).with_context(|| self.name())
    }

    /// Opens the model and understands it, without loading its weights.
    ///
    /// # Errors
    /// The file cannot be read, or zinc cannot run it.
    pub fn open(&self) -> anyhow::Result<Arc<Model>> {
        let model = match self.path()? {
            Some(path) => Model::open(path).map_err(|error| match error {
                EngineError::Open { source, .. } => explain(source, path),
                other => anyhow::Error::new(other).context(self.name()),
            })?,
            None => Model::from_bytes(builtin_file()?)?,
        };
        Ok(Arc::new(model))
    }
}

/// Whether `text` names the built-in model, and no other is called so.
pub fn is_builtin(text: &str) -> bool {
    text == builtin::ID && !Library::open().is_ok_and(|library| library.installed(text).is_ok())
}

/// The model of `zinc model use`, else the built-in one.
fn active() -> anyhow::Result<Chosen> {
    // Without a home directory there is no active model.
    let Ok(home) = Home::from_env() else {
        return Ok(Chosen::builtin());
    };
    let Some(name) = Store::new(home).active()? else {
        return Ok(Chosen::builtin());
    };
    let library = Library::open()?;
    let path = library.locate(&name, false).context(
        "the active model cannot be used; hint: zinc model use NAME takes another, zinc model use \
         --builtin the built-in one",
    )?;
    let entry = entry_of(&library, &name);
    Ok(Chosen { name, path: Some(path), entry })
}

/// The catalog's entry of the model that `text` names.
fn entry_of(library: &Library, text: &str) -> Option<Entry> {
    let id = match library.installed(text) {
        Ok(record) => record.catalog?,
        Err(_) => match Reference::parse(text) {
            Ok(Reference::Name { id, .. }) => id,
            _ => return None,
        },
    };
    library.catalog().find(&id).cloned()
}

/// Gives the weights that `options` need to the device, after checking that everything fits; also tells
/// what it takes.
///
/// # Errors
/// There is not enough memory, or the device failed.
pub fn load(
    model: Arc<Model>,
    device: Arc<dyn Device>,
    options: &EngineOptions,
) -> anyhow::Result<(Arc<LoadedModel>, MemoryNeed)> {
    let need = memory_need(&model, device.as_ref(), options)?;
    check_memory(&need, &model, device.as_ref(), options)?;
    let mut progress = Progress::new("loading", Unit::Bytes);
    let mut tell = |done, total| progress.update(done, total);
    let loaded = LoadedModel::load_for(model, device, options, &mut tell)?;
    Ok((Arc::new(loaded), need))
}

/// What `model` takes on `device`.
///
/// # Errors
/// A cache type that does not suit the model or the device, an option outside its range, or an
/// operation the device lacks.
pub fn memory_need(
    model: &Model,
    device: &dyn Device,
    options: &EngineOptions,
) -> anyhow::Result<MemoryNeed> {
    check_cache_type(model, device, options.kv_type)?;
    Ok(options.memory_need(model, device)?)
}

/// Rows of the cache must fill whole blocks of its type, and the device must have it.
fn check_cache_type(model: &Model, device: &dyn Device, ty: GgmlType) -> anyhow::Result<()> {
    let name = ty.name();
    let known = &device.caps().kv_types;
    if !known.contains(&ty) {
        let known: Vec<_> = known.iter().map(|ty| ty.name()).collect();
        let what = format!("--kv {name}: {} has no cache of that type", device.info().name);
        return Err(report::with_hint(what, format!("it has {}", known.join(", "))));
    }
    let plan = model.graph().plan(&PlanOptions::ONE_TOKEN)?;
    let caches = plan.tensors.iter().filter(|tensor| CacheGroup::of(tensor.shape.rows).is_some());
    let n_block = ty.block_len() as u32;
    let mut widths = caches.map(|cache| cache.shape.cols);
    let Some(width) = widths.find(|width| !width.is_multiple_of(n_block)) else {
        return Ok(());
    };
    let what = format!(
        "--kv {name} stores blocks of {n_block} values; the cache of this model has rows of {width}"
    );
    Err(report::with_hint(what, "use --kv f16"))
}

/// Refuses more tokens than the model was trained for; `what` names the flags that ask for them.
///
/// # Errors
/// `n_tokens` is larger than the model's context length.
pub fn check_context(model: &Model, n_tokens: u64, what: &str, hint: &str) -> anyhow::Result<()> {
    let n_ctx_train = model.config().n_ctx_train;
    if n_tokens <= n_ctx_train.into() {
        return Ok(());
    }
    let what = format!(
        "{what} take a context of {n_tokens} tokens; the model was trained for {n_ctx_train}"
    );
    Err(report::with_hint(what, hint))
}

/// Refuses what cannot fit, and says so where weights in the mapped file will not stay in memory.
fn check_memory(
    need: &MemoryNeed,
    model: &Model,
    device: &dyn Device,
    options: &EngineOptions,
) -> anyhow::Result<()> {
    let (total, free) = (device.info().memory_total, device.info().memory_free);
    if total == 0 {
        return Ok(());
    }
    let fits = |need: &MemoryNeed| need.fits(total, free);
    if fits(need) {
        if need.total() > free {
            report::note(format!(
                "warning: {} needs {}, {} are free: weights may be read from the disk again and again",
                device.info().name,
                human_bytes(need.total()),
                human_bytes(free),
            ));
        }
        return Ok(());
    }
    let loading = match need.only_loading() {
        0 => String::new(),
        n_bytes => format!(", loading {}", human_bytes(n_bytes)),
    };
    let what = format!(
        "{} has {} of memory, {} free; a context of {} tokens needs {}: weights {}, cache {}, \
         scratch {}{loading}",
        device.info().name,
        human_bytes(total),
        human_bytes(free),
        options.n_ctx(model)?,
        human_bytes(need.total()),
        human_bytes(need.weights.total()),
        human_bytes(need.cache.total()),
        human_bytes(need.scratch),
    );
    Err(match options.longest_context(model, device, fits)? {
        Some(n_ctx) => report::with_hint(
            what,
            format!(
                "a context of {n_ctx} tokens fits; --kv q8_0 or a smaller --chunk takes less as well"
            ),
        ),
        None => {
            let least = EngineOptions { n_ctx: Some(1), ..*options }.memory_need(model, device)?;
            let least = human_bytes(least.total());
            let what = format!("{what}; it does not fit at any context: one token needs {least}");
            report::with_hint(what, "free memory, or use a smaller model or quantisation")
        }
    })
}

/// The built-in model's file.
///
/// # Errors
/// The program was built without it.
pub fn builtin_file() -> anyhow::Result<bytes::Bytes> {
    builtin::file().ok_or_else(|| {
        let what = "no model is named, and this program was built without its built-in model";
        report::with_hint(what, "name a model file with -m FILE.gguf")
    })
}

/// Adds the next step to errors of the file system.
fn explain(error: zinc_gguf::GgufError, path: &std::path::Path) -> anyhow::Error {
    use std::io::ErrorKind;
    let zinc_gguf::GgufError::InFile { source, .. } = &error else {
        return error.into();
    };
    let zinc_gguf::GgufError::Io(cause) = source.as_ref() else {
        return error.into();
    };
    let (what, hint) = match cause.kind() {
        ErrorKind::NotFound => ("no such file", "check the path after -m"),
        ErrorKind::PermissionDenied => {
            ("permission denied", "make the file readable for this user")
        }
        _ => return error.into(),
    };
    report::with_hint(format!("{}: {what}", path.display()), hint)
}
