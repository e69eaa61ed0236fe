//! A steady decode step allocates no memory in the engine.

use std::sync::Arc;

use zinc_engine::sampler::SamplingParams;
use zinc_engine::{Engine, EngineOptions, Event, Request};

use crate::fake::FakeDevice;
use crate::support::{golden, load};

fn check(sampling: SamplingParams, stop: &[&str]) {
    let Some((golden, _)) = golden("qwen3.f32") else {
        return;
    };
    let device = FakeDevice::new(|id, position, i| {
        ((id + position) as usize * 7919 + i * 104_729) as f32 % 9.7
    });
    let options = EngineOptions { n_ctx: Some(256), ..EngineOptions::default() };
    let mut engine = Engine::new(load(&golden.gguf, Arc::new(device)), &options).unwrap();
    let stop = stop.iter().map(ToString::to_string).collect();
    let request =
        Request { prompt: vec![1, 2, 3], sampling, stop, ignore_eos: true, ..Request::default() };
    engine.submit(request).unwrap();
    let mut n_tokens = 0;
    let mut step = || {
        engine
            .step(&mut |event| {
                assert!(
                    !matches!(event, Event::Finished { .. } | Event::Failed { .. }),
                    "{event:?}"
                );
                n_tokens += usize::from(matches!(event, Event::Token { .. }));
            })
            .unwrap();
    };
    // The first steps make room: buffers, and text of a few lengths.
    (0..60).for_each(|_| step());
    let counted = allocation_counter::measure(|| (0..150).for_each(|_| step()));
    assert_eq!(n_tokens, 210);
    assert_eq!(counted.count_total, 0, "{counted:?}");
}

#[test]
fn greedy_decoding_allocates_nothing() {
    check(SamplingParams::greedy(), &[]);
}

#[test]
fn sampled_decoding_with_penalties_allocates_nothing() {
    let mut sampling =
        SamplingParams { seed: Some(1), repetition_penalty: 1.1, ..SamplingParams::default() };
    sampling.dry.multiplier = 0.8;
    sampling.typical_p = 0.95;
    sampling.xtc.probability = 0.5;
    check(sampling, &["never to be found", "\n\n\n\n\n\n"]);
}
