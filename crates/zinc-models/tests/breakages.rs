//! Deliberate mistakes in a plan, a table or a step's inputs: the golden models and the operation
//! cases must notice each of them. A mistake that nothing notices means that a check is too weak.

use std::sync::Arc;

use zinc_backend::{Device, StepInputs};
use zinc_models::{Model, RopeScaling};
use zinc_plan::{
    Activation, Gating, GroupScore, HeadOrder, Op, Plan, RopeMode, TensorId, TensorKind,
};
use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;
use zinc_testkit::TestError;
use zinc_testkit::breakage::Breakage;
use zinc_testkit::cases::{self, Case};
use zinc_testkit::compare::nmse;
use zinc_testkit::conformance::{run_broken, run_on_reference};
use zinc_testkit::golden::{Prompt, golden};
use zinc_testkit::golden_check::check_pass;
use zinc_testkit::model_runner::ModelRunner;

/// Changes every operation for which `edit` returns true; there must be one.
fn every(plan: &mut Plan, mut edit: impl FnMut(&mut Op) -> bool) {
    let n_changed =
        plan.nodes.iter_mut().filter_map(|node| edit(&mut node.op).then_some(())).count();
    assert!(n_changed > 0, "nothing to break in {}", plan.name);
}

/// Removes the nodes for which `choose` returns true; what they computed becomes their operand 0.
fn bypass(plan: &mut Plan, choose: impl Fn(&Op) -> bool) {
    let mut renamed: Vec<(TensorId, TensorId)> = Vec::new();
    plan.nodes.retain_mut(|node| {
        for id in &mut node.reads {
            if let Some((_, to)) = renamed.iter().find(|(from, _)| from == id) {
                *id = *to;
            }
        }
        if choose(&node.op) {
            renamed.push((node.writes[0], node.reads[0]));
        }
        !choose(&node.op)
    });
    assert!(!renamed.is_empty(), "nothing to leave out in {}", plan.name);
}

fn swap_rope_mode(plan: &mut Plan) {
    every(plan, |op| match op {
        Op::Rope(rope) => {
            rope.mode = match rope.mode {
                RopeMode::Norm => RopeMode::Neox,
                RopeMode::Neox => RopeMode::Norm,
            };
            true
        }
        _ => false,
    });
}

fn drop_eps(plan: &mut Plan) {
    every(plan, |op| match op {
        Op::RmsNorm(norm) => {
            norm.eps = 0.0;
            true
        }
        _ => false,
    });
}

fn change_attention(plan: &mut Plan, edit: impl Fn(&mut zinc_plan::Attention)) {
    every(plan, |op| match op {
        Op::Attention(attention) => {
            edit(attention);
            true
        }
        _ => false,
    });
}

/// Exchanges two operands of the nodes of one kind.
fn swap_operands(plan: &mut Plan, choose: impl Fn(&Op) -> bool) {
    let nodes = plan.nodes.iter_mut().filter(|node| choose(&node.op));
    let n_changed = nodes.map(|node| node.reads.swap(0, 1)).count();
    assert!(n_changed > 0, "nothing to swap in {}", plan.name);
}

fn drop_bias(plan: &mut Plan) {
    let mut n_dropped = 0;
    for node in &mut plan.nodes {
        if let Op::MatMul(matmul) = &mut node.op
            && matmul.bias
        {
            matmul.bias = false;
            node.reads.truncate(2);
            n_dropped += 1;
        }
    }
    assert!(n_dropped > 0, "no bias in {}", plan.name);
}

/// Replaces the rotation table by `row` in every variant.
fn replace_rope_table(plan: &mut Plan, row: Vec<f32>) {
    let data = &mut plan.consts[0].data;
    assert_eq!(data.len() % row.len(), 0);
    let n_variants = data.len() / row.len();
    *data = row.repeat(n_variants);
}

/// theta^(-2i/d) without any scaling, and the factor `magnitude`.
fn plain_frequencies(model: &Model, magnitude: f32) -> Vec<f32> {
    let config = model.config();
    let dims = f64::from(config.rope_dims);
    let frequency = |i| f64::from(config.rope_theta).powf(-2.0 * f64::from(i) / dims) as f32;
    (0..config.rope_dims / 2).map(frequency).chain([magnitude]).collect()
}

/// YaRN with a correction range that is not rounded to whole frequencies.
fn unrounded_yarn(model: &Model) -> Vec<f32> {
    yarn(model, |ends| ends)
}

/// YaRN with a correction range that is rounded outwards.
fn rounded_yarn(model: &Model) -> Vec<f32> {
    yarn(model, |(low, high)| (low.floor(), high.ceil()))
}

fn yarn(model: &Model, round: fn((f64, f64)) -> (f64, f64)) -> Vec<f32> {
    let config = model.config();
    let RopeScaling::Yarn { factor, n_ctx_orig, beta_fast, beta_slow, attn_factor, .. } =
        config.rope_scaling
    else {
        panic!("the model has YaRN");
    };
    let dims = f64::from(config.rope_dims);
    let theta = f64::from(config.rope_theta);
    let index = |rotations: f32| {
        let turns = f64::from(n_ctx_orig) / (f64::from(rotations) * std::f64::consts::TAU);
        dims * turns.ln() / (2.0 * theta.ln())
    };
    let (low, high) = round((index(beta_fast), index(beta_slow)));
    let (low, high) = (low.max(0.0), high.min(dims - 1.0));
    let frequency = |i: u32| {
        let ramp = ((f64::from(i) - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
        let kept = theta.powf(-2.0 * f64::from(i) / dims);
        (kept / f64::from(factor) * ramp + kept * (1.0 - ramp)) as f32
    };
    (0..config.rope_dims / 2).map(frequency).chain([attn_factor]).collect()
}

/// The residual of the first layer is lost.
fn drop_residual(plan: &mut Plan) {
    let id = plan.find("blk.0.mid").expect("the sum after attention");
    let node = plan.nodes.iter_mut().find(|node| node.writes == [id]).expect("its node");
    node.reads[0] = node.reads[1];
}

/// Norm weights of two layers are exchanged.
fn swap_norm_weights(plan: &mut Plan) {
    let find = |plan: &Plan, name: &str| plan.find(name).expect("a norm weight");
    let first = find(plan, "blk.0.attn_norm.weight");
    let second = find(plan, "blk.0.ffn_norm.weight");
    for id in plan.nodes.iter_mut().flat_map(|node| &mut node.reads) {
        *id = match *id {
            id if id == first => second,
            id if id == second => first,
            id => id,
        };
    }
}

/// The prompt of 17 tokens, and whether a broken run of it is noticed.
fn notices(name: &str, breakage: impl FnOnce(&Model) -> Breakage) -> Result<(), String> {
    let golden = golden(name).expect("a golden of the clone");
    let prompts = golden.prompts().expect("readable numbers");
    let prompt: &Prompt = &prompts[1];
    let device: Arc<dyn Device> = Arc::new(ReferenceDevice::new());
    let runner = ModelRunner::open(&golden.gguf, device, GgmlType::F32).expect("a valid model");
    let check = |runner: &ModelRunner| {
        let pass = runner.prefill(&prompt.tokens, 7).expect("a plan that runs");
        check_pass(&pass, prompt, golden.tolerance, name)
    };
    check(&runner).expect("the golden agrees before it is broken");
    let breakage = breakage(runner.model());
    let label = format!("{name}: {}", breakage.name);
    match check(&runner.broken(breakage)) {
        Err(TestError::Mismatch(reason)) => {
            eprintln!("noticed  {label}: {reason}");
            Ok(())
        }
        _ => Err(label),
    }
}

#[test]
fn goldens_notice_wrong_plans() {
    let plan =
        |name, breakage, edit: fn(&mut Plan)| notices(name, |_| Breakage::plan(breakage, edit));
    let results = [
        plan("llama.f32", "rope mode swapped", swap_rope_mode),
        plan("qwen3.f32", "rope mode swapped", swap_rope_mode),
        plan("qwen3.f32", "epsilon dropped", drop_eps),
        plan("qwen3.f32", "norm of queries and keys left out", |plan| {
            bypass(plan, |op| matches!(op, Op::RmsNorm(norm) if norm.group < 64));
        }),
        plan("qwen2.f32", "bias dropped", drop_bias),
        plan("llama.f32", "key and value swapped", |plan| {
            swap_operands(plan, |op| matches!(op, Op::KvWrite));
        }),
        plan("phi3.f32", "gate and up swapped", |plan| {
            swap_operands(plan, |op| matches!(op, Op::GatedAct(_)));
        }),
        plan("llama.f32", "scale too small", |plan| {
            change_attention(plan, |attention| attention.scale *= 0.9);
        }),
        plan("qwen3.f32", "window of 16", |plan| {
            change_attention(plan, |attention| attention.window = Some(16));
        }),
        plan("gemma2.f32", "scores not capped", |plan| {
            change_attention(plan, |attention| attention.softcap = None);
        }),
        plan("gemma2.f32", "window one too long", |plan| change_window(plan, 1)),
        plan("qwen2.f32", "rotation left out", |plan| {
            bypass(plan, |op| matches!(op, Op::Rope(_)));
        }),
        plan("llama.f32", "residual dropped", drop_residual),
        plan("phi3.f32", "norm weights exchanged", swap_norm_weights),
    ];
    assert_all(results);
}

/// As [`notices`], for a golden that lies beside the repository only.
fn notices_shared(name: &str, breakage: &'static str, edit: fn(&mut Plan)) -> Result<(), String> {
    of_full_set(name, |_| Breakage::plan(breakage, edit))
}

fn of_full_set(name: &str, breakage: impl FnOnce(&Model) -> Breakage) -> Result<(), String> {
    match golden(name) {
        Ok(_) => notices(name, breakage),
        Err(error) => {
            eprintln!("skipped  {name}: {error}");
            Ok(())
        }
    }
}

fn change_window(plan: &mut Plan, by: i32) {
    every(plan, |op| match op {
        Op::Attention(attention) if attention.window.is_some() => {
            let window = attention.window.map(|window| window.saturating_add_signed(by));
            attention.window = window;
            true
        }
        _ => false,
    });
}

fn change_router(plan: &mut Plan, edit: impl Fn(&mut zinc_plan::RouterTopK)) {
    every(plan, |op| match op {
        Op::RouterTopK(router) => {
            edit(router);
            true
        }
        _ => false,
    });
}

fn drop_sinks(plan: &mut Plan) {
    for node in &mut plan.nodes {
        if let Op::Attention(attention) = &mut node.op {
            attention.sinks = false;
            node.reads.truncate(6);
        }
    }
}

/// The selection bias or the bias of the experts is left out.
fn drop_last_operand(plan: &mut Plan, has_it: impl Fn(&mut Op) -> bool) {
    let mut n_dropped = 0;
    for node in &mut plan.nodes {
        if has_it(&mut node.op) {
            node.reads.pop();
            n_dropped += 1;
        }
    }
    assert!(n_dropped > 0, "nothing to drop in {}", plan.name);
}

/// Layers rotate by the other rotation table of the model.
fn swap_rope_tables(plan: &mut Plan) {
    let [a, b] = ["rope_table", "rope_local_table"].map(|name| plan.find(name).expect("a table"));
    for id in plan.nodes.iter_mut().flat_map(|node| &mut node.reads) {
        *id = match *id {
            id if id == a => b,
            id if id == b => a,
            id => id,
        };
    }
}

/// Every read of the constant or weight `from` becomes one of `to`.
fn replace_operand(plan: &mut Plan, from: &str, to: &str) {
    let [from, to] = [from, to].map(|name| plan.find(name).expect("an operand"));
    for id in plan.nodes.iter_mut().flat_map(|node| &mut node.reads) {
        if *id == from {
            *id = to;
        }
    }
}

fn change_activation(plan: &mut Plan) {
    every(plan, |op| match op {
        Op::GatedAct(gated) => {
            gated.act = Activation::Silu;
            true
        }
        _ => false,
    });
}

fn change_head_order(plan: &mut Plan) {
    every(plan, |op| match op {
        Op::GatedDeltaNet(net) => {
            net.order = match net.order {
                HeadOrder::Grouped => HeadOrder::Tiled,
                HeadOrder::Tiled => HeadOrder::Grouped,
            };
            true
        }
        _ => false,
    });
}

#[test]
fn goldens_notice_wrong_plans_of_experts_and_windows() {
    let results = [
        notices_shared("gemma3.f32", "window one too long", |plan| change_window(plan, 1)),
        notices_shared("gemma3.f32", "window one too short", |plan| change_window(plan, -1)),
        notices_shared("gemma3.f32", "rope bases swapped", swap_rope_tables),
        notices_shared("gemma3.f32", "SiLU for GELU", change_activation),
        notices_shared("gpt_oss.f32", "window one too long", |plan| change_window(plan, 1)),
        notices_shared("gpt_oss.f32", "sinks left out", drop_sinks),
        notices_shared("gpt_oss.f32", "SiLU for clamped SwiGLU", change_activation),
        notices_shared("gpt_oss.f32", "softmax over all experts", |plan| {
            change_router(plan, |router| router.gating = Gating::Softmax);
        }),
        notices_shared("gpt_oss.f32", "expert biases dropped", |plan| {
            drop_last_operand(plan, |op| match op {
                Op::ExpertMatMul(matmul) => std::mem::take(&mut matmul.bias),
                _ => false,
            });
        }),
        notices_shared("qwen3_moe.f32", "weights not renormalised", |plan| {
            change_router(plan, |router| router.normalize = false);
        }),
        notices_shared("deepseek_v2.f32", "weights renormalised", |plan| {
            change_router(plan, |router| router.normalize = true);
        }),
        notices_shared("deepseek_v3.f32", "groups ignored", |plan| {
            change_router(plan, |router| router.groups = None);
        }),
        notices_shared("deepseek_v3.f32", "groups by their best expert", |plan| {
            change_router(plan, |router| {
                if let Some(groups) = &mut router.groups {
                    groups.score = GroupScore::Max;
                }
            });
        }),
        notices_shared("deepseek_v3.f32", "scale of experts left out", |plan| {
            change_router(plan, |router| router.scale = 1.0);
        }),
        notices_shared("deepseek_v3.f32", "selection bias dropped", |plan| {
            drop_last_operand(plan, |op| match op {
                Op::RouterTopK(router) => std::mem::take(&mut router.bias),
                _ => false,
            });
        }),
        notices_shared("gemma4_moe.f32", "scale of each expert dropped", |plan| {
            for node in &mut plan.nodes {
                if let Op::ExpertCombine(combine) = &mut node.op {
                    combine.expert_scale = false;
                    node.reads.truncate(2);
                }
            }
        }),
        notices_shared("gemma4.f32", "soft cap too wide", |plan| {
            every(plan, |op| match op {
                Op::Softcap(softcap) => {
                    softcap.cap = 1e6;
                    true
                }
                _ => false,
            });
        }),
        notices_shared("gemma4.f32", "layer scales left out", |plan| {
            for node in &mut plan.nodes {
                if matches!(node.op, Op::Mul) {
                    node.op = Op::Scale(zinc_plan::Scale { factor: 1.0 });
                    node.reads.truncate(1);
                }
            }
        }),
        notices_shared("gemma4.f32", "cache of another layer", |plan| {
            replace_operand(plan, "blk.1.cache_k", "blk.0.cache_k");
        }),
    ];
    assert_all(results);
}

#[test]
fn goldens_notice_wrong_recurrences() {
    let inputs = |name: &str, breakage, edit: fn(&mut StepInputs)| match golden(name) {
        Ok(_) => notices(name, |_| Breakage::inputs(breakage, edit)),
        Err(error) => {
            eprintln!("skipped  {name}: {breakage}: {error}");
            Ok(())
        }
    };
    let results = [
        notices_shared("qwen3_5.f32", "key heads in the other order", change_head_order),
        notices_shared("qwen3_next.f32", "key heads in the other order", change_head_order),
        notices_shared("qwen3_5.f32", "gate of the attention left out", |plan| {
            bypass(plan, |op| matches!(op, Op::SigmoidGate));
        }),
        notices_shared("qwen3_5_moe.f32", "gate of the shared expert left out", |plan| {
            let is_column = |plan: &Plan, id: TensorId| plan.tensor(id).shape.cols == 1;
            let gates: Vec<TensorId> = plan
                .nodes
                .iter()
                .filter(|node| matches!(node.op, Op::SigmoidGate))
                .filter(|node| is_column(plan, node.reads[1]))
                .map(|node| node.writes[0])
                .collect();
            for idx in 0..plan.nodes.len() {
                for read in 0..plan.nodes[idx].reads.len() {
                    let id = plan.nodes[idx].reads[read];
                    if gates.contains(&id) {
                        let writer = plan.nodes.iter().find(|node| node.writes[0] == id);
                        plan.nodes[idx].reads[read] = writer.expect("its node").reads[0];
                    }
                }
            }
        }),
        notices_shared("qwen3_next.f32", "norm of queries and keys left out", |plan| {
            bypass(plan, |op| matches!(op, Op::L2Norm(_)));
        }),
        notices_shared("qwen3_5.f32", "decay and step size swapped", |plan| {
            swap_operands(plan, |op| matches!(op, Op::DeltaGates));
        }),
        inputs("qwen3_5.f32", "state not carried over a chunk", |inputs| {
            inputs.state_from[0] = (inputs.positions[0] / 7) % 3;
        }),
        inputs("qwen3_next.f32", "state forgotten in each chunk", |inputs| {
            let first = inputs.positions[0];
            inputs.positions.iter_mut().for_each(|p| *p -= first);
        }),
    ];
    assert_all(results);
}

#[test]
fn goldens_notice_wrong_rotation_tables() {
    let table = |breakage, row: Vec<f32>| {
        Breakage::plan(breakage, move |plan| replace_rope_table(plan, row.clone()))
    };
    let results = [
        of_full_set("qwen3_yarn.f32", |model| table("ramp not rounded", unrounded_yarn(model))),
        of_full_set("qwen3_yarn.f32", |model| table("not scaled", plain_frequencies(model, 1.0))),
        of_full_set("gpt_oss.f32", |model| table("ramp rounded", rounded_yarn(model))),
        notices("llama.f32", |model| {
            table("llama3 factors ignored", plain_frequencies(model, 1.0))
        }),
        notices("phi3.f32", |_| {
            Breakage::plan("attention factor ignored", |plan| {
                let TensorKind::Const(idx) =
                    plan.tensor(plan.find("rope_table").expect("a table")).kind
                else {
                    panic!("the table is a constant");
                };
                let cols =
                    plan.tensors.iter().find(|t| t.name == "rope_table").map(|t| t.shape.cols);
                let cols = cols.expect("a table") as usize;
                for row in plan.consts[idx as usize].data.chunks_exact_mut(cols) {
                    row[cols - 1] = 1.0;
                }
            })
        }),
    ];
    assert_all(results);
}

#[test]
fn goldens_notice_wrong_inputs() {
    let results = [
        notices("phi3.f32", |_| {
            Breakage::inputs("long factors for a short prompt", |inputs| {
                inputs.rope_variant.fill(1)
            })
        }),
        notices("llama.f32", |_| {
            Breakage::inputs("page table ignored", |inputs| {
                let pages = 0..inputs.pages.len() as i32;
                inputs.pages = pages.collect();
            })
        }),
        notices("qwen3.f32", |_| {
            Breakage::inputs("positions restart in each chunk", |inputs| {
                inputs.positions = (0..inputs.positions.len() as i32).collect();
            })
        }),
        notices("qwen2.f32", |_| {
            Breakage::inputs("keys written one row late", |inputs| {
                inputs.slots.iter_mut().for_each(|slot| *slot = (*slot + 1) % 64);
            })
        }),
    ];
    assert_all(results);
}

#[test]
fn operation_cases_notice_wrong_operations() {
    let attention = |edit: fn(&mut zinc_plan::Attention)| {
        Breakage::plan("attention", move |plan| change_attention(plan, edit))
    };
    let off_by_one = |attention: &mut zinc_plan::Attention| {
        attention.window = attention.window.map(|window| window + 1);
    };
    let identity_pages = Breakage::inputs("page table ignored", |inputs| {
        let pages = 0..inputs.pages.len() as i32;
        inputs.pages = pages.collect();
    });
    let first_sequence = Breakage::inputs("sequences confused", |inputs| inputs.seq_of.fill(0));
    let first_variant = Breakage::inputs("variant ignored", |inputs| inputs.rope_variant.fill(0));
    let rotated_ring =
        || Breakage::inputs("ring read a page late", |inputs| inputs.window_pages.rotate_left(1));
    let not_restored = || {
        Breakage::inputs("going on from the latest state", |inputs| {
            inputs.state_from.clone_from(&inputs.state_slots);
        })
    };
    let saved_late = || {
        Breakage::inputs("states saved a token late", |inputs| inputs.state_saves.rotate_right(1))
    };
    let caps = ReferenceDevice::new().caps().clone();
    let cases = cases::all(&caps).expect("the case table is readable");
    let case_notices = |label, breakage| case_notices(&cases, label, breakage);
    let results = [
        case_notices("attention/window/f32", attention(off_by_one)),
        case_notices("attention/long_window/f32", attention(off_by_one)),
        case_notices("attention/gqa_chunk/f32", attention(|attention| attention.scale *= 1.01)),
        case_notices("attention/sequences/f16", identity_pages),
        case_notices("attention/sequences/f32", first_sequence),
        case_notices("attention/ring/f32", attention(off_by_one)),
        case_notices("attention/ring/f32", rotated_ring()),
        case_notices("attention/ring_decode/q8_0", rotated_ring()),
        case_notices("causal_conv1d/saves", not_restored()),
        case_notices("causal_conv1d/saves", saved_late()),
        case_notices("gated_delta_net/saves", not_restored()),
        case_notices("gated_delta_net/saves", saved_late()),
        case_notices("rope/variants", first_variant),
        case_notices("rope/norm_partial", Breakage::plan("rope mode", swap_rope_mode)),
        case_notices("rope/neox_partial", Breakage::plan("rope mode", swap_rope_mode)),
        case_notices("rms_norm/eps_dominates", Breakage::plan("epsilon", drop_eps)),
        case_notices("matmul/bias/f32", Breakage::plan("bias", drop_bias)),
        case_notices(
            "kv_write/pages/q8_0",
            Breakage::plan("key and value swapped", |plan| {
                swap_operands(plan, |op| matches!(op, Op::KvWrite));
            }),
        ),
    ];
    assert_all(results);
}

/// Whether a broken run of a case differs from the right one by more than the case allows.
fn case_notices(cases: &[Case], label: &str, breakage: Breakage) -> Result<(), String> {
    let case = cases.iter().find(|case| case.label() == label).expect("a case of the table");
    let expected = run_on_reference(case).expect("the case runs");
    let found = run_broken(case, &breakage).expect("the broken case runs");
    let differs = |(found, expected): (&Vec<f32>, &Vec<f32>)| nmse(found, expected) > case.nmse_max;
    match found.iter().zip(&expected).any(differs) {
        true => Ok(()),
        false => Err(format!("{label}: {}", breakage.name)),
    }
}

fn assert_all(results: impl IntoIterator<Item = Result<(), String>>) {
    let missed: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    assert!(missed.is_empty(), "not noticed: {missed:#?}");
}
