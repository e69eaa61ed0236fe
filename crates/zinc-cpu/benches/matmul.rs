//! Speed of matrix products by weight type and shape, through the same plan and executable that models use.
//!
//! `cargo bench -p zinc-cpu --bench matmul [-- FILTER]`: decode (one row) in GB/s of weights and per cent of the read
//! bandwidth measured first, prefill (512 rows) in GOP/s. Each product runs over a chain of matrices that together
//! exceed the caches. Medians of several runs.

use bytes::Bytes;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zinc_backend::{Backend, Bindings, Device, Executable, StepInputs, WeightSource};
use zinc_cpu::CpuBackend;
use zinc_plan::{Builder, Limits, passes};
use zinc_quant::GgmlType;

const TYPES: [GgmlType; 8] = [
    GgmlType::F32,
    GgmlType::F16,
    GgmlType::BF16,
    GgmlType::Q8_0,
    GgmlType::Q4_0,
    GgmlType::Q4_K,
    GgmlType::Q5_K,
    GgmlType::Q6_K,
];
/// Square products, so that they chain: the widths of 0.6B, 1.7B and 8B models.
const WIDTHS: [u32; 3] = [1024, 2048, 4096];
const PREFILL_ROWS: u32 = 512;

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let backend = CpuBackend::default();
    let Ok(device) = backend.open(zinc_cpu::NAME) else {
        eprintln!("the cpu device does not open");
        return;
    };
    println!("{} {:?}", device.info().description, device.info().facts);
    let n_threads = device
        .info()
        .facts
        .iter()
        .find(|(key, _)| key == "threads")
        .and_then(|(_, n)| n.parse().ok());
    let bandwidth = read_bandwidth(n_threads.unwrap_or(1));
    println!("read bandwidth {:.1} GB/s", bandwidth / 1e9);
    println!(
        "{:>6} {:>6} {:>12} {:>10} {:>14}",
        "type", "width", "decode GB/s", "of read", "prefill GOP/s"
    );
    for ty in TYPES {
        for width in WIDTHS {
            if format!("{ty} {width}").contains(&filter) {
                let (bytes, decode) = time(&*device, ty, width, 1, Duration::from_millis(400));
                let (_, prefill) =
                    time(&*device, ty, width, PREFILL_ROWS, Duration::from_millis(800));
                let n = n_matrices(ty, width) as f64;
                let ops = 2.0 * n * f64::from(PREFILL_ROWS) * f64::from(width) * f64::from(width);
                println!(
                    "{ty:>6} {width:>6} {:>12.1} {:>9.0}% {:>14.0}",
                    bytes / decode / 1e9,
                    100.0 * bytes / decode / bandwidth,
                    ops / prefill / 1e9
                );
            }
        }
    }
}

/// Enough matrices for 256 MB, at most 64.
fn n_matrices(ty: GgmlType, width: u32) -> u32 {
    let bytes = ty.row_bytes(width as usize).unwrap_or(1) * width as usize;
    (256_000_000 / bytes).clamp(2, 64) as u32
}

/// Bytes of the weights and seconds of one pass over all matrices, the median of passes for about `budget`.
fn time(device: &dyn Device, ty: GgmlType, width: u32, rows: u32, budget: Duration) -> (f64, f64) {
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
    let n_matrices = n_matrices(ty, width);
    let chain = || {
        let mut builder = Builder::new("bench", limits);
        let table = builder.weight("embed", GgmlType::F32, 1, width)?;
        let mut x = builder.embed("x", table, 1.0)?;
        for i in 0..n_matrices {
            let w = builder.weight(&format!("w{i}"), ty, width, width)?;
            x = builder.matmul(&format!("y{i}"), w, x, None)?;
        }
        passes::prepare(builder.finish(vec![x]), device.caps())
    };
    let plan = Arc::new(chain().expect("a chain of products is a valid plan"));
    let matrix_bytes = ty.row_bytes(width as usize).unwrap_or(0) * width as usize;
    let mut sources =
        vec![source("embed", GgmlType::F32, 1, width, Bytes::from(vec![0; 4 * width as usize]))];
    let mut state = 1u32;
    for i in 0..n_matrices {
        // Small values of every type: bytes with the top bits of each scale cleared would differ by type, and speed
        // does not depend on values, so plain noise is enough.
        let noise = (0..matrix_bytes).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 25) as u8
        });
        sources.push(source(&format!("w{i}"), ty, width, width, noise.collect::<Vec<u8>>().into()));
    }
    let weights = device.bind_weights(sources, &mut |_, _| {}).expect("sizes fit");
    let states = device.alloc_states(&plan).expect("there are none");
    let bind = Bindings { weights: &weights, states: &states };
    let mut exec = device.compile(plan, &bind).expect("the device has the operations");
    let mut inputs = StepInputs::default();
    inputs.token_ids.resize(rows as usize, 0);
    inputs.positions.extend(0..rows as i32);
    inputs.seq_of.resize(rows as usize, 0);
    inputs.slots.extend(0..rows as i32);
    inputs.rope_variant.resize(rows as usize, 0);
    inputs.pages.extend(0..rows as i32);
    let run = |exec: &mut Box<dyn Executable>| {
        let start = Instant::now();
        exec.submit(&inputs).expect("the step fits the plan");
        start.elapsed()
    };
    run(&mut exec);
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 3 || start.elapsed() < budget {
        times.push(run(&mut exec));
    }
    times.sort();
    (f64::from(n_matrices) * matrix_bytes as f64, times[times.len() / 2].as_secs_f64())
}

fn source(name: &str, dtype: GgmlType, rows: u32, cols: u32, data: Bytes) -> WeightSource {
    WeightSource { name: name.into(), dtype, rows: rows.into(), cols: cols.into(), data }
}

/// Bytes per second that `n_threads` threads read from 512 MB, the best of five passes.
fn read_bandwidth(n_threads: usize) -> f64 {
    let data = vec![1u64; 64 << 20];
    let pass = || {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in data.chunks(data.len().div_ceil(n_threads)) {
                scope.spawn(move || {
                    let mut sums = [0u64; 32];
                    for chunk in part.as_chunks::<32>().0 {
                        for (sum, value) in sums.iter_mut().zip(chunk) {
                            *sum = sum.wrapping_add(*value);
                        }
                    }
                    black_box(sums);
                });
            }
        });
        size_of_val(&data[..]) as f64 / start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| pass()).fold(0.0, f64::max)
}
