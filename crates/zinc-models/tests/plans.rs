//! Golden plans: the text of every family's plan, as the model builds it and as the passes leave it
//! for a device that fuses and multiplies with 8-bit activations. A change to a family, an operation
//! or a pass shows here as a difference to read. `ZINC_UPDATE=1` rewrites them.

use zinc_backend::{ActivationType, Caps};
use zinc_gguf::Gguf;
use zinc_models::{Model, PlanOptions};
use zinc_plan::{Limits, OpKind, passes};
use zinc_quant::GgmlType;
use zinc_testkit::{golden, paths, snapshot};

/// A context of 96 tokens in pages of 16, and room for two sequences.
fn limits(model: &Model, max_tokens: u32, max_out_rows: u32) -> Limits {
    let ring = |window| Limits::ring_pages(16, window, 64).min(6);
    let window_pages_per_seq = model.config().longest_window().map_or(0, ring);
    Limits {
        max_tokens,
        max_seqs: 2,
        max_out_rows,
        page_size: 16,
        pages_per_seq: 6,
        n_pages: 12,
        window_pages_per_seq,
        n_window_pages: 2 * window_pages_per_seq,
        n_state_slots: 2,
    }
}

/// Written out, so that these plans do not change with a device.
fn int8_caps() -> Caps {
    use GgmlType::{F32, MXFP4, Q4_0, Q4_K, Q6_K, Q8_0, Q8_K};
    let quantized = ActivationType::Quantized;
    Caps {
        device: "int8".into(),
        fused: [OpKind::MatMulAdd, OpKind::GateUpAct, OpKind::ExpertGateUpAct].into(),
        matmul: vec![
            (F32, ActivationType::F32),
            (Q4_0, quantized(Q8_0)),
            (Q8_0, quantized(Q8_0)),
            (MXFP4, quantized(Q8_0)),
            (Q4_K, quantized(Q8_K)),
            (Q6_K, quantized(Q8_K)),
        ],
        kv_types: vec![GgmlType::F16],
        batch_invariant: true,
        f16_attention: false,
        f16_products: false,
        joins_activations: false,
    }
}

#[test]
fn plans_are_as_recorded() {
    let folder = paths::testdata().join("plans");
    let goldens = golden::in_folder(&paths::testdata().join("golden")).expect("readable models");
    assert!(goldens.len() >= golden::N_IN_CLONE, "the clone has a model of every family");
    for golden in goldens {
        let gguf = Gguf::open(&golden.gguf).expect("a readable model");
        let model = Model::from_gguf(&gguf).expect("a supported model");
        for (phase, max_tokens, max_out_rows) in [("decode", 1, 1), ("prefill", 64, 2)] {
            let limits = limits(&model, max_tokens, max_out_rows);
            let options = PlanOptions { limits, kv_type: GgmlType::F16 };
            let plan = model.plan(&options).expect("a plan");
            let name = golden.name.strip_suffix(".f32").unwrap_or(&golden.name);
            let file = |kind: &str| folder.join(format!("{name}.{kind}.txt"));
            // Before the passes the limits are all that differs.
            if phase == "decode" {
                snapshot::check(&file("model"), &plan.to_string());
            }
            let prepared = passes::prepare(plan, &int8_caps()).expect("a supported plan");
            snapshot::check(&file(&format!("{phase}.int8")), &prepared.to_string());
        }
    }
}

/// K-quants, whose activations have blocks of their own.
#[test]
fn plan_of_the_builtin_model_is_as_recorded() {
    let gguf = Gguf::open(&paths::builtin_model()).expect("a model");
    let model = Model::from_gguf(&gguf).expect("a supported model");
    let options = PlanOptions { limits: limits(&model, 1, 1), kv_type: GgmlType::F16 };
    let plan = model.plan(&options).expect("a plan");
    let prepared = passes::prepare(plan, &int8_caps()).expect("a supported plan");
    let file = paths::testdata().join("plans/zinc-demo.decode.int8.txt");
    snapshot::check(&file, &prepared.to_string());
}
