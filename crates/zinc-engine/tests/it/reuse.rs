//! What is reused of a cache changes no bit: on models that keep everything, windows, recurrent
//! states and compressed keys, a prompt that finds part of itself computed gives what it gives from
//! scratch.

use std::sync::Arc;

use zinc_engine::kv::PAGE_SIZE;
use zinc_engine::sampler::SamplingParams;
use zinc_engine::{Engine, EngineOptions, Evaluator, Event, LoadedModel, Request, Taps};

use crate::support::{devices, exact, golden, ids, load};

/// Models whose caches differ.
const MODELS: [&str; 7] =
    ["qwen3", "deepseek_v2_lite", "gpt_oss", "gemma3", "gemma4", "qwen3_next", "qwen3_5"];

/// Every model that is there, on every device, with its longest golden prompt.
fn with_models(test: impl Fn(&str, &Arc<LoadedModel>, Vec<u32>)) {
    for name in MODELS {
        let Some((golden, prompts)) = golden(&format!("{name}.f32")) else {
            continue;
        };
        let longest = prompts.iter().max_by_key(|prompt| prompt.tokens.len()).unwrap();
        for device in devices() {
            let loaded = load(&golden.gguf, device);
            let what = format!("{name} on {}", loaded.device().info().name);
            test(&what, &loaded, ids(&longest.tokens));
        }
    }
}

/// Ids and the bits of their log probabilities, and how much of the prompt was reused.
fn run(engine: &mut Engine, prompt: &[u32], n: u32) -> (Vec<(u32, u32)>, usize) {
    let sampling = SamplingParams { logprobs: Some(1), ..SamplingParams::greedy() };
    let request = Request {
        prompt: prompt.to_vec(),
        max_tokens: Some(n),
        sampling,
        ignore_eos: true,
        ..Request::default()
    };
    engine.submit(request).unwrap();
    let (mut chosen, mut n_reused) = (Vec::new(), 0);
    while !engine.is_idle() {
        engine
            .step(&mut |event| match event {
                Event::Token { id, logprobs, .. } => {
                    chosen.push((id, logprobs.unwrap().logprob.to_bits()))
                }
                Event::Finished { usage, .. } => n_reused = usage.n_reused,
                Event::Failed { error, .. } => panic!("{error}"),
                _ => {}
            })
            .unwrap();
    }
    (chosen, n_reused)
}

/// A conversation: each prompt goes on from the one before, with and without the answer it got, asks
/// again, or changes its end.
#[test]
fn a_conversation_is_that_from_scratch() {
    with_models(|name, loaded, first| {
        for chunk in [1, 7, 64] {
            let options = EngineOptions { n_ctx: Some(256), ..exact(chunk) };
            let mut engine = Engine::new(loaded.clone(), &options).unwrap();
            let mut turn = |prompt: &[u32], n: u32| {
                let (chosen, n_reused) = run(&mut engine, prompt, n);
                let mut fresh = Engine::new(loaded.clone(), &options).unwrap();
                let (expected, none) = run(&mut fresh, prompt, n);
                assert_eq!(chosen, expected, "{name}, chunk {chunk}, {n_reused} tokens reused");
                assert_eq!(none, 0);
                let answer: Vec<u32> = chosen.iter().map(|(id, _)| *id).collect();
                (answer, n_reused)
            };
            let (answer, _) = turn(&first, 90);
            // Whole blocks are reused.
            let blocks = |n: usize| n / PAGE_SIZE as usize * PAGE_SIZE as usize;
            // The next turn holds the answer, but for its last token, which was not computed.
            let question: Vec<u32> = (5..25).collect();
            let continued = [&first[..], &answer, &question].concat();
            let (_, n_reused) = turn(&continued, 20);
            let n_computed = first.len() + answer.len() - 1;
            assert_eq!(n_reused, blocks(n_computed), "{name}, the next turn");
            // The same again.
            let (answer, n_reused) = turn(&continued, 30);
            assert_eq!(n_reused, blocks(continued.len() - 1), "{name}, the same again");
            // The next turn with a prompt that ended otherwise, and without the answer.
            let n_common = continued.len() - 4;
            let changed = [&continued[..n_common], &[9, 8, 7, 6, 5], &answer[..3]].concat();
            let (_, n_reused) = turn(&changed, 5);
            assert_eq!(n_reused, blocks(n_common), "{name}, another end");
        }
    });
}

/// Several conversations of different lengths in one step, in slots that change hands.
#[test]
fn conversations_do_not_disturb_each_other() {
    with_models(|name, loaded, prompt| {
        let options = EngineOptions { n_ctx: Some(128), max_seqs: 3, ..exact(16) };
        let mut engine = Engine::new(loaded.clone(), &options).unwrap();
        let mut prompts: Vec<Vec<u32>> = (1..=5).map(|n| prompt[..4 * n].to_vec()).collect();
        for _ in 0..3 {
            let mut chosen: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
            let seqs: Vec<_> = (prompts.iter().enumerate())
                .map(|(i, prompt)| {
                    let max_tokens = Some(4 + 3 * i as u32);
                    let sampling = SamplingParams::greedy();
                    let prompt = prompt.clone();
                    let ignore_eos = true;
                    let request =
                        Request { prompt, max_tokens, sampling, ignore_eos, ..Request::default() };
                    engine.submit(request).unwrap()
                })
                .collect();
            while !engine.is_idle() {
                engine
                    .step(&mut |event| match event {
                        Event::Token { seq, id, .. } => {
                            let at = seqs.iter().position(|other| *other == seq).unwrap();
                            chosen[at].push(id);
                        }
                        Event::Failed { error, .. } => panic!("{error}"),
                        _ => {}
                    })
                    .unwrap();
            }
            for (i, (prompt, answer)) in prompts.iter_mut().zip(&chosen).enumerate() {
                let mut alone = Engine::new(loaded.clone(), &exact(128)).unwrap();
                let (expected, _) = run(&mut alone, prompt, 4 + 3 * i as u32);
                let expected: Vec<u32> = expected.iter().map(|(id, _)| *id).collect();
                assert_eq!(*answer, expected, "{name}, conversation {i}");
                // The next turn drops part of the answer.
                prompt.extend(&answer[..i + 1]);
                prompt.extend([3, 4]);
            }
        }
    });
}

/// Going back in an evaluator, to checkpoints, between them and before them.
#[test]
fn an_evaluator_goes_back_without_a_trace() {
    with_models(|name, loaded, prompt| {
        let options = EngineOptions { n_ctx: Some(256), ..exact(16) };
        let taps = Taps { all_logits: true, tensors: Vec::new() };
        let new = || Evaluator::new(loaded.clone(), &options, &taps).unwrap();
        let text: Vec<u32> = prompt.iter().cycle().take(180).copied().collect();
        let whole = new().eval(&text).unwrap().swap_remove(0);
        let mut evaluator = new();
        evaluator.eval(&text[..60]).unwrap();
        evaluator.eval(&text[60..100]).unwrap();
        (100..170).for_each(|at| drop(evaluator.eval(&text[at..at + 1]).unwrap()));
        for n in [169, 100, 99, 61, 60, 30, 150, 1, 0] {
            let found = evaluator.tokens().len();
            evaluator.truncate(n.min(found));
            let begin = evaluator.tokens().len();
            evaluator.eval(&[9, 8]).unwrap();
            evaluator.truncate(begin);
            let logits = evaluator.eval(&text[begin..]).unwrap().swap_remove(0);
            let expected = &whole.values[begin * whole.n_cols..];
            assert!(logits.values == expected, "{name}: back to {begin} changes bits");
        }
    });
}

/// A device has the cache types that it says, and another one is refused by its name.
#[test]
fn cache_types_are_those_of_the_device() {
    let Some((golden, prompts)) = golden("qwen3.f32") else {
        return;
    };
    for device in devices() {
        let caps = device.caps().clone();
        let loaded = load(&golden.gguf, device);
        for kv_type in zinc_engine::KV_TYPES {
            let options = EngineOptions { kv_type, ..exact(16) };
            let evaluator = Evaluator::new(loaded.clone(), &options, &Taps::default());
            match evaluator {
                Ok(mut evaluator) => {
                    assert!(caps.kv_types.contains(&kv_type));
                    evaluator.eval(&ids(&prompts[0].tokens)).unwrap();
                }
                Err(error) => {
                    assert!(!caps.kv_types.contains(&kv_type), "{kv_type}: {error}");
                    let error = error.to_string();
                    assert!(
                        error.contains(&caps.device) && error.contains(kv_type.name()),
                        "{error}"
                    );
                }
            }
        }
    }
}
