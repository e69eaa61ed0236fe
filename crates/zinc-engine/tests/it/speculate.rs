//! Drafted tokens change nothing but the number of steps.

use std::sync::Arc;

use zinc_engine::sampler::TokenLogprobs;
use zinc_engine::{
    Allowed, DraftSource, DraftStats, Engine, EngineError, EngineOptions, Event, FinishReason,
    LoadedModel, Model, Request, SamplingParams, Speculation, Stats, Steer, SteerError,
};

use crate::support::{agreeing, devices, exact, golden, load, load_with_mtp};

/// Families with every kind of cache: plain, windows, recurrent states, both.
const MODELS: [&str; 4] = ["llama.f32", "gemma3.f32", "qwen3_next.f32", "gpt_oss.f32"];

/// A model and what drafts for it.
struct Case {
    name: &'static str,
    loaded: Arc<LoadedModel>,
    source: DraftSource,
    /// Whether its drafts are known to be right now and then.
    is_good: bool,
}

impl Case {
    /// Drafts by lookup for a golden model: tiny models soon repeat themselves.
    fn lookup(name: &'static str) -> Option<Case> {
        let (golden, _) = golden(name)?;
        let loaded = load(&golden.gguf, devices().remove(1));
        Some(Case { name, loaded, source: DraftSource::Lookup, is_good: true })
    }

    /// Drafts by the golden head, whose random weights know nothing of the trunk's, or by one that
    /// agrees with its trunk most of the time.
    fn mtp(is_good: bool) -> Option<Case> {
        let (golden, _) = golden("qwen3_5_mtp.f32")?;
        let load = if is_good { agreeing } else { load_with_mtp };
        let loaded = load(&golden.gguf, devices().remove(1));
        Some(Case { name: "qwen3_5_mtp", loaded, source: DraftSource::Mtp, is_good })
    }

    fn n_vocab(&self) -> u32 {
        self.loaded.model().config().n_vocab
    }

    fn speculation(&self) -> Speculation {
        match self.source {
            DraftSource::Lookup => Speculation::Lookup,
            DraftSource::Mtp => Speculation::Mtp,
        }
    }

    /// What is sampled with drafts that are right now and then: for lookup of few tokens, so that three
    /// of them soon stand together again.
    fn sampled(&self, seed: u64) -> SamplingParams {
        let logit_bias = match self.source {
            DraftSource::Lookup => vec![(4, 50.0), (6, 50.0)],
            DraftSource::Mtp => Vec::new(),
        };
        let seed = Some(seed);
        SamplingParams { temperature: 0.3, seed, logit_bias, ..SamplingParams::default() }
    }

    fn greedy(&self) -> SamplingParams {
        SamplingParams { temperature: 0.0, ..self.sampled(0) }
    }

    /// The same requests with and without drafts give the same; returns what was drafted.
    fn same(&self, options: EngineOptions, requests: &dyn Fn() -> Vec<Request>) -> DraftStats {
        let off = EngineOptions { speculation: Speculation::Off, ..options };
        let on = EngineOptions { speculation: self.speculation(), ..options };
        let (alone, _) = answers(&self.loaded, off, requests());
        let (drafted, stats) = answers(&self.loaded, on, requests());
        assert_eq!(alone, drafted, "{}, {:?}", self.name, self.source);
        stats.drafts(self.source)
    }
}

fn cases() -> Vec<Case> {
    let mtp = [true, false].map(Case::mtp);
    MODELS.into_iter().map(Case::lookup).chain(mtp).flatten().collect()
}

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

#[test]
fn every_kind_of_cache_goes_back() {
    for case in cases() {
        let n_vocab = case.n_vocab();
        let what = format!("{}, {:?}", case.name, case.source);
        for chunk in [16, 3] {
            let stats =
                case.same(exact(chunk), &|| vec![request(repeating(n_vocab, 0), case.greedy())]);
            assert!(stats.n_drafted_tokens > 0, "{what}");
            assert_eq!(stats.n_accepted_tokens > 0, case.is_good, "{what}: {stats:?}");
        }
        for seed in 0..4 {
            case.same(exact(16), &|| vec![request(repeating(n_vocab, 1), case.sampled(seed))]);
        }
    }
}

#[test]
fn many_seeds_give_the_same_samples() {
    let cases = [Case::lookup("llama.f32"), Case::mtp(true)];
    for case in cases.into_iter().flatten() {
        let options = EngineOptions { max_seqs: 4, ..exact(16) };
        let requests = || {
            (0..200)
                .map(|seed| {
                    let temperature = [0.1, 0.4, 1.0][seed as usize % 3];
                    let sampling = SamplingParams { temperature, ..case.sampled(seed) };
                    let prompt = repeating(case.n_vocab(), seed as u32 % 5);
                    Request { max_tokens: Some(12), ..request(prompt, sampling) }
                })
                .collect()
        };
        let stats = case.same(options, &requests);
        assert!(stats.n_accepted_tokens > 0, "{}: {stats:?}", case.name);
        assert!(stats.n_accepted_tokens < stats.n_drafted_tokens, "{}: {stats:?}", case.name);
    }
}

#[test]
fn penalties_logprobs_stops_and_limits_hold() {
    let cases = [Case::lookup("llama.f32"), Case::lookup("qwen3_next.f32"), Case::mtp(true)];
    for case in cases.into_iter().flatten() {
        let n_vocab = case.n_vocab();
        let requests = || {
            let prompt = repeating(n_vocab, 2);
            let penalised = SamplingParams {
                repetition_penalty: 1.3,
                frequency_penalty: 0.2,
                logprobs: Some(3),
                ..case.greedy()
            };
            let short = Request { max_tokens: Some(3), ..request(prompt.clone(), case.greedy()) };
            let ends = Request { ignore_eos: false, ..request(prompt.clone(), case.sampled(3)) };
            vec![request(prompt, penalised), short, ends]
        };
        case.same(EngineOptions { max_seqs: 3, ..exact(16) }, &requests);
        // To the end of the context, in small steps.
        let prompt = || repeating(n_vocab, 3);
        let full = || vec![Request { max_tokens: None, ..request(prompt(), case.greedy()) }];
        case.same(EngineOptions { chunk: 4, n_ctx: Some(64), ..exact(4) }, &full);
    }
}

#[test]
fn what_has_no_head_is_refused_and_auto_does_without() {
    let Some(case) = Case::lookup("llama.f32") else { return };
    let mtp = EngineOptions { speculation: Speculation::Mtp, ..exact(16) };
    let refused = Engine::new(Arc::clone(&case.loaded), &mtp).err().unwrap();
    assert!(matches!(refused, EngineError::NoMtpHead { .. }), "{refused}");
    let told = refused.to_string();
    assert!(told.contains("architecture llama") && told.contains("hint"), "{told}");

    let auto = EngineOptions { speculation: Speculation::Auto, ..exact(16) };
    assert_eq!(Speculation::Auto.source(case.loaded.model()), Some(DraftSource::Lookup));
    Engine::new(Arc::clone(&case.loaded), &auto).unwrap();

    let Some((golden, _)) = golden("qwen3_5_mtp.f32") else { return };
    let model = Model::open(&golden.gguf).unwrap();
    assert_eq!(Speculation::Auto.source(&model), Some(DraftSource::Mtp));
    // Loaded without its head.
    let loaded = load(&golden.gguf, devices().remove(1));
    assert!(!loaded.has_mtp());
    assert!(Engine::new(Arc::clone(&loaded), &mtp).is_err());
    let prompt = repeating(model.config().n_vocab, 0);
    let (_, stats) = answers(&loaded, auto, vec![request(prompt, SamplingParams::greedy())]);
    assert_eq!(stats.mtp_drafts, DraftStats::default());
}

/// Turns of a conversation, with drafts and without: what the head keeps of a text is shared with it.
#[test]
fn the_next_turn_is_drafted_as_well_as_the_first() {
    let Some(case) = Case::mtp(true) else { return };
    let options = EngineOptions { speculation: Speculation::Mtp, n_ctx: Some(256), ..exact(16) };
    let mut engine = Engine::new(Arc::clone(&case.loaded), &options).unwrap();
    let mut turn = |prompt: &[u32]| {
        let before = engine.stats();
        let sampling = SamplingParams::greedy();
        let seq = engine.submit(request(prompt.to_vec(), sampling.clone())).unwrap();
        let mut ids = Vec::new();
        while !engine.is_idle() {
            engine
                .step(&mut |event| {
                    if let Event::Token { id, .. } = event {
                        ids.push(id);
                    }
                })
                .unwrap();
            if ids.len() > 50 {
                // In the middle of an answer.
                engine.cancel(seq);
            }
        }
        let off = EngineOptions { speculation: Speculation::Off, ..options };
        let requests = vec![request(prompt.to_vec(), sampling)];
        let (alone, _) = answers(&case.loaded, off, requests);
        assert_eq!(ids, alone[0].ids[..ids.len()]);
        assert!(ids.len() > 50);
        let stats = engine.stats();
        let n_accepted = stats.mtp_drafts.n_accepted_tokens - before.mtp_drafts.n_accepted_tokens;
        assert!(n_accepted > 0, "{stats:?}");
        assert_eq!(stats.n_pages_running, 0);
        (ids, stats.n_reused_tokens - before.n_reused_tokens)
    };
    let first = repeating(case.n_vocab(), 0);
    let (answer, n_reused) = turn(&first);
    assert_eq!(n_reused, 0);
    let second = [&first[..], &answer, &first[..10]].concat();
    let (_, n_reused) = turn(&second);
    assert!(n_reused >= 64, "{n_reused}");
    // The same again, and another end.
    assert!(turn(&second).1 >= 64);
    assert!(turn(&[&second[..second.len() - 5], &[9, 8, 7]].concat()).1 >= 64);
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
    let cases = [Case::lookup("llama.f32"), Case::mtp(true)];
    for case in cases.into_iter().flatten() {
        let n_vocab = case.n_vocab();
        let requests = || {
            let mask = vec![0x5555_5555; n_vocab.div_ceil(32) as usize];
            let steer = Some(Box::new(Even { mask, n: 0 }) as Box<dyn Steer>);
            vec![Request { steer, ..request(repeating(n_vocab, 4), case.greedy()) }]
        };
        let stats = case.same(exact(16), &requests);
        assert!(stats.n_drafted_tokens > 0, "{}: {stats:?}", case.name);
    }
}
