//! Opening the model that the flags name: the only place that does.

use std::sync::Arc;

use anyhow::Context;
use zinc_backend::Device;
use zinc_engine::{EngineError, EngineOptions, LoadedModel, MemoryNeed, Model};
use zinc_gguf::Gguf;
use zinc_quant::GgmlType;
use zinc_token::Tokenizer;

use crate::args::ModelArgs;
use crate::output::human_bytes;
use crate::progress::{Progress, Unit};
use crate::{builtin, need, report};

impl ModelArgs {
    /// What messages call the model.
    pub fn name(&self) -> String {
        match &self.model {
            Some(path) => path.display().to_string(),
            None => builtin::NAME.into(),
        }
    }

    /// Opens the file without asking whether zinc can run it.
    ///
    /// # Errors
    /// The file cannot be read or is no GGUF file; no file is named and none is built in.
    pub fn open_gguf(&self) -> anyhow::Result<Gguf> {
        match &self.model {
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
        let model = match &self.model {
            Some(path) => Model::open(path).map_err(|error| match error {
                EngineError::Open { source, .. } => explain(source, path),
                other => anyhow::Error::new(other).context(self.name()),
            })?,
            None => Model::from_bytes(builtin_file()?)?,
        };
        Ok(Arc::new(model))
    }
}

/// What of a model is loaded.
#[derive(Clone, Copy, Debug)]
pub enum Parts {
    /// What gives the next token.
    Trunk,
    /// The head of multi-token prediction as well.
    WithMtp,
}

/// Gives the weights to the device, after checking that everything fits; also tells what it takes.
///
/// # Errors
/// There is not enough memory, or the device failed.
pub fn load(
    model: Arc<Model>,
    device: Arc<dyn Device>,
    options: &EngineOptions,
) -> anyhow::Result<(Arc<LoadedModel>, MemoryNeed)> {
    load_parts(model, device, options, Parts::Trunk)
}

/// As [`load`], for some `parts` of the model.
///
/// # Errors
/// As there; and a part that the model does not have.
pub fn load_parts(
    model: Arc<Model>,
    device: Arc<dyn Device>,
    options: &EngineOptions,
    parts: Parts,
) -> anyhow::Result<(Arc<LoadedModel>, MemoryNeed)> {
    let need = memory_need(&model, device.as_ref(), options)?;
    check_memory(&need, &model, device.as_ref(), options)?;
    let mut progress = Progress::new("loading", Unit::Bytes);
    let mut tell = |done, total| progress.update(done, total);
    let loaded = match parts {
        Parts::Trunk => LoadedModel::load(model, device, &mut tell)?,
        Parts::WithMtp => LoadedModel::load_with_mtp(model, device, &mut tell)?,
    };
    Ok((Arc::new(loaded), need))
}

/// What `model` takes on `device`.
///
/// # Errors
/// A cache type that does not suit the model, an option outside its range, or an operation the
/// device lacks.
pub fn memory_need(
    model: &Model,
    device: &dyn Device,
    options: &EngineOptions,
) -> anyhow::Result<MemoryNeed> {
    check_cache_type(model, options.kv_type)?;
    Ok(options.memory_need(model, device)?)
}

/// Rows of the cache must fill whole blocks of its type.
fn check_cache_type(model: &Model, ty: GgmlType) -> anyhow::Result<()> {
    // A type that has no blocks holds rows of any length.
    let options = EngineOptions { kv_type: GgmlType::F32, ..EngineOptions::default() };
    let widths = need::cache_widths(model, &options)?;
    let n_block = ty.block_len() as u32;
    let Some(width) = widths.into_iter().find(|width| !width.is_multiple_of(n_block)) else {
        return Ok(());
    };
    let what = format!(
        "--kv {} stores blocks of {n_block} values; the cache of this model has rows of {width}",
        ty.name()
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

/// Refuses what cannot fit. Weights do not count: a device may read them in the mapped file, and
/// one that copies them says itself when it has no room.
fn check_memory(
    need: &MemoryNeed,
    model: &Model,
    device: &dyn Device,
    options: &EngineOptions,
) -> anyhow::Result<()> {
    let info = device.info();
    let own = need.cache + need.activations;
    if info.memory_free == 0 || own <= info.memory_free {
        return Ok(());
    }
    let what = format!(
        "{} has {} free; a context of {} tokens needs {} for its cache and {} of scratch space",
        info.name,
        human_bytes(info.memory_free),
        options.n_ctx(model)?,
        human_bytes(need.cache),
        human_bytes(need.activations),
    );
    Err(report::with_hint(
        what,
        "choose a shorter context with --ctx, a smaller cache type with --kv, or a smaller --chunk",
    ))
}

fn builtin_file() -> anyhow::Result<bytes::Bytes> {
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
