//! Whole steps of a small model: against the reference, and against themselves under other threads, chunks,
//! instruction sets and batches.

#![allow(clippy::unwrap_used)]

#[path = "support/model.rs"]
mod model;

use model::{Experts, Mixer, Model, Running};
use std::sync::Arc;
use zinc_backend::{Bindings, Device, Profile, Profiling, WeightSource};
use zinc_cpu::{CpuDevice, Isa};
use zinc_plan::{OpKind, Plan, RopeMode, TensorKind, passes};
use zinc_quant::{GgmlType, dequantize};
use zinc_reference::ReferenceDevice;

fn assert_close(got: &[Vec<f32>], want: &[Vec<f32>], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len());
    let pairs = got.iter().flatten().zip(want.iter().flatten());
    let largest = want.iter().flatten().fold(0.0f32, |a, x| a.max(x.abs()));
    let error =
        pairs.fold(
            0.0f32,
            |a, (x, y)| {
                if (x - y).is_nan() { f32::INFINITY } else { a.max((x - y).abs()) }
            },
        );
    assert!(
        error <= tolerance * largest.max(1.0),
        "{what}: off by {error}, largest value {largest}"
    );
}

/// Models whose products are plain f32 sums, so that the reference must agree closely.
fn float_models() -> Vec<(&'static str, Model)> {
    let base = Model::new(GgmlType::F32);
    vec![
        ("f32", base),
        ("f16", Model::new(GgmlType::F16)),
        ("bf16", Model::new(GgmlType::BF16)),
        (
            "odd sizes",
            Model { d: 100, heads: 6, kv_heads: 2, head_dim: 20, ff: 77, n_dims: 12, ..base },
        ),
        ("norm rope, bias", Model { mode: RopeMode::Norm, bias: true, n_dims: 32, ..base }),
        ("experts", Model { experts: Some(Experts { n: 9, n_used: 3, packed: false }), ..base }),
        (
            "packed experts of odd size",
            Model { ff: 37, experts: Some(Experts { n: 4, n_used: 2, packed: true }), ..base },
        ),
        ("window", Model { window: Some(13), ..base }),
        ("many heads", Model { heads: 40, kv_heads: 1, head_dim: 8, n_dims: 8, ..base }),
        ("sinks", Model { sinks: true, window: Some(40), ..base }),
        ("latent", Model { mixer: Mixer::Latent, ..base }),
        (
            "latent, many heads",
            Model { mixer: Mixer::Latent, heads: 40, head_dim: 8, n_dims: 8, ..base },
        ),
        ("delta net", Model { mixer: Mixer::DeltaNet, ..base }),
        (
            "delta net, odd sizes",
            Model { mixer: Mixer::DeltaNet, head_dim: 21, n_dims: 20, ..base },
        ),
        ("bf16 cache", Model { cache: GgmlType::BF16, ..base }),
        ("f8_e4m3 cache", Model { cache: GgmlType::F8_E4M3, ..base }),
        ("q4_0 cache", Model { cache: GgmlType::Q4_0, mixer: Mixer::Latent, ..base }),
        ("f16 cache", Model { cache: GgmlType::F16, ..base }),
        ("q8_0 cache", Model { cache: GgmlType::Q8_0, ..base }),
        (
            "q8_0 cache, small heads",
            Model {
                cache: GgmlType::Q8_0,
                heads: 8,
                kv_heads: 8,
                head_dim: 20,
                n_dims: 20,
                ..base
            },
        ),
    ]
}

#[test]
fn steps_match_the_reference() {
    for (name, model) in float_models() {
        let mut reference = Running::new(&model, Arc::new(ReferenceDevice::new()), model.sources());
        let want = reference.prefill(300, 48);
        for isa in Isa::available() {
            let got = Running::cpu(&model, 2, isa).prefill(300, 48);
            // A cache in q8_0 can round a key the other way for a last-bit difference.
            let tolerance = if model.cache == GgmlType::F32 { 2e-5 } else { 2e-2 };
            assert_close(&got, &want, tolerance, &format!("{name} on {}", isa.name()));
        }
    }
}

#[test]
fn quantised_steps_are_near_the_reference() {
    let types = [
        GgmlType::Q8_0,
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_1,
        GgmlType::Q4_K,
        GgmlType::Q5_K,
        GgmlType::Q6_K,
    ];
    for ty in types {
        let model = Model::new(ty);
        let mut reference = Running::new(&model, Arc::new(ReferenceDevice::new()), model.sources());
        let want = reference.prefill(40, 40);
        let got = Running::cpu(&model, 2, Isa::best()).prefill(40, 40);
        assert_close(&got, &want, 5e-2, ty.name());
    }
}

/// The same bits for any chunking, number of threads, and company in the batch.
#[test]
fn rows_are_reproducible() {
    let types = [
        GgmlType::F32,
        GgmlType::F16,
        GgmlType::Q8_0,
        GgmlType::Q4_0,
        GgmlType::Q4_K,
        GgmlType::Q5_K,
        GgmlType::Q6_K,
    ];
    for ty in types {
        for isa in Isa::available() {
            let model = Model { cache: GgmlType::F16, ..Model::new(ty) };
            let what = format!("{ty} on {}", isa.name());
            // More than one block of keys once; attention does not see the weights' type.
            let n = if ty == GgmlType::F32 { 290 } else { 50 };
            let alone = Running::cpu(&model, 1, isa).prefill(n, 1);
            for (n_threads, chunk) in [(3, 1), (1, 7), (2, 16), (5, 48)] {
                let got = Running::cpu(&model, n_threads, isa).prefill(n, chunk);
                assert!(got == alone, "{what}, {n_threads} threads, chunk {chunk}");
            }
            // Two sequences interleaved in one step.
            let mut both = Running::cpu(&model, 2, isa);
            for (position, alone) in alone.iter().take(20).enumerate() {
                let got = both.step(&[(1, position), (0, position)]);
                assert!(got[1] == *alone, "{what}, next to another sequence, position {position}");
            }
        }
    }
}

/// The same for states, compressed caches and sinks, with rows of two sequences in one step.
#[test]
fn other_mixers_are_reproducible() {
    let base = Model { sinks: true, ..Model::new(GgmlType::F32) };
    for mixer in [Mixer::Attention, Mixer::Latent, Mixer::DeltaNet] {
        let model = Model { mixer, ..base };
        for isa in Isa::available() {
            let what = format!("{mixer:?} on {}", isa.name());
            let alone = Running::cpu(&model, 1, isa).prefill(130, 1);
            for (n_threads, chunk) in [(4, 1), (2, 7), (3, 16), (5, 48)] {
                let got = Running::cpu(&model, n_threads, isa).prefill(130, chunk);
                assert!(got == alone, "{what}, {n_threads} threads, chunk {chunk}");
            }
            let mut both = Running::cpu(&model, 2, isa);
            for start in (0..60).step_by(5) {
                // Sequence 1 has fewer rows in each step.
                let first = (start..start + 5).map(|position| (0, position));
                let second = (start / 5 * 2..start / 5 * 2 + 2).map(|position| (1, position));
                let got = both.step(&first.chain(second).collect::<Vec<_>>());
                assert!(got[..5] == alone[start..start + 5], "{what}, next to another sequence");
            }
        }
    }
}

/// The same for experts: rows that share one are multiplied together in a chunk and alone in a step of one.
#[test]
fn experts_are_reproducible() {
    let few = Experts { n: 7, n_used: 3, packed: false };
    let models = [
        (GgmlType::F32, few),
        (GgmlType::F16, Experts { packed: true, ..few }),
        (GgmlType::Q8_0, Experts { n: 1, n_used: 1, packed: false }),
        (GgmlType::Q4_K, Experts { n: 40, n_used: 8, packed: true }),
        (GgmlType::Q6_K, Experts { n: 5, n_used: 5, packed: false }),
    ];
    for (ty, experts) in models {
        let model = Model { ff: 256, bias: true, experts: Some(experts), ..Model::new(ty) };
        for isa in Isa::available() {
            let what = format!("{ty} {experts:?} on {}", isa.name());
            let alone = Running::cpu(&model, 1, isa).prefill(60, 1);
            for (n_threads, chunk) in [(4, 1), (1, 7), (2, 16), (3, 48), (5, 48)] {
                let got = Running::cpu(&model, n_threads, isa).prefill(60, chunk);
                assert!(got == alone, "{what}, {n_threads} threads, chunk {chunk}");
            }
            let mut both = Running::cpu(&model, 2, isa);
            for (position, alone) in alone.iter().take(20).enumerate() {
                let got = both.step(&[(1, position), (0, position)]);
                assert!(got[1] == *alone, "{what}, next to another sequence, position {position}");
            }
        }
    }
}

#[test]
fn windows_are_reproducible() {
    let model = Model { window: Some(100), ..Model::new(GgmlType::F32) };
    let alone = Running::cpu(&model, 1, Isa::best()).prefill(600, 1);
    assert!(Running::cpu(&model, 2, Isa::best()).prefill(600, 48) == alone);
}

/// With more threads than heads, several threads share the keys of a head; the bits stay.
#[test]
fn keys_split_among_threads_give_the_same_bits() {
    let base = Model { sinks: true, ..Model::new(GgmlType::F32) };
    let models = [
        base,
        Model { window: Some(300), ..base },
        Model { sinks: false, ..base },
        Model { mixer: Mixer::Latent, ..base },
    ];
    for model in models {
        let mut one = Running::cpu(&model, 1, Isa::best());
        let mut many = Running::cpu(&model, 9, Isa::best());
        assert!(one.prefill(600, 48) == many.prefill(600, 48));
        for position in 600..605 {
            assert!(one.step(&[(0, position)]) == many.step(&[(0, position)]));
        }
    }
}

/// A fused operation equals its decomposition, bit for bit.
#[test]
fn fused_equals_decomposed() {
    let few = Experts { n: 6, n_used: 2, packed: false };
    let models = [
        (GgmlType::F32, None),
        (GgmlType::Q4_K, None),
        (GgmlType::Q8_0, None),
        (GgmlType::F32, Some(few)),
        (GgmlType::Q4_K, Some(few)),
        (GgmlType::Q8_0, Some(Experts { packed: true, ..few })),
    ];
    for (ty, experts) in models {
        let model = Model { bias: true, experts, ..Model::new(ty) };
        let mut fused = Running::cpu(&model, 2, Isa::best());
        let has = |plan: &Plan, kind| plan.nodes.iter().any(|node| node.op.kind() == kind);
        let has_fused = |plan: &Plan| {
            let pair = match experts {
                Some(_) => OpKind::ExpertGateUpAct,
                None => OpKind::GateUpAct,
            };
            has(plan, pair) && has(plan, OpKind::MatMulAdd)
        };
        assert!(has_fused(fused.exec.plan()));
        let mut caps = fused.device.caps().clone();
        caps.fused.clear();
        let plan = Arc::new(passes::prepare(model.plan(), &caps).unwrap());
        assert!(plan.nodes.iter().all(|node| !node.op.kind().is_fused()));
        let states = fused.device.alloc_states(&plan).unwrap();
        let bind = Bindings { weights: &fused.weights, states: &states };
        let exec = fused.device.compile(plan, &bind).unwrap();
        let (device, weights) = (fused.device.clone(), fused.weights.clone());
        let mut plain = Running { device, weights, states, exec };
        assert!(fused.prefill(30, 30) == plain.prefill(30, 30), "{ty} {experts:?}");
    }
}

/// Every tensor can be an output, quantised activations included; timing reports every node.
#[test]
fn trace_and_profile() {
    let model = Model::new(GgmlType::Q4_K);
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(2, Isa::best()).unwrap());
    let mut plan = passes::prepare(model.plan(), device.caps()).unwrap();
    let values = plan.tensors_where(|tensor| matches!(tensor.kind, TensorKind::Value));
    let names: Vec<String> = values
        .filter(|(id, _)| plan.nodes.iter().any(|n| n.writes.contains(id)))
        .map(|(_, t)| t.name.clone())
        .collect();
    plan.add_outputs(&names).unwrap();
    // The layout must keep the outputs, so the passes run again on the plan as the model built it.
    let mut traced = model.plan();
    let kept: Vec<String> = names.into_iter().filter(|name| traced.find(name).is_some()).collect();
    traced.add_outputs(&kept).unwrap();
    let plan = Arc::new(passes::prepare(traced, device.caps()).unwrap());
    let n_outputs = plan.outputs.len();
    let weights = device.bind_weights(model.sources(), &mut |_, _| {}).unwrap();
    let states = device.alloc_states(&plan).unwrap();
    let exec = device.compile(plan, &Bindings { weights: &weights, states: &states }).unwrap();
    let mut running = Running { device, weights, states, exec };
    let plain = Running::cpu(&model, 2, Isa::best()).prefill(9, 9);
    running.exec.set_profiling(Profiling::Nodes);
    assert!(running.prefill(9, 9) == plain);
    assert!(n_outputs > 10);
    let nodes = running.exec.profile().nodes;
    let spans: Vec<_> = nodes.iter().map(|time| time.nodes.clone()).collect();
    let n_nodes = running.exec.plan().nodes.len();
    assert_eq!(spans, (0..n_nodes).map(|node| node..node + 1).collect::<Vec<_>>());
    assert!(nodes.iter().any(|node| !node.time.is_zero()));
    running.exec.set_profiling(Profiling::Steps);
    assert!(running.prefill(9, 9) == plain);
    let one_walk = Profile { n_submissions: 1, ..Profile::default() };
    assert_eq!(running.exec.profile(), one_walk);
    running.exec.set_profiling(Profiling::Off);
    assert!(running.prefill(9, 9) == plain);
    assert_eq!(running.exec.profile(), Profile::default());
}

#[test]
fn wrong_bindings_are_refused() {
    let model = Model::new(GgmlType::F32);
    let device = CpuDevice::new(1, Isa::best()).unwrap();
    let plan = Arc::new(passes::prepare(model.plan(), device.caps()).unwrap());
    let states = device.alloc_states(&plan).unwrap();
    let message = |sources: Vec<WeightSource>| {
        let weights = match device.bind_weights(sources, &mut |_, _| {}) {
            Ok(weights) => weights,
            Err(error) => return error.to_string(),
        };
        match device.compile(plan.clone(), &Bindings { weights: &weights, states: &states }) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    };
    assert_eq!(message(model.sources()), "");
    assert!(message(Vec::new()).contains("embed"));
    let mut short = model.sources();
    short[0].data = short[0].data.slice(4..);
    assert!(message(short).contains("bytes"));
    let mut other = model.sources();
    other[0].rows /= 2;
    let half = other[0].data.len() / 131 * 65;
    other[0].data = other[0].data.slice(..half);
    assert!(message(other).contains("the plan says"));
    // An unprepared plan has no memory layout.
    let weights = device.bind_weights(model.sources(), &mut |_, _| {}).unwrap();
    let bind = Bindings { weights: &weights, states: &states };
    assert!(device.compile(Arc::new(model.plan()), &bind).is_err());
}

/// The test's own weights are usable: dequantised weights are what the test thinks they are.
#[test]
fn weights_are_finite() {
    for ty in [GgmlType::Q4_K, GgmlType::Q5_K, GgmlType::Q6_K] {
        for source in Model::new(ty).sources() {
            let mut values = vec![0.0; (source.rows * source.cols) as usize];
            dequantize(source.dtype, &source.data, &mut values).unwrap();
            assert!(values.iter().all(|value| value.is_finite()), "{}", source.name);
        }
    }
}
