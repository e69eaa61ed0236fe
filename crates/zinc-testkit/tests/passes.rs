//! The plan passes, by property: over seeded random plans and the plans of the golden models.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use zinc_backend::{ActivationType, Bindings, Caps, Device, StepInputs, StepOutputs, WeightSource};
use zinc_gguf::Gguf;
use zinc_models::{Model, PlanOptions};
use zinc_plan::{
    Activation, Attention, Builder, Dim, GatedAct, HeadSlice, Limits, Op, OpKind, Plan, PlanError,
    RmsNorm, Rope, RopeMode, TensorId, TensorKind, passes,
};
use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;
use zinc_testkit::random::Rng;
use zinc_testkit::{golden, paths};

const LIMITS: Limits = Limits {
    max_tokens: 3,
    max_seqs: 1,
    max_out_rows: 2,
    page_size: 4,
    pages_per_seq: 3,
    n_pages: 4,
    window_pages_per_seq: 0,
    n_window_pages: 0,
    n_state_slots: 0,
};
/// Width of a query, key or value row in the random plans: two heads of 16.
const D_ATTN: u32 = 32;
const VOCAB: u32 = 5;

/// A random plan: operations over any earlier values of the right width, so that lifetimes overlap
/// in every way.
fn random_plan(rng: &mut Rng) -> Result<Plan, PlanError> {
    let mut b = Builder::new("random", LIMITS);
    let mut values: Vec<(TensorId, u32)> = Vec::new();
    for idx in 0..2 {
        let table = b.weight(&format!("table{idx}"), GgmlType::F32, VOCAB, 64)?;
        values.push((b.embed(&format!("embed{idx}"), table, 1.0)?, 64));
    }
    let caches =
        [b.cache("cache_k", GgmlType::F16, D_ATTN)?, b.cache("cache_v", GgmlType::F32, D_ATTN)?];
    let rope_table = b.constant("rope_table", 9, vec![0.5; 9])?;
    let mut wrote = false;
    for idx in 0..4 + rng.below(24) {
        let label = format!("n{idx}");
        let (x, cols) = values[rng.below(values.len())];
        let same = |rng: &mut Rng| loop {
            let (other, other_cols) = values[rng.below(values.len())];
            if other_cols == cols {
                return other;
            }
        };
        let value = match rng.below(10) {
            0 => (b.add(&label, x, same(rng))?, cols),
            1 => {
                let act = GatedAct { act: Activation::Silu };
                (b.gated_act(&label, act, x, same(rng))?, cols)
            }
            2 => {
                let w = b.weight(&format!("{label}.w"), GgmlType::F32, 1, 16)?;
                (b.rms_norm(&label, RmsNorm { eps: 1e-5, group: 16 }, x, w)?, cols)
            }
            3 | 4 => {
                let n_out = [32, 64][rng.below(2)];
                let dtype = [GgmlType::F32, GgmlType::Q8_0][rng.below(2)];
                let w = b.weight(&format!("{label}.w"), dtype, n_out, cols)?;
                (b.matmul(&label, w, x, None)?, n_out)
            }
            5 if cols == D_ATTN => {
                let rope = Rope { mode: RopeMode::Neox, head_dim: 16, n_dims: 16 };
                (b.rope(&label, rope, x, rope_table)?, cols)
            }
            6 if cols == D_ATTN => {
                wrote = true;
                b.kv_write(&label, [x, same(rng)], caches)?;
                continue;
            }
            7 if cols == D_ATTN && wrote => {
                let attention = Attention {
                    n_heads: 2,
                    n_kv_heads: 2,
                    k_dim: 16,
                    v_dim: 16,
                    scale: 0.25,
                    softcap: None,
                    window: None,
                    page_size: LIMITS.page_size,
                    sinks: false,
                };
                (b.attention(&label, attention, x, caches)?, cols)
            }
            8 => (b.sigmoid_gate(&label, x, same(rng))?, cols),
            9 if cols == 64 => {
                let slice = HeadSlice { head_dim: 32, start: 8, len: 16 };
                (b.head_slice(&label, slice, x)?, 32)
            }
            _ if cols == 64 && rng.below(2) == 0 => match b.view(&label, x, 16, 32) {
                Ok(view) => (view, 32),
                // A view of a view is refused.
                Err(_) => continue,
            },
            _ => continue,
        };
        values.push(value);
    }
    let last = values[values.len() - 1];
    let mut outputs = vec![b.gather_out_rows("kept", last.0)?];
    let (extra, _) = values[rng.below(values.len())];
    outputs.push(extra);
    Ok(b.finish(outputs))
}

/// Everything a device may ask of the passes.
fn demanding_caps() -> Caps {
    Caps {
        device: "demanding".into(),
        fused: OpKind::ALL.into_iter().filter(|kind| kind.is_fused()).collect(),
        matmul: GgmlType::ALL
            .into_iter()
            .map(|ty| match ty {
                GgmlType::Q8_0 => (ty, ActivationType::Quantized(GgmlType::Q8_0)),
                GgmlType::Q4_K | GgmlType::Q6_K => (ty, ActivationType::Quantized(GgmlType::Q8_K)),
                _ => (ty, ActivationType::F32),
            })
            .collect(),
        kv_types: vec![GgmlType::F32, GgmlType::F16],
        batch_invariant: true,
        f16_attention: false,
        f16_products: false,
        joins_activations: false,
    }
}

/// Random plans, and the real ones of the clone, all prepared for a demanding device.
fn prepared_plans() -> Vec<Plan> {
    plans_for(&demanding_caps())
}

fn plans_for(caps: &Caps) -> Vec<Plan> {
    let mut rng = Rng::new(7, "plans");
    let mut plans: Vec<Plan> =
        (0..300).map(|_| random_plan(&mut rng).expect("a valid plan")).collect();
    let folder = paths::testdata().join("golden");
    for golden in golden::in_folder(&folder).expect("readable models") {
        let gguf = Gguf::open(&golden.gguf).expect("a readable model");
        let model = Model::from_gguf(&gguf).expect("a supported model");
        let limits = limits_for(&model);
        let mut plan = model.plan(&PlanOptions { limits, kv_type: GgmlType::F16 }).expect("a plan");
        plans.push(plan.clone());
        plan.add_outputs(&model.hidden_tensors()).expect("hidden tensors are computed");
        plans.push(plan);
    }
    let prepare = |plan| passes::prepare(plan, caps).expect("a supported plan");
    plans.into_iter().map(prepare).collect()
}

/// The limits, with a slot for states, and a ring of pages where the model has windows.
fn limits_for(model: &Model) -> Limits {
    let ring = |window| Limits::ring_pages(LIMITS.page_size, window, LIMITS.max_tokens);
    let pages = model.config().longest_window().map_or(0, ring).min(LIMITS.pages_per_seq);
    Limits { window_pages_per_seq: pages, n_window_pages: pages, n_state_slots: 1, ..LIMITS }
}

/// Indices of the nodes, group by group, each group in random order.
fn shuffled_groups(plan: &Plan, rng: &mut Rng) -> Vec<usize> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (idx, node) in plan.nodes.iter().enumerate() {
        if node.barrier || groups.is_empty() {
            groups.push(Vec::new());
        }
        groups.last_mut().expect("a group was just added").push(idx);
    }
    groups.iter_mut().for_each(|group| rng.shuffle(group));
    groups.concat()
}

/// Bytes of the arena that the value `id` owns or lies in.
fn arena_range(plan: &Plan, id: TensorId) -> std::ops::Range<usize> {
    let owner = plan.locate(id).0;
    let memory = plan.memory.as_ref().expect("a prepared plan");
    let start = memory.offsets[owner.index()].expect("every value has a place") as usize;
    start..start + plan.max_bytes(owner) as usize
}

fn is_value(plan: &Plan, id: TensorId) -> bool {
    matches!(plan.tensor(id).kind, TensorKind::Value | TensorKind::View { .. })
}

/// Runs the nodes in this order over an arena that holds, in each byte, which value was written there
/// last. Every reader must find its operands, and caches at the version that the plan's own order
/// gives them.
fn simulate(plan: &Plan, order: &[usize]) -> Result<(), String> {
    let mut n_updates: HashMap<TensorId, u32> = HashMap::new();
    let mut expected_updates: Vec<Vec<(TensorId, u32)>> = Vec::new();
    for node in &plan.nodes {
        let states = node.reads.iter().filter(|id| plan.tensor(**id).kind == TensorKind::State);
        let seen = states.map(|id| (*id, n_updates.get(id).copied().unwrap_or(0)));
        expected_updates.push(seen.collect());
        for id in node.writes.iter().filter(|id| plan.tensor(**id).kind == TensorKind::State) {
            *n_updates.entry(*id).or_default() += 1;
        }
    }
    let memory = plan.memory.as_ref().expect("a prepared plan");
    let mut arena: Vec<Option<TensorId>> = vec![None; memory.arena_bytes as usize];
    let mut updates: HashMap<TensorId, u32> = HashMap::new();
    let holds = |arena: &[Option<TensorId>], id: TensorId| {
        let owner = plan.locate(id).0;
        arena[arena_range(plan, id)].iter().all(|tag| *tag == Some(owner))
    };
    for idx in order {
        let node = &plan.nodes[*idx];
        for id in node.reads.iter().filter(|id| is_value(plan, **id)) {
            if !holds(&arena, *id) {
                return Err(format!("{} finds {} overwritten", node.label, plan.tensor(*id).name));
            }
        }
        for (id, version) in &expected_updates[*idx] {
            if updates.get(id).copied().unwrap_or(0) != *version {
                return Err(format!(
                    "{} sees another version of {}",
                    node.label,
                    plan.tensor(*id).name
                ));
            }
        }
        for id in &node.writes {
            match plan.tensor(*id).kind {
                TensorKind::State => *updates.entry(*id).or_default() += 1,
                _ => arena[arena_range(plan, *id)].fill(Some(*id)),
            }
        }
        // Results written while operands are still read must not share their bytes.
        for id in node.reads.iter().filter(|id| is_value(plan, **id)) {
            if !holds(&arena, *id) {
                return Err(format!("{} overwrites its operand", node.label));
            }
        }
    }
    match plan.outputs.iter().find(|id| !holds(&arena, **id)) {
        Some(id) => Err(format!("output {} is overwritten", plan.tensor(*id).name)),
        None => Ok(()),
    }
}

#[test]
fn values_survive_until_their_last_reader_in_any_order_within_groups() {
    let mut rng = Rng::new(3, "orders");
    for plan in prepared_plans() {
        for _ in 0..8 {
            let order = shuffled_groups(&plan, &mut rng);
            simulate(&plan, &order).unwrap_or_else(|reason| panic!("{reason}\n{plan}"));
        }
    }
}

/// The plan as a device runs it that joins activations: products read what their activations are made from, and the nodes
/// that make only those are gone.
fn with_joined_products(plan: &Plan) -> Plan {
    let mut joined = plan.clone();
    for (idx, node) in plan.nodes.iter().enumerate().rev() {
        let Some(id) = node.writes.first().copied() else { continue };
        let is_id = |read: &TensorId| plan.locate(*read).0 == id;
        let mut readers = plan.nodes.iter().filter(|other| other.reads.iter().any(is_id));
        let makes_activations = match node.op {
            Op::QuantizeAct | Op::HeadSlice(_) => true,
            Op::RmsNorm(_) if readers.clone().all(|node| matches!(node.op, Op::Rope(_))) => true,
            Op::RmsNorm(_) | Op::SigmoidGate => readers.all(|node| node.op == Op::QuantizeAct),
            _ => false,
        };
        let reads_view = |read: &TensorId| is_id(read) && *read != id;
        let has_views = joined.nodes.iter().any(|other| other.reads.iter().any(reads_view));
        if !makes_activations || has_views || plan.outputs.iter().any(is_id) {
            continue;
        }
        for other in joined.nodes.iter_mut().filter(|other| other.reads.contains(&id)) {
            other.reads.retain(|read| *read != id);
            other.reads.extend(&node.reads);
        }
        joined.nodes[idx].reads.clear();
        joined.nodes[idx].writes.clear();
    }
    joined
}

/// The plan as a device runs it that joins activations: norms quantise.
fn with_joined_norms(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    for idx in 0..plan.nodes.len() {
        let quantize = plan.nodes[idx].clone();
        let is_norm = |node: &zinc_plan::Node| {
            matches!(node.op, Op::RmsNorm(_)) && node.writes == quantize.reads
        };
        if quantize.op == Op::QuantizeAct
            && let Some(norm) = plan.nodes.iter().position(is_norm)
        {
            plan.nodes[norm].writes.extend(&quantize.writes);
            plan.nodes[idx].reads.clear();
            plan.nodes[idx].writes.clear();
        }
    }
    plan
}

#[test]
fn what_activations_are_made_from_survives_where_they_are_joined() {
    let mut rng = Rng::new(3, "joined");
    let [mut n_products, mut n_norms, mut n_broken] = [0; 3];
    let plans = |joins_activations| plans_for(&Caps { joins_activations, ..demanding_caps() });
    for (plan, other) in plans(true).into_iter().zip(plans(false)) {
        let (products, norms) = (with_joined_products(&plan), with_joined_norms(&plan));
        n_products += usize::from(products != plan);
        n_norms += usize::from(norms != plan);
        for plan in [plan, products, norms] {
            let order = shuffled_groups(&plan, &mut rng);
            simulate(&plan, &order).unwrap_or_else(|reason| panic!("{reason}\n{plan}"));
        }
        for plan in [with_joined_products(&other), with_joined_norms(&other)] {
            let order = shuffled_groups(&plan, &mut rng);
            n_broken += usize::from(simulate(&plan, &order).is_err());
        }
    }
    assert!(n_products > 100 && n_norms > 20, "{n_products} and {n_norms} plans are joined");
    assert!(n_broken > 20, "{n_broken} plans break where memory is not laid out for it");
}

#[test]
fn the_arena_is_aligned_bounded_and_shared() {
    let (mut n_shared, mut n_concurrent) = (0, 0);
    for plan in prepared_plans() {
        let memory = plan.memory.as_ref().expect("a prepared plan");
        let used: Vec<_> = (0..plan.tensors.len() as u32)
            .map(TensorId)
            .filter(|id| plan.tensor(*id).kind == TensorKind::Value)
            .filter_map(|id| memory.offsets[id.index()].map(|_| arena_range(&plan, id)))
            .collect();
        let sum: usize = used.iter().map(|range| range.len().next_multiple_of(64)).sum();
        for range in &used {
            assert_eq!(range.start % 64, 0);
            assert!(range.end as u64 <= memory.arena_bytes);
        }
        assert!(memory.arena_bytes as usize <= sum, "{plan}");
        n_shared += usize::from((memory.arena_bytes as usize) < sum);
        n_concurrent += usize::from(plan.nodes.iter().skip(1).any(|node| !node.barrier));
    }
    assert!(n_shared > 200, "memory is reused in {n_shared} plans");
    assert!(n_concurrent > 200, "{n_concurrent} plans have nodes that may run together");
}

#[test]
fn a_barrier_too_few_is_noticed() {
    // The simulation itself: without barriers nearly every plan breaks in some order.
    let mut rng = Rng::new(5, "no barriers");
    let mut n_broken = 0;
    let plans = prepared_plans();
    for plan in &plans {
        let mut plan = plan.clone();
        plan.nodes.iter_mut().for_each(|node| node.barrier = false);
        let orders = (0..8).map(|_| shuffled_groups(&plan, &mut rng));
        n_broken += usize::from(orders.into_iter().any(|order| simulate(&plan, &order).is_err()));
    }
    assert!(n_broken * 10 > plans.len() * 9, "{n_broken} of {}", plans.len());
}

/// All outputs of two steps on the reference.
fn run(plan: Plan, weights: &[WeightSource]) -> Vec<Vec<u32>> {
    let device = ReferenceDevice::new();
    let weights = device.bind_weights(weights.to_vec(), &mut |_, _| ()).expect("weights fit");
    let states = device.alloc_states(&plan).expect("states fit");
    let bind = Bindings { weights: &weights, states: &states };
    let mut exec = device.compile(Arc::new(plan), &bind).expect("a supported plan");
    let mut outputs = StepOutputs::default();
    let mut bits = Vec::new();
    for start in [0, 3] {
        let inputs = StepInputs {
            token_ids: vec![1, 4, 2],
            positions: (start..start + 3).collect(),
            seq_of: vec![0; 3],
            slots: (start + 4..start + 7).collect(),
            pages: vec![1, 2, 3],
            out_rows: vec![0, 2],
            rope_variant: vec![0; 3],
            ..StepInputs::default()
        };
        let ticket = exec.submit(&inputs).expect("a valid step");
        exec.wait(ticket, &mut outputs).expect("the step ends");
        bits.extend(outputs.values.iter().map(|v| v.iter().map(|x| x.to_bits()).collect()));
    }
    bits
}

fn random_weights(plan: &Plan, rng: &mut Rng) -> Vec<WeightSource> {
    let weights = plan.tensors_where(|tensor| tensor.kind == TensorKind::Weight);
    let source = |(_, tensor): (TensorId, &zinc_plan::TensorInfo)| {
        let Dim::Fixed(rows) = tensor.shape.rows else { panic!("weights have fixed rows") };
        WeightSource {
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            rows: u64::from(rows),
            cols: u64::from(tensor.shape.cols),
            data: Bytes::from(rng.blocks(tensor.dtype, (rows * tensor.shape.cols) as usize)),
        }
    };
    weights.map(source).collect()
}

#[test]
fn order_within_groups_changes_no_bit_on_the_reference() {
    let device = ReferenceDevice::new();
    let mut rng = Rng::new(11, "reference");
    for _ in 0..60 {
        let plan = random_plan(&mut rng).expect("a valid plan");
        let plan = passes::prepare(plan, device.caps()).expect("a supported plan");
        let weights = random_weights(&plan, &mut rng);
        let expected = run(plan.clone(), &weights);
        for _ in 0..3 {
            let order = shuffled_groups(&plan, &mut rng);
            let nodes = order.iter().map(|idx| plan.nodes[*idx].clone()).collect();
            let shuffled = Plan { nodes, ..plan.clone() };
            assert_eq!(run(shuffled, &weights), expected, "{plan}");
        }
    }
}

#[test]
fn nothing_is_computed_for_nobody() {
    // Random plans have dead ends of their own; models have none, and the passes leave none.
    for plan in prepared_plans().iter().filter(|plan| plan.name != "random") {
        for id in plan.nodes.iter().flat_map(|node| &node.writes) {
            let lies_in = |other: &TensorId| plan.locate(*other).0 == *id;
            let is_read = plan.nodes.iter().any(|node| node.reads.iter().any(lies_in));
            let is_output = plan.outputs.iter().any(lies_in);
            // A recurrent state is for the next step; a cache is read in the same.
            let is_state = plan.tensor(*id).shape.rows == Dim::StateSlots;
            assert!(is_read || is_output || is_state, "{} in\n{plan}", plan.tensor(*id).name);
        }
    }
}
