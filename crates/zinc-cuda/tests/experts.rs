//! Blocks of experts in small steps, where lowering joins many nodes: whole blocks, two in a row, on the host.
#![cfg(unix)]

#[allow(dead_code, reason = "the operation table's tests use the rest")]
mod host_device;

use std::sync::Arc;

use bytes::Bytes;
use host_device::{HostDevice, Options};
use zinc_backend::{Bindings, Device, StepInputs, StepOutputs, WeightSource};
use zinc_cuda::launch::{Kernel, Launch};
use zinc_cuda::lower::{Bucket, Card, Lowering, Nowhere};
use zinc_cuda::pipeline;
use zinc_plan::{
    Activation, Builder, ExpertGroups, GatedAct, Gating, GroupScore, Limits, Plan, PlanError,
    RmsNorm, RouterTopK, TensorId, passes,
};
use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;
use zinc_testkit::compare::{nmse, same_bits};
use zinc_testkit::kernel_host::Schedule;
use zinc_testkit::random::Rng;

/// Layers, so that one follows another in the same memory.
const N_LAYERS: u32 = 2;
/// Rows of the table that tokens are taken from.
const N_VOCAB: u32 = 11;
/// What tests run: the first three of them, or all.
const TOKENS: [i32; 11] = [3, 10, 4, 0, 7, 9, 1, 5, 2, 8, 6];

/// What is added to the chosen experts.
#[derive(Clone, Copy, PartialEq)]
enum Shared {
    None,
    /// Weighed by a gate, with its down product in this type.
    Gated(GgmlType),
    Plain,
}

/// A block of experts of any family.
#[derive(Clone, Copy)]
struct Block {
    /// Of gate and up.
    gate_type: GgmlType,
    /// Of down.
    down_type: GgmlType,
    d_model: u32,
    d_ff: u32,
    n_experts: u32,
    n_experts_used: u32,
    act: Activation,
    gating: Gating,
    groups: Option<ExpertGroups>,
    /// The router has rows of its own, with so many columns.
    router_cols: Option<u32>,
    /// Of the router and of the experts.
    bias: bool,
    expert_scale: bool,
    shared: Shared,
    /// A norm lies between the experts and the residual.
    post_norm: bool,
}

const QWEN: Block = Block {
    gate_type: GgmlType::Q8_0,
    down_type: GgmlType::Q4_K,
    d_model: 64,
    d_ff: 256,
    n_experts: 6,
    n_experts_used: 4,
    act: Activation::Silu,
    gating: Gating::Softmax,
    groups: None,
    router_cols: None,
    bias: false,
    expert_scale: false,
    shared: Shared::Gated(GgmlType::Q4_K),
    post_norm: false,
};

const GPT_OSS: Block = Block {
    gate_type: GgmlType::MXFP4,
    down_type: GgmlType::MXFP4,
    d_model: 32,
    d_ff: 1056,
    n_experts: 5,
    n_experts_used: 2,
    act: Activation::SwigluOai,
    gating: Gating::TopKSoftmax,
    bias: true,
    shared: Shared::None,
    ..QWEN
};

const GEMMA: Block = Block {
    gate_type: GgmlType::Q5_1,
    down_type: GgmlType::Q8_0,
    d_model: 160,
    d_ff: 544,
    act: Activation::GeluTanh,
    expert_scale: true,
    shared: Shared::None,
    post_norm: true,
    ..QWEN
};

/// With rows of its own for the router.
const DEEPSEEK: Block = Block {
    d_model: 32,
    n_experts: 12,
    n_experts_used: 3,
    gating: Gating::Sigmoid,
    groups: Some(ExpertGroups { n_groups: 4, n_groups_used: 2, score: GroupScore::TopTwo }),
    router_cols: Some(32 * 33),
    bias: true,
    shared: Shared::Plain,
    ..QWEN
};

/// A plan under construction, with the data of its weights.
struct Graph {
    b: Builder,
    rng: Rng,
    weights: Vec<WeightSource>,
}

impl Graph {
    fn weight(&mut self, name: &str, dtype: GgmlType, rows: u32, cols: u32) -> TensorId {
        let data = Bytes::from(self.rng.blocks(dtype, (rows * cols) as usize));
        let (n_rows, n_cols) = (u64::from(rows), u64::from(cols));
        let source = WeightSource { name: name.into(), dtype, rows: n_rows, cols: n_cols, data };
        self.weights.push(source);
        self.b.weight(name, dtype, rows, cols).expect("a name of its own")
    }

    fn vector(&mut self, name: &str, cols: u32) -> TensorId {
        self.weight(name, GgmlType::F32, 1, cols)
    }

    fn norm(&mut self, label: &str, x: TensorId, cols: u32) -> Result<TensorId, PlanError> {
        let weight = self.vector(&format!("{label}.weight"), cols);
        self.b.rms_norm(label, RmsNorm { eps: 1e-6, group: cols }, x, weight)
    }

    fn layer(&mut self, layer: u32, x: TensorId, block: &Block) -> Result<TensorId, PlanError> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let normed = self.norm(&name("norm"), x, block.d_model)?;
        let routed = self.experts(&name, normed, block)?;
        let fed = match block.shared {
            Shared::None => routed,
            shared => {
                let shared = self.shared_expert(&name, normed, block, shared)?;
                self.b.add(&name("fed"), routed, shared)?
            }
        };
        let fed = match block.post_norm {
            true => self.norm(&name("post_norm"), fed, block.d_model)?,
            false => fed,
        };
        self.b.add(&name("out"), x, fed)
    }

    fn experts(
        &mut self,
        name: &dyn Fn(&str) -> String,
        x: TensorId,
        block: &Block,
    ) -> Result<TensorId, PlanError> {
        let Block { d_model, d_ff, n_experts, n_experts_used, .. } = *block;
        let router_in = match block.router_cols {
            Some(cols) => {
                let table = self.weight(&name("router_in"), GgmlType::F32, N_VOCAB, cols);
                self.b.embed(&name("router_rows"), table, 0.1)?
            }
            None => x,
        };
        let cols = block.router_cols.unwrap_or(d_model);
        let gate_inp = self.weight(&name("gate_inp"), GgmlType::F32, n_experts, cols);
        let bias = block.bias.then(|| self.vector(&name("gate_inp.bias"), n_experts));
        let logits = self.b.matmul(&name("logits"), gate_inp, router_in, bias)?;
        let router = RouterTopK {
            n_experts_used,
            gating: block.gating,
            bias: false,
            groups: block.groups,
            normalize: block.gating != Gating::TopKSoftmax,
            scale: 1.0,
        };
        let [ids, weights] = self.b.router_top_k(&name("router"), router, logits, bias)?;
        let sizes = [d_ff, d_model];
        let gate = self.product(&name("gate"), [x, ids], block.gate_type, sizes, block)?;
        let up = self.product(&name("up"), [x, ids], block.gate_type, sizes, block)?;
        let hidden = self.b.gated_act(&name("act"), GatedAct { act: block.act }, gate, up)?;
        let sizes = [d_model, d_ff];
        let results = self.product(&name("down"), [hidden, ids], block.down_type, sizes, block)?;
        let scale = block.expert_scale.then(|| [ids, self.vector(&name("scale"), n_experts)]);
        self.b.expert_combine(&name("routed"), results, weights, scale)
    }

    /// Products with the matrices of the chosen experts.
    fn product(
        &mut self,
        label: &str,
        [x, ids]: [TensorId; 2],
        dtype: GgmlType,
        [rows, cols]: [u32; 2],
        block: &Block,
    ) -> Result<TensorId, PlanError> {
        let n_experts = block.n_experts;
        let weight = self.weight(&format!("{label}.weight"), dtype, n_experts * rows, cols);
        let bias = format!("{label}.bias");
        let bias = block.bias.then(|| self.weight(&bias, GgmlType::F32, n_experts, rows));
        self.b.expert_matmul(label, n_experts, [weight, x, ids], bias)
    }

    fn shared_expert(
        &mut self,
        name: &dyn Fn(&str) -> String,
        x: TensorId,
        block: &Block,
        shared: Shared,
    ) -> Result<TensorId, PlanError> {
        let Block { gate_type, d_model, d_ff, .. } = *block;
        let down_type = if let Shared::Gated(dtype) = shared { dtype } else { block.down_type };
        let gate = self.weight(&name("gate_shexp"), gate_type, d_ff, d_model);
        let up = self.weight(&name("up_shexp"), gate_type, d_ff, d_model);
        let down = self.weight(&name("down_shexp"), down_type, d_model, d_ff);
        let gate = self.b.matmul(&name("shared_gate"), gate, x, None)?;
        let up = self.b.matmul(&name("shared_up"), up, x, None)?;
        let hidden =
            self.b.gated_act(&name("shared_act"), GatedAct { act: block.act }, gate, up)?;
        let value = self.b.matmul(&name("shared"), down, hidden, None)?;
        if shared == Shared::Plain {
            return Ok(value);
        }
        let weight = self.vector(&name("gate_inp_shexp"), d_model);
        let gate = self.b.matmul(&name("shared_weight"), weight, x, None)?;
        self.b.sigmoid_gate(&name("shared_gated"), value, gate)
    }
}

fn limits(max_tokens: u32) -> Limits {
    Limits {
        max_tokens,
        max_seqs: 1,
        max_out_rows: 1,
        page_size: 16,
        pages_per_seq: 1,
        n_pages: 1,
        window_pages_per_seq: 1,
        n_window_pages: 1,
        n_state_slots: 2,
    }
}

/// The plan of the layers for so many tokens, and the data of its weights.
fn plan(block: &Block, max_tokens: u32) -> (Plan, Vec<WeightSource>) {
    let b = Builder::new("experts", limits(max_tokens));
    let mut graph = Graph { b, rng: Rng::new(7, "experts"), weights: Vec::new() };
    let table = graph.weight("table", GgmlType::F32, N_VOCAB, block.d_model);
    let x = graph.b.embed("embed", table, 1.0).expect("operands that fit");
    let mut outs = vec![x];
    for layer in 0..N_LAYERS {
        let x = outs[outs.len() - 1];
        outs.push(graph.layer(layer, x, block).expect("operands that fit"));
    }
    (graph.b.finish(outs.split_off(1)), graph.weights)
}

/// What each layer gives for three tokens, at most `max_tokens` in a step; with `apart` so that nothing is joined.
fn run(block: &Block, device: &dyn Device, max_tokens: u32, apart: bool) -> Vec<Vec<f32>> {
    run_tokens(block, device, max_tokens, apart, 3)
}

/// The same for so many tokens.
fn run_tokens(
    block: &Block,
    device: &dyn Device,
    max_tokens: u32,
    apart: bool,
    n_tokens: usize,
) -> Vec<Vec<f32>> {
    let (mut plan, sources) = plan(block, max_tokens);
    if apart {
        let of_layer = |layer: u32| ["logits", "down"].map(|part| format!("blk.{layer}.{part}"));
        let names: Vec<_> = (0..N_LAYERS).flat_map(of_layer).collect();
        plan.add_outputs(&names).expect("values of the plan");
    }
    run_plan(plan, sources, device, n_tokens)
}

/// All outputs of a plan for the first `n_tokens`, in steps as large as it takes.
fn run_plan(
    plan: Plan,
    sources: Vec<WeightSource>,
    device: &dyn Device,
    n_tokens: usize,
) -> Vec<Vec<f32>> {
    let plan = passes::prepare(plan, device.caps()).expect("a supported plan");
    let weights = device.bind_weights(sources, &mut |_, _| ()).expect("memory");
    let states = device.alloc_states(&plan).expect("memory");
    let bind = Bindings { weights: &weights, states: &states };
    let mut found = vec![Vec::new(); plan.outputs.len()];
    let max_tokens = plan.limits.max_tokens as usize;
    let mut exec = device.compile(Arc::new(plan), &bind).expect("kernels for all");
    for tokens in TOKENS[..n_tokens].chunks(max_tokens) {
        let n = tokens.len();
        let inputs = StepInputs {
            token_ids: tokens.to_vec(),
            positions: vec![0; n],
            seq_of: vec![0; n],
            slots: (0..n as i32).collect(),
            rope_variant: vec![0; n],
            pages: vec![0],
            ..StepInputs::default()
        };
        let mut outputs = StepOutputs::default();
        let ticket = exec.submit(&inputs).expect("a step");
        exec.wait(ticket, &mut outputs).expect("a step");
        found.iter_mut().zip(&outputs.values).for_each(|(all, step)| all.extend(step));
    }
    found
}

fn device((batch_invariant, packed, schedule, _): Way) -> HostDevice {
    HostDevice::new(Options { batch_invariant, schedule, card: Card::HOPPER, packed })
}

/// Launches of a decode step.
fn launches(block: &Block) -> Vec<Launch> {
    let plan = plan(block, 1).0;
    let caps = zinc_cuda::caps("cuda", Card::HOPPER.capability, false);
    let plan = passes::prepare(plan, &caps).expect("a supported plan");
    let lowering = Lowering::new(&plan, Bucket::largest(&plan), Card::HOPPER, &Nowhere, 0);
    lowering.run().expect("kernels for all").launches
}

/// How steps are run: whether batch-invariant and packed, the order of threads, and most tokens of a step.
type Way = (bool, bool, Schedule, u32);

const WAYS: [Way; 3] = [
    (false, true, Schedule::Random(5), 3),
    (true, true, Schedule::Reverse, 2),
    (false, false, Schedule::Forward, 1),
];

/// Panics unless all layers have the same bits.
fn assert_same(found: &[Vec<f32>], apart: &[Vec<f32>], label: &str) {
    for (layer, (found, apart)) in found.iter().zip(apart).enumerate() {
        if let Err(at) = same_bits(found, apart) {
            panic!("{label}: element {at} of layer {layer} differs");
        }
    }
}

/// The joined launches give the bits of the single ones, whatever the memory and the mode, and in the first layer nearly
/// the numbers of the reference, whose activations are not rounded to 8 bits: the second one may choose other experts.
fn check(name: &str, block: &Block, ways: &[Way]) {
    for prefix in ["router_product", "expert_down"] {
        let is_it = |launch: &&Launch| launch.kernel.name.starts_with(prefix);
        let n_joined = launches(block).iter().filter(is_it).count();
        assert_eq!(n_joined, N_LAYERS as usize, "{name}: launches of {prefix}");
    }
    let apart = run(block, &device((false, false, Schedule::Forward, 3)), 3, true);
    let expected = run(block, &ReferenceDevice::new(), 3, false);
    let error = nmse(&apart[0], &expected[0]);
    assert!(error < 1e-2, "{name}: nmse {error:e}");
    for way in ways {
        let found = run(block, &device(*way), way.3, false);
        assert_same(&found, &apart, &format!("{name}, {way:?}"));
    }
}

#[test]
fn blocks_of_all_families_are_joined() {
    check("qwen3.5", &QWEN, &WAYS);
    check("gpt-oss, short rows", &Block { d_ff: 96, ..GPT_OSS }, &WAYS);
    let [packed, ..] = WAYS;
    let check = |name: &str, block: &Block| check(name, block, &[packed]);
    check("gpt-oss", &GPT_OSS);
    check("gemma", &GEMMA);
    check("rows of the router, groups", &DEEPSEEK);
    check("other types", &Block { shared: Shared::Gated(GgmlType::Q8_0), ..QWEN });
    check("no gate", &Block { shared: Shared::Plain, n_experts_used: 3, ..QWEN });
    check("no shared expert", &Block { shared: Shared::None, n_experts_used: 3, ..QWEN });
    let (down_type, shared) = (GgmlType::Q8_0, Shared::Gated(GgmlType::Q8_0));
    let wide = Block { d_model: 544, d_ff: 32, n_experts_used: 2, down_type, shared, ..QWEN };
    check("norms of long rows", &wide);
    check("long rows", &Block { d_ff: 768, n_experts_used: 2, ..QWEN });
    // Several warps choose among runs of them.
    check("many experts", &Block { n_experts: 150, n_experts_used: 6, ..QWEN });
    let shared = Shared::None;
    check("a short run", &Block { n_experts: 70, n_experts_used: 15, shared, ..QWEN });
}

/// As many rows as a step may have whose experts are not grouped.
#[test]
fn blocks_of_many_experts_are_joined_in_larger_steps() {
    let block = Block { n_experts: 32, n_experts_used: 2, shared: Shared::None, ..QWEN };
    let n_tokens = TOKENS.len();
    let apart =
        run_tokens(&block, &device((false, false, Schedule::Forward, 3)), 3, true, n_tokens);
    for way in [(false, true, Schedule::Random(5), 11), (true, false, Schedule::Forward, 11)] {
        let found = run_tokens(&block, &device(way), way.3, false, n_tokens);
        assert_same(&found, &apart, &format!("{way:?}"));
    }
}

/// The launches of the first layer by the kernels' names. Each has as many bytes of parameters as its kernel takes.
fn kernels_of_layer(block: &Block) -> Vec<&'static str> {
    let launches = launches(block);
    let of_layer = &launches[1..][..launches.len() / N_LAYERS as usize];
    let name_of = |launch: &Launch| {
        let Kernel { module, name } = launch.kernel;
        let code = pipeline::code(module, Card::HOPPER.capability).expect("a module for the card");
        assert_eq!(pipeline::param_bytes(&code, name), Some(launch.params.len()), "{name}");
        name
    };
    of_layer.iter().map(name_of).collect()
}

#[test]
fn launches_of_a_layer() {
    let qwen = ["router_product_f32", "matvec_q8_0_1", "expert_down_q4_k"];
    assert_eq!(kernels_of_layer(&QWEN), qwen);
    let gpt_oss = ["router_product_f32", "matvec_mxfp4_1", "expert_down_mxfp4"];
    assert_eq!(kernels_of_layer(&GPT_OSS), gpt_oss);
}

#[test]
fn blocks_of_every_weight_type_are_joined() {
    use GgmlType::*;
    for down_type in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, MXFP4, IQ4_NL, IQ4_XS] {
        let cols = if down_type.row_bytes(32).is_some() { 32 } else { 256 };
        let short = Block {
            gate_type: Q8_0,
            down_type,
            d_model: 32,
            d_ff: cols,
            n_experts_used: 2,
            shared: Shared::Gated(down_type),
            ..QWEN
        };
        check(&format!("{down_type}, short rows"), &short, &WAYS[..1]);
        let d_ff = if cols == 32 { 544 } else { 768 };
        check(
            &format!("{down_type}, long rows"),
            &Block { d_ff, shared: Shared::None, ..short },
            &WAYS[..1],
        );
    }
}
