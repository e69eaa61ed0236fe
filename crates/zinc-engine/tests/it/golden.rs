//! Logits, hidden states and greedy tokens of the golden models, with every way of cutting the
//! prompt.

use std::sync::Arc;

use zinc_engine::{EngineOptions, Evaluator, LoadedModel, Tapped, Taps};
use zinc_quant::GgmlType;
use zinc_testkit::compare;
use zinc_testkit::golden::{Golden, Prompt};

use crate::support::{devices, exact, golden, ids, load};

/// The chunks that results must not depend on; the last one takes every golden prompt whole.
const CHUNKS: [u32; 4] = [1, 7, 16, 128];

fn expect_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    let (error, at) = compare::max_abs(found, expected);
    assert!(error <= tolerance, "{what}: off by {error:e} at {at}, allowed {tolerance:e}");
}

/// As many of the last values as there are expected ones: small data sets keep the last rows only.
fn tail<'a>(values: &'a [f32], expected: &[f32]) -> &'a [f32] {
    &values[values.len() - expected.len()..]
}

/// Taps of all tokens of `prompt`, the logits first, then the residual stream.
fn evaluate(loaded: &Arc<LoadedModel>, options: &EngineOptions, prompt: &Prompt) -> Vec<Tapped> {
    let taps = Taps { all_logits: true, tensors: loaded.model().graph().hidden_tensors() };
    let mut evaluator = Evaluator::new(loaded.clone(), options, &taps).unwrap();
    evaluator.eval(&ids(&prompt.tokens)).unwrap()
}

/// Model files with weights in f32: everything is compared, on every device.
fn check(name: &str) {
    let Some((golden, prompts)) = golden(&format!("{name}.f32")) else {
        return;
    };
    for device in devices() {
        let loaded = load(&golden.gguf, device);
        for prompt in &prompts {
            let what = format!("{name} on {}, prompt {}", loaded.device().info().name, prompt.idx);
            let first = evaluate(&loaded, &exact(CHUNKS[0]), prompt);
            check_numbers(&what, &golden, &first, prompt);
            for chunk in CHUNKS {
                let taps = evaluate(&loaded, &exact(chunk), prompt);
                assert_eq!(taps, first, "{what}: chunk {chunk} changes bits");
                check_greedy(&what, &loaded, chunk, prompt);
            }
        }
    }
}

fn check_numbers(what: &str, golden: &Golden, taps: &[Tapped], prompt: &Prompt) {
    let logits = &taps[0].values;
    expect_close(what, tail(logits, &prompt.logits), &prompt.logits, golden.tolerance);
    for (tapped, (hidden, expected)) in taps[1..].iter().zip(&prompt.hidden) {
        let what = format!("{what}, hidden {hidden}");
        expect_close(&what, tail(&tapped.values, expected), expected, golden.tolerance);
    }
}

fn check_greedy(what: &str, loaded: &Arc<LoadedModel>, chunk: u32, prompt: &Prompt) {
    let mut evaluator = Evaluator::new(loaded.clone(), &exact(chunk), &Taps::default()).unwrap();
    let (_, greedy) = evaluator.greedy(&ids(&prompt.tokens), prompt.greedy.len()).unwrap();
    assert_eq!(greedy, ids(&prompt.greedy), "{what}, chunk {chunk}");
}

/// Quantised files: exact where activations stay in f32, by KL divergence where a device quantises
/// them. The limits are those of the data set's README for dense models.
fn check_quantized(name: &str) {
    let Some((golden, prompts)) = golden(name) else {
        return;
    };
    for device in devices() {
        let is_reference = device.info().name == zinc_reference::NAME;
        let loaded = load(&golden.gguf, device);
        for prompt in &prompts {
            let what = format!("{name} on {}, prompt {}", loaded.device().info().name, prompt.idx);
            let whole = evaluate(&loaded, &exact(128), prompt);
            assert_eq!(evaluate(&loaded, &exact(7), prompt), whole, "{what}: chunk 7 changes bits");
            let logits = tail(&whole[0].values, &prompt.logits);
            if is_reference {
                expect_close(&what, logits, &prompt.logits, golden.tolerance);
            } else {
                let kl = compare::mean_kl(logits, &prompt.logits, prompt.n_vocab);
                assert!(kl < 1e-2, "{what}: KL divergence {kl:e}");
                expect_close(&what, logits, &prompt.logits, 1.0);
            }
        }
    }
}

/// A cache of 16-bit floats, within the limits of the golden data's README for it; and one of 8-bit
/// blocks, for which there is no oracle: its error is a few times that of its rounding, 1 in 254.
#[test]
fn smaller_caches_cost_little() {
    let Some((golden, prompts)) = golden("qwen3.f32") else {
        return;
    };
    for device in devices() {
        let loaded = load(&golden.gguf, device);
        let types = [(GgmlType::F16, 5e-2), (GgmlType::F8_E4M3, 1.0), (GgmlType::Q8_0, 2e-1)];
        for (kv_type, tolerance) in types {
            let options = EngineOptions { kv_type, ..exact(16) };
            for prompt in &prompts {
                let what = format!("{kv_type} on {}", loaded.device().info().name);
                let taps = evaluate(&loaded, &options, prompt);
                let logits = tail(&taps[0].values, &prompt.logits);
                expect_close(&what, logits, &prompt.logits, tolerance);
                assert_ne!(logits, prompt.logits, "{what}: a smaller cache cannot be exact");
            }
        }
    }
}

#[test]
fn llama() {
    check("llama");
}

#[test]
fn gemma2() {
    check("gemma2");
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

#[test]
fn weights_of_every_quantised_type() {
    for ty in ["q4_k_m", "q5_k_m", "q6_k"] {
        check_quantized(&format!("q_qwen3.{ty}"));
    }
    for ty in ["q8_0", "q4_0", "f16", "bf16"] {
        check_quantized(&format!("q_qwen3_small.{ty}"));
    }
}
