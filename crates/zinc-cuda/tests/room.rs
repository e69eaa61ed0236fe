//! Launches for rows of any length and steps of any size on cards with little shared memory.

use zinc_cuda::lower::{Bucket, Card, Lowering, Nowhere};
use zinc_plan::{
    Activation, Builder, GatedAct, Gating, Limits, Plan, PlanError, RmsNorm, RouterTopK, passes,
};
use zinc_quant::GgmlType;

fn limits(max_tokens: u32) -> Limits {
    Limits {
        max_tokens,
        max_seqs: 1,
        max_out_rows: max_tokens,
        page_size: 16,
        pages_per_seq: 1,
        n_pages: 1,
        window_pages_per_seq: 0,
        n_window_pages: 0,
        n_state_slots: 0,
    }
}

fn prepared(builder: Builder, out: zinc_plan::TensorId) -> Plan {
    let caps = zinc_cuda::caps("cuda", 90, false);
    passes::prepare(builder.finish(vec![out]), &caps).expect("a plan")
}

/// A product of long rows, behind their quantisation.
fn down_plan(n_in: u32) -> Result<Plan, PlanError> {
    let mut b = Builder::new("down", limits(1));
    let table = b.weight("table", GgmlType::F32, 5, 64)?;
    let x = b.embed("x", table, 1.0)?;
    let up = b.weight("up.w", GgmlType::F32, n_in, 64)?;
    let hidden = b.matmul("up", up, x, None)?;
    let down = b.weight("down.w", GgmlType::Q4_K, 64, n_in)?;
    let y = b.matmul("down", down, hidden, None)?;
    Ok(prepared(b, y))
}

/// A block of 128 experts of which a row has eight.
fn experts_plan(dtype: GgmlType) -> Result<Plan, PlanError> {
    let (width, ff) = (2048, 768);
    let mut b = Builder::new("experts", limits(8));
    let table = b.weight("table", GgmlType::F32, 5, width)?;
    let x = b.embed("x", table, 1.0)?;
    let w = b.weight("norm.w", GgmlType::F32, 1, width)?;
    let x = b.rms_norm("norm", RmsNorm { eps: 1e-6, group: width }, x, w)?;
    let w = b.weight("router.w", GgmlType::F32, 128, width)?;
    let logits = b.matmul("logits", w, x, None)?;
    let router = RouterTopK {
        n_experts_used: 8,
        gating: Gating::Softmax,
        bias: false,
        groups: None,
        normalize: true,
        scale: 1.0,
    };
    let [ids, weights] = b.router_top_k("router", router, logits, None)?;
    let gate = b.weight("gate.w", GgmlType::Q4_K, 128 * ff, width)?;
    let gate = b.expert_matmul("gate", 128, [gate, x, ids], None)?;
    let up = b.weight("up.w", GgmlType::Q4_K, 128 * ff, width)?;
    let up = b.expert_matmul("up", 128, [up, x, ids], None)?;
    let hidden = b.gated_act("act", GatedAct { act: Activation::Silu }, gate, up)?;
    let down = b.weight("down.w", dtype, 128 * width, ff)?;
    let down = b.expert_matmul("down", 128, [down, hidden, ids], None)?;
    let y = b.expert_combine("routed", down, weights, None)?;
    Ok(prepared(b, y))
}

fn lowers(plan: &Plan, bucket: Bucket, kib: u32, n_multiprocessors: u32) {
    let card = Card { shared_per_block: kib << 10, n_multiprocessors, ..Card::HOPPER };
    let lowered = Lowering::new(plan, bucket, card, &Nowhere, 0).run();
    let what = format!("{} of {bucket:?}, {kib} KiB", plan.name);
    let launches = lowered.unwrap_or_else(|error| panic!("{what}: {error}")).launches;
    for launch in launches {
        assert!(launch.shared <= kib << 10, "{what}: {launch}");
    }
}

#[test]
fn long_rows_are_multiplied_with_little_shared_memory() {
    for n_in in [4096, 14336, 25600, 28672, 53248] {
        let plan = down_plan(n_in).expect("a plan");
        for kib in [64, 99, 163, 227] {
            // Their quants alone are more.
            if n_in / 32 * 40 < kib << 10 {
                lowers(&plan, Bucket::largest(&plan), kib, 40);
            }
        }
    }
}

#[test]
fn experts_of_all_small_steps_have_room() {
    for dtype in [GgmlType::Q4_K, GgmlType::Q6_K] {
        let plan = experts_plan(dtype).expect("a plan");
        for (kib, n_multiprocessors) in [(64, 30), (64, 40), (64, 72), (99, 20), (227, 132)] {
            for tokens in 1..=8 {
                let bucket = Bucket { tokens, seqs: 1, out_rows: tokens };
                lowers(&plan, bucket, kib, n_multiprocessors);
            }
        }
    }
}
