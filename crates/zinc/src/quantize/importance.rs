//! The importance matrix beside the model it is used for.

use std::path::{Path, PathBuf};

use zinc_gguf::{Gguf, Imatrix, TensorEntry, Value};

use crate::report;

/// An importance matrix and where it came from.
pub struct Importance {
    path: PathBuf,
    imatrix: Imatrix,
}

impl Importance {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read or is no importance matrix.
    pub fn open(path: &Path) -> anyhow::Result<Importance> {
        Ok(Importance { path: path.to_owned(), imatrix: Imatrix::open(path)? })
    }

    /// Mean squared activation of each column of `tensor`, matrix after matrix; `None` if the file lacks
    /// the tensor.
    ///
    /// # Errors
    /// The file has it with another width or number of experts.
    pub fn of(&self, tensor: &TensorEntry) -> anyhow::Result<Option<Vec<f32>>> {
        let Some(entry) = self.imatrix.entries.get(&tensor.name) else {
            return Ok(None);
        };
        let (width, n_matrices) = (tensor.dims[0] as usize, n_matrices(tensor));
        let means = entry.mean_squares(width, n_matrices);
        means.map(Some).ok_or_else(|| {
            let what = format!(
                "{}: {:?} has {} values for {} counts; the model's tensor has {n_matrices} x {width} columns",
                self.path.display(),
                tensor.name,
                entry.sums.len(),
                entry.counts.len(),
            );
            report::with_hint(what, "make the importance matrix with this model")
        })
    }

    /// Whether the file should have `tensor`: no calibration measures what is looked up rather than
    /// multiplied, the output matrix, or the blocks behind the last layer.
    pub fn is_expected(gguf: &Gguf, tensor: &TensorEntry) -> bool {
        let metadata = gguf.metadata();
        let arch = metadata.str("general.architecture").ok().flatten().unwrap_or_default();
        let number = |key: &str| metadata.u64(&format!("{arch}.{key}")).ok().flatten();
        let n_layers = number("block_count").unwrap_or(u64::MAX);
        let n_mtp = number("nextn_predict_layers").unwrap_or(0);
        let layer =
            tensor.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')?.0.parse().ok());
        layer.is_some_and(|layer: u64| layer < n_layers.saturating_sub(n_mtp))
    }

    /// What a file that was made with the matrix says about it.
    pub fn metadata(&self) -> Vec<(&'static str, Value)> {
        let text = |text: &str| Value::String(text.to_owned());
        let mut pairs = vec![("quantize.imatrix.file", text(&self.path.to_string_lossy()))];
        if let Some(dataset) = self.imatrix.datasets.first() {
            pairs.push(("quantize.imatrix.dataset", text(dataset)));
        }
        let n_entries = u32::try_from(self.imatrix.entries.len()).unwrap_or(u32::MAX);
        pairs.push(("quantize.imatrix.entries_count", Value::U32(n_entries)));
        if self.imatrix.chunk_count > 0 {
            pairs.push(("quantize.imatrix.chunks_count", Value::U32(self.imatrix.chunk_count)));
        }
        pairs
    }
}

/// Matrices stacked in a tensor: experts.
pub fn n_matrices(tensor: &TensorEntry) -> usize {
    tensor.dims.iter().skip(2).product::<u64>() as usize
}
