//! Importance matrices: how strongly each column of a weight matrix was driven by a calibration text.
//!
//! The GGUF form is the one of `llama-imatrix`: `general.type` = `imatrix`, the keys `imatrix.datasets`,
//! `imatrix.chunk_count` and `imatrix.chunk_size`, and for each weight tensor `NAME` two F32 tensors:
//!
//! | tensor | dims | meaning |
//! |---|---|---|
//! | `NAME.in_sum2` | width, n_matrices | sums of the squared activations of each column |
//! | `NAME.counts` | 1, n_matrices | how many activations were added up |
//!
//! `n_matrices` is 1, or the number of experts of a stacked tensor. The older form of that tool (`.dat`) is
//! read too: it has one count for the whole tensor and no dimensions.

use crate::{Array, Gguf, GgufError, StringArray, TensorEntry, Value, mmap, writer::Writer};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use zinc_quant::GgmlType;

mod legacy;

const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// What a calibration run measured, by name of the weight tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    /// The texts that were read.
    pub datasets: Vec<String>,
    /// Chunks of text that were read.
    pub chunk_count: u32,
    /// Tokens in a chunk; 0 where the file does not say.
    pub chunk_size: u32,
    /// Weight tensor to what was measured at its input.
    pub entries: BTreeMap<String, ImatrixEntry>,
}

/// Measurements at the input of one weight tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImatrixEntry {
    /// Sums of squares, width values for each matrix.
    pub sums: Vec<f32>,
    /// Activations added up for each matrix; a single count, in the older form, stands for all of them.
    pub counts: Vec<f32>,
}

impl ImatrixEntry {
    /// Mean of the squared activations of each column, matrix after matrix; 1 throughout for a matrix that
    /// saw no activation, since nothing is known of it.
    ///
    /// `None` if the measurements are not those of `n_matrices` matrices of `width` columns.
    pub fn mean_squares(&self, width: usize, n_matrices: usize) -> Option<Vec<f32>> {
        let fits = width > 0
            && width.checked_mul(n_matrices) == Some(self.sums.len())
            && (self.counts.len() == n_matrices || self.counts.len() == 1);
        let mean = |(matrix, sums): (usize, &[f32])| -> Vec<f32> {
            let count = self.counts[matrix % self.counts.len()];
            sums.iter().map(|&sum| if count > 0.0 { sum / count } else { 1.0 }).collect()
        };
        fits.then(|| self.sums.chunks_exact(width).enumerate().flat_map(mean).collect())
    }
}

impl Imatrix {
    /// Reads the file at `path`, in either form.
    ///
    /// # Errors
    /// Always [`GgufError::InFile`]: the file cannot be read, is not an importance matrix, or holds values that
    /// are negative or not finite.
    pub fn open(path: &Path) -> Result<Imatrix, GgufError> {
        mmap::map(path).and_then(Imatrix::from_bytes).map_err(|error| error.in_file(path))
    }

    /// Reads a file in memory.
    ///
    /// # Errors
    /// As [`Imatrix::open`], without the path.
    pub fn from_bytes(bytes: Bytes) -> Result<Imatrix, GgufError> {
        let imatrix = match bytes.starts_with(b"GGUF") {
            true => from_gguf(&Gguf::from_bytes(bytes)?)?,
            false => legacy::read(&bytes)?,
        };
        imatrix.check()?;
        Ok(imatrix)
    }

    /// The GGUF form, ready to be written.
    ///
    /// # Panics
    /// If an entry has no counts or its sums are not the same number for each.
    pub fn writer(&self) -> Writer {
        let mut writer = Writer::new();
        let datasets: StringArray = self.datasets.iter().collect();
        writer
            .value("general.type", Value::String("imatrix".into()))
            .value(DATASETS, Value::Array(Array::Strings(datasets)))
            .value(CHUNK_COUNT, Value::U32(self.chunk_count))
            .value(CHUNK_SIZE, Value::U32(self.chunk_size));
        for (name, entry) in &self.entries {
            let n_matrices = entry.counts.len();
            assert!(n_matrices > 0 && entry.sums.len().is_multiple_of(n_matrices), "{name}");
            let (width, n_matrices) = ((entry.sums.len() / n_matrices) as u64, n_matrices as u64);
            for (suffix, width, values) in [(SUMS, width, &entry.sums), (COUNTS, 1, &entry.counts)]
            {
                let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                writer.tensor(
                    &format!("{name}{suffix}"),
                    GgmlType::F32,
                    &[width, n_matrices],
                    data,
                );
            }
        }
        writer
    }

    fn check(&self) -> Result<(), GgufError> {
        if self.entries.is_empty() {
            return Err(bad("it has no entries".into()));
        }
        for (name, entry) in &self.entries {
            let values = || entry.sums.iter().chain(&entry.counts);
            if let Some(wrong) = values().find(|value| !(value.is_finite() && **value >= 0.0)) {
                return Err(bad(format!(
                    "{name:?} holds {wrong}, sums of squares are not negative"
                )));
            }
            if entry.counts.is_empty() || !entry.sums.len().is_multiple_of(entry.counts.len()) {
                return Err(bad(format!(
                    "{name:?} has {} sums for {} counts",
                    entry.sums.len(),
                    entry.counts.len()
                )));
            }
        }
        Ok(())
    }
}

fn from_gguf(gguf: &Gguf) -> Result<Imatrix, GgufError> {
    let metadata = gguf.metadata();
    // Files from before the key was written have only the tensors' names to tell them apart.
    if let Some(ty) = metadata.str("general.type")?.filter(|ty| *ty != "imatrix") {
        return Err(bad(format!("general.type is {ty:?}, expected \"imatrix\"")));
    }
    let datasets = metadata.strings(DATASETS)?.into_iter().flat_map(StringArray::iter);
    let mut imatrix = Imatrix {
        datasets: datasets.map(|name| String::from_utf8_lossy(name).into_owned()).collect(),
        chunk_count: metadata.u32(CHUNK_COUNT)?.unwrap_or(0),
        chunk_size: metadata.u32(CHUNK_SIZE)?.unwrap_or(0),
        entries: BTreeMap::new(),
    };
    for sums in gguf.tensors() {
        let Some(name) = sums.name.strip_suffix(SUMS) else {
            if sums.name.ends_with(COUNTS) {
                continue;
            }
            return Err(bad(format!("tensor {:?} is none of an importance matrix", sums.name)));
        };
        let counts = gguf.tensor(&format!("{name}{COUNTS}"));
        let counts = counts.ok_or_else(|| bad(format!("{name:?} has no counts")))?;
        let entry = ImatrixEntry { sums: floats(gguf, sums)?, counts: floats(gguf, counts)? };
        imatrix.entries.insert(name.to_owned(), entry);
    }
    Ok(imatrix)
}

fn floats(gguf: &Gguf, tensor: &TensorEntry) -> Result<Vec<f32>, GgufError> {
    match tensor.ty {
        GgmlType::F32 => Ok(f32s(&gguf.data(tensor))),
        ty => Err(bad(format!("tensor {:?} is {ty}, expected f32", tensor.name))),
    }
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect()
}

fn bad(reason: String) -> GgufError {
    GgufError::Imatrix { reason }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // In a test a panic is the report.
mod tests {
    use super::*;

    fn sample() -> Imatrix {
        let dense = ImatrixEntry { sums: vec![2.0, 4.0, 6.0], counts: vec![2.0] };
        let experts = ImatrixEntry { sums: vec![3.0, 6.0, 0.0, 0.0], counts: vec![3.0, 0.0] };
        Imatrix {
            datasets: vec!["a.txt".into(), "b.txt".into()],
            chunk_count: 7,
            chunk_size: 512,
            entries: [("w".to_owned(), dense), ("exps".to_owned(), experts)].into(),
        }
    }

    #[test]
    fn written_files_read_back() {
        let bytes = sample().writer().to_bytes();
        assert_eq!(Imatrix::from_bytes(bytes.into()).unwrap(), sample());
    }

    #[test]
    fn means() {
        let entries = sample().entries;
        assert_eq!(entries["w"].mean_squares(3, 1).unwrap(), [1.0, 2.0, 3.0]);
        assert_eq!(entries["exps"].mean_squares(2, 2).unwrap(), [1.0, 2.0, 1.0, 1.0]);
        for (width, n_matrices) in [(3, 2), (4, 1), (0, 0), (0, 1), (usize::MAX, 2)] {
            assert_eq!(entries["exps"].mean_squares(width, n_matrices), None);
        }
        let shared = ImatrixEntry { sums: vec![2.0; 4], counts: vec![2.0] };
        assert_eq!(shared.mean_squares(2, 2).unwrap(), [1.0; 4]);
    }

    fn legacy(n_entries: i32, tail: bool) -> Vec<u8> {
        let mut file = n_entries.to_le_bytes().to_vec();
        for (name, values) in [("w", vec![2.0f32, 4.0]), ("v", vec![8.0])] {
            file.extend((name.len() as i32).to_le_bytes());
            file.extend(name.bytes());
            file.extend(2i32.to_le_bytes());
            file.extend((values.len() as i32).to_le_bytes());
            file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        if tail {
            file.extend(9i32.to_le_bytes());
            file.extend(5i32.to_le_bytes());
            file.extend(b"a.txt");
        }
        file
    }

    #[test]
    fn legacy_files() {
        let imatrix = Imatrix::from_bytes(legacy(2, true).into()).unwrap();
        assert_eq!((imatrix.chunk_count, imatrix.datasets), (9, vec!["a.txt".to_owned()]));
        assert_eq!(imatrix.entries["w"].mean_squares(2, 1).unwrap(), [1.0, 2.0]);
        let imatrix = Imatrix::from_bytes(legacy(2, false).into()).unwrap();
        assert_eq!((imatrix.chunk_count, imatrix.entries.len()), (0, 2));
    }

    #[test]
    fn wrong_files_are_refused() {
        let refused = |bytes: Vec<u8>, what: &str| {
            let error = Imatrix::from_bytes(bytes.into()).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        };
        let model = |f: &dyn Fn(&mut Writer)| {
            let mut writer = Writer::new();
            f(&mut writer);
            writer.to_bytes()
        };
        refused(model(&|w| _ = w.value("general.type", Value::String("model".into()))), "model");
        refused(model(&|_| ()), "no entries");
        let zeros = vec![0; 4];
        refused(model(&|w| _ = w.tensor("w", GgmlType::F32, &[1], zeros.clone())), "none of");
        refused(
            model(&|w| _ = w.tensor("w.in_sum2", GgmlType::F32, &[1], zeros.clone())),
            "counts",
        );
        for wrong in [f32::NAN, f32::INFINITY, -1.0] {
            let mut imatrix = sample();
            imatrix.entries.get_mut("w").unwrap().sums[1] = wrong;
            refused(imatrix.writer().to_bytes(), "holds");
        }
        for n_entries in [-1, 0, 3, i32::MAX] {
            refused(legacy(n_entries, false), "");
        }
        let whole = legacy(2, true);
        for length in 0..whole.len() {
            // Nothing but whole entries, with or without the trailer, is accepted; nothing panics.
            let _ = Imatrix::from_bytes(whole[..length].to_vec().into());
        }
    }
}
