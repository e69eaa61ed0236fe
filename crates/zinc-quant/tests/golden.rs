//! Every format against recorded blocks and values: `quant_types.safetensors` of the shared goldens.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::collections::BTreeMap;
use std::path::PathBuf;
use zinc_quant::{GgmlType, dequantize, quantize};

/// Types whose recorded values must be there; a missing one is a failure, not a skip.
const DEQUANTIZED: &str = "F16 BF16 Q1_0 Q2_0 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ1_S \
    IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL IQ4_XS TQ1_0 TQ2_0 MXFP4 NVFP4";
const QUANTIZED: &str = "Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 MXFP4";

/// Tensor name to bytes; `None`, after saying so, where the shared goldens are not at hand.
fn golden() -> Option<BTreeMap<String, Vec<u8>>> {
    let shared = std::env::var_os("ZINC_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let path = shared.join("golden/quant_types.safetensors");
    let Ok(file) = std::fs::read(&path) else {
        eprintln!("skipped: {} is not readable", path.display());
        return None;
    };
    let (length, rest) = file.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: serde_json::Map<_, _> = serde_json::from_slice(header).unwrap();
    let tensor = |entry: &serde_json::Value| {
        let offset = |i: usize| entry["data_offsets"][i].as_u64().unwrap() as usize;
        data[offset(0)..offset(1)].to_vec()
    };
    Some(
        header
            .iter()
            .filter(|(name, _)| *name != "__metadata__")
            .map(|(name, entry)| (name.clone(), tensor(entry)))
            .collect(),
    )
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn dequantize_is_bit_exact() {
    let Some(golden) = golden() else { return };
    for name in DEQUANTIZED.split_whitespace() {
        let ty = GgmlType::from_name(name).unwrap();
        let expected = floats(&golden[&format!("{name}.values")]);
        let mut values = vec![f32::NAN; expected.len()];
        dequantize(ty, &golden[&format!("{name}.blocks")], &mut values).unwrap();
        let first = (0..values.len()).find(|&i| values[i].to_bits() != expected[i].to_bits());
        if let Some(i) = first {
            panic!("{name}[{i}] = {:e}, expected {:e}", values[i], expected[i]);
        }
    }
}

#[test]
fn quantize_is_byte_exact() {
    let Some(golden) = golden() else { return };
    for name in QUANTIZED.split_whitespace() {
        let ty = GgmlType::from_name(name).unwrap();
        let expected = &golden[&format!("{name}.quant_blocks")];
        let mut blocks = vec![0; expected.len()];
        quantize(ty, &floats(&golden[&format!("{name}.quant_in")]), &mut blocks).unwrap();
        assert!(blocks == *expected, "{name}");
    }
}

#[test]
fn plain_floats_round_trip() {
    let Some(golden) = golden() else { return };
    for name in ["F16", "BF16"] {
        let ty = GgmlType::from_name(name).unwrap();
        let values = floats(&golden[&format!("{name}.values")]);
        let mut bytes = vec![0; 2 * values.len()];
        quantize(ty, &values, &mut bytes).unwrap();
        assert!(bytes == golden[&format!("{name}.blocks")], "{name}");
    }
    let values = floats(&golden["F16.values"]);
    let mut bytes = vec![0; 4 * values.len()];
    let mut back = vec![0.0; values.len()];
    quantize(GgmlType::F32, &values, &mut bytes).unwrap();
    dequantize(GgmlType::F32, &bytes, &mut back).unwrap();
    assert_eq!(bits(&back), bits(&values));
}
