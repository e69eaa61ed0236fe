//! The head of multi-token prediction beside its trunk, against its golden, with every way of
//! cutting the prompt.

use std::sync::Arc;

use zinc_engine::mtp::HIDDEN_TENSOR;
use zinc_engine::{EngineError, Evaluator, LoadedModel, Model, MtpHead, MtpRows, Taps};
use zinc_testkit::compare;
use zinc_testkit::golden::{Golden, MtpPrompt, Prompt};

use crate::support::{devices, exact, golden, ids, load};

fn expect_close(what: &str, golden: &Golden, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let (error, at) = compare::max_abs(found, expected);
    assert!(error <= golden.tolerance, "{what}: off by {error:e} at {at}");
}

/// The trunk's hidden states of a prompt.
fn hidden(loaded: &Arc<LoadedModel>, chunk: u32, tokens: &[u32]) -> Vec<f32> {
    let taps = Taps { all_logits: true, tensors: vec![HIDDEN_TENSOR.into()] };
    let mut trunk = Evaluator::new(loaded.clone(), &exact(chunk), &taps).unwrap();
    trunk.eval(tokens).unwrap().swap_remove(1).values
}

/// All rows of a prompt, and the drafts after it.
fn check(
    what: &str,
    golden: &Golden,
    head: &mut MtpHead,
    hidden: &[f32],
    prompt: &Prompt,
) -> MtpRows {
    let expected: &MtpPrompt = prompt.mtp.as_ref().unwrap();
    let tokens = ids(&prompt.tokens);
    let (before_last, last) = hidden.split_at(hidden.len() - hidden.len() / tokens.len());
    head.truncate(0).unwrap();
    let mut rows = MtpRows::default();
    if tokens.len() > 1 {
        rows = head.eval(&tokens[1..], before_last).unwrap();
        expect_close(what, golden, &rows.logits, &expected.logits);
        expect_close(what, golden, &rows.hidden, &expected.hidden);
    }
    // Drafting leaves no trace: twice the same.
    for _ in 0..2 {
        let n = expected.chain_tokens.len();
        let draft = head.draft(prompt.greedy[0] as u32, last, n).unwrap();
        assert_eq!(draft.tokens, ids(&expected.chain_tokens), "{what}");
        expect_close(what, golden, &draft.rows.logits, &expected.chain_logits);
        assert_eq!(head.n_rows(), tokens.len() - 1);
    }
    // What the cache holds does not depend on whether anybody looked.
    if tokens.len() > 2 {
        let d_model = last.len();
        head.truncate(0).unwrap();
        head.prefill(&tokens[1..2], &hidden[..d_model]).unwrap();
        let tail = head.eval(&tokens[2..], &before_last[d_model..]).unwrap();
        assert_eq!(rows.logits[rows.logits.len() - tail.logits.len()..], tail.logits, "{what}");
    }
    rows
}

#[test]
fn rows_and_drafts_agree_with_the_golden() {
    let Some((golden, prompts)) = golden("qwen3_5_mtp.f32") else {
        return;
    };
    for device in devices() {
        let name = device.info().name.clone();
        let model = Arc::new(Model::open(&golden.gguf).unwrap());
        let loaded = Arc::new(LoadedModel::load_with_mtp(model, device, &mut |_, _| ()).unwrap());
        let mut first: Vec<MtpRows> = Vec::new();
        for chunk in [1, 7, 16, 128] {
            let mut head = MtpHead::new(loaded.clone(), &exact(chunk)).unwrap();
            for (idx, prompt) in prompts.iter().enumerate() {
                let what = format!("{name}, chunk {chunk}, prompt {idx}");
                let hidden = hidden(&loaded, chunk, &ids(&prompt.tokens));
                let rows = check(&what, &golden, &mut head, &hidden, prompt);
                match first.get(idx) {
                    Some(first) => assert_eq!(&rows, first, "{what}: the chunk changes bits"),
                    None => first.push(rows),
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some((golden, prompts)) = golden("qwen3_5_mtp.f32") else {
        return;
    };
    let device = devices().swap_remove(0);
    let loaded = load(&golden.gguf, device.clone());
    let refused = MtpHead::new(loaded, &exact(16)).err().unwrap();
    assert!(matches!(refused, EngineError::NoMtpHead { .. }), "loaded without it: {refused}");

    let model = Arc::new(Model::open(&golden.gguf).unwrap());
    let d_model = model.config().d_model as usize;
    let loaded =
        Arc::new(LoadedModel::load_with_mtp(model, device.clone(), &mut |_, _| ()).unwrap());
    let mut head = MtpHead::new(loaded, &exact(16)).unwrap();
    let refused = head.eval(&[1, 2], &vec![0.0; d_model]).unwrap_err();
    let expected = 2 * d_model;
    assert!(refused.to_string().contains(&expected.to_string()), "{refused}");
    let refused = head.eval(&[u32::MAX], &vec![0.0; d_model]).unwrap_err();
    assert!(matches!(refused, EngineError::TokenId { .. }), "{refused}");
    let refused = head.eval(&[1; 129], &vec![0.0; 129 * d_model]).unwrap_err();
    assert!(matches!(refused, EngineError::PromptTooLong { .. }), "{refused}");
    assert_eq!(head.n_rows(), 0);
    assert!(prompts[0].mtp.is_some());

    if let Some((golden, _)) = crate::support::golden("qwen3.f32") {
        let model = Arc::new(Model::open(&golden.gguf).unwrap());
        let refused = LoadedModel::load_with_mtp(model, device, &mut |_, _| ()).err().unwrap();
        assert!(refused.to_string().contains("qwen3 has no multi-token"), "{refused}");
    }
}
