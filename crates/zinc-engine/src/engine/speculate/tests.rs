//! What the head drafts in the engine's own steps is what its golden says, however the prompt is cut
//! and wherever its pages come from.

use std::sync::Arc;

use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;
use zinc_testkit::golden::goldens;

use crate::kv::PAGE_SIZE;
use crate::{Engine, EngineOptions, LoadedModel, Model, Request, SamplingParams, Speculation};

/// The tokens drafted behind the first one of the answer to `prompt`.
fn drafted(engine: &mut Engine, prompt: &[u32]) -> Vec<u32> {
    let sampling = SamplingParams::greedy();
    let prompt = prompt.to_vec();
    let seq = engine
        .submit(Request { prompt, sampling, ignore_eos: true, ..Request::default() })
        .unwrap();
    let mut n_tokens = 0;
    while n_tokens == 0 {
        engine
            .step(&mut |event| n_tokens += u32::from(matches!(event, crate::Event::Token { .. })))
            .unwrap();
    }
    let ids = engine.running[0].generation.drafted().to_vec();
    engine.cancel(seq);
    engine.step(&mut |_| ()).unwrap();
    assert!(engine.is_idle());
    ids
}

#[test]
fn the_head_drafts_what_its_golden_says() {
    let Some(golden) = goldens().unwrap().into_iter().find(|it| it.name == "qwen3_5_mtp.f32")
    else {
        eprintln!("skipped: golden model qwen3_5_mtp is not beside the repository");
        return;
    };
    let model = Arc::new(Model::open(&golden.gguf).unwrap());
    let options = EngineOptions {
        n_ctx: Some(128),
        kv_type: GgmlType::F32,
        speculation: Speculation::Mtp,
        ..EngineOptions::default()
    };
    let device = Arc::new(ReferenceDevice::new());
    let loaded = LoadedModel::load_for(model, device, &options, &mut |_, _| ()).unwrap();
    let loaded = Arc::new(loaded);
    let mut n_reused = 0;
    for chunk in [1, 7, 64] {
        let options = EngineOptions { chunk, ..options };
        let mut engine = Engine::new(Arc::clone(&loaded), &options).unwrap();
        for prompt in golden.prompts().unwrap() {
            let tokens: Vec<u32> = prompt.tokens.iter().map(|id| *id as u32).collect();
            let chain = prompt.mtp.unwrap().chain_tokens;
            let expected: Vec<u32> = chain.iter().map(|id| *id as u32).take(2).collect();
            // The second time the prompt's pages are those of the first.
            for _ in 0..2 {
                let what = format!("chunk {chunk}, prompt of {} tokens", tokens.len());
                assert_eq!(drafted(&mut engine, &tokens), expected, "{what}");
            }
        }
        n_reused += engine.stats().n_reused_tokens;
    }
    assert!(n_reused >= u64::from(PAGE_SIZE), "{n_reused} tokens were reused");
}
