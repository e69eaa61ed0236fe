//! Time of one sampling step for a vocabulary of 152k tokens: `cargo bench -p zinc-engine`.

use std::hint::black_box;
use std::time::Instant;

use zinc_engine::sampler::{DryParams, Sampler, SamplerWorkspace, SamplingParams, XtcParams};

const N_VOCAB: usize = 151_936;
const N_HISTORY: usize = 4096;
const N_STEPS: u32 = 200;

/// Logits like a model's: a bell of deviation 2, and some tokens far above it.
fn logits() -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let mut bell = || (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
    (0..N_VOCAB).map(|i| 2.0 * bell() + if i % 5000 == 7 { 12.0 } else { 0.0 }).collect()
}

fn measure(name: &str, params: SamplingParams) {
    let logits = logits();
    let history: Vec<u32> = (0..N_HISTORY as u32).map(|i| i * 31 % 1000).collect();
    let Ok(mut sampler) = Sampler::new(SamplingParams { seed: Some(1), ..params }, N_VOCAB) else {
        return;
    };
    let mut workspace = SamplerWorkspace::new(N_HISTORY);
    history.iter().for_each(|_| sampler.accept(b"x"));
    let mut step = || drop(black_box(sampler.sample(&history, black_box(&logits), &mut workspace)));
    step();
    let begin = Instant::now();
    (0..N_STEPS).for_each(|_| step());
    println!("{name:24} {:8.1} us", begin.elapsed().as_secs_f64() * 1e6 / f64::from(N_STEPS));
}

fn main() {
    let default = SamplingParams::default;
    let dry = DryParams { multiplier: 0.8, ..DryParams::default() };
    let xtc = XtcParams { probability: 1.0, threshold: 0.1 };
    measure("greedy", SamplingParams::greedy());
    measure("default", default());
    measure(
        "penalties",
        SamplingParams { repetition_penalty: 1.1, penalty_last_n: None, ..default() },
    );
    measure("dry", SamplingParams { dry, ..default() });
    measure("top-p without top-k", SamplingParams { top_k: 0, ..default() });
    measure("top-p 0.999", SamplingParams { top_k: 0, top_p: 0.999, ..default() });
    measure("typical without top-k", SamplingParams { top_k: 0, typical_p: 0.9, ..default() });
    measure("min-p and xtc only", SamplingParams { top_k: 0, top_p: 1.0, xtc, ..default() });
    measure("temperature only", SamplingParams { top_k: 0, top_p: 1.0, min_p: 0.0, ..default() });
    measure("log-probabilities", SamplingParams { logprobs: Some(5), ..default() });
}
