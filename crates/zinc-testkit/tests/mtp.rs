//! The multi-token-prediction head against its golden: all rows of a prompt, then a chain of drafts
//! that feeds on its own hidden states.

use std::sync::Arc;

use safetensors::SafeTensors;
use zinc_backend::{Bindings, Device, Executable, StepInputs, StepOutputs, WeightSource, Weights};
use zinc_gguf::Gguf;
use zinc_models::{Model, PlanOptions};
use zinc_plan::{Limits, Plan, passes};
use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;
use zinc_testkit::compare::{argmax, max_abs};
use zinc_testkit::golden::golden_if_there;

const LIMITS: Limits = Limits {
    max_tokens: 128,
    max_seqs: 1,
    max_out_rows: 128,
    page_size: 16,
    pages_per_seq: 8,
    n_pages: 8,
    window_pages_per_seq: 0,
    n_window_pages: 0,
    n_state_slots: 1,
};

/// A plan with its hidden states as the second output, on a cache of its own.
fn compile(device: &dyn Device, mut plan: Plan, weights: &Weights) -> Box<dyn Executable> {
    plan.add_outputs(&["final_norm".into()]).expect("a norm");
    let plan = passes::prepare(plan, device.caps()).expect("a supported plan");
    let states = device.alloc_states(&plan).expect("memory");
    let bind = Bindings { weights, states: &states };
    device.compile(Arc::new(plan), &bind).expect("a plan that compiles")
}

/// Logits and hidden states of a step from position `first` on.
fn step(exec: &mut dyn Executable, tokens: &[i32], first: usize, hidden: &[f32]) -> [Vec<f32>; 2] {
    let n = tokens.len();
    let positions: Vec<i32> = (first..first + n).map(|p| p as i32).collect();
    let inputs = StepInputs {
        token_ids: tokens.to_vec(),
        positions: positions.clone(),
        seq_of: vec![0; n],
        slots: positions,
        pages: (0..LIMITS.pages_per_seq as i32).collect(),
        out_rows: (0..n as i32).collect(),
        rope_variant: vec![0; n],
        state_from: vec![0],
        state_slots: vec![0],
        state_saves: vec![-1; n],
        hidden: hidden.to_vec(),
        ..StepInputs::default()
    };
    let ticket = exec.submit(&inputs).expect("valid inputs");
    let mut outputs = StepOutputs::default();
    exec.wait(ticket, &mut outputs).expect("a result");
    let mut values = outputs.values.into_iter();
    [(); 2].map(|()| values.next().expect("an output"))
}

#[test]
fn drafts_agree_with_the_golden() {
    let Some(golden) = golden_if_there("qwen3_5_mtp.f32") else { return };
    let gguf = Gguf::open(&golden.gguf).expect("a readable model");
    let model = Model::from_gguf(&gguf).expect("a supported model");
    let bytes = std::fs::read(&golden.numbers).expect("the numbers");
    let numbers = SafeTensors::deserialize(&bytes).expect("valid numbers");
    let raw = |key: &str| numbers.tensor(key).expect("an array").data().as_chunks().0.to_vec();
    let f32s = |key: &str| raw(key).into_iter().map(f32::from_le_bytes).collect::<Vec<_>>();
    let i32s = |key: &str| raw(key).into_iter().map(i32::from_le_bytes).collect::<Vec<_>>();
    let device = ReferenceDevice::new();
    let sources = gguf.tensors().iter().map(|tensor| WeightSource {
        name: tensor.name.clone(),
        dtype: tensor.ty,
        rows: tensor.dims[1..].iter().product(),
        cols: tensor.dims[0],
        data: gguf.data(tensor),
    });
    let weights = device.bind_weights(sources.collect(), &mut |_, _| ()).expect("memory");
    let options = PlanOptions { limits: LIMITS, kv_type: GgmlType::F32 };
    let trunk_plan = model.plan(&options).expect("a plan");
    let mtp_plan = model.mtp_plan(&options).expect("a plan").expect("a block");
    let mut trunk = compile(&device, trunk_plan, &weights);
    let mut mtp = compile(&device, mtp_plan, &weights);
    let d_model = model.config().d_model as usize;
    let agree = |what: &str, found: &[f32], expected: &[f32]| {
        assert_eq!(found.len(), expected.len(), "{what}");
        let (difference, _) = max_abs(found, expected);
        assert!(difference <= golden.tolerance, "{what}: {difference:e}");
    };
    for prompt in 0..3 {
        let key = |name: &str| format!("prompt{prompt}.{name}");
        let tokens = i32s(&key("tokens"));
        let [_, trunk_hidden] = step(trunk.as_mut(), &tokens, 0, &[]);
        for chunk in [1, 7, 128] {
            let (mut logits, mut hidden, mut position) = (Vec::new(), Vec::new(), 0);
            for part in tokens[1..].chunks(chunk) {
                let rows = position * d_model..(position + part.len()) * d_model;
                let [l, h] = step(mtp.as_mut(), part, position, &trunk_hidden[rows]);
                logits.extend(l);
                hidden.extend(h);
                position += part.len();
            }
            if tokens.len() > 1 {
                agree(&key("mtp_logits"), &logits, &f32s(&key("mtp_logits")));
                agree(&key("mtp_hidden"), &hidden, &f32s(&key("mtp_hidden")));
            }
            let mut token = i32s(&key("greedy"))[0];
            let mut last = trunk_hidden[trunk_hidden.len() - d_model..].to_vec();
            let (mut chain, mut drafts) = (Vec::new(), Vec::new());
            for draft in 0..4 {
                let [l, h] = step(mtp.as_mut(), &[token], position + draft, &last);
                token = argmax(&l) as i32;
                drafts.push(token);
                chain.extend(l);
                last = h;
            }
            agree(&key("mtp_chain_logits"), &chain, &f32s(&key("mtp_chain_logits")));
            assert_eq!(drafts, i32s(&key("mtp_chain_tokens")), "prompt {prompt}");
        }
    }
}
