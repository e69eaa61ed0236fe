//! A small model as a plan with random weights, and a device that runs it.

#![allow(clippy::unwrap_used, dead_code)]

use bytes::Bytes;
use std::sync::Arc;
use zinc_backend::{
    Bindings, Device, Executable, States, StepInputs, StepOutputs, WeightSource, Weights,
};
use zinc_cpu::{CpuDevice, Isa};
use zinc_plan::{
    Activation, Attention, Builder, CacheGroup, CausalConv1d, GatedAct, GatedDeltaNet, Gating,
    HeadOrder, HeadSlice, L2Norm, LatentAttention, Limits, Plan, RmsNorm, Rope, RopeMode,
    RouterTopK, TensorId, TensorKind, passes,
};
use zinc_quant::{GgmlType, quantize};

/// Shape and types of the model.
#[derive(Clone, Copy)]
pub struct Model {
    pub weights: GgmlType,
    pub cache: GgmlType,
    pub d: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub ff: u32,
    pub mode: RopeMode,
    pub n_dims: u32,
    pub window: Option<u32>,
    pub bias: bool,
    pub sinks: bool,
    pub mixer: Mixer,
    pub experts: Option<Experts>,
}

/// Experts in place of a dense feed-forward block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Experts {
    pub n: u32,
    pub n_used: u32,
    /// Gate and up of an expert are one matrix.
    pub packed: bool,
}

/// What mixes the tokens of a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mixer {
    Attention,
    Latent,
    /// In the first layer; the second one has attention.
    DeltaNet,
}

pub const VOCAB: u32 = 131;
pub const MAX_TOKENS: u32 = 48;

impl Model {
    pub fn new(weights: GgmlType) -> Model {
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
            sinks: false,
            mixer: Mixer::Attention,
            experts: None,
        }
    }

    pub fn plan(&self) -> Plan {
        let limits = Limits {
            max_tokens: MAX_TOKENS,
            max_seqs: 2,
            max_out_rows: MAX_TOKENS,
            page_size: 8,
            pages_per_seq: 80,
            n_pages: 170,
            window_pages_per_seq: ring_pages(self.window),
            n_window_pages: 2 * ring_pages(self.window),
            n_state_slots: if self.mixer == Mixer::DeltaNet { 3 } else { 0 },
        };
        let mut b = Builder::new("test", limits);
        let table = b.weight("embed", self.weights, VOCAB, self.d).unwrap();
        let mut x = b.embed("x", table, 2.0).unwrap();
        let frequencies: Vec<f32> =
            (0..self.n_dims / 2).map(|i| 0.9f32.powi(i as i32)).chain([1.25]).collect();
        let rope_table = b.constant("rope", self.n_dims / 2 + 1, frequencies).unwrap();
        for layer in 0..2 {
            let name = |part: &str| format!("blk.{layer}.{part}");
            let norm = |group| RmsNorm { eps: 1e-5, group };
            let w = b.weight(&name("norm.w"), GgmlType::F32, 1, self.d).unwrap();
            let h = b.rms_norm(&name("norm"), norm(self.d), x, w).unwrap();
            let (y, cols) = match self.mixer {
                Mixer::Latent => self.latent(&mut b, layer, h, rope_table),
                Mixer::DeltaNet if layer == 0 => self.delta_net(&mut b, layer, h),
                _ => self.attention(&mut b, layer, h, rope_table),
            };
            let w = b.weight(&name("o.w"), self.weights, self.d, cols).unwrap();
            let y = b.matmul(&name("o"), w, y, None).unwrap();
            x = b.add(&name("x_attn"), x, y).unwrap();
            let w = b.weight(&name("ffn_norm.w"), GgmlType::F32, 1, self.d).unwrap();
            let h = b.rms_norm(&name("ffn_norm"), norm(self.d), x, w).unwrap();
            let y = match self.experts {
                Some(experts) => self.experts(&mut b, layer, h, experts),
                None => self.dense(&mut b, layer, h),
            };
            x = b.add(&name("x_ffn"), x, y).unwrap();
        }
        let x = b.gather_out_rows("out", x).unwrap();
        let w = b.weight("out_norm.w", GgmlType::F32, 1, self.d).unwrap();
        let x = b.rms_norm("out_norm", RmsNorm { eps: 1e-5, group: self.d }, x, w).unwrap();
        let logits = b.matmul("logits", table, x, None).unwrap();
        b.finish(vec![logits])
    }

    fn dense(&self, b: &mut Builder, layer: u32, h: TensorId) -> TensorId {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let gate = b.weight(&name("gate.w"), self.weights, self.ff, self.d).unwrap();
        let up = b.weight(&name("up.w"), self.weights, self.ff, self.d).unwrap();
        let gate = b.matmul(&name("gate"), gate, h, None).unwrap();
        let up = b.matmul(&name("up"), up, h, None).unwrap();
        let h = b.gated_act(&name("act"), GatedAct { act: Activation::Silu }, gate, up).unwrap();
        let w = b.weight(&name("down.w"), self.weights, self.d, self.ff).unwrap();
        b.matmul(&name("down"), w, h, None).unwrap()
    }

    fn experts(&self, b: &mut Builder, layer: u32, h: TensorId, experts: Experts) -> TensorId {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let Experts { n, n_used, packed } = experts;
        let router = b.weight(&name("router.w"), GgmlType::F32, n, self.d).unwrap();
        let logits = b.matmul(&name("router"), router, h, None).unwrap();
        let attributes = RouterTopK {
            n_experts_used: n_used,
            gating: Gating::Softmax,
            bias: false,
            groups: None,
            normalize: true,
            scale: 1.5,
        };
        let [ids, weights] = b.router_top_k(&name("top_k"), attributes, logits, None).unwrap();
        let product = |b: &mut Builder, part: &str, x: TensorId, rows: u32, cols: u32| {
            let w = b.weight(&name(&format!("{part}.w")), self.weights, n * rows, cols).unwrap();
            let bias = (self.bias && !packed)
                .then(|| b.weight(&name(&format!("{part}.b")), GgmlType::F32, n, rows).unwrap());
            b.expert_matmul(&name(part), n, [w, x, ids], bias).unwrap()
        };
        let [gate, up] = if packed {
            let both = product(b, "gate_up", h, 2 * self.ff, self.d);
            [("gate", 0), ("up", self.ff)].map(|(part, start)| {
                let slice = HeadSlice { head_dim: 2 * self.ff, start, len: self.ff };
                b.head_slice(&name(part), slice, both).unwrap()
            })
        } else {
            ["gate", "up"].map(|part| product(b, part, h, self.ff, self.d))
        };
        let h = b.gated_act(&name("act"), GatedAct { act: Activation::Silu }, gate, up).unwrap();
        let y = product(b, "down", h, self.d, self.ff);
        let scale = b.weight(&name("down.scale"), GgmlType::F32, 1, n).unwrap();
        b.expert_combine(&name("experts"), y, weights, Some([ids, scale])).unwrap()
    }

    /// Heads of attention, before the projection.
    fn attention(
        &self,
        b: &mut Builder,
        layer: u32,
        h: TensorId,
        rope_table: TensorId,
    ) -> (TensorId, u32) {
        let name = |part: &str| format!("blk.{layer}.{part}");
        // One product of packed q, k and v, cut into views.
        let (q_cols, kv_cols) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let w = b.weight(&name("qkv.w"), self.weights, q_cols + 2 * kv_cols, self.d).unwrap();
        let bias = self
            .bias
            .then(|| b.weight(&name("qkv.b"), GgmlType::F32, 1, q_cols + 2 * kv_cols).unwrap());
        let qkv = b.matmul(&name("qkv"), w, h, bias).unwrap();
        let q = b.view(&name("q"), qkv, 0, q_cols).unwrap();
        let k = b.view(&name("k"), qkv, q_cols, kv_cols).unwrap();
        let v = b.view(&name("v"), qkv, q_cols + kv_cols, kv_cols).unwrap();
        let norm = RmsNorm { eps: 1e-5, group: self.head_dim };
        let w = b.weight(&name("q_norm.w"), GgmlType::F32, 1, self.head_dim).unwrap();
        let q = b.rms_norm(&name("q_norm"), norm, q, w).unwrap();
        let rope = Rope { mode: self.mode, head_dim: self.head_dim, n_dims: self.n_dims };
        let q = b.rope(&name("q_rope"), rope, q, rope_table).unwrap();
        let k = b.rope(&name("k_rope"), rope, k, rope_table).unwrap();
        // With a window, one layer of each group.
        let group = match self.window {
            Some(_) if layer == 0 => CacheGroup::Window,
            _ => CacheGroup::Full,
        };
        let caches = [
            b.cache_of(group, &name("k_cache"), self.cache, kv_cols).unwrap(),
            b.cache_of(group, &name("v_cache"), self.cache, kv_cols).unwrap(),
        ];
        b.kv_write(&name("kv"), [k, v], caches).unwrap();
        let attention = Attention {
            n_heads: self.heads,
            n_kv_heads: self.kv_heads,
            k_dim: self.head_dim,
            v_dim: self.head_dim,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            softcap: None,
            window: self.window,
            page_size: 8,
            sinks: self.sinks,
        };
        let sinks =
            self.sinks.then(|| b.weight(&name("sinks"), GgmlType::F32, 1, self.heads).unwrap());
        (b.attention_with_sinks(&name("attn"), attention, q, caches, sinks).unwrap(), q_cols)
    }

    /// Heads of latent attention: queries, compressed row and rotated key are columns of one product.
    fn latent(
        &self,
        b: &mut Builder,
        layer: u32,
        h: TensorId,
        rope_table: TensorId,
    ) -> (TensorId, u32) {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let (dim, rope_dim) = (2 * self.head_dim, self.n_dims);
        let widths = [self.heads * dim, self.heads * rope_dim, dim, rope_dim];
        let w = b.weight(&name("qkv.w"), self.weights, widths.iter().sum(), self.d).unwrap();
        let packed = b.matmul(&name("qkv"), w, h, None).unwrap();
        let mut start = 0;
        let [q, q_rope, c, r] = widths.map(|width| {
            start += width;
            b.view(&name(&format!("part{start}")), packed, start - width, width).unwrap()
        });
        let rope = Rope { mode: self.mode, head_dim: rope_dim, n_dims: rope_dim };
        let q_rope = b.rope(&name("q_rope"), rope, q_rope, rope_table).unwrap();
        let r = b.rope(&name("k_rope"), rope, r, rope_table).unwrap();
        let caches = [
            b.cache(&name("c_cache"), self.cache, dim).unwrap(),
            b.cache(&name("r_cache"), self.cache, rope_dim).unwrap(),
        ];
        b.kv_write(&name("kv"), [c, r], caches).unwrap();
        let attention = LatentAttention {
            n_heads: self.heads,
            latent_dim: dim,
            rope_dim,
            scale: 1.0 / (dim as f32).sqrt(),
            page_size: 8,
        };
        (b.latent_attention(&name("attn"), attention, [q, q_rope], caches).unwrap(), widths[0])
    }

    /// Heads of a gated DeltaNet: twice as many value heads as key heads, of another size.
    fn delta_net(&self, b: &mut Builder, layer: u32, h: TensorId) -> (TensorId, u32) {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let net = GatedDeltaNet {
            n_k_heads: self.kv_heads,
            n_v_heads: 2 * self.kv_heads,
            k_dim: self.head_dim,
            v_dim: self.head_dim / 2 + 8,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            order: HeadOrder::Tiled,
        };
        let (keys, values) = (net.n_k_heads * net.k_dim, net.n_v_heads * net.v_dim);
        let n_channels = 2 * keys + values;
        let w = b.weight(&name("qkv.w"), self.weights, n_channels, self.d).unwrap();
        let qkv = b.matmul(&name("qkv"), w, h, None).unwrap();
        let w = b.weight(&name("conv.w"), GgmlType::F32, n_channels, 4).unwrap();
        let state = b.recurrent_state(&name("conv_state"), 3 * n_channels).unwrap();
        let conv = CausalConv1d { kernel: 4 };
        let qkv = b.causal_conv1d(&name("conv"), conv, [qkv, w], state).unwrap();
        let norm = L2Norm { eps: 1e-6, group: net.k_dim };
        let q = b.view(&name("q"), qkv, 0, keys).unwrap();
        let q = b.l2_norm(&name("q_norm"), norm, q).unwrap();
        let k = b.view(&name("k"), qkv, keys, keys).unwrap();
        let k = b.l2_norm(&name("k_norm"), norm, k).unwrap();
        let v = b.view(&name("v"), qkv, 2 * keys, values).unwrap();
        let [alpha, beta] = ["alpha", "beta"].map(|part| {
            let w = b.weight(&name(&format!("{part}.w")), self.weights, net.n_v_heads, self.d);
            b.matmul(&name(part), w.unwrap(), h, None).unwrap()
        });
        let a_log = b.constant(&name("a_log"), net.n_v_heads, vec![-0.1; net.n_v_heads as usize]);
        let bias = b.constant(&name("dt"), net.n_v_heads, vec![0.3; net.n_v_heads as usize]);
        let weights = [a_log.unwrap(), bias.unwrap()];
        let [g, beta] = b.delta_gates(&name("gates"), [alpha, beta], weights).unwrap();
        let cols = net.n_v_heads * net.k_dim * net.v_dim;
        let state = b.recurrent_state(&name("state"), cols).unwrap();
        (b.gated_delta_net(&name("net"), net, [q, k, v, g, beta], state).unwrap(), values)
    }

    /// Random weights, the same on every call.
    pub fn sources(&self) -> Vec<WeightSource> {
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
                let scale = if rows == 1 { 1.0 } else { 2.0 / (cols as f32).sqrt() };
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
    let at: &[usize] = if ty == GgmlType::Q6_K { &[208] } else { &[0, 2] };
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
pub struct Running {
    pub device: Arc<dyn Device>,
    pub weights: Weights,
    pub states: States,
    pub exec: Box<dyn Executable>,
}

impl Running {
    pub fn new(model: &Model, device: Arc<dyn Device>, sources: Vec<WeightSource>) -> Running {
        let plan = Arc::new(passes::prepare(model.plan(), device.caps()).unwrap());
        let weights = device.bind_weights(sources, &mut |_, _| {}).unwrap();
        let states = device.alloc_states(&plan).unwrap();
        let exec = device.compile(plan, &Bindings { weights: &weights, states: &states }).unwrap();
        Running { device, weights, states, exec }
    }

    pub fn cpu(model: &Model, n_threads: usize, isa: Isa) -> Running {
        Running::new(model, Arc::new(CpuDevice::new(n_threads, isa).unwrap()), model.sources())
    }

    /// Rows `(sequence, position)`; logits of all.
    pub fn step(&mut self, rows: &[(usize, usize)]) -> Vec<Vec<f32>> {
        let mut outputs = StepOutputs::default();
        let limits = self.exec.plan().limits;
        let ticket = self.exec.submit(&inputs(rows, &limits)).unwrap();
        self.exec.wait(ticket, &mut outputs).unwrap();
        outputs.values[0].chunks_exact(VOCAB as usize).map(<[f32]>::to_vec).collect()
    }

    /// Logits of positions `0..n` of sequence 0, in chunks.
    pub fn prefill(&mut self, n: usize, chunk: usize) -> Vec<Vec<f32>> {
        let positions: Vec<_> = (0..n).map(|position| (0, position)).collect();
        positions.chunks(chunk).flat_map(|rows| self.step(rows)).collect()
    }
}

/// Pages of a sequence in the window group.
fn ring_pages(window: Option<u32>) -> u32 {
    window.map_or(0, |window| Limits::ring_pages(8, window, MAX_TOKENS))
}

/// Inputs of a step with rows `(sequence, position)`; logits of all are wanted.
pub fn inputs(rows: &[(usize, usize)], limits: &Limits) -> StepInputs {
    let mut inputs = StepInputs::default();
    // Pages in an order of their own, so that a wrong page table shows.
    let page = |seq: usize, page: usize| ((page * 7 + 3) % 80 + seq * 85) as i32;
    let n_ring = limits.window_pages_per_seq as usize;
    let ring_page = |seq: usize, page: usize| ((n_ring - 1 - page % n_ring) * 2 + seq) as i32;
    for seq in 0..2 {
        inputs.pages.extend((0..80).map(|i| page(seq, i)));
        inputs.window_pages.extend((0..n_ring).map(|i| ring_page(seq, i)));
        if limits.n_state_slots > 0 {
            inputs.state_from.push(2 - seq as i32);
            inputs.state_slots.push(2 - seq as i32);
        }
    }
    for (row, &(seq, position)) in rows.iter().enumerate() {
        inputs.token_ids.push(((seq * 37 + position * 11) % VOCAB as usize) as i32);
        inputs.positions.push(position as i32);
        inputs.seq_of.push(seq as i32);
        inputs.slots.push(page(seq, position / 8) * 8 + position as i32 % 8);
        if n_ring > 0 {
            inputs.window_slots.push(ring_page(seq, position / 8) * 8 + position as i32 % 8);
        }
        if limits.n_state_slots > 0 {
            inputs.state_saves.push(-1);
        }
        inputs.rope_variant.push(0);
        inputs.out_rows.push(row as i32);
    }
    inputs
}
