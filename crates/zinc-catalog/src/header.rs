//! What a model takes, before it is downloaded: its header is read alone, and the rest stands empty.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use bytes::Bytes;
use zinc_engine::Model;
use zinc_gguf::{Gguf, GgufError};

use crate::http::{Attempt, body};
use crate::pull::{Plan, Puller};
use crate::{CatalogError, Reference};

/// The first bytes asked for; most headers of small vocabularies fit.
const FIRST_BYTES: u64 = 4 << 20;
/// Longest header that is read.
const HEADER_BYTES_MAX: u64 = 256 << 20;
/// Tensors of factors that divide frequencies: what is read of a file to build its plan.
const FACTORS: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"];

/// A model of which only the header is here: good for memory plans, not for running.
pub struct StandIn {
    /// The model.
    pub model: Model,
    _dir: tempfile::TempDir,
}

impl Puller {
    /// Reads the headers of the files of `plan` from the server, not the files.
    ///
    /// # Errors
    /// They cannot be read, or zinc cannot run the model.
    pub async fn stand_in(&self, plan: &Plan) -> Result<StandIn, CatalogError> {
        let dir = tempfile::tempdir().map_err(|e| CatalogError::io(std::env::temp_dir(), e))?;
        for file in &plan.files {
            let name = file.name.rsplit('/').next().unwrap_or(&file.name);
            let Some(size) = file.size else {
                let reason = "it does not say how long the file is".to_owned();
                return Err(CatalogError::Protocol { url: file.name.clone(), reason });
            };
            let header = self.header(file.url(), size).await?;
            write_stand_in(&dir.path().join(name), &header, size)?;
        }
        let first = &plan.files[0].name;
        let path = dir.path().join(first.rsplit('/').next().unwrap_or(first));
        fill_factors(&path)?;
        let model = Model::open(&path).map_err(|error| CatalogError::NotGguf {
            path: first.into(),
            reason: error.to_string(),
            hint: "zinc cannot run this model",
        })?;
        Ok(StandIn { model, _dir: dir })
    }

    /// The beginning of a file up to where its tensors lie, or a little more.
    async fn header(&self, url: &reqwest::Url, size: u64) -> Result<Bytes, CatalogError> {
        let mut n_bytes = FIRST_BYTES;
        loop {
            let n = n_bytes.min(size).max(1);
            let bytes = self.beginning(url, n).await.map_err(|failed| failed.into_error(url))?;
            let needs_more = match Gguf::from_bytes(bytes.clone()) {
                Err(GgufError::Truncated { .. } | GgufError::CountTooLarge { .. }) => true,
                // Whatever is wrong with a whole header is told by who opens it.
                _ => false,
            };
            if !needs_more || n >= size {
                return Ok(bytes);
            }
            if n >= HEADER_BYTES_MAX {
                let reason = format!("its header is longer than {HEADER_BYTES_MAX} bytes");
                return Err(CatalogError::Protocol { url: url.to_string(), reason });
            }
            n_bytes *= 4;
        }
    }

    async fn beginning(&self, url: &reqwest::Url, n: u64) -> Result<Bytes, Attempt> {
        let answer = self.http.get(url, self.hub.auth(), Some((0, n - 1))).await?;
        if answer.response.status() != 206 {
            let reason = "it sends files only whole".to_owned();
            return Err(Attempt::Final(CatalogError::Protocol { url: url.to_string(), reason }));
        }
        body(answer.response, n as usize).await.map(Bytes::from)
    }

    /// What `reference` takes, without downloading it.
    ///
    /// # Errors
    /// As [`Puller::plan`] and [`Puller::stand_in`].
    pub async fn look_at(&self, reference: &Reference) -> Result<(Plan, StandIn), CatalogError> {
        let plan = self.plan(reference).await?;
        let stand_in = self.stand_in(&plan).await?;
        Ok((plan, stand_in))
    }
}

/// A file of `size` bytes that begins with `header`; the rest is a hole.
fn write_stand_in(path: &Path, header: &[u8], size: u64) -> Result<(), CatalogError> {
    let write = || {
        let mut file = std::fs::File::create(path)?;
        file.write_all(&header[..header.len().min(size as usize)])?;
        file.set_len(size)
    };
    write().map_err(|error| CatalogError::io(path, error))
}

/// Factors of zero would be refused, and they change no size.
fn fill_factors(path: &Path) -> Result<(), CatalogError> {
    let fail = |error: GgufError| CatalogError::NotGguf {
        path: path.to_owned(),
        reason: error.to_string(),
        hint: "the file on the server may be damaged",
    };
    let gguf = Gguf::open(path).map_err(fail)?;
    let write = |shard: &Path, offset: u64, n_bytes: u64| -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).open(shard)?;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(&1.0f32.to_le_bytes().repeat((n_bytes / 4) as usize))
    };
    for tensor in FACTORS.iter().filter_map(|name| gguf.tensor(name)) {
        let Some(shard) = &gguf.shards()[tensor.shard].path else { continue };
        // A few thousand numbers; a tensor that calls itself so and is larger is refused later.
        if tensor.ty.name() == "f32" && tensor.n_bytes <= 1 << 20 {
            write(shard, tensor.offset, tensor.n_bytes)
                .map_err(|error| CatalogError::io(shard, error))?;
        }
    }
    Ok(())
}
