//! Opening the model that the flags name: the only place that does.

use std::sync::Arc;

use anyhow::Context;
use zinc_backend::Device;
use zinc_engine::{EngineError, EngineOptions, LoadedModel, Model};
use zinc_gguf::Gguf;
use zinc_token::Tokenizer;

use crate::args::ModelArgs;
use crate::output::human_bytes;
use crate::progress::{Progress, Unit};
use crate::{builtin, report};

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

/// Gives the weights to the device, after checking that everything fits.
///
/// # Errors
/// There is not enough memory, or the device failed.
pub fn load(
    model: Arc<Model>,
    device: Arc<dyn Device>,
    options: &EngineOptions,
) -> anyhow::Result<Arc<LoadedModel>> {
    check_memory(&model, device.as_ref(), options)?;
    let mut progress = Progress::new("loading", Unit::Bytes);
    let loaded = LoadedModel::load(model, device, &mut |done, total| progress.update(done, total))?;
    Ok(Arc::new(loaded))
}

/// Refuses what cannot fit. Weights do not count: a device may read them in the mapped file, and
/// one that copies them says itself when it has no room.
fn check_memory(model: &Model, device: &dyn Device, options: &EngineOptions) -> anyhow::Result<()> {
    let need = options.memory_need(model, device)?;
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
