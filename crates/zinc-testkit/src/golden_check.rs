//! Checks of a device against the golden models.

use std::sync::Arc;

use zinc_backend::Device;
use zinc_quant::GgmlType;

use crate::TestError;
use crate::compare::{max_abs, mean_kl};
use crate::golden::{Golden, N_IN_CLONE, Prompt, goldens};
use crate::model_runner::{ModelRunner, Pass};

/// What became of one golden.
pub enum Outcome {
    /// Everything agrees; the largest difference, or the mean KL, for the record.
    Passed(String),
    /// It could not be tried, and why.
    Skipped(String),
    /// It does not agree: the first tensor that differs.
    Failed(String),
}

/// How many prompt tokens a step takes; the last stands for the whole prompt.
pub const CHUNKS: [usize; 4] = [1, 7, 16, 128];

/// Checks every golden whose family is supported; prints what was skipped and why.
///
/// # Panics
/// If a golden fails, with all failures; or if fewer could be tried than every clone has.
pub fn check_all(device: &Arc<dyn Device>) {
    let goldens = goldens().expect("golden models are readable");
    let mut failures = Vec::new();
    let mut n_passed = 0;
    for golden in &goldens {
        match check(golden, device) {
            Outcome::Passed(note) => {
                n_passed += 1;
                eprintln!("passed  {}: {note}", golden.name);
            }
            Outcome::Skipped(reason) => eprintln!("skipped {}: {reason}", golden.name),
            Outcome::Failed(reason) => failures.push(format!("{}: {reason}", golden.name)),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(n_passed >= N_IN_CLONE, "only {n_passed} goldens could be tried");
}

/// Checks one golden: f32 arithmetic by the file's tolerance, quantised activations by KL.
pub fn check(golden: &Golden, device: &Arc<dyn Device>) -> Outcome {
    let arch = golden.arch.as_str();
    if !zinc_models::architectures().any(|known| known == arch) {
        return Outcome::Skipped(format!("the architecture {arch} is not supported"));
    }
    let runner = match ModelRunner::open(&golden.gguf, device.clone(), GgmlType::F32) {
        Ok(runner) => runner,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    let check = match runner.converts_activations() {
        Ok(true) => check_by_kl,
        Ok(false) => check_exact,
        Err(error) if error.is_unsupported() => return Outcome::Skipped(error.to_string()),
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    let result = check(golden, &runner);
    match result {
        Ok(note) => Outcome::Passed(note),
        Err(error) if error.is_unsupported() => Outcome::Skipped(error.to_string()),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// Logits and hidden states within the tolerance and greedy tokens identical, for every chunking.
///
/// # Errors
/// The first tensor that differs.
pub fn check_exact(golden: &Golden, runner: &ModelRunner) -> Result<String, TestError> {
    let mut worst = 0.0_f32;
    for prompt in golden.prompts()? {
        for chunk in CHUNKS {
            let at = format!("prompt {} in chunks of {chunk}", prompt.idx);
            let pass = runner.prefill(&prompt.tokens, chunk)?;
            worst = worst.max(check_pass(&pass, &prompt, golden.tolerance, &at)?);
            let greedy = runner.greedy(&prompt.tokens, prompt.greedy.len().max(1), chunk)?;
            if !prompt.greedy.is_empty() && greedy != prompt.greedy {
                let expected = &prompt.greedy;
                let reason = format!("{at}: greedy tokens {greedy:?}, expected {expected:?}");
                return Err(TestError::Mismatch(reason));
            }
        }
    }
    Ok(format!("largest difference {worst:.1e}"))
}

/// Compares tensors in the order they are computed, so that the first one is reported.
///
/// # Errors
/// The first tensor that differs by more than `tolerance`.
pub fn check_pass(
    pass: &Pass,
    prompt: &Prompt,
    tolerance: f32,
    at: &str,
) -> Result<f32, TestError> {
    let mut worst = 0.0_f32;
    let mut compare = |name: &str, found: &[f32], expected: &[f32]| {
        let n_cols = found.len() / prompt.tokens.len();
        // Some files keep only the last rows.
        let found = &found[found.len().saturating_sub(expected.len())..];
        let (difference, idx) = max_abs(found, expected);
        worst = worst.max(difference);
        if difference <= tolerance {
            return Ok(());
        }
        let row = prompt.tokens.len() - expected.len() / n_cols + idx / n_cols;
        Err(TestError::Mismatch(format!(
            "{at}: {name} differs by {difference:e} (limit {tolerance:e}), most at row {row} \
             column {}",
            idx % n_cols
        )))
    };
    for (name, expected) in &prompt.hidden {
        let found = pass.hidden.iter().find(|(tensor, _)| tensor == name);
        let found = found.map_or(&[][..], |(_, values)| values);
        compare(&format!("hidden.{name}"), found, expected)?;
    }
    compare("logits", &pass.logits, &prompt.logits)?;
    Ok(worst)
}

/// The README's rule for a cache in f16, on every f32 golden of a supported family; prints what was skipped and why.
///
/// # Panics
/// If one does not agree.
pub fn check_f16_cache(device: &Arc<dyn Device>) {
    let supported = |golden: &Golden| zinc_models::architectures().any(|arch| arch == golden.arch);
    let goldens = goldens().expect("golden models are readable");
    for golden in goldens.iter().filter(|golden| supported(golden) && !golden.is_quantized()) {
        let runner = ModelRunner::open(&golden.gguf, device.clone(), GgmlType::F16)
            .expect("a supported model");
        for prompt in golden.prompts().expect("readable numbers") {
            // The whole prompt at once takes the kernels that many rows have.
            let checked = [16, 128].iter().try_for_each(|chunk| {
                let at = format!("{} prompt {} in chunks of {chunk}", golden.name, prompt.idx);
                check_prompt_f16(&prompt, &runner, *chunk, &at)
            });
            match checked {
                Err(error) if error.is_unsupported() => {
                    eprintln!("skipped {} with a cache in f16: {error}", golden.name);
                    break;
                }
                other => other.unwrap_or_else(|error| panic!("{error}")),
            }
        }
    }
}

/// Logits within 5e-2, a mean KL below 1e-4, and the greedy tokens as far as none had a rival within 0.1.
fn check_prompt_f16(
    prompt: &Prompt,
    runner: &ModelRunner,
    chunk: usize,
    at: &str,
) -> Result<(), TestError> {
    let logits = runner.prefill(&prompt.tokens, chunk)?.logits;
    let found = &logits[logits.len() - prompt.logits.len()..];
    let kl = mean_kl(found, &prompt.logits, prompt.n_vocab);
    let (difference, _) = max_abs(found, &prompt.logits);
    if kl.is_nan() || kl >= 1e-4 || difference >= 5e-2 {
        let reason = format!("{at}: KL {kl:e}, difference {difference:e}");
        return Err(TestError::Mismatch(reason));
    }
    // An f16 cache is not an f32 one: a device that ignored the type would agree too well.
    if prompt.tokens.len() > 1 && difference <= 1e-5 {
        return Err(TestError::Mismatch(format!("{at}: the cache is not in f16: {difference:e}")));
    }
    let greedy = runner.greedy(&prompt.tokens, prompt.greedy.len().max(1), chunk)?;
    let differs = prompt.greedy.iter().zip(&greedy).position(|(expected, found)| expected != found);
    match differs.map(|idx| prompt.greedy_gap[idx]) {
        // What follows another choice says nothing.
        Some(gap) if gap > 0.1 => {
            let expected = &prompt.greedy;
            let reason = format!("{at}: greedy tokens {greedy:?}, expected {expected:?}");
            Err(TestError::Mismatch(reason))
        }
        _ => Ok(()),
    }
}

/// The README's rules for devices that quantise activations, against llama.cpp, which does the same:
/// mean KL below 1e-2 and no logit off by 1; mean KL below 1e-1 where a router chooses among experts,
/// because rounding flips some choices. Every chunking must agree, with the same bits on devices whose
/// rows do not depend on the step.
fn check_by_kl(golden: &Golden, runner: &ModelRunner) -> Result<String, TestError> {
    let experts = runner.model().config().experts;
    let chooses = experts.is_some_and(|experts| experts.n_experts_used < experts.n_experts);
    let (kl_max, difference_max) = if chooses { (1e-1, f32::INFINITY) } else { (1e-2, 1.0) };
    let (mut worst_kl, mut worst) = (0.0_f64, 0.0_f32);
    for prompt in golden.prompts()? {
        let expected = prompt.llamacpp_logits.as_ref().unwrap_or(&prompt.logits);
        let whole = runner.prefill(&prompt.tokens, 128)?.logits;
        let mut check = |logits: &[f32], chunk: usize| {
            let found = &logits[logits.len() - expected.len()..];
            let kl = mean_kl(found, expected, prompt.n_vocab);
            let (difference, _) = max_abs(found, expected);
            if kl.is_nan() || kl > kl_max || difference > difference_max {
                return Err(TestError::Mismatch(format!(
                    "prompt {} in chunks of {chunk}: mean KL {kl:.1e} (limit {kl_max}), largest difference \
                     {difference:.1e} (limit {difference_max})",
                    prompt.idx
                )));
            }
            (worst_kl, worst) = (worst_kl.max(kl), worst.max(difference));
            Ok(())
        };
        check(&whole, 128)?;
        for chunk in CHUNKS {
            let other = runner.prefill(&prompt.tokens, chunk)?.logits;
            if !runner.device().caps().batch_invariant {
                check(&other, chunk)?;
            } else if let Err(idx) = crate::compare::same_bits(&other, &whole) {
                return Err(TestError::Mismatch(format!(
                    "prompt {}: chunks of {chunk} change row {} of the logits",
                    prompt.idx,
                    idx / prompt.n_vocab
                )));
            }
        }
    }
    Ok(format!("mean KL {worst_kl:.1e}, largest difference {worst:.1e}"))
}
