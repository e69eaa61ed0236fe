//! What launches do of nodes besides their own, in plans that the golden models do not have, run on the host.
#![cfg(unix)]

#[allow(dead_code)]
mod host_device;

use std::sync::Arc;

use host_device::{HostDevice, Options};
use zinc_backend::{Bindings, Device, StepInputs, StepOutputs, WeightSource};
use zinc_cuda::launch::Launch;
use zinc_cuda::lower::{Bucket, Card, Lowering, Nowhere};
use zinc_plan::{
    Activation, Attention, Builder, Dim, GatedAct, Gating, HeadSlice, Limits, Plan, PlanError,
    RmsNorm, Rope, RopeMode, RouterTopK, TensorId, TensorInfo, TensorKind, passes,
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

const ATTENTION: Attention = Attention {
    n_heads: N_HEADS,
    n_kv_heads: N_KV_HEADS,
    k_dim: HEAD_DIM,
    v_dim: HEAD_DIM,
    scale: 0.2,
    softcap: None,
    window: None,
    page_size: PAGE_SIZE,
    sinks: false,
};

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
    let attended = b.attention("attention", ATTENTION, query, caches)?;
    let gated = b.sigmoid_gate("gated", attended, gate)?;
    let w = b.weight("out.w", dtype, D_MODEL, N_HEADS * HEAD_DIM)?;
    let out = b.matmul("out", w, gated, None)?;
    Ok(b.finish(vec![out]))
}

/// Two of four experts and a shared one, with gates and ups of these types and widths.
fn experts_plan(
    max_tokens: u32,
    [of_chosen, of_shared]: [(GgmlType, u32); 2],
) -> Result<Plan, PlanError> {
    const N_EXPERTS: u32 = 4;
    let mut b = Builder::new("experts", limits(max_tokens));
    let table = b.weight("table", GgmlType::F32, N_TOKENS as u32, D_MODEL)?;
    let x = b.embed("x", table, 1.0)?;
    let w = b.weight("norm.w", GgmlType::F32, 1, D_MODEL)?;
    let x = b.rms_norm("norm", RmsNorm { eps: 1e-6, group: D_MODEL }, x, w)?;
    let w = b.weight("router.w", GgmlType::F32, N_EXPERTS, D_MODEL)?;
    let logits = b.matmul("logits", w, x, None)?;
    let router = RouterTopK {
        n_experts_used: 2,
        gating: Gating::Softmax,
        bias: false,
        groups: None,
        normalize: true,
        scale: 1.0,
    };
    let [ids, weights] = b.router_top_k("router", router, logits, None)?;
    let act = GatedAct { act: Activation::Silu };
    let expert = |b: &mut Builder, label: &str, x: TensorId, dtype, n_out, n_in| {
        let w = b.weight(&format!("{label}.w"), dtype, N_EXPERTS * n_out, n_in)?;
        b.expert_matmul(label, N_EXPERTS, [w, x, ids], None)
    };
    let (dtype, d_ff) = of_chosen;
    let gate = expert(&mut b, "gate", x, dtype, d_ff, D_MODEL)?;
    let up = expert(&mut b, "up", x, dtype, d_ff, D_MODEL)?;
    let hidden = b.gated_act("act", act, gate, up)?;
    let down = expert(&mut b, "down", hidden, GgmlType::Q8_0, D_MODEL, d_ff)?;
    let routed = b.expert_combine("routed", down, weights, None)?;
    let (dtype, d_ff) = of_shared;
    let product = |b: &mut Builder, label: &str, x: TensorId, dtype, n_out, n_in| {
        let w = b.weight(&format!("{label}.w"), dtype, n_out, n_in)?;
        b.matmul(label, w, x, None)
    };
    let gate = product(&mut b, "shared_gate", x, dtype, d_ff, D_MODEL)?;
    let up = product(&mut b, "shared_up", x, dtype, d_ff, D_MODEL)?;
    let hidden = b.gated_act("shared_act", act, gate, up)?;
    let shared = product(&mut b, "shared", hidden, GgmlType::Q8_0, D_MODEL, d_ff)?;
    let out = b.add("out", routed, shared)?;
    Ok(b.finish(vec![out]))
}

fn rows_normed(
    b: &mut Builder,
    label: &str,
    x: TensorId,
    group: u32,
) -> Result<TensorId, PlanError> {
    let w = b.weight(&format!("{label}.w"), GgmlType::F32, 1, group)?;
    b.rms_norm(label, RmsNorm { eps: 1e-6, group }, x, w)
}

/// Attention of two layers over one cache, heads of values normalised too; values are keys where `shares_keys`.
fn normed_values_plan(
    max_tokens: u32,
    dtype: GgmlType,
    mode: RopeMode,
    shares_keys: bool,
) -> Result<Plan, PlanError> {
    let mut b = Builder::new("normed values", limits(max_tokens));
    let table = b.weight("table", GgmlType::F32, N_TOKENS as u32, D_MODEL)?;
    let x = b.embed("x", table, 1.0)?;
    let project = |b: &mut Builder, label: &str, n_heads: u32| {
        let w = b.weight(&format!("{label}.w"), GgmlType::F32, n_heads * HEAD_DIM, D_MODEL)?;
        b.matmul(label, w, x, None)
    };
    let normed = |b: &mut Builder, label, x| rows_normed(b, label, x, HEAD_DIM);
    let n_dims = HEAD_DIM / 2;
    let frequencies = (0..=n_dims / 2).map(|idx| 1.0 / (idx + 1) as f32).collect();
    let table = b.constant("rope_table", n_dims / 2 + 1, frequencies)?;
    let rope = Rope { mode, head_dim: HEAD_DIM, n_dims };
    let d_kv = N_KV_HEADS * HEAD_DIM;
    let (q, k) = (project(&mut b, "q", N_HEADS)?, project(&mut b, "k", N_KV_HEADS)?);
    let v = if shares_keys { k } else { project(&mut b, "v", N_KV_HEADS)? };
    let (q, k) = (normed(&mut b, "q_norm", q)?, normed(&mut b, "k_norm", k)?);
    let v = normed(&mut b, "v_norm", v)?;
    let (q, k) = (b.rope("q_rope", rope, q, table)?, b.rope("k_rope", rope, k, table)?);
    let caches = [b.cache("cache_k", dtype, d_kv)?, b.cache("cache_v", dtype, d_kv)?];
    b.kv_write("kv", [k, v], caches)?;
    let first = b.attention("attention", ATTENTION, q, caches)?;
    let q = project(&mut b, "next_q", N_HEADS)?;
    let q = normed(&mut b, "next_q_norm", q)?;
    let q = b.rope("next_q_rope", rope, q, table)?;
    let second = b.attention("next_attention", ATTENTION, q, caches)?;
    let out = b.add("out", first, second)?;
    Ok(b.finish(vec![out]))
}

/// Norms, sums and factors of rows as behind blocks of gemma, of so many columns.
fn post_norm_plan(max_tokens: u32, cols: u32) -> Result<Plan, PlanError> {
    let mut b = Builder::new("norms behind blocks", limits(max_tokens));
    let embed = |b: &mut Builder, label: &str| {
        let table = b.weight(&format!("{label}.w"), GgmlType::F32, N_TOKENS as u32, cols)?;
        b.embed(label, table, 1.0)
    };
    let (x, attended) = (embed(&mut b, "x")?, embed(&mut b, "attended")?);
    let (dense, routed) = (embed(&mut b, "dense")?, embed(&mut b, "routed")?);
    let normed = |b: &mut Builder, label, x| rows_normed(b, label, x, cols);
    let attended = normed(&mut b, "attended_norm", attended)?;
    let mid = b.add("mid", x, attended)?;
    let router = normed(&mut b, "router_norm", mid)?;
    let router = b.scale("router", router, 0.3)?;
    let between = b.add("between", router, x)?;
    let dense = normed(&mut b, "dense_norm", dense)?;
    let routed = normed(&mut b, "routed_norm", routed)?;
    let sum = b.add("sum", dense, routed)?;
    let sum = normed(&mut b, "sum_norm", sum)?;
    let fed = b.add("fed", mid, sum)?;
    let factor = b.weight("factor.w", GgmlType::F32, 1, 1)?;
    let out = b.mul("scaled", fed, factor)?;
    let next = normed(&mut b, "next_norm", out)?;
    let product = |b: &mut Builder, label: &str, x: TensorId, dtype| {
        let w = b.weight(&format!("{label}.w"), dtype, 32, cols)?;
        b.matmul(label, w, x, None)
    };
    let products = [
        product(&mut b, "next", next, GgmlType::Q8_0)?,
        product(&mut b, "between_product", between, GgmlType::F32)?,
        product(&mut b, "out_product", out, GgmlType::F32)?,
    ];
    let sum = b.add("products", products[0], products[1])?;
    let out = b.add("out", sum, products[2])?;
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

/// A plan for steps of so many tokens.
type MakePlan<'a> = &'a dyn Fn(u32) -> Result<Plan, PlanError>;

/// The plan's first output for all tokens, `chunk` of them in a step; `outputs` are tensors that the host wants too.
fn run(device: &dyn Device, make: MakePlan<'_>, chunk: usize, outputs: &[&str]) -> Vec<f32> {
    let mut plan = make(chunk as u32).expect("a valid plan");
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

/// Values apart from each other, and packed.
fn devices() -> [HostDevice; 2] {
    [false, true].map(|packed| {
        HostDevice::new(Options {
            batch_invariant: true,
            schedule: Schedule::Reverse,
            card: Card { capability: 89, ..Card::HOPPER },
            packed,
        })
    })
}

/// What the host wants to see is computed by launches of its own; without, the rotations read the queries and the output
/// projection the gates where they are.
#[test]
fn slices_of_a_projection_are_read_in_place() {
    let [apart, packed] = devices();
    for (dtype, limit) in [(GgmlType::F32, 1e-10), (GgmlType::Q8_0, 1e-3)] {
        let make = |max_tokens| attention_plan(max_tokens, dtype);
        let expected = run(&ReferenceDevice::new(), &make, 5, &[]);
        let by_launches = run(&apart, &make, 5, &["query", "gate", "q_norm", "gated"]);
        let error = nmse(&by_launches, &expected);
        assert!(error < limit, "{dtype}: nmse {error:e}");
        for (device, chunk) in [(&apart, 1), (&apart, 5), (&packed, 1), (&packed, 3)] {
            let found = run(device, &make, chunk, &[]);
            same_bits(&found, &by_launches)
                .unwrap_or_else(|at| panic!("{dtype}, {chunk} a step: element {at}"));
        }
    }
}

/// Names of the kernels in a step of one token.
fn kernels(device: &HostDevice, make: MakePlan<'_>) -> Vec<&'static str> {
    let plan = passes::prepare(make(1).expect("a valid plan"), device.caps()).expect("supported");
    let lowering = Lowering::new(&plan, Bucket::largest(&plan), Card::HOPPER, &Nowhere, 0);
    let launches = lowering.run().expect("the card has all kernels").launches;
    launches.iter().map(|launch| launch.kernel.name).collect()
}

/// The same bits as from launches apart, which give the host `inner` values, for any number of rows.
fn check_joined(make: MakePlan<'_>, inner: &[&str], limit: f64) {
    let [apart, packed] = devices();
    let expected = run(&ReferenceDevice::new(), make, 5, &[]);
    let by_launches = run(&apart, make, 5, inner);
    let error = nmse(&by_launches, &expected);
    assert!(error < limit, "nmse {error:e}");
    for (device, chunk) in [(&apart, 1), (&apart, 5), (&packed, 1), (&packed, 3)] {
        let found = run(device, make, chunk, &[]);
        same_bits(&found, &by_launches).unwrap_or_else(|at| panic!("{chunk} a step: element {at}"));
    }
}

#[test]
fn values_are_normalised_on_their_way_to_the_cache() {
    // A value that is rounded the other way differs by up to a sixteenth.
    let modes = [
        (RopeMode::Neox, GgmlType::F32, false, 1e-5),
        (RopeMode::Norm, GgmlType::F16, true, 1e-5),
        (RopeMode::Neox, GgmlType::F8_E4M3, true, 1e-3),
    ];
    for (mode, dtype, shares_keys, limit) in modes {
        let make = |max_tokens| normed_values_plan(max_tokens, dtype, mode, shares_keys);
        let names = kernels(&devices()[0], &make);
        let n_joined = names.iter().filter(|name| name.starts_with("prepare")).count();
        assert!(n_joined == 2 && !names.contains(&"rms_norm_warp"), "{names:?}");
        check_joined(&make, &["k_norm", "v_norm", "next_q_norm"], limit);
    }
}

/// Rows that end within a piece of 128 columns, and rows with more pieces than a block has warps.
#[test]
fn rows_are_normalised_and_added_at_once() {
    for cols in [1056, 5376] {
        let make = |max_tokens| post_norm_plan(max_tokens, cols);
        let names = kernels(&devices()[0], &make);
        let is_norm = |name: &&&str| name.contains("norm") || name.contains("quantize");
        let norms: Vec<_> = names.iter().filter(is_norm).collect();
        assert_eq!(norms, [&"post_norm"; 2], "{names:?}");
        let of_blocks = ["attended_norm", "router_norm", "dense_norm", "routed_norm"];
        check_joined(&make, &[&of_blocks[..], &["sum_norm", "next_norm"]].concat(), 1e-3);
    }
}

/// Slots of the launches that have several, in a step of one token.
fn slots(device: &HostDevice, make: MakePlan<'_>) -> Vec<u32> {
    let plan = passes::prepare(make(1).expect("a valid plan"), device.caps()).expect("supported");
    let lowering = Lowering::new(&plan, Bucket::largest(&plan), Card::HOPPER, &Nowhere, 0);
    let launches = lowering.run().expect("the card has all kernels").launches;
    let is_product = |launch: &&Launch| launch.kernel.module == "matvec" && launch.grid[1] > 1;
    launches.iter().filter(is_product).map(|launch| launch.grid[1]).collect()
}

/// The first product of a shared expert is a slot of the chosen ones' launch in steps of one token, if it is like theirs.
#[test]
fn shared_experts_are_taken_along() {
    let [apart, packed] = devices();
    let types = [GgmlType::Q8_0, GgmlType::Q4_0];
    for (of_shared, first) in [((types[0], 96), 3), ((types[0], 64), 2), ((types[1], 96), 2)] {
        let make = |max_tokens| experts_plan(max_tokens, [(types[0], 96), of_shared]);
        assert_eq!(slots(&apart, &make)[0], first, "{of_shared:?}");
        let expected = run(&ReferenceDevice::new(), &make, 5, &[]);
        let by_launches = run(&apart, &make, 5, &[]);
        let error = nmse(&by_launches, &expected);
        assert!(error < 1e-3, "{of_shared:?}: nmse {error:e}");
        for device in [&apart, &packed] {
            let found = run(device, &make, 1, &[]);
            same_bits(&found, &by_launches)
                .unwrap_or_else(|at| panic!("{of_shared:?}: element {at}"));
        }
    }
}

/// Products of the same normalised row with weights of one type, then of the other, widths odd and with biases.
fn two_types_plan(max_tokens: u32, [first, second]: [GgmlType; 2]) -> Result<Plan, PlanError> {
    const COLS: u32 = 512;
    let mut b = Builder::new("two types", limits(max_tokens));
    let table = b.weight("table", GgmlType::F32, N_TOKENS as u32, COLS)?;
    let x = b.embed("x", table, 1.0)?;
    let x = rows_normed(&mut b, "norm", x, COLS)?;
    let of_rows = [(first, 40, true), (first, 33, false), (second, 17, true), (second, 64, false)];
    let mut products = Vec::new();
    for (idx, (dtype, n_out, has_bias)) in of_rows.into_iter().enumerate() {
        let w = b.weight(&format!("{idx}.w"), dtype, n_out, COLS)?;
        let bias = match has_bias {
            true => Some(b.weight(&format!("{idx}.b"), GgmlType::F32, 1, n_out)?),
            false => None,
        };
        products.push((n_out, b.matmul(&format!("{idx}"), w, x, bias)?));
    }
    let mut sums = Vec::new();
    for (idx, (n_out, product)) in products.into_iter().enumerate() {
        let w = b.weight(&format!("{idx}.to"), GgmlType::F32, 8, n_out)?;
        sums.push(b.matmul(&format!("{idx}.sum"), w, product, None)?);
    }
    let [upper, lower] = [b.add("upper", sums[0], sums[1])?, b.add("lower", sums[2], sums[3])?];
    let out = b.add("out", upper, lower)?;
    Ok(b.finish(vec![out]))
}

/// In steps of one token, in either order; larger steps, where each type has its launch, give the same bits.
#[test]
fn products_of_two_types_have_one_launch() {
    use GgmlType::{Q4_K, Q5_0, Q5_K, Q6_K, Q8_0};
    let pairs = [
        ([Q4_K, Q5_K], "matvec_two_q4_k_q5_k"),
        ([Q6_K, Q4_K], "matvec_two_q4_k_q6_k"),
        ([Q5_K, Q6_K], "matvec_two_q5_k_q6_k"),
        ([Q8_0, Q5_0], "matvec_two_q5_0_q8_0"),
    ];
    for (types, name) in pairs {
        let make = |max_tokens| two_types_plan(max_tokens, types);
        let names = kernels(&devices()[0], &make);
        let products: Vec<_> = names.iter().filter(|name| name.starts_with("matvec")).collect();
        assert_eq!(products, [&name], "{names:?}");
        check_joined(&make, &[], 1e-3);
    }
    let make = |max_tokens| two_types_plan(max_tokens, [Q4_K, Q8_0]);
    let names = kernels(&devices()[0], &make);
    assert!(!names.iter().any(|name| name.starts_with("matvec_two")), "{names:?}");
}
