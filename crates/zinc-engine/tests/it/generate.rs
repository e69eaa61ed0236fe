//! Requests from submission to their last event.

use std::sync::Arc;

use zinc_engine::kv::PAGE_SIZE;
use zinc_engine::sampler::{SamplerError, SamplingParams};
use zinc_engine::{
    Engine, EngineError, EngineOptions, Evaluator, Event, FinishReason, LoadedModel, Request,
    SequenceId, Taps, Usage,
};

use crate::fake::FakeDevice;
use zinc_testkit::golden::Prompt;

use crate::support::{devices, exact, golden, ids, load};

/// What came of a request.
#[derive(Debug, PartialEq)]
struct Outcome {
    ids: Vec<u32>,
    logprobs: Vec<f32>,
    text: String,
    end: Result<FinishReason, String>,
    usage: Usage,
}

impl Outcome {
    fn new() -> Outcome {
        Outcome {
            ids: Vec::new(),
            logprobs: Vec::new(),
            text: String::new(),
            end: Err("no last event".into()),
            usage: Usage::default(),
        }
    }

    /// Takes an event of sequence `of`; whether it was the last.
    fn take(&mut self, of: SequenceId, event: &Event<'_>) -> bool {
        match event {
            Event::Token { seq, id, text, logprobs, .. } if *seq == of => {
                self.ids.push(*id);
                self.logprobs.extend(logprobs.map(|logprobs| logprobs.logprob));
                self.text.push_str(text);
                false
            }
            Event::Finished { seq, reason, text, usage } if *seq == of => {
                self.text.push_str(text);
                self.end = Ok(reason.clone());
                self.usage = *usage;
                true
            }
            Event::Failed { seq, error } if *seq == of => {
                self.end = Err(error.to_string());
                true
            }
            _ => false,
        }
    }
}

fn run(engine: &mut Engine, request: Request) -> Outcome {
    let seq = engine.submit(request).unwrap();
    let mut outcome = Outcome::new();
    while !engine.is_idle() {
        engine
            .step(&mut |event| {
                outcome.take(seq, &event);
            })
            .unwrap();
    }
    outcome
}

/// Greedy, with end-of-generation tokens like any other.
fn greedy(prompt: &[u32], n: u32) -> Request {
    Request {
        prompt: prompt.to_vec(),
        max_tokens: Some(n),
        sampling: SamplingParams::greedy(),
        ignore_eos: true,
        ..Request::default()
    }
}

/// The small Qwen3 on each device, with its golden prompts from the shortest to the longest.
fn with_qwen3(test: impl Fn(&Arc<LoadedModel>, &[Prompt])) {
    let Some((golden, prompts)) = golden("qwen3.f32") else {
        return;
    };
    for device in devices() {
        test(&load(&golden.gguf, device), &prompts);
    }
}

fn longest(prompts: &[Prompt]) -> Vec<u32> {
    ids(&prompts[prompts.len() - 1].tokens)
}

/// The small Qwen3 with logits that a test makes up.
fn with_logits(
    options: EngineOptions,
    logit: impl Fn(i32, i32, usize) -> f32 + Send + Sync + 'static,
) -> Option<Engine> {
    let (golden, _) = golden("qwen3.f32")?;
    Some(Engine::new(load(&golden.gguf, Arc::new(FakeDevice::new(logit))), &options).unwrap())
}

#[test]
fn greedy_text_is_the_golden_one_for_every_chunk() {
    with_qwen3(|loaded, prompts| {
        for chunk in [1, 7, 16, 128] {
            let mut engine = Engine::new(loaded.clone(), &exact(chunk)).unwrap();
            for prompt in prompts {
                let n = prompt.greedy.len();
                let outcome = run(&mut engine, greedy(&ids(&prompt.tokens), n as u32));
                assert_eq!(outcome.ids, ids(&prompt.greedy), "chunk {chunk}");
                assert_eq!(outcome.text, loaded.model().tokenizer().decode(&outcome.ids, true));
                assert_eq!(outcome.end, Ok(FinishReason::Length));
                assert_eq!(outcome.usage.n_generated, n);
            }
        }
    });
}

#[test]
fn the_next_turn_reuses_the_cache_and_changes_nothing() {
    with_qwen3(|loaded, prompts| {
        let first = longest(prompts);
        let mut engine = Engine::new(loaded.clone(), &exact(16)).unwrap();
        let answer = run(&mut engine, greedy(&first, 10)).ids;
        // The conversation goes on, then branches off in the middle, is asked for again, and at
        // last starts over with something else.
        let continued = [&first[..], &answer, &[5, 6, 7]].concat();
        let at = first.len() / 2;
        let branched = [&continued[..at], &[continued[at] + 1, 10]].concat();
        let other = [&[branched[0] + 1], &first[..at]].concat();
        // The answer's last token was chosen but not computed, and whole blocks are there.
        let n_computed = first.len() + answer.len() - 1;
        let blocks = |n: usize| n / PAGE_SIZE as usize * PAGE_SIZE as usize;
        let cases = [
            (&continued, blocks(n_computed)),
            (&branched, blocks(at)),
            (&branched, blocks(at)),
            (&other, 0),
        ];
        for (prompt, n_reused) in cases {
            let outcome = run(&mut engine, greedy(prompt, 12));
            let mut fresh = Engine::new(loaded.clone(), &exact(16)).unwrap();
            assert_eq!(outcome.ids, run(&mut fresh, greedy(prompt, 12)).ids);
            assert_eq!(outcome.usage.n_reused, n_reused);
        }
    });
}

#[test]
fn sequences_do_not_disturb_each_other() {
    with_qwen3(|loaded, prompts| {
        for (max_seqs, chunk) in [(1, 16), (2, 16), (3, 1), (3, 64)] {
            let options = EngineOptions { max_seqs, ..exact(chunk) };
            let mut engine = Engine::new(loaded.clone(), &options).unwrap();
            let mut submit = |prompt: &Prompt| {
                let Prompt { tokens, greedy: expected, .. } = prompt;
                let seq = engine.submit(greedy(&ids(tokens), expected.len() as u32)).unwrap();
                (seq, ids(expected), Outcome::new())
            };
            let mut seqs: Vec<_> = prompts.iter().chain(prompts).map(&mut submit).collect();
            while !engine.is_idle() {
                let mut on_event = |event: Event<'_>| {
                    seqs.iter_mut().for_each(|(seq, _, outcome)| {
                        outcome.take(*seq, &event);
                    });
                };
                engine.step(&mut on_event).unwrap();
            }
            for (_, expected, outcome) in &seqs {
                assert_eq!(outcome.ids, *expected, "{max_seqs} at a time, chunk {chunk}");
            }
        }
    });
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    with_qwen3(|loaded, prompts| {
        let prompt = longest(prompts);
        let mut engine = Engine::new(loaded.clone(), &exact(16)).unwrap();
        let whole = run(&mut engine, greedy(&prompt, 24)).text;
        let chars: Vec<char> = whole.chars().collect();
        for (start, n_chars) in [(3, 1), (5, 4), (1, 9)] {
            let stop: String = chars[start..start + n_chars].iter().collect();
            let request =
                Request { stop: vec!["never".into(), stop.clone()], ..greedy(&prompt, 24) };
            let outcome = run(&mut engine, request);
            assert_eq!(outcome.text, whole[..whole.find(&stop).unwrap()]);
            assert_eq!(outcome.end, Ok(FinishReason::StopString(stop)));
        }
        let request = Request { stop: vec!["never to be found".into()], ..greedy(&prompt, 24) };
        assert_eq!(run(&mut engine, request).text, whole);
    });
}

#[test]
fn seeds_reproduce() {
    with_qwen3(|loaded, prompts| {
        let mut engine = Engine::new(loaded.clone(), &exact(16)).unwrap();
        let mut sampled = |seed| {
            let sampling =
                SamplingParams { seed: Some(seed), temperature: 1.5, ..SamplingParams::default() };
            run(&mut engine, Request { sampling, ..greedy(&longest(prompts), 24) }).ids
        };
        let first = sampled(1);
        assert_eq!(first, sampled(1));
        assert_ne!(first, sampled(2));
    });
}

#[test]
fn tokens_that_were_asked_for_end_the_text_and_none_does_too_early() {
    // Each position has a favourite of its own, and a second choice.
    let logit = |_, position: i32, i: usize| match i {
        _ if i as i32 == 100 + position => 2.0,
        50 => 1.0,
        _ => 0.0,
    };
    let Some(mut engine) = with_logits(exact(4), logit) else {
        return;
    };
    let asked = |stop_token_ids: &[u32], min_tokens, n| Request {
        stop_token_ids: stop_token_ids.to_vec(),
        min_tokens,
        ..greedy(&[1; 6], n)
    };
    let end = |id| Ok(FinishReason::StopToken(id));
    let outcome = run(&mut engine, asked(&[9, 108], 0, 20));
    assert_eq!((outcome.ids, outcome.end), (vec![105, 106, 107], end(108)));
    let outcome = run(&mut engine, asked(&[108], 3, 20));
    assert_eq!((outcome.ids, outcome.end), (vec![105, 106, 107], end(108)));
    // The fourth token must not end it, so it is the second choice.
    let outcome = run(&mut engine, asked(&[108, 110], 4, 20));
    assert_eq!((outcome.ids, outcome.end), (vec![105, 106, 107, 50, 109], end(110)));
    let outcome = run(&mut engine, asked(&[108], 5, 5));
    assert_eq!(outcome.ids, [105, 106, 107, 50, 109]);
    assert_eq!(outcome.end, Ok(FinishReason::Length));

    let n_vocab = engine.model().config().n_vocab;
    for (request, field) in [
        (asked(&[n_vocab], 0, 5), "stop_token_ids"),
        (asked(&vec![1; 300], 0, 5), "stop_token_ids"),
        (asked(&[1], 6, 5), "min_tokens"),
    ] {
        let refused = engine.submit(request).unwrap_err().to_string();
        assert!(refused.contains(field), "{refused}");
    }
}

#[test]
fn stop_strings_wait_for_the_least_tokens() {
    with_qwen3(|loaded, prompts| {
        let mut engine = Engine::new(loaded.clone(), &exact(16)).unwrap();
        let prompt = longest(prompts);
        let whole = run(&mut engine, greedy(&prompt, 24));
        let Some(first) = whole.text.chars().next() else { return };
        let stop = vec![first.to_string()];
        let outcome = run(&mut engine, Request { stop: stop.clone(), ..greedy(&prompt, 24) });
        assert_eq!(
            (outcome.text.as_str(), outcome.end),
            ("", Ok(FinishReason::StopString(stop[0].clone())))
        );
        let held = Request { stop: stop.clone(), min_tokens: 24, ..greedy(&prompt, 24) };
        let outcome = run(&mut engine, held);
        assert_eq!(outcome.ids, whole.ids);
        assert!(outcome.text.starts_with(first), "{}", outcome.text);
    });
}

#[test]
fn a_stop_token_ends_the_text_unless_ignored() {
    let Some((golden, _)) = golden("qwen3.f32") else {
        return;
    };
    let stop_id =
        zinc_engine::Model::open(&golden.gguf).unwrap().tokenizer().vocab().eos().unwrap();
    // Token 7 everywhere, the stop token behind position 9.
    let logit = move |_, position, i: usize| {
        let best = if position == 9 { stop_id as usize } else { 7 };
        f32::from(u8::from(i == best))
    };
    let Some(mut engine) = with_logits(exact(4), logit) else {
        return;
    };
    let outcome = run(&mut engine, Request { ignore_eos: false, ..greedy(&[1; 6], 20) });
    assert_eq!((outcome.ids, outcome.end), (vec![7; 4], Ok(FinishReason::StopToken(stop_id))));
    assert_eq!(outcome.usage.n_generated, 4);
    let outcome = run(&mut engine, greedy(&[1; 6], 6));
    assert_eq!(
        (outcome.ids, outcome.end),
        (vec![7, 7, 7, 7, stop_id, 7], Ok(FinishReason::Length))
    );
}

#[test]
fn a_full_context_ends_the_text() {
    let options = EngineOptions { n_ctx: Some(40), ..exact(16) };
    let Some(mut engine) =
        with_logits(options, |id, _, i| f32::from(u8::from(i == id as usize + 1)))
    else {
        return;
    };
    for max_tokens in [None, Some(1000)] {
        let outcome = run(&mut engine, Request { max_tokens, ..greedy(&[1; 30], 0) });
        assert_eq!((outcome.ids, outcome.end), ((2..12).collect(), Ok(FinishReason::Length)));
    }
    let outcome = run(&mut engine, greedy(&[1; 39], 5));
    assert_eq!((outcome.ids, outcome.end), (vec![2], Ok(FinishReason::Length)));
    let error = engine.submit(greedy(&[1; 40], 5)).unwrap_err().to_string();
    assert_eq!(
        error,
        "the prompt has 40 tokens, which leaves no room in a context of 40; \
         hint: a longer context (--ctx, up to 512 for this model), or a shorter prompt"
    );
    let error = engine.submit(greedy(&[1; 512], 5)).unwrap_err().to_string();
    assert!(
        error.ends_with("hint: shorten the prompt, the model was trained for 512 tokens"),
        "{error}"
    );
}

#[test]
fn no_tokens_wanted_still_computes_the_prompt() {
    let Some(mut engine) = with_logits(exact(4), |_, _, i| i as f32) else {
        return;
    };
    let outcome = run(&mut engine, greedy(&[1; 65], 0));
    assert_eq!((outcome.ids, outcome.end), (vec![], Ok(FinishReason::Length)));
    assert_eq!(run(&mut engine, greedy(&[1; 65], 0)).usage.n_reused, 64);
    assert_eq!(run(&mut engine, greedy(&[1; 64], 0)).usage.n_reused, 32);
}

#[test]
fn cancel_acts_at_the_next_step() {
    let Some(mut engine) = with_logits(exact(32), |_, _, _| 0.0) else {
        return;
    };
    let first = engine.submit(greedy(&[1; 80], 100)).unwrap();
    let waiting = engine.submit(greedy(&[1; 80], 100)).unwrap();
    let mut prefill = Vec::new();
    for _ in 0..2 {
        engine
            .step(&mut |event| match event {
                Event::Prefill { n_computed, n_prompt, .. } => prefill.push((n_computed, n_prompt)),
                other => panic!("{other:?}"),
            })
            .unwrap();
    }
    assert_eq!(prefill, [(32, 80), (64, 80)]);
    assert!(engine.cancel(first) && engine.cancel(waiting));
    let mut ended = Vec::new();
    engine
        .step(&mut |event| match event {
            Event::Finished { seq, reason: FinishReason::Cancelled, .. } => ended.push(seq),
            other => panic!("{other:?}"),
        })
        .unwrap();
    assert_eq!(ended, [first, waiting]);
    assert!(engine.is_idle() && !engine.cancel(first));
    // What was computed before is of use to the next one.
    assert_eq!(run(&mut engine, greedy(&[1; 80], 1)).usage.n_reused, 64);
}

#[test]
fn a_token_sampled_from_nonsense_fails_its_sequence_only() {
    let logit = |id, _, i| if id == 3 && i == 5 { f32::NAN } else { 0.0 };
    let Some(mut engine) = with_logits(EngineOptions { max_seqs: 2, ..exact(16) }, logit) else {
        return;
    };
    let bad = engine.submit(greedy(&[1, 2, 3], 4)).unwrap();
    let outcome = run(&mut engine, greedy(&[1, 2], 4));
    assert_eq!((outcome.ids.len(), outcome.end), (4, Ok(FinishReason::Length)));
    let outcome = {
        let seq = engine.submit(greedy(&[1, 2, 3], 4)).unwrap();
        assert_ne!(seq, bad);
        let mut outcome = Outcome::new();
        engine
            .step(&mut |event| {
                outcome.take(seq, &event);
            })
            .unwrap();
        outcome
    };
    assert!(outcome.end.unwrap_err().starts_with("the model's logit of token 5 is NaN"));
}

#[test]
fn logprobs_come_with_each_token() {
    let Some(mut engine) = with_logits(exact(16), |_, _, i| if i == 9 { 2.0 } else { 0.0 }) else {
        return;
    };
    let sampling = SamplingParams { logprobs: Some(2), ..SamplingParams::greedy() };
    engine.submit(Request { sampling, ..greedy(&[1, 2], 1) }).unwrap();
    let mut seen = Vec::new();
    engine
        .step(&mut |event| {
            if let Event::Token { id, logprobs, .. } = event {
                seen.push((
                    id,
                    logprobs.unwrap().top.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
                ));
            }
        })
        .unwrap();
    assert_eq!(seen, [(9, vec![9, 0])]);
}

#[test]
fn requests_that_cannot_be_served_are_refused() {
    let Some(mut engine) = with_logits(exact(16), |_, _, _| 0.0) else {
        return;
    };
    assert!(matches!(engine.submit(greedy(&[], 1)), Err(EngineError::EmptyPrompt)));
    let error = engine.submit(greedy(&[1, 280], 1)).unwrap_err().to_string();
    assert_eq!(error, "token 1 of the prompt has id 280; the model's ids are below 280");
    let sampling = SamplingParams { top_p: 2.0, ..SamplingParams::default() };
    let error = engine.submit(Request { sampling, ..greedy(&[1], 1) }).unwrap_err();
    assert!(matches!(error, EngineError::Sampler(SamplerError::Param { field: "top_p", .. })));
    let error =
        engine.submit(Request { stop: vec![String::new()], ..greedy(&[1], 1) }).unwrap_err();
    assert!(matches!(error, EngineError::Stop(_)));
    assert!(engine.is_idle());
}

#[test]
fn options_out_of_range_are_refused() {
    let Some((golden, _)) = golden("qwen3.f32") else {
        return;
    };
    let loaded = load(&golden.gguf, Arc::new(FakeDevice::new(|_, _, _| 0.0)));
    let q4_k = zinc_quant::GgmlType::Q4_K;
    let cases = [
        (
            EngineOptions { n_ctx: Some(513), ..exact(16) },
            "context length is 513; allowed: 1 to 512",
        ),
        (EngineOptions { n_ctx: Some(0), ..exact(16) }, "context length is 0; allowed: 1 to 512"),
        (
            EngineOptions { max_seqs: 0, ..exact(16) },
            "number of sequences is 0; allowed: 1 to 1024",
        ),
        (exact(0), "chunk is 0; allowed: 1 to 65536"),
        (
            EngineOptions { kv_type: q4_k, ..exact(16) },
            "cache type is Q4_K; allowed: f32, f16, bf16, f8_e4m3, q8_0 or q4_0",
        ),
    ];
    for (options, expected) in cases {
        let error = Engine::new(loaded.clone(), &options).err().unwrap().to_string();
        assert_eq!(error.to_lowercase(), expected.to_lowercase());
    }
}

#[test]
fn a_file_that_is_no_model_is_named() {
    let path = std::env::temp_dir().join(format!("zinc-engine-{}.gguf", std::process::id()));
    std::fs::write(&path, b"GGUF\x03\0\0\0").unwrap();
    let error = zinc_engine::Model::open(&path).err().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(error, EngineError::Open { .. }));
    let text = error.to_string();
    assert_eq!(text.matches("zinc-engine-").count(), 1, "{text}");
    let error = zinc_engine::Model::from_bytes(b"nonsense"[..].into()).err().unwrap();
    assert!(error.to_string().starts_with("model in memory: "), "{error}");
}

/// Phi-3's rope frequencies change at 1024 tokens: the text before is then computed anew with the
/// long ones.
#[test]
fn growing_past_the_original_context_equals_one_pass() {
    let Some((golden, _)) = golden("phi3.f32") else {
        return;
    };
    for device in devices() {
        let loaded = load(&golden.gguf, device);
        let options = EngineOptions { n_ctx: Some(1100), ..exact(256) };
        let prompt: Vec<u32> = (0..1022).map(|i| 10 + i * 7 % 300).collect();
        let sampling = SamplingParams { logprobs: Some(0), ..SamplingParams::greedy() };
        let run = |prompt: &[u32], n| {
            let mut engine = Engine::new(loaded.clone(), &options).unwrap();
            run(&mut engine, Request { sampling: sampling.clone(), ..greedy(prompt, n) })
        };
        let grown = run(&prompt, 5);
        for i in 0..5 {
            let text = [&prompt, &grown.ids[..i]].concat();
            let fresh = run(&text, 1);
            assert_eq!(
                (fresh.ids[0], fresh.logprobs[0]),
                (grown.ids[i], grown.logprobs[i]),
                "after {} tokens",
                text.len()
            );
        }
        let mut evaluator = Evaluator::new(loaded.clone(), &options, &Taps::default()).unwrap();
        let whole = [&prompt, &grown.ids[..]].concat();
        let at_once = evaluator.eval(&whole).unwrap();
        evaluator.reset();
        evaluator.eval(&prompt).unwrap();
        assert_eq!(evaluator.eval(&grown.ids).unwrap(), at_once);
        evaluator.truncate(1000);
        assert_eq!(evaluator.eval(&whole[1000..]).unwrap(), at_once);
    }
}
