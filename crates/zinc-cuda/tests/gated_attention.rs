//! Attention whose queries and gates are slices of one projection, run on the host: lowering reads them in place.
#![cfg(unix)]

#[allow(dead_code)]
mod host_device;

use std::sync::Arc;

use host_device::{HostDevice, Options};
use zinc_backend::{Bindings, Device, StepInputs, StepOutputs, WeightSource};
use zinc_cuda::lower::Card;
use zinc_plan::{
    Attention, Builder, Dim, HeadSlice, Limits, Plan, PlanError, RmsNorm, Rope, RopeMode, TensorId,
    TensorInfo, TensorKind, passes,
};
use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;
use zinc_testkit::compare::{nmse, same_bits};
use zinc_testkit::kernel_host::Schedule;
use zinc_testkit::random::Rng;

const N_TOKENS: i32 = 5;
const PAGE_SIZE: u32 = 16;
const D_MODEL: u32 = 64;
const HEAD_DIM: u32 = 32;
const N_HEADS: u32 = 4;
const N_KV_HEADS: u32 = 2;

fn limits(max_tokens: u32) -> Limits {
    Limits {
        max_tokens,
        max_seqs: 1,
        max_out_rows: max_tokens,
        page_size: PAGE_SIZE,
        pages_per_seq: 1,
        n_pages: 1,
        window_pages_per_seq: 0,
        n_window_pages: 0,
        n_state_slots: 0,
    }
}

/// A layer's attention from embedded tokens to the output projection, with weights of this type.
fn attention_plan(max_tokens: u32, dtype: GgmlType) -> Result<Plan, PlanError> {
    let mut b = Builder::new("gated attention", limits(max_tokens));
    let table = b.weight("table", GgmlType::F32, N_TOKENS as u32, D_MODEL)?;
    let x = b.embed("x", table, 1.0)?;
    let project = |b: &mut Builder, label: &str, n_out: u32| {
        let w = b.weight(&format!("{label}.w"), GgmlType::F32, n_out, D_MODEL)?;
        b.matmul(label, w, x, None)
    };
    let d_kv = N_KV_HEADS * HEAD_DIM;
    let q = project(&mut b, "q", 2 * N_HEADS * HEAD_DIM)?;
    let (k, v) = (project(&mut b, "k", d_kv)?, project(&mut b, "v", d_kv)?);
    let slice = |start| HeadSlice { head_dim: 2 * HEAD_DIM, start, len: HEAD_DIM };
    let query = b.head_slice("query", slice(0), q)?;
    let gate = b.head_slice("gate", slice(HEAD_DIM), q)?;
    let norm = RmsNorm { eps: 1e-6, group: HEAD_DIM };
    let normed = |b: &mut Builder, label: &str, x: TensorId| {
        let w = b.weight(&format!("{label}.w"), GgmlType::F32, 1, HEAD_DIM)?;
        b.rms_norm(label, norm, x, w)
    };
    let (query, k) = (normed(&mut b, "q_norm", query)?, normed(&mut b, "k_norm", k)?);
    let frequencies = (0..=HEAD_DIM / 2).map(|idx| 1.0 / (idx + 1) as f32).collect();
    let table = b.constant("rope_table", HEAD_DIM / 2 + 1, frequencies)?;
    let rope = Rope { mode: RopeMode::Neox, head_dim: HEAD_DIM, n_dims: HEAD_DIM };
    let (query, k) = (b.rope("q_rope", rope, query, table)?, b.rope("k_rope", rope, k, table)?);
    let caches =
        [b.cache("cache_k", GgmlType::F32, d_kv)?, b.cache("cache_v", GgmlType::F32, d_kv)?];
    b.kv_write("kv", [k, v], caches)?;
    let attention = Attention {
        n_heads: N_HEADS,
        n_kv_heads: N_KV_HEADS,
        k_dim: HEAD_DIM,
        v_dim: HEAD_DIM,
        scale: 0.2,
        window: None,
        page_size: PAGE_SIZE,
        sinks: false,
    };
    let attended = b.attention("attention", attention, query, caches)?;
    let gated = b.sigmoid_gate("gated", attended, gate)?;
    let w = b.weight("out.w", dtype, D_MODEL, N_HEADS * HEAD_DIM)?;
    let out = b.matmul("out", w, gated, None)?;
    Ok(b.finish(vec![out]))
}

fn random_weights(plan: &Plan) -> Vec<WeightSource> {
    let mut rng = Rng::new(1, "gated attention");
    let weights = plan.tensors_where(|tensor| tensor.kind == TensorKind::Weight);
    let source = |(_, tensor): (TensorId, &TensorInfo)| {
        let Dim::Fixed(rows) = tensor.shape.rows else { panic!("weights have fixed rows") };
        WeightSource {
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            rows: u64::from(rows),
            cols: u64::from(tensor.shape.cols),
            data: rng.blocks(tensor.dtype, (rows * tensor.shape.cols) as usize).into(),
        }
    };
    weights.map(source).collect()
}

/// The plan's first output for all tokens, `chunk` of them in a step; `outputs` are tensors that the host wants too.
fn run(device: &dyn Device, dtype: GgmlType, chunk: usize, outputs: &[&str]) -> Vec<f32> {
    let mut plan = attention_plan(chunk as u32, dtype).expect("a valid plan");
    let weights = random_weights(&plan);
    let outputs: Vec<String> = outputs.iter().map(ToString::to_string).collect();
    plan.add_outputs(&outputs).expect("computed tensors");
    let plan = passes::prepare(plan, device.caps()).expect("a supported plan");
    let weights = device.bind_weights(weights, &mut |_, _| ()).expect("weights fit");
    let states = device.alloc_states(&plan).expect("states fit");
    let bind = Bindings { weights: &weights, states: &states };
    let mut exec = device.compile(Arc::new(plan), &bind).expect("a supported plan");
    let tokens: Vec<i32> = (0..N_TOKENS).collect();
    let mut found = Vec::new();
    for step in tokens.chunks(chunk) {
        let inputs = StepInputs {
            token_ids: step.to_vec(),
            positions: step.to_vec(),
            seq_of: vec![0; step.len()],
            slots: step.to_vec(),
            pages: vec![0],
            out_rows: (0..step.len() as i32).collect(),
            rope_variant: vec![0; step.len()],
            ..StepInputs::default()
        };
        let mut outputs = StepOutputs::default();
        let ticket = exec.submit(&inputs).expect("a valid step");
        exec.wait(ticket, &mut outputs).expect("the step ends");
        found.extend(outputs.values.swap_remove(0));
    }
    found
}

/// What the host wants to see is computed by launches of its own; without, the rotations read the queries and the output
/// projection the gates where they are.
#[test]
fn slices_of_a_projection_are_read_in_place() {
    let options = |packed| Options {
        batch_invariant: true,
        schedule: Schedule::Reverse,
        card: Card { capability: 89, ..Card::HOPPER },
        packed,
    };
    let [apart, shared] = [false, true].map(|packed| HostDevice::new(options(packed)));
    for (dtype, limit) in [(GgmlType::F32, 1e-10), (GgmlType::Q8_0, 1e-3)] {
        let expected = run(&ReferenceDevice::new(), dtype, 5, &[]);
        let by_launches = run(&apart, dtype, 5, &["query", "gate", "q_norm", "gated"]);
        let error = nmse(&by_launches, &expected);
        assert!(error < limit, "{dtype}: nmse {error:e}");
        for (device, chunk) in [(&apart, 1), (&apart, 5), (&shared, 1), (&shared, 3)] {
            let found = run(device, dtype, chunk, &[]);
            same_bits(&found, &by_launches)
                .unwrap_or_else(|at| panic!("{dtype}, {chunk} a step: element {at}"));
        }
    }
}
