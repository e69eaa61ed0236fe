//! Writing safetensors: a header of JSON, then the tensors' bytes, all little-endian.
//! Format: <https://huggingface.co/docs/safetensors>.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use serde_json::{Map, json};

/// A tensor to write.
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Sizes, the contiguous dimension last.
    pub shape: Vec<usize>,
    /// Its elements.
    pub data: Data,
}

/// Elements of a tensor.
pub enum Data {
    /// f32.
    F32(Vec<f32>),
    /// i32.
    I32(Vec<i32>),
}

impl Data {
    fn dtype(&self) -> &'static str {
        match self {
            Data::F32(_) => "F32",
            Data::I32(_) => "I32",
        }
    }

    fn n_bytes(&self) -> usize {
        match self {
            Data::F32(values) => 4 * values.len(),
            Data::I32(values) => 4 * values.len(),
        }
    }

    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        match self {
            Data::F32(values) => {
                values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
            }
            Data::I32(values) => {
                values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
            }
        }
    }
}

/// Writes `tensors` to the file at `path`.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, tensors: &[Tensor]) -> anyhow::Result<()> {
    let context = || format!("writing {}", path.display());
    let mut out = BufWriter::new(File::create(path).with_context(context)?);
    write_to(&mut out, tensors).and_then(|()| out.flush()).with_context(context)
}

fn write_to(out: &mut impl Write, tensors: &[Tensor]) -> std::io::Result<()> {
    let mut header = Map::new();
    let mut begin = 0;
    for tensor in tensors {
        let end = begin + tensor.data.n_bytes();
        let entry = json!({ "dtype": tensor.data.dtype(), "shape": tensor.shape, "data_offsets": [begin, end] });
        header.insert(tensor.name.clone(), entry);
        begin = end;
    }
    let mut header = serde_json::to_string(&header)?;
    // Readers map the file: keep the data aligned.
    let padding = header.len().next_multiple_of(8) - header.len();
    header.push_str(&" ".repeat(padding));
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    tensors.iter().try_for_each(|tensor| tensor.data.write(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let tensors = [
            Tensor { name: "a".into(), shape: vec![1, 2], data: Data::F32(vec![1.0, -2.0]) },
            Tensor { name: "b".into(), shape: vec![1], data: Data::I32(vec![7]) },
        ];
        let mut file = Vec::new();
        write_to(&mut file, &tensors).unwrap();
        let n_header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        assert_eq!(n_header % 8, 0);
        let header: serde_json::Value = serde_json::from_slice(&file[8..8 + n_header]).unwrap();
        assert_eq!(header["b"], json!({ "dtype": "I32", "shape": [1], "data_offsets": [8, 12] }));
        assert_eq!(&file[8 + n_header..][..4], &1f32.to_le_bytes());
        assert_eq!(file.len(), 8 + n_header + 12);
    }
}
