//! What servers ask of the engine: steered answers, shown special tokens, scored prompts,
//! embeddings, limits, counters.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use zinc_engine::sampler::{SamplingParams, score};
use zinc_engine::{
    Allowed, Engine, EngineError, EngineOptions, Evaluator, Event, FinishReason, LoadedModel,
    Pooling, Request, Steer, SteerError, Taps,
};

use crate::fake::FakeDevice;
use crate::support::{devices, exact, golden, ids, load};

/// What a scripted steer says before each token.
#[derive(Debug, Clone)]
enum Say {
    Any,
    Only(Vec<u32>),
    Force(u32),
    End,
    Fail,
}

/// Says one thing after another, and keeps what it was told.
struct Script {
    says: Vec<Say>,
    mask: Vec<u32>,
    told: Arc<Mutex<Vec<u32>>>,
}

impl Steer for Script {
    fn next(&mut self) -> Result<Allowed<'_>, SteerError> {
        let at = self.told.lock().unwrap().len();
        match &self.says[at] {
            Say::Any => Ok(Allowed::Any),
            Say::Only(ids) => {
                self.mask.clear();
                self.mask.resize(ids.iter().max().map_or(0, |id| *id as usize / 32 + 1), 0);
                ids.iter().for_each(|id| self.mask[*id as usize / 32] |= 1 << (id % 32));
                Ok(Allowed::Mask(&self.mask))
            }
            Say::Force(id) => Ok(Allowed::Forced(*id)),
            Say::End => Ok(Allowed::End),
            Say::Fail => Err(SteerError::Stuck("nothing follows".into())),
        }
    }

    fn accept(&mut self, id: u32) -> Result<(), SteerError> {
        self.told.lock().unwrap().push(id);
        Ok(())
    }
}

fn request(prompt: &[u32], n: u32) -> Request {
    let sampling = SamplingParams::greedy();
    Request { prompt: prompt.to_vec(), max_tokens: Some(n), sampling, ..Request::default() }
}

/// Ids, text, how many steps it took, and the end.
type Outcome = (Vec<u32>, String, usize, Result<FinishReason, String>);

fn run(engine: &mut Engine, request: Request) -> Outcome {
    engine.submit(request).unwrap();
    let mut outcome = (Vec::new(), String::new(), 0, Err(String::new()));
    while !engine.is_idle() {
        outcome.2 += 1;
        engine
            .step(&mut |event| match event {
                Event::Token { id, text, .. } => {
                    outcome.0.push(id);
                    outcome.1.push_str(text);
                }
                Event::Finished { reason, text, .. } => {
                    outcome.1.push_str(text);
                    outcome.3 = Ok(reason);
                }
                Event::Failed { error, .. } => outcome.3 = Err(error.to_string()),
                _ => {}
            })
            .unwrap();
    }
    outcome
}

/// The small Qwen3, whose logits prefer the id after the last one.
fn counting(options: &EngineOptions) -> Option<Engine> {
    let (golden, _) = golden("qwen3.f32")?;
    let device = FakeDevice::new(|id, _, i| -(i as f32 - id as f32 - 1.0).abs());
    Some(Engine::new(load(&golden.gguf, Arc::new(device)), options).unwrap())
}

#[test]
fn an_answer_is_steered() {
    let Some(mut engine) = counting(&exact(16)) else { return };
    let mut steered = |says: &[Say], sampling: SamplingParams| {
        let told = Arc::new(Mutex::new(Vec::new()));
        let steer = Script { says: says.to_vec(), mask: Vec::new(), told: told.clone() };
        let steer: Option<Box<dyn Steer>> = Some(Box::new(steer));
        let outcome = run(&mut engine, Request { steer, sampling, ..request(&[1, 2], 20) });
        let told = told.lock().unwrap().clone();
        (outcome, told)
    };
    let says = [
        Say::Any,
        Say::Only(vec![40, 90]),
        Say::Force(70),
        Say::Force(60),
        Say::Force(50),
        Say::Any,
        Say::Only(vec![9]),
        Say::End,
    ];
    let expected = vec![3, 40, 70, 60, 50, 51, 9];
    let (outcome, told) = steered(&says, SamplingParams::greedy());
    assert_eq!(outcome.0, expected);
    assert_eq!((outcome.3, &told), (Ok(FinishReason::Steered), &expected));
    // Spliced tokens after the first one take no step of their own; with log-probabilities they do.
    assert_eq!(outcome.2, 6);
    let sampling = SamplingParams { logprobs: Some(1), ..SamplingParams::greedy() };
    let (outcome, _) = steered(&says, sampling);
    assert_eq!((outcome.0, outcome.2), (expected, 8));
    // Sampling draws from what is allowed.
    let sampling = SamplingParams { seed: Some(1), temperature: 5.0, ..SamplingParams::default() };
    let only = vec![Say::Only(vec![5, 6, 300]); 20];
    let (outcome, _) = steered(&only, sampling);
    assert!(outcome.0.iter().all(|id| [5, 6, 300].contains(id)), "{outcome:?}");
    assert_eq!(outcome.3, Ok(FinishReason::Length));
    // What cannot go on ends this request with its reason.
    let (outcome, _) = steered(&[Say::Any, Say::Fail], SamplingParams::greedy());
    assert!(outcome.3.unwrap_err().contains("cannot be met: nothing follows"));
    let (outcome, _) = steered(&[Say::Only(vec![])], SamplingParams::greedy());
    assert!(outcome.3.unwrap_err().contains("allows no token of the vocabulary"));
    let (outcome, _) = steered(&[Say::Force(1 << 20)], SamplingParams::greedy());
    assert!(outcome.3.unwrap_err().contains("forces token 1048576"));
}

#[test]
fn shown_special_tokens_appear_in_the_text() {
    let Some(mut engine) = counting(&exact(16)) else { return };
    let vocab = engine.model().tokenizer().vocab();
    let n_tokens = vocab.n_tokens() as u32;
    let Some(special) = (3..n_tokens).find(|id| vocab.is_special(*id)) else {
        eprintln!("skipped: the vocabulary of the small Qwen3 has no special token");
        return;
    };
    let piece = String::from_utf8(vocab.piece(special).to_vec()).unwrap();
    let prompt = [1, special - 1];
    let asked = |shown_special| Request { ignore_eos: true, shown_special, ..request(&prompt, 1) };
    assert_eq!(run(&mut engine, asked(vec![])).1, "");
    assert_eq!(run(&mut engine, asked(vec![special, 1])).1, piece);
    let error = engine.submit(asked(vec![n_tokens])).unwrap_err();
    assert!(matches!(error, EngineError::ShownToken { .. }));
}

/// The golden model with its longest prompt on each device.
fn with_qwen3(test: impl Fn(&Arc<LoadedModel>, &[u32])) {
    let Some((golden, prompts)) = golden("qwen3.f32") else { return };
    let longest = prompts.iter().max_by_key(|prompt| prompt.tokens.len()).unwrap();
    for device in devices() {
        test(&load(&golden.gguf, device), &ids(&longest.tokens));
    }
}

#[test]
fn a_prompt_is_scored_whatever_the_rows_of_a_step() {
    with_qwen3(|loaded, prompt| {
        let taps = Taps { all_logits: true, tensors: Vec::new() };
        let mut evaluator = Evaluator::new(loaded.clone(), &exact(64), &taps).unwrap();
        let logits = evaluator.eval(prompt).unwrap().swap_remove(0);
        let mut workspace = Default::default();
        let expected: Vec<_> = logits.values.chunks(logits.n_cols).zip(&prompt[1..]).collect();
        for (chunk, extra_rows) in [(64, 0), (7, 3), (64, 64)] {
            let options = EngineOptions { extra_rows, max_seqs: 2, ..exact(chunk) };
            let mut engine = Engine::new(loaded.clone(), &options).unwrap();
            // A second request with the same prompt, beside it and unscored.
            let other = engine.submit(request(prompt, 3)).unwrap();
            let scored = Request { prompt_logprobs: Some(2), ..request(prompt, 2) };
            let seq = engine.submit(scored).unwrap();
            let (mut n_scored, mut chosen) = (0, [Vec::new(), Vec::new()]);
            while !engine.is_idle() {
                engine
                    .step(&mut |event| match event {
                        Event::PromptToken { seq: of, index, id, logprobs } => {
                            assert_eq!((of, index, id), (seq, n_scored, prompt[n_scored]));
                            assert!(chosen[1].is_empty());
                            if let Some(logprobs) = logprobs {
                                let (row, id) = expected[index - 1];
                                let expected = score(row, *id, 2, &mut workspace).unwrap();
                                assert_eq!(*logprobs, expected, "token {index}");
                            }
                            assert_eq!(logprobs.is_none(), index == 0);
                            n_scored += 1;
                        }
                        Event::Token { seq: of, id, .. } => {
                            chosen[usize::from(of != other)].push(id)
                        }
                        Event::Finished { seq: of, usage, .. } if of == seq => {
                            assert_eq!(usage.n_reused, 0)
                        }
                        Event::Failed { error, .. } => panic!("{error}"),
                        _ => {}
                    })
                    .unwrap();
            }
            assert_eq!(n_scored, prompt.len(), "chunk {chunk}, {extra_rows} rows more");
            assert_eq!(chosen[0][..2], chosen[1]);
        }
    });
}

#[test]
fn embeddings_are_the_pooled_hidden_states() {
    with_qwen3(|loaded, prompt| {
        let taps = Taps { all_logits: true, tensors: vec!["final_norm".into()] };
        let mut evaluator = Evaluator::new(loaded.clone(), &exact(64), &taps).unwrap();
        let hidden = evaluator.eval(prompt).unwrap().swap_remove(1);
        let expected = |pooling| -> Vec<f32> {
            let rows = hidden.values.chunks(hidden.n_cols);
            let mut sums = vec![0.0; hidden.n_cols];
            for row in rows.skip(if pooling == Pooling::Last { prompt.len() - 1 } else { 0 }) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            let length = sums.iter().map(|sum| sum * sum).sum::<f64>().sqrt();
            sums.iter().map(|sum| (sum / length) as f32).collect()
        };
        for chunk in [5, 64] {
            let options = EngineOptions { embeddings: true, max_seqs: 3, ..exact(chunk) };
            let mut engine = Engine::new(loaded.clone(), &options).unwrap();
            let poolings = [Pooling::Last, Pooling::Mean];
            engine.submit(request(prompt, 4)).unwrap();
            let seqs = poolings.map(|pooling| {
                let pooled = Request { pooling: Some(pooling), ..request(prompt, 4) };
                engine.submit(pooled).unwrap()
            });
            let mut n_seen = 0;
            while !engine.is_idle() {
                engine
                    .step(&mut |event| match event {
                        Event::Embedding { seq, values } => {
                            let at = seqs.iter().position(|other| *other == seq).unwrap();
                            assert_eq!(values, expected(poolings[at]), "chunk {chunk}");
                            n_seen += 1;
                        }
                        Event::Finished { seq, reason, .. } if seqs.contains(&seq) => {
                            assert_eq!(reason, FinishReason::Pooled)
                        }
                        Event::Failed { error, .. } => panic!("{error}"),
                        _ => {}
                    })
                    .unwrap();
            }
            assert_eq!(n_seen, 2);
        }
        let mut engine = Engine::new(loaded.clone(), &exact(16)).unwrap();
        let pooled = Request { pooling: Some(Pooling::Last), ..request(prompt, 4) };
        assert!(matches!(engine.submit(pooled), Err(EngineError::NoEmbeddings)));
    });
}

#[test]
fn limits_end_or_refuse_requests_and_counters_count() {
    let options = EngineOptions { max_waiting: 2, ..exact(4) };
    let Some(mut engine) = counting(&options) else { return };
    let late = Request { deadline: Some(Instant::now()), ..request(&[1, 2], 5) };
    assert_eq!(run(&mut engine, late).3, Ok(FinishReason::TimeLimit));
    engine.submit(request(&[1, 2, 3, 4, 5, 6], 9)).unwrap();
    engine.step(&mut |_| {}).unwrap();
    engine.submit(request(&[1], 1)).unwrap();
    engine.submit(request(&[1], 1)).unwrap();
    let error = engine.submit(request(&[1], 1)).unwrap_err();
    assert!(matches!(error, EngineError::QueueFull { n_waiting: 2 }), "{error}");
    let stats = engine.stats();
    assert_eq!((stats.n_waiting, stats.n_running, stats.n_steps), (2, 1, 1));
    assert_eq!((stats.n_computed_tokens, stats.n_pages_running, stats.n_pages), (4, 1, 4));
    while !engine.is_idle() {
        engine.step(&mut |_| {}).unwrap();
    }
    let stats = engine.stats();
    assert_eq!((stats.n_waiting, stats.n_running, stats.n_finished), (0, 0, 4));
    assert_eq!((stats.n_prompt_tokens, stats.n_generated_tokens), (8, 11));
}
