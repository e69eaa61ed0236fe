//! What the head drafts in the engine's own steps is what its golden says, however the prompt is cut
//! and wherever its pages come from.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;
use zinc_testkit::golden::{Prompt, golden_if_there};

use crate::kv::PAGE_SIZE;
use crate::mtp::HIDDEN_TENSOR;
use crate::{
    Allowed, Engine, EngineOptions, Evaluator, LoadedModel, Model, MtpHead, Request,
    SamplingParams, Speculation, Steer, SteerError, Taps,
};

/// The tokens drafted behind the first one of the answer to `prompt`.
fn drafted(engine: &mut Engine, prompt: &[u32]) -> Vec<u32> {
    let sampling = SamplingParams::greedy();
    let prompt = prompt.to_vec();
    let seq = engine
        .submit(Request { prompt, sampling, ignore_eos: true, ..Request::default() })
        .unwrap();
    let n_before = engine.stats().n_generated_tokens;
    while engine.stats().n_generated_tokens == n_before {
        engine.step(&mut |_| ()).unwrap();
    }
    let ids = engine.running[0].generation.drafted().to_vec();
    engine.cancel(seq);
    engine.step(&mut |_| ()).unwrap();
    assert!(engine.is_idle());
    ids
}

/// The golden model with its head, options for exact comparison, and its prompts with what the head
/// drafts behind the first token of the answer.
type Known = (Arc<LoadedModel>, EngineOptions, Vec<(Vec<u32>, Vec<u32>)>);

fn golden_head() -> Option<Known> {
    let golden = golden_if_there("qwen3_5_mtp.f32")?;
    let model = Arc::new(Model::open(&golden.gguf).unwrap());
    let options = EngineOptions {
        n_ctx: Some(256),
        kv_type: GgmlType::F32,
        speculation: Speculation::Mtp,
        ..EngineOptions::default()
    };
    let device = Arc::new(ReferenceDevice::new());
    let loaded = LoadedModel::load_for(model, device, &options, &mut |_, _| ()).unwrap();
    let ids = |ids: &[i32]| ids.iter().map(|id| *id as u32).collect();
    let prompts = golden.prompts().unwrap();
    let known = |it: &Prompt| (ids(&it.tokens), ids(&it.mtp.as_ref().unwrap().chain_tokens));
    Some((Arc::new(loaded), options, prompts.iter().map(known).collect()))
}

#[test]
fn the_head_drafts_what_its_golden_says() {
    let Some((loaded, options, prompts)) = golden_head() else { return };
    let mut n_reused = 0;
    for chunk in [1, 7, 64] {
        let options = EngineOptions { chunk, ..options };
        let mut engine = Engine::new(Arc::clone(&loaded), &options).unwrap();
        for (prompt, chain) in &prompts {
            // The second time the prompt's pages are those of the first.
            for _ in 0..2 {
                let what = format!("chunk {chunk}, prompt of {} tokens", prompt.len());
                assert_eq!(drafted(&mut engine, prompt), chain[..2], "{what}");
            }
        }
        n_reused += engine.stats().n_reused_tokens;
    }
    assert!(n_reused >= u64::from(PAGE_SIZE), "{n_reused} tokens were reused");
}

/// Allows nothing but the tokens that a test says, as long as it says any.
struct Follow {
    tokens: Arc<Mutex<VecDeque<u32>>>,
    mask: Vec<u32>,
}

impl Steer for Follow {
    fn next(&mut self) -> Result<Allowed<'_>, SteerError> {
        let Some(&id) = self.tokens.lock().unwrap().front() else { return Ok(Allowed::Any) };
        self.mask.fill(0);
        self.mask[id as usize / 32] = 1 << (id % 32);
        Ok(Allowed::Mask(&self.mask))
    }

    fn accept(&mut self, _: u32) -> Result<(), SteerError> {
        self.tokens.lock().unwrap().pop_front();
        Ok(())
    }
}

/// What the head drafts for a text of its own, computed from the start.
fn expected(
    loaded: &Arc<LoadedModel>,
    options: &EngineOptions,
    tokens: &[u32],
    n: usize,
) -> Vec<u32> {
    let taps = Taps { all_logits: true, tensors: vec![HIDDEN_TENSOR.into()] };
    let (newest, before) = tokens.split_last().unwrap();
    let mut trunk = Evaluator::new(Arc::clone(loaded), options, &taps).unwrap();
    let hidden = trunk.eval(before).unwrap().swap_remove(1);
    let (rows, last) = hidden.values.split_at(hidden.values.len() - hidden.n_cols);
    let mut head = MtpHead::new(Arc::clone(loaded), options).unwrap();
    head.prefill(&before[1..], rows).unwrap();
    head.draft(*newest, last, n).unwrap().tokens
}

/// However many of the drafted tokens are accepted, the next draft is that of the text as it is.
#[test]
fn drafts_follow_what_was_accepted_and_what_was_refused() {
    let Some((loaded, options, prompts)) = golden_head() else { return };
    let mut engine = Engine::new(Arc::clone(&loaded), &options).unwrap();
    let tokens = Arc::new(Mutex::new(VecDeque::new()));
    let mask = vec![0; loaded.model().config().n_vocab.div_ceil(32) as usize];
    let steer = Box::new(Follow { tokens: Arc::clone(&tokens), mask });
    engine
        .submit(Request {
            prompt: prompts[prompts.len() - 1].0.clone(),
            steer: Some(steer),
            ignore_eos: true,
            ..Request::default()
        })
        .unwrap();
    let (mut n_drafted, mut n_accepted) = (0, 0);
    for step in 0..30 {
        engine.step(&mut |_| ()).unwrap();
        let generation = &engine.running[0].generation;
        let drafted = generation.drafted().to_vec();
        let text = generation.sequence.tokens();
        let expected = expected(&loaded, &options, text, drafted.len());
        assert_eq!(drafted, expected, "step {step}, a text of {} tokens", text.len());
        // All of them, then all but the last, and sometimes the first is refused, too.
        let n = if step % 7 == 6 { 0 } else { drafted.len().saturating_sub(step % 3 / 2) };
        let other = drafted.get(n).map(|id| id ^ 1);
        *tokens.lock().unwrap() = drafted[..n].iter().copied().chain(other).collect();
        (n_drafted, n_accepted) = (n_drafted + drafted.len(), n_accepted + n);
    }
    let stats = engine.stats().mtp_drafts;
    assert!(n_drafted > 60 && n_accepted > 40, "{n_accepted} of {n_drafted}, {stats:?}");
    assert!(stats.n_accepted_tokens + 8 > n_accepted as u64, "{n_accepted}, {stats:?}");
}
