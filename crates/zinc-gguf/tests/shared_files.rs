//! Every GGUF file of the shared goldens and vocabularies opens, and its tensors dequantise.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::path::PathBuf;
use zinc_gguf::{Gguf, Value};

/// Files ending in `.gguf` of a shared folder; none, after saying so, where it is not at hand.
fn shared_files(folder: &str) -> Vec<PathBuf> {
    let shared = std::env::var_os("ZINC_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let Ok(entries) = std::fs::read_dir(shared.join(folder)) else {
        eprintln!("skipped: {} has no {folder}", shared.display());
        return Vec::new();
    };
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "gguf"))
        .collect()
}

#[test]
fn golden_models_open_and_dequantize() {
    for path in shared_files("golden") {
        let gguf = Gguf::open(&path).unwrap();
        assert!(!gguf.tensors().is_empty(), "{}", path.display());
        gguf.metadata().require_str("general.architecture").unwrap();
        for tensor in gguf.tensors() {
            assert_eq!(gguf.tensor(&tensor.name), Some(tensor));
            let mut values = vec![f32::NAN; tensor.n_elems() as usize];
            zinc_quant::dequantize(tensor.ty, &gguf.data(tensor), &mut values).unwrap();
            let finite = values.iter().all(|value| value.is_finite());
            assert!(finite, "{}: {}", path.display(), tensor.name);
        }
    }
}

#[test]
fn vocabularies_open() {
    for path in shared_files("vocab") {
        let gguf = Gguf::open(&path).unwrap();
        let metadata = gguf.metadata();
        let tokens = metadata.require_strings("tokenizer.ggml.tokens").unwrap();
        let types = metadata.i32s("tokenizer.ggml.token_type").unwrap().unwrap();
        assert_eq!(tokens.len(), types.len(), "{}", path.display());
        assert_eq!(tokens.iter().len(), tokens.len());
        assert!(tokens.iter().any(|token| token == b"a"), "{}", path.display());
    }
}

#[test]
fn a_real_file_survives_reading_and_writing() {
    for path in shared_files("golden").into_iter().take(3) {
        let gguf = Gguf::open(&path).unwrap();
        let mut writer = zinc_gguf::writer::Writer::new();
        for (key, value) in gguf.metadata().iter() {
            writer.value(key, Value::clone(value));
        }
        for tensor in gguf.tensors() {
            writer.tensor(&tensor.name, tensor.ty, &tensor.dims, gguf.data(tensor));
        }
        // The goldens pad their end, which the format does not ask for.
        let mut written = writer.to_bytes();
        written.resize(gguf.n_bytes() as usize, 0);
        assert!(written == *gguf.shards()[0].bytes, "{}", path.display());
    }
}
