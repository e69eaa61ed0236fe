//! Caches of 8-bit floats, written and read to the bit by the CUDA kernels on the host.
#![cfg(unix)]

#[allow(dead_code)]
mod host_device;

use std::collections::HashMap;
use std::sync::Arc;

use host_device::{HostDevice, Options};
use zinc_backend::{Bindings, Device, StepInputs, StepOutputs, WeightSource};
use zinc_cuda::lower::Card;
use zinc_plan::{Attention, Builder, Limits, Plan, PlanError, passes};
use zinc_quant::{GgmlType, e4m3_from_f32, e4m3_to_f32};
use zinc_testkit::kernel_host::{HostBuffer, Schedule};

const N_ROWS: u32 = 32;
const PAGE_SIZE: u32 = 32;

/// Every row sees its own key alone: its weight is one, and the result its value as the cache holds it.
fn plan(width: u32, max_tokens: u32) -> Result<Plan, PlanError> {
    let limits = Limits {
        max_tokens,
        max_seqs: 1,
        max_out_rows: max_tokens,
        page_size: PAGE_SIZE,
        pages_per_seq: 1,
        n_pages: 1,
        window_pages_per_seq: 0,
        n_window_pages: 0,
        n_state_slots: 0,
    };
    let attention = Attention {
        n_heads: 1,
        n_kv_heads: 1,
        k_dim: width,
        v_dim: width,
        scale: 1.0,
        softcap: None,
        window: Some(1),
        page_size: PAGE_SIZE,
        sinks: false,
    };
    let mut b = Builder::new("fp8", limits);
    let embed = |b: &mut Builder, label: &str| {
        let table = b.weight(&format!("{label}.w"), GgmlType::F32, N_ROWS, width)?;
        b.embed(label, table, 1.0)
    };
    let (q, v) = (embed(&mut b, "q")?, embed(&mut b, "v")?);
    let caches = [
        b.cache("cache_k", GgmlType::F8_E4M3, width)?,
        b.cache("cache_v", GgmlType::F8_E4M3, width)?,
    ];
    b.kv_write("kv", [q, v], caches)?;
    let y = b.attention("y", attention, q, caches)?;
    Ok(b.finish(vec![y]))
}

/// The cache of `values` and what is read of it, by steps of so many rows.
fn run(width: u32, chunk: usize, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let device = HostDevice::new(Options {
        batch_invariant: false,
        schedule: Schedule::Reverse,
        card: Card { capability: 89, ..Card::HOPPER },
        packed: false,
    });
    let plan = passes::prepare(plan(width, chunk as u32).expect("a valid plan"), device.caps());
    let plan = plan.expect("a supported plan");
    let source = |name: &str, values: &[f32]| WeightSource {
        name: name.into(),
        dtype: GgmlType::F32,
        rows: N_ROWS.into(),
        cols: width.into(),
        data: bytemuck::cast_slice::<f32, u8>(values).to_vec().into(),
    };
    let queries = vec![0.5; values.len()];
    let sources = vec![source("q.w", &queries), source("v.w", values)];
    let weights = device.bind_weights(sources, &mut |_, _| ()).expect("weights fit");
    let states = device.alloc_states(&plan).expect("states fit");
    let bind = Bindings { weights: &weights, states: &states };
    let mut exec = device.compile(Arc::new(plan), &bind).expect("a supported plan");
    let mut read = Vec::new();
    for step in (0..N_ROWS as i32).collect::<Vec<_>>().chunks(chunk) {
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
        read.extend(outputs.values.swap_remove(0));
    }
    let states = Arc::clone(&states.0).downcast::<HashMap<String, HostBuffer>>();
    let states = states.expect("the states of the device");
    (states["cache_v"].read(0, values.len()), read)
}

/// The first bits of all f32: every exponent, zeros and infinities of both signs, NaNs, every middle of two numbers.
#[test]
fn everything_is_written_as_the_reference_does() {
    let values: Vec<f32> = (0..=0xffffu32).map(|high| f32::from_bits(high << 16)).collect();
    let width = 512;
    for values in values.chunks((N_ROWS * width) as usize) {
        let (written, _) = run(width, 8, values);
        for (value, code) in values.iter().zip(written) {
            assert_eq!(code, e4m3_from_f32(*value), "{value:e}");
        }
    }
}

/// All kernels that read caches, for one row and for many, of every code; NaN, which in many rows' products spreads, only
/// for one.
#[test]
fn every_code_is_read_exactly() {
    for width in [32, 64, 128, 256] {
        for chunk in [1, N_ROWS as usize] {
            let value = |i: u32| Some(e4m3_to_f32(i as u8)).filter(|v| chunk == 1 || !v.is_nan());
            let values: Vec<f32> =
                (0..N_ROWS * width).map(|i| value(i).unwrap_or_default()).collect();
            let (_, read) = run(width, chunk, &values);
            for (found, expected) in read.iter().zip(&values) {
                let is_same = found == expected || found.is_nan() && expected.is_nan();
                assert!(is_same, "{width} wide, {chunk} a step: {found} for {expected}");
            }
        }
    }
}
