//! A steady decode step allocates no memory in the engine.

use std::sync::Arc;

use zinc_engine::sampler::SamplingParams;
use zinc_engine::{
    DraftSource, Engine, EngineOptions, Event, LoadedModel, Model, Request, Speculation,
};

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

#[test]
fn decoding_with_drafts_allocates_nothing() {
    for (source, speculation) in
        [(DraftSource::Lookup, Speculation::Lookup), (DraftSource::Mtp, Speculation::Mtp)]
    {
        let Some((golden, _)) = golden("qwen3_5_mtp.f32") else {
            return;
        };
        // Always the same token, now and then another one.
        let device = FakeDevice::new(|_, position, i| {
            f32::from(u8::from(i == if position % 23 == 0 { 9 } else { 7 }))
        });
        let model = Arc::new(Model::open(&golden.gguf).unwrap());
        let options = EngineOptions {
            n_ctx: Some(512),
            speculation,
            checkpoints: 0,
            ..EngineOptions::default()
        };
        let loaded =
            LoadedModel::load_for(model, Arc::new(device), &options, &mut |_, _| ()).unwrap();
        let mut engine = Engine::new(Arc::new(loaded), &options).unwrap();
        let sampling = SamplingParams::greedy();
        engine
            .submit(Request {
                prompt: vec![1, 2, 3],
                sampling,
                ignore_eos: true,
                ..Request::default()
            })
            .unwrap();
        let mut steps = |n: u32| (0..n).for_each(|_| engine.step(&mut |_| ()).unwrap());
        steps(40);
        let counted = allocation_counter::measure(|| steps(20));
        assert_eq!(counted.count_total, 0, "{source:?}: {counted:?}");
        assert!(!engine.is_idle());
        let stats = engine.stats().drafts(source);
        assert!(stats.n_accepted_tokens > 30, "{source:?}: {stats:?}");
    }
}
