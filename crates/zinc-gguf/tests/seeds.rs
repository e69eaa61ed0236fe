//! The fuzz target's seeds are what the writer writes. `ZINC_BLESS=1` rewrites them.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

#[path = "support/sample.rs"]
mod sample;

use std::path::Path;
use zinc_gguf::writer::Writer;
use zinc_gguf::{Array, Value};
use zinc_quant::GgmlType;

/// One seed per part of the format, so that the fuzzer need not discover its structure.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let empty = Writer::new().to_bytes();
    let mut version_2 = sample::file().to_bytes();
    version_2[4] = 2;
    let mut nested = Array::from(&[1u8][..]);
    for _ in 0..3 {
        nested = Array::Arrays(vec![nested.clone(), nested]);
    }
    let mut arrays = Writer::new();
    arrays.value("k", Value::Array(nested));
    let mut every_type = Writer::new();
    every_type.alignment(1);
    for ty in GgmlType::ALL {
        let data: Vec<u8> = (0..ty.block_bytes()).map(|i| i as u8).collect();
        every_type.tensor(ty.name(), ty, &[ty.block_len() as u64], data);
    }
    let mut part = Writer::new();
    part.value("split.no", Value::U16(0))
        .value("split.count", Value::U16(2))
        .value("split.tensors.count", Value::I32(0));
    vec![
        ("empty.gguf", empty),
        ("sample.gguf", sample::file().to_bytes()),
        ("version_2.gguf", version_2),
        ("arrays.gguf", arrays.to_bytes()),
        ("every_type.gguf", every_type.to_bytes()),
        ("part.gguf", part.to_bytes()),
    ]
}

#[test]
fn fuzz_seeds_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/gguf");
    if std::env::var_os("ZINC_BLESS").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        for (name, seed) in seeds() {
            std::fs::write(folder.join(name), seed).unwrap();
        }
    }
    for (name, seed) in seeds() {
        let committed = std::fs::read(folder.join(name)).unwrap_or_default();
        assert!(committed == seed, "fuzz/seeds/gguf/{name} is stale: run with ZINC_BLESS=1");
    }
}
