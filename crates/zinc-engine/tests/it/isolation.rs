//! Sequences are isolated: hundreds of sessions that begin alike, run side by side, go on from each
//! other, are cancelled, pushed out and resumed, on caches too small for all of them, and each is bit
//! for bit what it is alone.

use std::sync::Arc;

use zinc_cpu::{CpuDevice, Isa};
use zinc_engine::sampler::SamplingParams;
use zinc_engine::{
    Allowed, Engine, EngineError, EngineOptions, Event, FinishReason, LoadedModel, Pooling,
    Request, SequenceId, Speculation, Steer, SteerError,
};

use crate::support::{exact, golden, load, load_with_mtp};

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) as usize % n
    }

    fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn tokens(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| 3 + self.below(250) as u32).collect()
    }
}

/// Allows two thirds of the vocabulary, others after each token, and splices one in now and then.
struct Sieve {
    mask: Vec<u32>,
    n: u32,
}

impl Steer for Sieve {
    fn next(&mut self) -> Result<Allowed<'_>, SteerError> {
        if self.n % 7 == 6 {
            return Ok(Allowed::Forced(10 + self.n));
        }
        let n = self.n;
        for (at, word) in self.mask.iter_mut().enumerate() {
            *word = 0xdb6d_b6db_u32.rotate_left(n + at as u32);
        }
        Ok(Allowed::Mask(&self.mask))
    }

    fn accept(&mut self, _: u32) -> Result<(), SteerError> {
        self.n += 1;
        Ok(())
    }
}

/// A session, to be asked for as often as needed.
#[derive(Clone)]
struct Session {
    prompt: Vec<u32>,
    n: u32,
    sampling: SamplingParams,
    is_steered: bool,
    is_scored: bool,
    pooling: Option<Pooling>,
    client: u64,
}

impl Session {
    fn random(
        random: &mut Random,
        openings: &[Vec<u32>],
        others: &[(Session, Outcome)],
    ) -> Session {
        let mut prompt = openings[random.below(openings.len())].clone();
        if random.once_in(2) && !others.is_empty() {
            // On from another one, or from the middle of it.
            let (other, outcome) = &others[random.below(others.len())];
            prompt = [&other.prompt[..], &outcome.ids()].concat();
            prompt.truncate(1 + random.below(prompt.len().min(180)));
        }
        let n_more = 1 + random.below(40);
        prompt.extend(random.tokens(n_more));
        let sampling = match random.below(4) {
            0 => SamplingParams { seed: Some(random.below(99) as u64), ..Default::default() },
            1 => SamplingParams {
                seed: Some(3),
                temperature: 1.5,
                repetition_penalty: 1.2,
                top_k: 0,
                ..Default::default()
            },
            _ => SamplingParams::greedy(),
        };
        Session {
            prompt,
            n: random.below(30) as u32,
            sampling: SamplingParams { logprobs: random.once_in(2).then_some(1), ..sampling },
            is_steered: random.once_in(5),
            is_scored: random.once_in(12),
            pooling: random.once_in(12).then_some(Pooling::Mean),
            client: random.below(3) as u64,
        }
    }

    fn request(&self) -> Request {
        let steer = Sieve { mask: vec![0; 24], n: 0 };
        Request {
            prompt: self.prompt.clone(),
            max_tokens: Some(self.n),
            sampling: self.sampling.clone(),
            ignore_eos: true,
            steer: self.is_steered.then(|| Box::new(steer) as Box<dyn Steer>),
            prompt_logprobs: self.is_scored.then_some(1),
            pooling: self.pooling,
            client: self.client,
            ..Request::default()
        }
    }
}

/// What came of a session: chosen ids with the bits of their log-probabilities, those of its prompt,
/// its embedding, and the end.
#[derive(Debug, Default, Clone, PartialEq)]
struct Outcome {
    chosen: Vec<(u32, Option<u32>)>,
    scores: Vec<Option<u32>>,
    embedding: Vec<f32>,
    end: Option<FinishReason>,
}

impl Outcome {
    fn ids(&self) -> Vec<u32> {
        self.chosen.iter().map(|(id, _)| *id).collect()
    }

    fn take(&mut self, event: &Event<'_>) {
        match event {
            Event::Token { id, logprobs, .. } => {
                self.chosen.push((*id, logprobs.map(|it| it.logprob.to_bits())))
            }
            Event::PromptToken { logprobs, .. } => {
                self.scores.push(logprobs.map(|it| it.logprob.to_bits()))
            }
            Event::Embedding { values, .. } => self.embedding = values.to_vec(),
            Event::Finished { reason, .. } => self.end = Some(reason.clone()),
            Event::Failed { error, .. } => panic!("{error}"),
            Event::Prefill { .. } => {}
        }
    }
}

fn seq_of(event: &Event<'_>) -> SequenceId {
    match event {
        Event::Prefill { seq, .. }
        | Event::PromptToken { seq, .. }
        | Event::Embedding { seq, .. }
        | Event::Token { seq, .. }
        | Event::Finished { seq, .. }
        | Event::Failed { seq, .. } => *seq,
    }
}

fn alone(loaded: &Arc<LoadedModel>, session: &Session) -> Outcome {
    let options =
        EngineOptions { n_ctx: Some(320), embeddings: true, checkpoints: 0, ..exact(320) };
    let mut engine = Engine::new(loaded.clone(), &options).unwrap();
    engine.submit(session.request()).unwrap();
    let mut outcome = Outcome::default();
    while !engine.is_idle() {
        engine.step(&mut |event| outcome.take(&event)).unwrap();
    }
    outcome
}

/// A run of many sessions.
struct Case {
    name: &'static str,
    n: usize,
    max_seqs: u32,
    /// Pages for all of them, fewer than they need; `None` is as many as they need.
    n_pages: Option<u32>,
    host_cache_bytes: u64,
    speculation: Speculation,
}

/// An engine with about as many pages as the case says.
fn engine(case: &Case, loaded: &Arc<LoadedModel>) -> Engine {
    let options = EngineOptions {
        n_ctx: Some(320),
        busy_chunk: 16,
        max_seqs: case.max_seqs,
        checkpoints: 2,
        extra_rows: 3,
        embeddings: true,
        host_cache_bytes: case.host_cache_bytes,
        speculation: case.speculation,
        ..exact(40)
    };
    let Some(n_pages) = case.n_pages else {
        return Engine::new(loaded.clone(), &options).unwrap();
    };
    let mut cache_bytes = 0;
    loop {
        let options = EngineOptions { cache_bytes: Some(cache_bytes), ..options };
        cache_bytes = match Engine::new(loaded.clone(), &options) {
            Ok(engine) if engine.stats().n_pages >= n_pages => return engine,
            Ok(_) => cache_bytes + cache_bytes / 8,
            Err(EngineError::CacheBudget { least, .. }) => least,
            Err(error) => panic!("{error}"),
        };
    }
}

/// Runs random sessions on one engine and compares each with its run alone.
fn check(case: &Case, seed: u64) {
    let Case { name, n, .. } = *case;
    let Some((golden, _)) = golden(&format!("{name}.f32")) else { return };
    let device = Arc::new(CpuDevice::new(2, Isa::best()).unwrap());
    let loaded = match case.speculation {
        Speculation::Mtp => load_with_mtp(&golden.gguf, device),
        _ => load(&golden.gguf, device),
    };
    let mut engine = engine(case, &loaded);
    let mut random = Random(seed);
    let openings: Vec<Vec<u32>> = [70, 100, 150].map(|n| random.tokens(n)).into();
    let mut open: Vec<(SequenceId, Session, Outcome)> = Vec::new();
    let mut done: Vec<(Session, Outcome)> = Vec::new();
    let mut n_submitted = 0;
    while n_submitted < n || !engine.is_idle() {
        while n_submitted < n && open.len() < 15 && (n_submitted < 12 || !random.once_in(4)) {
            let mut session = Session::random(&mut random, &openings, &done);
            if n_submitted < case.max_seqs as usize && case.n_pages.is_some() {
                // Short questions with long answers: they all find room to begin with.
                session.prompt.truncate(20 + n_submitted);
                session.n = 200;
            }
            let seq = engine.submit(session.request()).unwrap();
            open.push((seq, session, Outcome::default()));
            n_submitted += 1;
        }
        if random.once_in(25) && !open.is_empty() {
            engine.cancel(open[random.below(open.len())].0);
        }
        engine
            .step(&mut |event| {
                let seq = seq_of(&event);
                let at = open.iter().position(|(other, ..)| *other == seq).unwrap();
                open[at].2.take(&event);
                if open[at].2.end.is_some() {
                    let (_, session, outcome) = open.remove(at);
                    done.push((session, outcome));
                }
            })
            .unwrap();
    }
    let stats = engine.stats();
    assert_eq!((done.len(), open.len()), (n, 0));
    for (session, outcome) in &done {
        let mut expected = alone(&loaded, session);
        if outcome.end == Some(FinishReason::Cancelled) {
            expected.end = outcome.end.clone();
            expected.chosen.truncate(outcome.chosen.len());
            expected.scores.truncate(outcome.scores.len());
            expected.embedding.truncate(outcome.embedding.len());
        }
        assert_eq!(*outcome, expected, "{name}, prompt of {} tokens", session.prompt.len());
    }
    // All of it happened.
    let was_cancelled = |(_, outcome): &(_, Outcome)| outcome.end == Some(FinishReason::Cancelled);
    assert!(done.iter().any(was_cancelled));
    assert!(stats.n_reused_tokens > stats.n_prompt_tokens / 20, "{name}: {stats:?}");
    assert!(stats.n_evicted_pages > 0, "{name}: {stats:?}");
    assert_eq!(stats.n_preempted > 0, case.n_pages.is_some(), "{name}: {stats:?}");
    assert_eq!(stats.n_restored_pages > 0, case.host_cache_bytes > 0, "{name}: {stats:?}");
    assert_eq!(stats.n_pages_running, 0);
    let drafts = case.speculation.source(loaded.model()).map(|source| stats.drafts(source));
    assert!(drafts.is_none_or(|drafts| drafts.n_drafts > 0), "{name}: {stats:?}");
}

fn case(name: &'static str, n: usize, (max_seqs, n_pages): (u32, Option<u32>)) -> Case {
    Case { name, n, max_seqs, n_pages, host_cache_bytes: 0, speculation: Speculation::Off }
}

fn drafting(speculation: Speculation, case: Case) -> Case {
    Case { speculation, ..case }
}

fn with_host(case: Case) -> Case {
    Case { host_cache_bytes: 1 << 22, ..case }
}

#[test]
fn sessions_on_caches_that_keep_everything() {
    check(&case("qwen3", 160, (5, Some(12))), 1);
    check(&with_host(case("deepseek_v2_lite", 60, (5, Some(12)))), 2);
}

#[test]
fn sessions_on_windows() {
    check(&case("gemma3", 100, (12, Some(34))), 3);
    check(&with_host(case("gpt_oss", 60, (2, None))), 4);
}

#[test]
fn sessions_on_recurrent_states() {
    check(&case("qwen3_next", 100, (12, Some(36))), 5);
    check(&with_host(case("qwen3_5", 60, (2, None))), 6);
}

#[test]
fn sessions_with_drafts() {
    check(&drafting(Speculation::Lookup, case("qwen3", 60, (3, Some(11)))), 7);
    check(&drafting(Speculation::Mtp, case("qwen3_5_mtp", 60, (10, Some(34)))), 8);
    check(&drafting(Speculation::Mtp, with_host(case("qwen3_5_mtp", 60, (2, None)))), 9);
}
