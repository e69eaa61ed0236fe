//! Every rule of a plan, broken once: `passes::verify` must say so.

use zinc_plan::{
    Attention, Builder, CacheGroup, CausalConv1d, Dim, Gating, HeadSlice, Limits, MatMul, Node, Op,
    Plan, PlanError, RmsNorm, Rope, RopeMode, RouterTopK, TensorId, TensorInfo, TensorKind, passes,
};
use zinc_quant::GgmlType;

const LIMITS: Limits = Limits {
    max_tokens: 4,
    max_seqs: 1,
    max_out_rows: 1,
    page_size: 4,
    pages_per_seq: 2,
    n_pages: 2,
    window_pages_per_seq: 2,
    n_window_pages: 2,
    n_state_slots: 2,
};

/// A small attention block with every kind of tensor.
fn valid() -> Result<Plan, PlanError> {
    let mut b = Builder::new("valid", LIMITS);
    let table = b.weight("table", GgmlType::F32, 8, 64)?;
    let x = b.embed("x", table, 1.0)?;
    let norm = b.weight("norm", GgmlType::F32, 1, 64)?;
    let normed = b.rms_norm("normed", RmsNorm { eps: 1e-5, group: 64 }, x, norm)?;
    let w_qkv = b.weight("w_qkv", GgmlType::Q8_0, 96, 64)?;
    let qkv = b.matmul("qkv", w_qkv, normed, None)?;
    let q = b.view("q", qkv, 0, 32)?;
    let k = b.view("k", qkv, 32, 32)?;
    let v = b.view("v", qkv, 64, 32)?;
    let rope_table = b.constant("rope_table", 17, vec![1.0; 17])?;
    let rope = Rope { mode: RopeMode::Neox, head_dim: 32, n_dims: 32 };
    let q = b.rope("q_rope", rope, q, rope_table)?;
    let caches = [b.cache("cache_k", GgmlType::F16, 32)?, b.cache("cache_v", GgmlType::F16, 32)?];
    b.kv_write("write", [k, v], caches)?;
    let attention = Attention {
        n_heads: 1,
        n_kv_heads: 1,
        k_dim: 32,
        v_dim: 32,
        scale: 1.0,
        softcap: None,
        window: None,
        page_size: LIMITS.page_size,
        sinks: false,
    };
    let attended = b.attention("attended", attention, q, caches)?;
    let w_out = b.weight("w_out", GgmlType::F32, 64, 32)?;
    let bias = b.weight("bias", GgmlType::F32, 1, 64)?;
    let product = b.matmul("product", w_out, attended, Some(bias))?;
    let sum = b.add("sum", x, product)?;
    let kept = b.gather_out_rows("kept", sum)?;
    Ok(b.finish(vec![kept]))
}

fn id(plan: &Plan, name: &str) -> TensorId {
    plan.find(name).expect("a tensor of the plan")
}

fn tensor<'a>(plan: &'a mut Plan, name: &str) -> &'a mut TensorInfo {
    let id = id(plan, name);
    &mut plan.tensors[id.index()]
}

fn node<'a>(plan: &'a mut Plan, label: &str) -> &'a mut Node {
    plan.nodes.iter_mut().find(|node| node.label == label).expect("a node of the plan")
}

type Edit = fn(&mut Plan);

const BROKEN: [(&str, Edit); 29] = [
    ("two tensors of one name", |plan| tensor(plan, "normed").name = "x".into()),
    ("a row of part of a block", |plan| tensor(plan, "w_out").dtype = GgmlType::Q4_K),
    ("a view past its base", |plan| tensor(plan, "v").shape.cols = 33),
    ("a view of other rows", |plan| tensor(plan, "v").shape.rows = Dim::OutRows),
    ("a view of another type", |plan| tensor(plan, "v").dtype = GgmlType::F16),
    ("a view of a weight", |plan| {
        let base = id(plan, "w_qkv");
        tensor(plan, "v").kind = TensorKind::View { base, col: 0 };
    }),
    ("a reader before the writer", |plan| plan.nodes.swap(0, 1)),
    ("a value without a writer", |plan| {
        plan.nodes.remove(0);
    }),
    ("two writers", |plan| {
        let again = plan.nodes[0].clone();
        plan.nodes.insert(1, again);
    }),
    ("a writer of a weight", |plan| {
        let table = id(plan, "table");
        node(plan, "x").writes = vec![table];
    }),
    ("a writer of a cache that is no KvWrite", |plan| {
        let cache = id(plan, "cache_k");
        node(plan, "sum").writes = vec![cache];
    }),
    ("a node without results", |plan| node(plan, "sum").writes.clear()),
    ("a node with one result too many", |plan| {
        let shape = tensor(plan, "x").shape;
        let info = TensorInfo {
            name: "more".into(),
            dtype: GgmlType::F32,
            shape,
            kind: TensorKind::Value,
        };
        plan.tensors.push(info);
        let more = TensorId(plan.tensors.len() as u32 - 1);
        node(plan, "sum").writes.push(more);
    }),
    ("a cache written without its partner", |plan| {
        node(plan, "write").writes.truncate(1);
    }),
    ("a cache of another width", |plan| {
        let cache = id(plan, "cache_v");
        let shape = zinc_plan::Shape::new(Dim::CacheRows, 64);
        let info = TensorInfo {
            name: "wide".into(),
            dtype: GgmlType::F16,
            shape,
            kind: TensorKind::State,
        };
        plan.tensors.push(info);
        let wide = TensorId(plan.tensors.len() as u32 - 1);
        node(plan, "write").writes.iter_mut().filter(|id| **id == cache).for_each(|id| *id = wide);
    }),
    ("an operand missing", |plan| {
        node(plan, "sum").reads.pop();
    }),
    ("operands of different widths", |plan| {
        let q = id(plan, "q");
        node(plan, "sum").reads[1] = q;
    }),
    ("a weight of another width", |plan| tensor(plan, "w_out").shape.cols = 64),
    ("a bias of another width", |plan| tensor(plan, "bias").shape.cols = 32),
    ("a norm of another width", |plan| {
        node(plan, "normed").op = Op::RmsNorm(RmsNorm { eps: 1e-5, group: 48 });
    }),
    ("a bias that the operation does not take", |plan| {
        node(plan, "product").op = Op::MatMul(MatMul::default());
    }),
    ("a rotation of an odd number of elements", |plan| {
        node(plan, "q_rope").op = Op::Rope(Rope { mode: RopeMode::Norm, head_dim: 32, n_dims: 31 });
    }),
    ("heads that do not share evenly", |plan| {
        if let Op::Attention(attention) = &mut node(plan, "attended").op {
            attention.n_kv_heads = 0;
        }
    }),
    ("a window of nothing", |plan| {
        if let Op::Attention(attention) = &mut node(plan, "attended").op {
            attention.window = Some(0);
        }
    }),
    ("one input in the place of another", |plan| {
        let slots = id(plan, "slots");
        node(plan, "q_rope").reads[1] = slots;
    }),
    ("keys that are no cache", |plan| {
        let value = id(plan, "q_rope");
        tensor(plan, "q_rope").shape.rows = Dim::CacheRows;
        node(plan, "attended").reads[1] = value;
    }),
    ("a matrix that is computed", |plan| {
        tensor(plan, "w_out").kind = TensorKind::State;
    }),
    ("pages of another size", |plan| plan.limits.page_size = 8),
    ("an output that is not computed", |plan| {
        let table = id(plan, "table");
        plan.outputs = vec![table];
    }),
];

/// Experts and a recurrence.
fn valid_experts() -> Result<Plan, PlanError> {
    let mut b = Builder::new("experts", LIMITS);
    let table = b.weight("table", GgmlType::F32, 8, 32)?;
    let x = b.embed("x", table, 1.0)?;
    let w_router = b.weight("w_router", GgmlType::F32, 4, 32)?;
    let logits = b.matmul("logits", w_router, x, None)?;
    let router = RouterTopK {
        n_experts_used: 2,
        gating: Gating::Softmax,
        bias: false,
        groups: None,
        normalize: true,
        scale: 1.0,
    };
    let [ids, weights] = b.router_top_k("router", router, logits, None)?;
    let w = b.weight("w_experts", GgmlType::Q8_0, 4 * 32, 32)?;
    let y = b.expert_matmul("experts", 4, [w, x, ids], None)?;
    let scale = b.weight("scale", GgmlType::F32, 1, 4)?;
    let combined = b.expert_combine("combined", y, weights, Some([ids, scale]))?;
    let taps = b.weight("taps", GgmlType::F32, 32, 4)?;
    let state = b.recurrent_state("state", 3 * 32)?;
    let conv = CausalConv1d { kernel: 4 };
    let convolved = b.causal_conv1d("convolved", conv, [combined, taps], state)?;
    let sliced = b.head_slice("sliced", HeadSlice { head_dim: 16, start: 8, len: 8 }, convolved)?;
    Ok(b.finish(vec![sliced]))
}

const BROKEN_EXPERTS: [(&str, Edit); 13] = [
    ("ids that no router chose", |plan| {
        let table = id(plan, "token_ids");
        node(plan, "experts").reads[2] = table;
    }),
    ("a router over more experts than there are", |plan| {
        tensor(plan, "w_router").shape.rows = Dim::Fixed(5);
        tensor(plan, "logits").shape.cols = 5;
    }),
    ("a stack of no whole number of matrices", |plan| {
        if let Op::ExpertMatMul(matmul) = &mut node(plan, "experts").op {
            matmul.n_experts = 3;
        }
    }),
    ("more experts chosen than there are", |plan| {
        if let Op::RouterTopK(router) = &mut node(plan, "router").op {
            router.n_experts_used = 5;
        }
    }),
    ("a router with one result", |plan| {
        node(plan, "router").writes.pop();
    }),
    ("ids of another type", |plan| {
        tensor(plan, "router.ids").dtype = GgmlType::F32;
    }),
    ("a factor for fewer experts", |plan| {
        tensor(plan, "scale").shape.cols = 3;
    }),
    ("a recurrence without its state", |plan| {
        node(plan, "convolved").writes.pop();
    }),
    ("a state of another width", |plan| {
        tensor(plan, "state").shape.cols = 32;
    }),
    ("a cache for a state", |plan| {
        tensor(plan, "state").shape.rows = Dim::CacheRows;
    }),
    ("a state read where it is to be written", |plan| {
        node(plan, "convolved").reads.swap(4, 5);
    }),
    ("other taps than the kernel has", |plan| {
        if let Op::CausalConv1d(conv) = &mut node(plan, "convolved").op {
            conv.kernel = 3;
        }
    }),
    ("columns outside a head", |plan| {
        if let Op::HeadSlice(slice) = &mut node(plan, "sliced").op {
            slice.start = 9;
        }
    }),
];

/// A layer that keeps its window beside one that keeps everything.
fn valid_windows() -> Result<Plan, PlanError> {
    let mut b = Builder::new("windows", LIMITS);
    let table = b.weight("table", GgmlType::F32, 8, 32)?;
    let x = b.embed("x", table, 1.0)?;
    let mut outputs = Vec::new();
    for (name, group) in [("full", CacheGroup::Full), ("near", CacheGroup::Window)] {
        let cache = b.cache_of(group, &format!("{name}_cache"), GgmlType::F16, 32)?;
        b.kv_write(&format!("{name}_write"), [x, x], [cache, cache])?;
        let attention = Attention {
            n_heads: 1,
            n_kv_heads: 1,
            k_dim: 32,
            v_dim: 32,
            scale: 1.0,
            softcap: None,
            window: Some(4),
            page_size: LIMITS.page_size,
            sinks: false,
        };
        outputs.push(b.attention(name, attention, x, [cache, cache])?);
    }
    Ok(b.finish(outputs))
}

const BROKEN_WINDOWS: [(&str, Edit); 5] = [
    ("a window read through the pages of everything", |plan| {
        let pages = id(plan, "pages");
        node(plan, "near").reads[5] = pages;
    }),
    ("a window written at the slots of everything", |plan| {
        let slots = id(plan, "slots");
        node(plan, "near_write").reads[2] = slots;
    }),
    ("everything written at the slots of a window", |plan| {
        let slots = id(plan, "window_slots");
        node(plan, "full_write").reads[2] = slots;
    }),
    ("a window kept for a layer that sees everything", |plan| {
        if let Op::Attention(attention) = &mut node(plan, "near").op {
            attention.window = None;
        }
    }),
    ("keys and values of two groups", |plan| {
        let cache = id(plan, "full_cache");
        node(plan, "near").reads[2] = cache;
    }),
];

#[test]
fn the_plan_is_valid_before_it_is_broken() {
    passes::verify(&valid().expect("operands that fit")).expect("a valid plan");
    passes::verify(&valid_experts().expect("operands that fit")).expect("a valid plan");
    passes::verify(&valid_windows().expect("operands that fit")).expect("a valid plan");
}

#[test]
fn every_broken_rule_is_noticed() {
    let missed = |build: fn() -> Result<Plan, PlanError>, (name, edit): (&'static str, Edit)| {
        let mut plan = build().expect("operands that fit");
        edit(&mut plan);
        passes::verify(&plan).is_ok().then_some(name)
    };
    let of_attention = BROKEN.into_iter().filter_map(|case| missed(valid, case));
    let of_experts = BROKEN_EXPERTS.into_iter().filter_map(|case| missed(valid_experts, case));
    let of_windows = BROKEN_WINDOWS.into_iter().filter_map(|case| missed(valid_windows, case));
    let missed: Vec<&str> = of_attention.chain(of_experts).chain(of_windows).collect();
    assert!(missed.is_empty(), "not noticed: {missed:#?}");
}

#[test]
fn errors_name_the_place() {
    let mut plan = valid().expect("operands that fit");
    tensor(&mut plan, "bias").shape.cols = 32;
    let error = passes::verify(&plan).expect_err("a broken plan").to_string();
    assert!(error.starts_with("product: matmul: bias must be"), "{error}");
}
