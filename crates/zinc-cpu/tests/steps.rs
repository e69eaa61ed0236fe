//! Whole steps of a small model: against the reference, and against themselves under other threads, chunks,
//! instruction sets and batches.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use std::sync::Arc;
use zinc_backend::{
    Bindings, Device, Executable, States, StepInputs, StepOutputs, WeightSource, Weights,
};
use zinc_cpu::{CpuDevice, Isa};
use zinc_plan::{
    Activation, Attention, Builder, GatedAct, Limits, MatMul, Op, Plan, RmsNorm, Rope, RopeMode,
    TensorKind, passes,
};
use zinc_quant::{GgmlType, dequantize, quantize};
use zinc_reference::ReferenceDevice;

/// Shape and types of the model.
#[derive(Clone, Copy)]
struct Model {
    weights: GgmlType,
    cache: GgmlType,
    d: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    ff: u32,
    mode: RopeMode,
    n_dims: u32,
    window: Option<u32>,
    bias: bool,
}

const VOCAB: u32 = 131;
const MAX_TOKENS: u32 = 48;

impl Model {
    fn new(weights: GgmlType) -> Model {
        Model {
            weights,
            cache: GgmlType::F32,
            d: 256,
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            ff: 512,
            mode: RopeMode::Neox,
            n_dims: 64,
            window: None,
            bias: false,
        }
    }

    fn plan(&self) -> Plan {
        let limits = Limits {
            max_tokens: MAX_TOKENS,
            max_seqs: 2,
            max_out_rows: MAX_TOKENS,
            page_size: 8,
            pages_per_seq: 80,
            n_pages: 170,
        };
        let mut b = Builder::new("test", limits);
        let table = b.weight("embed", self.weights, VOCAB, self.d).unwrap();
        let mut x = b.embed("x", table, 2.0).unwrap();
        let frequencies: Vec<f32> = (0..self.n_dims / 2)
            .map(|i| 0.9f32.powi(i as i32))
            .chain([1.25])
            .collect();
        let rope_table = b
            .constant("rope", self.n_dims / 2 + 1, frequencies)
            .unwrap();
        for layer in 0..2 {
            let name = |part: &str| format!("blk.{layer}.{part}");
            let norm = |group| RmsNorm { eps: 1e-5, group };
            let w = b.weight(&name("norm.w"), GgmlType::F32, 1, self.d).unwrap();
            let h = b.rms_norm(&name("norm"), norm(self.d), x, w).unwrap();
            // One product of packed q, k and v, cut into views.
            let (q_cols, kv_cols) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
            let w = b
                .weight(&name("qkv.w"), self.weights, q_cols + 2 * kv_cols, self.d)
                .unwrap();
            let bias = self.bias.then(|| {
                b.weight(&name("qkv.b"), GgmlType::F32, 1, q_cols + 2 * kv_cols)
                    .unwrap()
            });
            let qkv = b.matmul(&name("qkv"), w, h, bias).unwrap();
            let q = b.view(&name("q"), qkv, 0, q_cols).unwrap();
            let k = b.view(&name("k"), qkv, q_cols, kv_cols).unwrap();
            let v = b.view(&name("v"), qkv, q_cols + kv_cols, kv_cols).unwrap();
            let w = b
                .weight(&name("q_norm.w"), GgmlType::F32, 1, self.head_dim)
                .unwrap();
            let q = b
                .rms_norm(&name("q_norm"), norm(self.head_dim), q, w)
                .unwrap();
            let rope = Rope {
                mode: self.mode,
                head_dim: self.head_dim,
                n_dims: self.n_dims,
            };
            let q = b.rope(&name("q_rope"), rope, q, rope_table).unwrap();
            let k = b.rope(&name("k_rope"), rope, k, rope_table).unwrap();
            let caches = [
                b.cache(&name("k_cache"), self.cache, kv_cols).unwrap(),
                b.cache(&name("v_cache"), self.cache, kv_cols).unwrap(),
            ];
            b.kv_write(&name("kv"), [k, v], caches).unwrap();
            let attention = Attention {
                n_heads: self.heads,
                n_kv_heads: self.kv_heads,
                k_dim: self.head_dim,
                v_dim: self.head_dim,
                scale: 1.0 / (self.head_dim as f32).sqrt(),
                window: self.window,
                page_size: 8,
            };
            let y = b.attention(&name("attn"), attention, q, caches).unwrap();
            let w = b
                .weight(&name("o.w"), self.weights, self.d, q_cols)
                .unwrap();
            let y = b.matmul(&name("o"), w, y, None).unwrap();
            x = b.add(&name("x_attn"), x, y).unwrap();
            let w = b
                .weight(&name("ffn_norm.w"), GgmlType::F32, 1, self.d)
                .unwrap();
            let h = b.rms_norm(&name("ffn_norm"), norm(self.d), x, w).unwrap();
            let gate = b
                .weight(&name("gate.w"), self.weights, self.ff, self.d)
                .unwrap();
            let up = b
                .weight(&name("up.w"), self.weights, self.ff, self.d)
                .unwrap();
            let gate = b.matmul(&name("gate"), gate, h, None).unwrap();
            let up = b.matmul(&name("up"), up, h, None).unwrap();
            let h = b
                .gated_act(
                    &name("act"),
                    GatedAct {
                        act: Activation::Silu,
                    },
                    gate,
                    up,
                )
                .unwrap();
            let w = b
                .weight(&name("down.w"), self.weights, self.d, self.ff)
                .unwrap();
            let y = b.matmul(&name("down"), w, h, None).unwrap();
            x = b.add(&name("x_ffn"), x, y).unwrap();
        }
        let x = b.gather_out_rows("out", x).unwrap();
        let w = b.weight("out_norm.w", GgmlType::F32, 1, self.d).unwrap();
        let x = b
            .rms_norm(
                "out_norm",
                RmsNorm {
                    eps: 1e-5,
                    group: self.d,
                },
                x,
                w,
            )
            .unwrap();
        let logits = b.matmul("logits", table, x, None).unwrap();
        b.finish(vec![logits])
    }

    /// Random weights, the same on every call.
    fn sources(&self) -> Vec<WeightSource> {
        let plan = self.plan();
        let mut state = 1u64;
        let mut random = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let weights = plan.tensors_where(|tensor| tensor.kind == TensorKind::Weight);
        weights
            .map(|(id, tensor)| {
                let rows = plan.limits.bound(tensor.shape.rows);
                let cols = tensor.shape.cols as usize;
                let n = rows as usize * cols;
                let scale = if rows == 1 {
                    1.0
                } else {
                    2.0 / (cols as f32).sqrt()
                };
                let values: Vec<f32> = (0..n).map(|_| random() * scale).collect();
                let mut data = vec![0; plan.max_bytes(id) as usize];
                if quantize(tensor.dtype, &values, &mut data).is_err() {
                    k_quant(tensor.dtype, &values, &mut data);
                }
                // An odd start, as files with small alignment have.
                let shifted: Vec<u8> = [0].into_iter().chain(data).collect();
                let data = Bytes::from(shifted).slice(1..);
                WeightSource {
                    name: tensor.name.clone(),
                    dtype: tensor.dtype,
                    rows,
                    cols: cols as u64,
                    data,
                }
            })
            .collect()
    }
}

/// Blocks with random quants and scales of about the size of `values`.
fn k_quant(ty: GgmlType, values: &[f32], out: &mut [u8]) {
    let at: &[usize] = if ty == GgmlType::Q6_K {
        &[208]
    } else {
        &[0, 2]
    };
    for (i, block) in out.chunks_exact_mut(ty.block_bytes()).enumerate() {
        for (j, byte) in block.iter_mut().enumerate() {
            *byte = values[(i * 256 + j) % values.len()]
                .to_bits()
                .wrapping_mul(0x9e37_79b9)
                .to_be_bytes()[0];
        }
        // 2^-14 to 2^-13.
        at.iter().for_each(|at| block[*at + 1] = 0x04);
    }
}

/// A model on a device with one sequence's progress.
struct Running {
    device: Arc<dyn Device>,
    weights: Weights,
    _states: States,
    exec: Box<dyn Executable>,
}

impl Running {
    fn new(model: &Model, device: Arc<dyn Device>, sources: Vec<WeightSource>) -> Running {
        let plan = Arc::new(passes::prepare(model.plan(), device.caps()).unwrap());
        let weights = device.bind_weights(sources, &mut |_, _| {}).unwrap();
        let states = device.alloc_states(&plan).unwrap();
        let exec = device
            .compile(
                plan,
                &Bindings {
                    weights: &weights,
                    states: &states,
                },
            )
            .unwrap();
        Running {
            device,
            weights,
            _states: states,
            exec,
        }
    }

    fn cpu(model: &Model, n_threads: usize, isa: Isa) -> Running {
        Running::new(
            model,
            Arc::new(CpuDevice::new(n_threads, isa).unwrap()),
            model.sources(),
        )
    }

    /// Rows `(sequence, position)`; logits of all.
    fn step(&mut self, rows: &[(usize, usize)]) -> Vec<Vec<f32>> {
        let mut inputs = StepInputs::default();
        // Pages in an order of their own, so that a wrong page table shows.
        let page = |seq: usize, page: usize| ((page * 7 + 3) % 80 + seq * 85) as i32;
        for seq in 0..2 {
            inputs.pages.extend((0..80).map(|i| page(seq, i)));
        }
        for (row, &(seq, position)) in rows.iter().enumerate() {
            inputs
                .token_ids
                .push(((seq * 37 + position * 11) % VOCAB as usize) as i32);
            inputs.positions.push(position as i32);
            inputs.seq_of.push(seq as i32);
            inputs
                .slots
                .push(page(seq, position / 8) * 8 + position as i32 % 8);
            inputs.rope_variant.push(0);
            inputs.out_rows.push(row as i32);
        }
        let mut outputs = StepOutputs::default();
        let ticket = self.exec.submit(&inputs).unwrap();
        self.exec.wait(ticket, &mut outputs).unwrap();
        outputs.values[0]
            .chunks_exact(VOCAB as usize)
            .map(<[f32]>::to_vec)
            .collect()
    }

    /// Logits of positions `0..n` of sequence 0, in chunks.
    fn prefill(&mut self, n: usize, chunk: usize) -> Vec<Vec<f32>> {
        let positions: Vec<_> = (0..n).map(|position| (0, position)).collect();
        positions
            .chunks(chunk)
            .flat_map(|rows| self.step(rows))
            .collect()
    }
}

fn assert_close(got: &[Vec<f32>], want: &[Vec<f32>], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len());
    let pairs = got.iter().flatten().zip(want.iter().flatten());
    let largest = want.iter().flatten().fold(0.0f32, |a, x| a.max(x.abs()));
    let error = pairs.fold(0.0f32, |a, (x, y)| {
        if (x - y).is_nan() {
            f32::INFINITY
        } else {
            a.max((x - y).abs())
        }
    });
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
        ("q4_1", Model::new(GgmlType::Q4_1)),
        ("q5_1", Model::new(GgmlType::Q5_1)),
        (
            "odd sizes",
            Model {
                d: 100,
                heads: 6,
                kv_heads: 2,
                head_dim: 20,
                ff: 77,
                n_dims: 12,
                ..base
            },
        ),
        (
            "norm rope, bias",
            Model {
                mode: RopeMode::Norm,
                bias: true,
                n_dims: 32,
                ..base
            },
        ),
        (
            "window",
            Model {
                window: Some(13),
                ..base
            },
        ),
        (
            "many heads",
            Model {
                heads: 40,
                kv_heads: 1,
                head_dim: 8,
                n_dims: 8,
                ..base
            },
        ),
        (
            "f16 cache",
            Model {
                cache: GgmlType::F16,
                ..base
            },
        ),
        (
            "q8_0 cache",
            Model {
                cache: GgmlType::Q8_0,
                ..base
            },
        ),
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
            let tolerance = if model.cache == GgmlType::F32 {
                2e-5
            } else {
                2e-2
            };
            assert_close(&got, &want, tolerance, &format!("{name} on {}", isa.name()));
        }
    }
}

#[test]
fn quantised_steps_are_near_the_reference() {
    for ty in [
        GgmlType::Q8_0,
        GgmlType::Q4_0,
        GgmlType::Q4_K,
        GgmlType::Q5_K,
        GgmlType::Q6_K,
    ] {
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
            let model = Model {
                cache: GgmlType::F16,
                ..Model::new(ty)
            };
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
                assert!(
                    got[1] == *alone,
                    "{what}, next to another sequence, position {position}"
                );
            }
        }
    }
}

#[test]
fn windows_are_reproducible() {
    let model = Model {
        window: Some(100),
        ..Model::new(GgmlType::F32)
    };
    let alone = Running::cpu(&model, 1, Isa::best()).prefill(600, 1);
    assert!(Running::cpu(&model, 2, Isa::best()).prefill(600, 48) == alone);
}

/// A fused operation equals its decomposition, bit for bit.
#[test]
fn fused_equals_decomposed() {
    for ty in [GgmlType::F32, GgmlType::Q4_K, GgmlType::Q8_0] {
        let model = Model {
            bias: true,
            ..Model::new(ty)
        };
        let mut fused = Running::cpu(&model, 2, Isa::best());
        let has_fused = |plan: &Plan| {
            plan.nodes.iter().any(|node| {
                matches!(
                    node.op,
                    Op::GateUpAct(_) | Op::MatMul(MatMul { residual: true, .. })
                )
            })
        };
        assert!(has_fused(fused.exec.plan()));
        let mut caps = fused.device.caps().clone();
        caps.fused.clear();
        let plan = Arc::new(passes::prepare(model.plan(), &caps).unwrap());
        assert!(!has_fused(&plan));
        let states = fused.device.alloc_states(&plan).unwrap();
        let bind = Bindings {
            weights: &fused.weights,
            states: &states,
        };
        let exec = fused.device.compile(plan, &bind).unwrap();
        let (device, weights) = (fused.device.clone(), fused.weights.clone());
        let mut plain = Running {
            device,
            weights,
            _states: states,
            exec,
        };
        assert!(fused.prefill(30, 30) == plain.prefill(30, 30), "{ty}");
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
    let kept: Vec<String> = names
        .into_iter()
        .filter(|name| traced.find(name).is_some())
        .collect();
    traced.add_outputs(&kept).unwrap();
    let plan = Arc::new(passes::prepare(traced, device.caps()).unwrap());
    let n_outputs = plan.outputs.len();
    let weights = device
        .bind_weights(model.sources(), &mut |_, _| {})
        .unwrap();
    let states = device.alloc_states(&plan).unwrap();
    let exec = device
        .compile(
            plan,
            &Bindings {
                weights: &weights,
                states: &states,
            },
        )
        .unwrap();
    let mut running = Running {
        device,
        weights,
        _states: states,
        exec,
    };
    let plain = Running::cpu(&model, 2, Isa::best()).prefill(9, 9);
    running.exec.set_profiling(true);
    assert!(running.prefill(9, 9) == plain);
    assert!(n_outputs > 10);
    let times = running.exec.profile();
    assert_eq!(times.len(), running.exec.plan().nodes.len());
    assert!(times.iter().all(|time| time.n_steps == 1));
    running.exec.set_profiling(false);
    assert!(running.exec.profile().is_empty());
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
        match device.compile(
            plan.clone(),
            &Bindings {
                weights: &weights,
                states: &states,
            },
        ) {
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
    let weights = device
        .bind_weights(model.sources(), &mut |_, _| {})
        .unwrap();
    let bind = Bindings {
        weights: &weights,
        states: &states,
    };
    assert!(device.compile(Arc::new(model.plan()), &bind).is_err());
}

/// The test's own weights are usable: dequantised weights are what the test thinks they are.
#[test]
fn weights_are_finite() {
    for ty in [GgmlType::Q4_K, GgmlType::Q5_K, GgmlType::Q6_K] {
        for source in Model::new(ty).sources() {
            let mut values = vec![0.0; (source.rows * source.cols) as usize];
            dequantize(source.dtype, &source.data, &mut values).unwrap();
            assert!(
                values.iter().all(|value| value.is_finite()),
                "{}",
                source.name
            );
        }
    }
}
