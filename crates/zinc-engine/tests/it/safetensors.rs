//! Reads the arrays of a safetensors file: a JSON header after its length, then the data.

use std::path::Path;

use serde_json::{Map, Value};

/// A safetensors file in memory.
pub struct Safetensors {
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl Safetensors {
    /// Reads the file at `path`.
    pub fn open(path: &Path) -> Safetensors {
        let bytes = std::fs::read(path).unwrap();
        let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = serde_json::from_slice(&bytes[8..8 + n_header]).unwrap();
        Safetensors {
            header,
            data: bytes[8 + n_header..].to_vec(),
        }
    }

    fn words(&self, name: &str, dtype: &str) -> Vec<[u8; 4]> {
        let info = self
            .header
            .get(name)
            .unwrap_or_else(|| panic!("no array {name}"));
        assert_eq!(info["dtype"], dtype, "{name}");
        let offset = |i: usize| info["data_offsets"][i].as_u64().unwrap() as usize;
        self.data[offset(0)..offset(1)]
            .chunks_exact(4)
            .map(|word| word.try_into().unwrap())
            .collect()
    }

    /// An f32 array, flat.
    pub fn f32s(&self, name: &str) -> Vec<f32> {
        self.words(name, "F32")
            .into_iter()
            .map(f32::from_le_bytes)
            .collect()
    }

    /// Token ids.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.words(name, "I32")
            .into_iter()
            .map(|word| i32::from_le_bytes(word) as u32)
            .collect()
    }
}
