//! Drafted tokens change nothing but the number of steps.

use std::sync::Arc;

use zinc_engine::sampler::TokenLogprobs;
use zinc_engine::{
    Allowed, Engine, EngineOptions, Event, FinishReason, LoadedModel, Request, SamplingParams,
    Speculation, Stats, Steer, SteerError,
};

use crate::support::{devices, exact, golden, load};

/// Families with every kind of cache: plain, windows, recurrent states, both.
const MODELS: [&str; 4] = ["llama.f32", "gemma3.f32", "qwen3_next.f32", "gpt_oss.f32"];

#[derive(Debug, PartialEq)]
struct Answer {
    ids: Vec<u32>,
    logprobs: Vec<Option<TokenLogprobs>>,
    reason: FinishReason,
}

/// Answers to requests that run side by side, in order of submission, and what the engine counted.
fn answers(
    loaded: &Arc<LoadedModel>,
    options: EngineOptions,
    requests: Vec<Request>,
) -> (Vec<Answer>, Stats) {
    let mut engine = Engine::new(Arc::clone(loaded), &options).unwrap();
    let seqs: Vec<_> =
        requests.into_iter().map(|request| engine.submit(request).unwrap()).collect();
    let new = |_| Answer { ids: Vec::new(), logprobs: Vec::new(), reason: FinishReason::Cancelled };
    let mut answers: Vec<_> = seqs.iter().map(new).collect();
    let place = |seq| seqs.iter().position(|other| *other == seq).unwrap();
    while !engine.is_idle() {
        engine
            .step(&mut |event| match event {
                Event::Token { seq, id, logprobs, .. } => {
                    answers[place(seq)].ids.push(id);
                    answers[place(seq)].logprobs.push(logprobs.cloned());
                }
                Event::Finished { seq, reason, .. } => answers[place(seq)].reason = reason,
                Event::Failed { error, .. } => panic!("{error}"),
                _ => {}
            })
            .unwrap();
    }
    (answers, engine.stats())
}

/// A prompt whose end stood in it before.
fn repeating(n_vocab: u32, seed: u32) -> Vec<u32> {
    let once: Vec<u32> = (0..12).map(|i| (i * 7 + seed * 5 + 3) % n_vocab).collect();
    [&once[..], &once[..], &once[..6]].concat()
}

fn request(prompt: Vec<u32>, sampling: SamplingParams) -> Request {
    Request { prompt, max_tokens: Some(80), sampling, ignore_eos: true, ..Request::default() }
}

/// Of few tokens, so that three of them soon stand together again.
fn sampled(seed: u64) -> SamplingParams {
    let logit_bias = vec![(4, 50.0), (6, 50.0)];
    SamplingParams { temperature: 0.3, seed: Some(seed), logit_bias, ..SamplingParams::default() }
}

fn greedy() -> SamplingParams {
    SamplingParams { temperature: 0.0, ..sampled(0) }
}

/// The same requests with and without drafts give the same; returns what was counted with them.
fn same(
    loaded: &Arc<LoadedModel>,
    options: EngineOptions,
    requests: &dyn Fn() -> Vec<Request>,
) -> Stats {
    let off = EngineOptions { speculation: Speculation::Off, ..options };
    let on = EngineOptions { speculation: Speculation::Lookup, ..options };
    let (alone, _) = answers(loaded, off, requests());
    let (drafted, stats) = answers(loaded, on, requests());
    assert_eq!(alone, drafted);
    stats
}

#[test]
fn every_kind_of_cache_goes_back() {
    for name in MODELS {
        let Some((golden, _)) = golden(name) else { continue };
        let loaded = load(&golden.gguf, devices().remove(1));
        let n_vocab = loaded.model().config().n_vocab;
        let options = exact(16);
        let stats = same(&loaded, options, &|| vec![request(repeating(n_vocab, 0), greedy())]);
        assert!(stats.n_drafted_tokens > 0, "{name}");
        // Tiny models soon repeat themselves.
        assert!(stats.n_accepted_tokens > 0, "{name}: {stats:?}");
        for seed in 0..4 {
            same(&loaded, options, &|| vec![request(repeating(n_vocab, 1), sampled(seed))]);
        }
    }
}

#[test]
fn many_seeds_give_the_same_samples() {
    let Some((golden, _)) = golden("llama.f32") else { return };
    let loaded = load(&golden.gguf, devices().remove(1));
    let n_vocab = loaded.model().config().n_vocab;
    let options = EngineOptions { max_seqs: 4, ..exact(16) };
    let requests = || {
        (0..200)
            .map(|seed| {
                let temperature = [0.1, 0.4, 1.0][seed as usize % 3];
                let sampling = SamplingParams { temperature, ..sampled(seed) };
                Request {
                    max_tokens: Some(12),
                    ..request(repeating(n_vocab, seed as u32 % 5), sampling)
                }
            })
            .collect()
    };
    let stats = same(&loaded, options, &requests);
    assert!(stats.n_accepted_tokens > 0, "{stats:?}");
    assert!(stats.n_accepted_tokens < stats.n_drafted_tokens, "{stats:?}");
}

#[test]
fn penalties_logprobs_stops_and_limits_hold() {
    for name in ["llama.f32", "qwen3_next.f32"] {
        let Some((golden, _)) = golden(name) else { continue };
        let loaded = load(&golden.gguf, devices().remove(1));
        let n_vocab = loaded.model().config().n_vocab;
        let requests = || {
            let prompt = repeating(n_vocab, 2);
            let penalised = SamplingParams {
                repetition_penalty: 1.3,
                frequency_penalty: 0.2,
                logprobs: Some(3),
                ..greedy()
            };
            let short = Request { max_tokens: Some(3), ..request(prompt.clone(), greedy()) };
            let ends = Request { ignore_eos: false, ..request(prompt.clone(), sampled(3)) };
            vec![request(prompt, penalised), short, ends]
        };
        same(&loaded, EngineOptions { max_seqs: 3, ..exact(16) }, &requests);
        // To the end of the context, in small steps.
        let full =
            || vec![Request { max_tokens: None, ..request(repeating(n_vocab, 3), greedy()) }];
        same(&loaded, EngineOptions { chunk: 4, n_ctx: Some(64), ..exact(4) }, &full);
    }
}

/// Allows even ids, and splices two tokens in now and then.
struct Even {
    mask: Vec<u32>,
    n: u32,
}

impl Steer for Even {
    fn next(&mut self) -> Result<Allowed<'_>, SteerError> {
        Ok(match self.n % 7 {
            3 => Allowed::Forced(4),
            4 => Allowed::Forced(6),
            _ if self.n >= 33 => Allowed::End,
            _ => Allowed::Mask(&self.mask),
        })
    }

    fn accept(&mut self, _id: u32) -> Result<(), SteerError> {
        self.n += 1;
        Ok(())
    }
}

#[test]
fn steering_holds() {
    let Some((golden, _)) = golden("llama.f32") else { return };
    let loaded = load(&golden.gguf, devices().remove(1));
    let n_vocab = loaded.model().config().n_vocab;
    let requests = || {
        let steer = Even { mask: vec![0x5555_5555; n_vocab.div_ceil(32) as usize], n: 0 };
        vec![Request { steer: Some(Box::new(steer)), ..request(repeating(n_vocab, 4), greedy()) }]
    };
    let stats = same(&loaded, exact(16), &requests);
    assert!(stats.n_drafted_tokens > 0, "{stats:?}");
}
