//! Speed of a block of experts by weight type and shape, and what its fused operation gains.
//!
//! `cargo bench -p zinc-cpu --bench experts [-- FILTER]`: router, experts and their sum as models build them, through
//! the same plan and executable. Decode is one row at a time, every row with other experts, in GB/s of the weights that
//! it reads; prefill is 512 rows. The block is compiled as it is and with its parts apart, and both run in turn; times
//! are the least of many, which other work on the machine disturbs least.

use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zinc_backend::{
    Backend, Bindings, Caps, Device, Executable, StepInputs, WeightSource, Weights,
};
use zinc_cpu::CpuBackend;
use zinc_plan::{
    Activation, Builder, GatedAct, Gating, Limits, Plan, PlanError, RmsNorm, RouterTopK,
    TensorKind, passes,
};
use zinc_quant::GgmlType;

/// A block of a real model.
struct Shape {
    name: &'static str,
    d: u32,
    ff: u32,
    n_experts: u32,
    n_used: u32,
    /// Types of gate and up, and of down.
    types: [GgmlType; 2],
    bias: bool,
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "qwen3-30b-a3b",
        d: 2048,
        ff: 768,
        n_experts: 128,
        n_used: 8,
        types: [GgmlType::Q4_K, GgmlType::Q6_K],
        bias: false,
    },
    Shape {
        name: "gpt-oss-20b",
        d: 2880,
        ff: 2880,
        n_experts: 32,
        n_used: 4,
        types: [GgmlType::MXFP4, GgmlType::MXFP4],
        bias: true,
    },
    Shape {
        name: "q8_0",
        d: 2048,
        ff: 512,
        n_experts: 64,
        n_used: 6,
        types: [GgmlType::Q8_0, GgmlType::Q8_0],
        bias: false,
    },
];
const PREFILL_ROWS: u32 = 512;
const BUDGET: Duration = Duration::from_secs(6);

impl Shape {
    fn plan(&self, rows: u32, caps: &Caps) -> Result<Plan, PlanError> {
        let limits = Limits {
            max_tokens: rows,
            max_seqs: 1,
            max_out_rows: rows,
            page_size: 1,
            pages_per_seq: rows,
            n_pages: rows,
            window_pages_per_seq: 0,
            n_window_pages: 0,
            n_state_slots: 0,
        };
        let mut b = Builder::new("bench", limits);
        let table = b.weight("embed", GgmlType::F32, PREFILL_ROWS, self.d)?;
        let x = b.embed("x", table, 1.0)?;
        let w = b.weight("norm", GgmlType::F32, 1, self.d)?;
        let x = b.rms_norm("normed", RmsNorm { eps: 1e-6, group: self.d }, x, w)?;
        let w = b.weight("router", GgmlType::F32, self.n_experts, self.d)?;
        let logits = b.matmul("logits", w, x, None)?;
        let router = RouterTopK {
            n_experts_used: self.n_used,
            gating: Gating::Softmax,
            bias: false,
            groups: None,
            normalize: true,
            scale: 1.0,
        };
        let [ids, weights] = b.router_top_k("top_k", router, logits, None)?;
        let product = |b: &mut Builder, label: &str, ty, x, rows, cols| {
            let w = b.weight(&format!("{label}.w"), ty, self.n_experts * rows, cols)?;
            let bias = match self.bias {
                true => {
                    Some(b.weight(&format!("{label}.b"), GgmlType::F32, self.n_experts, rows)?)
                }
                false => None,
            };
            b.expert_matmul(label, self.n_experts, [w, x, ids], bias)
        };
        let gate = product(&mut b, "gate", self.types[0], x, self.ff, self.d)?;
        let up = product(&mut b, "up", self.types[0], x, self.ff, self.d)?;
        let h = b.gated_act("act", GatedAct { act: Activation::Silu }, gate, up)?;
        let y = product(&mut b, "down", self.types[1], h, self.d, self.ff)?;
        let y = b.expert_combine("sum", y, weights, None)?;
        passes::prepare(b.finish(vec![y]), caps)
    }

    /// Bytes of the experts of one row.
    fn bytes(&self) -> f64 {
        let matrix = |ty: GgmlType, rows: u32, cols: u32| {
            ty.row_bytes(cols as usize).unwrap_or(0) as f64 * f64::from(rows)
        };
        let [first, second] = self.types;
        let one = 2.0 * matrix(first, self.ff, self.d) + matrix(second, self.d, self.ff);
        one * f64::from(self.n_used)
    }
}

/// Random floats, and noise that is a valid value of each quantised type; speed does not depend on it.
fn weights(device: &dyn Device, plan: &Plan) -> Weights {
    let mut state = 1u32;
    let mut noise = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 25) as u8
    };
    let tensors = plan.tensors_where(|tensor| tensor.kind == TensorKind::Weight);
    let sources = tensors.map(|(id, tensor)| {
        let n_bytes = plan.max_bytes(id) as usize;
        let data: Vec<u8> = match tensor.dtype {
            GgmlType::F32 => (0..n_bytes / 4)
                .flat_map(|_| (f32::from(noise()) / 64.0 - 1.0).to_le_bytes())
                .collect(),
            _ => (0..n_bytes).map(|_| noise()).collect(),
        };
        WeightSource {
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            rows: plan.limits.bound(tensor.shape.rows),
            cols: tensor.shape.cols.into(),
            data: Bytes::from(data),
        }
    });
    device.bind_weights(sources.collect(), &mut |_, _| {}).expect("sizes fit")
}

fn inputs(first: u32, n_rows: u32) -> StepInputs {
    let mut inputs = StepInputs::default();
    let n = n_rows as usize;
    inputs.token_ids.extend((first..first + n_rows).map(|row| (row % PREFILL_ROWS) as i32));
    inputs.positions.extend(0..n_rows as i32);
    inputs.seq_of.resize(n, 0);
    inputs.slots.extend(0..n_rows as i32);
    inputs.rope_variant.resize(n, 0);
    inputs.pages.extend(0..n_rows as i32);
    inputs
}

/// Least seconds per row of each executable, run in turn on the same rows.
fn time(execs: &mut [Box<dyn Executable>; 2], n_rows: u32) -> [f64; 2] {
    // Steps of one row are timed in groups, so that each group reads many experts.
    let n_steps = if n_rows == 1 { 32 } else { 1 };
    let mut least = [f64::INFINITY; 2];
    let begin = Instant::now();
    let mut first = 0;
    while begin.elapsed() < BUDGET {
        let steps: Vec<_> = (first..first + n_steps).map(|row| inputs(row, n_rows)).collect();
        for (exec, least) in execs.iter_mut().zip(&mut least) {
            let start = Instant::now();
            for step in &steps {
                exec.submit(step).expect("the step fits the plan");
            }
            *least = least.min(start.elapsed().as_secs_f64() / f64::from(n_steps * n_rows));
        }
        first += n_steps;
    }
    least
}

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let backend = CpuBackend::default();
    let Ok(device) = backend.open(zinc_cpu::NAME) else {
        eprintln!("the cpu device does not open");
        return;
    };
    println!("{} {:?}", device.info().description, device.info().facts);
    println!("{:>14} {:>8} {:>10} {:>8} {:>10}", "block", "rows", "us/row", "GB/s", "parts");
    for shape in SHAPES.iter().filter(|shape| shape.name.contains(&filter)) {
        let mut parts = device.caps().clone();
        parts.fused.clear();
        let whole = shape.plan(1, device.caps()).expect("a valid plan");
        let weights = weights(&*device, &whole);
        for n_rows in [1, PREFILL_ROWS] {
            let mut execs = [device.caps(), &parts].map(|caps| {
                let plan = Arc::new(shape.plan(n_rows, caps).expect("a valid plan"));
                let states = device.alloc_states(&plan).expect("there are none");
                let bind = Bindings { weights: &weights, states: &states };
                device.compile(plan, &bind).expect("the device has the operations")
            });
            let [fused, apart] = time(&mut execs, n_rows);
            println!(
                "{:>14} {n_rows:>8} {:>10.1} {:>8.1} {:>10.3}",
                shape.name,
                fused * 1e6,
                shape.bytes() / fused / 1e9,
                apart / fused
            );
        }
    }
}
