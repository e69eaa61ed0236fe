//! Golden launch lists: what the plans of small models become on a Hopper card, for one token and for a prompt. A
//! change to the lowering shows here as a difference to read. `ZINC_UPDATE=1` rewrites them.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::PathBuf;

use zinc_cuda::launch::Kernel;
use zinc_cuda::lower::{Bucket, Card, Lowered, Lowering, Nowhere};
use zinc_gguf::Gguf;
use zinc_models::{Model, PlanOptions};
use zinc_plan::{Limits, OpKind, Plan, passes};
use zinc_quant::GgmlType;
use zinc_testkit::cases::{self, Case};
use zinc_testkit::{golden, paths, snapshot};

/// A context of 4096 tokens in pages of 64.
fn limits(max_tokens: u32) -> Limits {
    Limits {
        max_tokens,
        max_seqs: 1,
        max_out_rows: 1,
        page_size: 64,
        pages_per_seq: 64,
        n_pages: 64,
        window_pages_per_seq: 64,
        n_window_pages: 64,
        n_state_slots: 2,
    }
}

/// One line for each launch, with the label of its node. Each has as many bytes of parameters as its kernel takes.
fn launches(plan: &Plan) -> String {
    let lowering = Lowering::new(plan, Bucket::largest(plan), Card::HOPPER, &Nowhere, 0);
    let lowered = lowering.run().expect("the card has all kernels");
    check_spans(&lowered, plan.nodes.len());
    let mut text = String::new();
    let mut codes = HashMap::new();
    for launch in &lowered.launches {
        writeln!(text, "{}: {launch}", plan.nodes[launch.node].label).expect("text grows");
        let Kernel { module, name } = launch.kernel;
        let code = codes.entry(module).or_insert_with(|| {
            zinc_cuda::pipeline::code(module, Card::HOPPER.capability)
                .expect("a module for the card")
        });
        assert_eq!(
            zinc_cuda::pipeline::param_bytes(code, name),
            Some(launch.params.len()),
            "{name}"
        );
    }
    text
}

/// Every node belongs to one span, and every launch to the span that its node begins, in order: what times are
/// taken of.
fn check_spans(lowered: &Lowered, n_nodes: usize) {
    let ends = lowered.spans.iter().fold(0, |end, span| {
        assert!(span.start == end && span.end > end, "{span:?} follows {end}");
        span.end
    });
    assert_eq!(ends, n_nodes);
    let mut spans = lowered.spans.iter();
    let mut start = 0;
    for launch in &lowered.launches {
        while start != launch.node {
            start = spans.next().unwrap_or_else(|| panic!("{launch} is in no span")).start;
        }
    }
}

#[test]
fn launches_are_as_recorded() {
    let goldens = golden::in_folder(&paths::testdata().join("golden")).expect("readable models");
    let models = goldens.into_iter().map(|golden| (golden.name, golden.gguf));
    // K-quants.
    let builtin = ("zinc-demo".into(), paths::builtin_model());
    let models: HashMap<String, PathBuf> = models.chain([builtin]).collect();
    for name in [
        "qwen3.f32",
        "phi3.f32",
        "zinc-demo",
        "gemma4_dense.f32",
        "gpt_oss.mxfp4",
        "deepseek_v2_lite.f32",
        "q_qwen3_5_moe_small.q4_0",
    ] {
        let gguf = Gguf::open(&models[name]).expect("a readable model");
        let model = Model::from_gguf(&gguf).expect("a supported model");
        for (phase, max_tokens) in [("decode", 1), ("prefill", 512)] {
            let options = PlanOptions { limits: limits(max_tokens), kv_type: GgmlType::F16 };
            let plan = model.plan(&options).expect("a plan");
            let plan =
                passes::prepare(plan, &zinc_cuda::caps("cuda", Card::HOPPER.capability, false))
                    .expect("a supported plan");
            let file = paths::testdata().join("launches").join(format!("{name}.{phase}.txt"));
            snapshot::check(&file, &launches(&plan));
        }
    }
}

/// A DeltaNet layer from its convolution to its recurrence, and latent attention over two types of cache, for one token
/// and for a prompt.
#[test]
fn launches_of_operations_are_as_recorded() {
    let caps = zinc_cuda::caps("cuda", Card::HOPPER.capability, false);
    let cases = cases::all(&caps).expect("the case table is readable");
    for (op, name, dtype, file) in [
        (OpKind::GatedDeltaNet, "convolved_chunks", None, "gated_delta_net"),
        (OpKind::LatentAttention, "real_chunks", Some(GgmlType::F16), "latent_attention"),
        (OpKind::LatentAttention, "real_chunks", Some(GgmlType::Q8_0), "latent_attention_q8_0"),
    ] {
        let is_type = |case: &Case| dtype.is_none() || case.dtype == dtype;
        let is_it = |case: &&Case| case.op == op && case.name == name && is_type(case);
        let case = cases.iter().find(is_it).unwrap_or_else(|| panic!("no case {name}"));
        for (phase, max_tokens) in [("decode", 1), ("prefill", 512)] {
            let (page_size, pages) = (case.layout.page_size, 4096 / case.layout.page_size);
            let limits =
                Limits { page_size, pages_per_seq: pages, n_pages: pages, ..limits(max_tokens) };
            let plan = case.plan(limits).expect("a plan");
            let plan = passes::prepare(plan, &caps).expect("a supported plan");
            let file = paths::testdata().join("launches").join(format!("{file}.{phase}.txt"));
            snapshot::check(&file, &launches(&plan));
        }
    }
}
