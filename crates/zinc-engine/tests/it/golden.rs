//! Logits, hidden states and greedy tokens of the golden models, with every way of cutting the
//! prompt.

use std::sync::Arc;

use zinc_engine::{EngineOptions, Evaluator, LoadedModel, Taps};
use zinc_quant::GgmlType;

use crate::safetensors::Safetensors;
use crate::support::{devices, exact, golden_file, load};

/// The chunks that results must not depend on; the last one takes every golden prompt whole.
const CHUNKS: [u32; 4] = [1, 7, 16, 128];
/// Limit on logits and hidden states of plain attention models, from the golden data's README.
const TOLERANCE: f32 = 1e-4;
const N_GREEDY: usize = 24;

fn expect_close(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let is_close = (got - expected).abs() <= TOLERANCE;
        assert!(is_close, "{what}: value {i} is {got}, expected {expected}");
    }
}

fn check(name: &str) {
    let files = [format!("{name}.f32.gguf"), format!("{name}.safetensors")];
    let [Some(gguf), Some(numbers)] = files.map(|file| golden_file(&file)) else {
        return;
    };
    let numbers = Safetensors::open(&numbers);
    for device in devices() {
        let loaded = load(&gguf, device);
        for chunk in CHUNKS {
            check_logits_and_greedy(name, &loaded, &numbers, chunk);
            check_hidden(name, &loaded, &numbers, chunk);
        }
    }
}

fn check_logits_and_greedy(
    name: &str,
    loaded: &Arc<LoadedModel>,
    numbers: &Safetensors,
    chunk: u32,
) {
    let taps = Taps {
        all_logits: true,
        tensors: Vec::new(),
    };
    let mut evaluator = Evaluator::new(loaded.clone(), &exact(chunk), &taps).unwrap();
    for prompt in 0..3 {
        let what = format!(
            "{name} on {}, prompt {prompt}, chunk {chunk}",
            loaded.device().info().name
        );
        let tokens = numbers.ids(&format!("prompt{prompt}.tokens"));
        evaluator.reset();
        let (tapped, greedy) = evaluator.greedy(&tokens, N_GREEDY).unwrap();
        expect_close(
            &what,
            &tapped[0].values,
            &numbers.f32s(&format!("prompt{prompt}.logits")),
        );
        assert_eq!(
            greedy,
            numbers.ids(&format!("prompt{prompt}.greedy")),
            "{what}"
        );
    }
}

fn check_hidden(name: &str, loaded: &Arc<LoadedModel>, numbers: &Safetensors, chunk: u32) {
    let tensors = loaded.model().graph().hidden_tensors();
    let n_layers = tensors.len() - 2;
    let golden = std::iter::once("embed".to_owned())
        .chain((0..n_layers).map(|layer| layer.to_string()))
        .chain(["final_norm".to_owned()]);
    let taps = Taps {
        all_logits: true,
        tensors,
    };
    let mut evaluator = Evaluator::new(loaded.clone(), &exact(chunk), &taps).unwrap();
    let tapped = evaluator.eval(&numbers.ids("prompt1.tokens")).unwrap();
    for (tapped, golden) in tapped[1..].iter().zip(golden) {
        let what = format!(
            "{name} on {}, {}, chunk {chunk}",
            loaded.device().info().name,
            tapped.name
        );
        expect_close(
            &what,
            &tapped.values,
            &numbers.f32s(&format!("prompt1.hidden.{golden}")),
        );
    }
}

/// A cache of 16-bit floats, within the limits of the golden data's README for it; and one of 8-bit
/// blocks, for which there is no oracle: its error is a few times that of its rounding, 1 in 254.
#[test]
fn smaller_caches_cost_little() {
    let files = ["qwen3.f32.gguf", "qwen3.safetensors"].map(golden_file);
    let [Some(gguf), Some(numbers)] = files else {
        return;
    };
    let numbers = Safetensors::open(&numbers);
    for device in devices() {
        let loaded = load(&gguf, device);
        for (kv_type, tolerance) in [(GgmlType::F16, 5e-2), (GgmlType::Q8_0, 2e-1)] {
            let options = EngineOptions {
                kv_type,
                ..exact(16)
            };
            let taps = Taps {
                all_logits: true,
                tensors: Vec::new(),
            };
            let mut evaluator = Evaluator::new(loaded.clone(), &options, &taps).unwrap();
            for prompt in 0..3 {
                evaluator.reset();
                let logits = &evaluator
                    .eval(&numbers.ids(&format!("prompt{prompt}.tokens")))
                    .unwrap()[0];
                let expected = numbers.f32s(&format!("prompt{prompt}.logits"));
                let errors = logits
                    .values
                    .iter()
                    .zip(&expected)
                    .map(|(a, b)| (a - b).abs());
                let worst = errors.fold(0.0, f32::max);
                assert!(
                    worst <= tolerance,
                    "{kv_type} on {}: {worst}",
                    loaded.device().info().name
                );
                assert!(worst > 0.0, "a smaller cache cannot be exact");
            }
        }
    }
}

#[test]
fn llama() {
    check("llama");
}

#[test]
fn mistral() {
    check("mistral");
}

#[test]
fn phi3() {
    check("phi3");
}

#[test]
fn qwen2() {
    check("qwen2");
}

#[test]
fn qwen3() {
    check("qwen3");
}

#[test]
fn qwen3_yarn() {
    check("qwen3_yarn");
}
