//! The operation table on the CUDA backend's lowering and kernels, run on the host.
#![cfg(unix)]

mod host_device;

use std::sync::Arc;

use host_device::{HostDevice, Options};
use zinc_backend::Device;
use zinc_cuda::lower::Card;
use zinc_cuda::measure;
use zinc_plan::{OpKind, passes};
use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;
use zinc_testkit::cases::{self, Case};
use zinc_testkit::compare::{nmse, same_bits};
use zinc_testkit::conformance::{Verdict, check_case, run_on_reference, run_plan};
use zinc_testkit::golden;
use zinc_testkit::kernel_host::{LaunchShape, Schedule};
use zinc_testkit::model_runner::ModelRunner;

/// Cases of more rows are run once, not cut into steps of one row: an emulated thread is slow.
const MOST_ROWS_TO_CUT: usize = 40;

/// Attention over more rows is left out where other cases show the same.
const MOST_ROWS: usize = 160;

/// Whether a case is short enough to run often.
fn is_short(case: &Case) -> bool {
    let is_attention = matches!(case.op, OpKind::Attention | OpKind::LatentAttention);
    !is_attention || case.layout.n_rows() <= MOST_ROWS
}

fn options(batch_invariant: bool, schedule: Schedule) -> Options {
    // All kernels but Hopper's own, with the shared memory for the deepest rings.
    let card = Card { capability: 89, ..Card::HOPPER };
    Options { batch_invariant, schedule, card, packed: false }
}

/// A Hopper card. With few multiprocessors blocks make several tiles, and large ones; with many, long sums are cut.
fn hopper(n_multiprocessors: u32, schedule: Schedule) -> HostDevice {
    let card = Card { n_multiprocessors, ..Card::HOPPER };
    HostDevice::new(Options { batch_invariant: false, schedule, card, packed: false })
}

/// Cases that take Hopper's own products: quantised weights, enough rows.
fn takes_panels(case: &Case) -> bool {
    use OpKind::*;
    let is_product =
        matches!(case.op, MatMul | MatMulAdd | GateUpAct | ExpertMatMul | ExpertGateUpAct);
    let is_float = |ty| matches!(ty, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16);
    is_product && !case.dtype.is_none_or(is_float) && case.layout.n_rows() > 8
}

/// All outputs of a case in whole steps; none when the device lacks something.
fn run_whole(case: &Case, device: &dyn Device) -> Result<Option<Vec<Vec<f32>>>, String> {
    let whole = case.layout.steps.iter().map(Vec::len).max().unwrap_or(1);
    let plan = case.plan(case.layout.limits(whole)).map_err(|error| error.to_string())?;
    let run = passes::prepare(plan, device.caps()).map_err(zinc_testkit::TestError::from);
    match run.and_then(|plan| run_plan(case, plan, device, whole)) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_unsupported() => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Checks the outputs of a case run once against the reference.
fn check_whole(case: &Case, device: &dyn Device) -> Result<bool, String> {
    let Some(found) = run_whole(case, device)? else { return Ok(false) };
    let expected = run_on_reference(case).map_err(|error| error.to_string())?;
    for (found, expected) in found.iter().zip(&expected) {
        let error = nmse(found, expected);
        if error.is_nan() || error > case.nmse_max {
            return Err(format!("nmse {error:.2e} is above {:.0e}", case.nmse_max));
        }
    }
    Ok(true)
}

/// Runs `check` for the cases that `keep` names; it says whether the device has what the case needs.
fn check_all(
    device: &HostDevice,
    keep: impl Fn(&Case) -> bool,
    check: impl Fn(&Case) -> Result<bool, String>,
) {
    let cases = cases::all(device.caps()).expect("the case table is readable");
    let mut failures = Vec::new();
    for op in OpKind::ALL {
        let mut n_passed = 0;
        for case in cases.iter().filter(|case| case.op == op && keep(case)) {
            match check(case) {
                Ok(has_all) => n_passed += usize::from(has_all),
                Err(reason) => failures.push(format!("{}: {reason}", case.label())),
            }
        }
        eprintln!("{}: {n_passed} cases passed", op.name());
    }
    device.print_times();
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

/// Every row has the bits that it has alone, and fused operations those of their parts.
#[test]
fn rows_keep_their_bits() {
    let device = HostDevice::new(options(true, Schedule::Forward));
    let is_long = |case: &Case| case.layout.n_rows() > MOST_ROWS_TO_CUT;
    check_all(&device, is_short, |case| {
        if is_long(case) {
            return check_whole(case, &device);
        }
        check_cut(case, &device)
    });
}

/// Products that make their activations give a row the bits that it has where launches of their own do it, on cards with
/// room for fewer warps as well, and find what those are made from intact where values share memory.
#[test]
fn products_make_the_activations_that_launches_would() {
    let keep = |case: &Case| case.name.starts_with("behind");
    for shared_kib in [24, 40, 227] {
        let card = Card { shared_per_block: shared_kib << 10, ..Card::HOPPER };
        let options = Options { card, ..options(true, Schedule::Reverse) };
        let device = HostDevice::new(Options { packed: true, ..options });
        check_all(&device, keep, |case| check_cut(case, &device));
    }
}

/// Checks the outputs of a case in whole and in short steps, and those of its parts.
fn check_cut(case: &Case, device: &dyn Device) -> Result<bool, String> {
    match check_case(case, device) {
        Verdict::Passed(_) => Ok(true),
        Verdict::Unsupported(_) => Ok(false),
        Verdict::Failed(reason) => Err(reason),
    }
}

/// The large tiles of products with weights in floats, which take many results on a real card.
#[test]
fn large_tiles_of_floats_keep_the_bits_of_rows() {
    let card = Card { n_multiprocessors: 1, ..Card::HOPPER };
    let options = Options { card, ..options(true, Schedule::Reverse) };
    let keep = |case: &Case| {
        use OpKind::*;
        let is_float = [GgmlType::F32, GgmlType::F16, GgmlType::BF16].map(Some);
        let rows = 9..=MOST_ROWS_TO_CUT;
        let is_product = matches!(case.op, MatMul | MatMulAdd | GateUpAct);
        is_product && is_float.contains(&case.dtype) && rows.contains(&case.layout.n_rows())
    };
    let device = HostDevice::new(options);
    check_all(&device, keep, |case| check_cut(case, &device));
}

/// The kernels for many rows, whose sums have other orders.
#[test]
fn kernels_for_many_rows_agree_with_the_reference() {
    let device = HostDevice::new(options(false, Schedule::Forward));
    let is_f16 = |case: &Case| case.dtype == Some(GgmlType::F16);
    let keep = |case: &Case| is_short(case) || is_f16(case);
    check_all(&device, keep, |case| check_whole(case, &device));
}

/// The kernels that smaller shared memories take: shallower rings, smaller tiles.
#[test]
fn attention_of_smaller_cards_agrees_with_the_reference() {
    let keep = |case: &Case| {
        let types = [GgmlType::F16, GgmlType::F8_E4M3].map(Some);
        let is_small = is_short(case) && types.contains(&case.dtype);
        matches!(case.op, OpKind::Attention | OpKind::LatentAttention) && is_small
    };
    for shared_kib in [64, 99, 163] {
        let card = Card { shared_per_block: shared_kib << 10, ..Card::HOPPER };
        let device = HostDevice::new(Options { card, ..options(false, Schedule::Reverse) });
        check_all(&device, keep, |case| check_whole(case, &device));
    }
}

/// Hopper's own products, with their emulation.
#[test]
fn kernels_of_hopper_agree_with_the_reference() {
    let device = hopper(4, Schedule::Forward);
    check_all(&device, takes_panels, |case| {
        if case.layout.n_rows() > MOST_ROWS_TO_CUT {
            return check_whole(case, &device);
        }
        check_cut(case, &device)
    });
    let device = hopper(Card::HOPPER.n_multiprocessors, Schedule::Forward);
    check_all(&device, takes_panels, |case| check_whole(case, &device));
}

/// The same with copies as late as they can be, and threads in other orders.
#[test]
fn results_of_hopper_do_not_depend_on_the_order_of_threads() {
    let [forward, reverse, random] = Schedule::ALL.map(|schedule| hopper(4, schedule));
    let keep = |case: &Case| {
        takes_panels(case) && matches!(case.dtype, Some(GgmlType::Q6_K | GgmlType::MXFP4))
    };
    check_all(&reverse, keep, |case| check_orders(case, &forward, [&reverse, &random]));
}

/// A missing barrier shows as other bits when the threads take their turns in another order.
#[test]
fn results_do_not_depend_on_the_order_of_threads() {
    let [forward, reverse, random] =
        Schedule::ALL.map(|schedule| HostDevice::new(options(false, schedule)));
    check_all(&reverse, is_short, |case| check_orders(case, &forward, [&reverse, &random]));
}

/// Checks that the outputs of a case have the same bits on all devices.
fn check_orders(
    case: &Case,
    forward: &HostDevice,
    others: [&HostDevice; 2],
) -> Result<bool, String> {
    let Some(expected) = run_whole(case, forward)? else { return Ok(false) };
    for device in others {
        let found = run_whole(case, device)?.unwrap_or_default();
        for (found, expected) in found.iter().zip(&expected) {
            same_bits(found, expected)
                .map_err(|at| format!("{} changes element {at}", device.info().name))?;
        }
    }
    Ok(true)
}

/// Whole models: what lowering joins beyond the plan's operations agrees with the reference as well.
#[test]
fn small_models_agree_with_the_reference() {
    let host: Arc<dyn Device> = Arc::new(HostDevice::new(options(false, Schedule::Forward)));
    // Other forms of latent attention are in the full set alone.
    let of_full_set = ["deepseek_v2.f32", "deepseek_v3.f32"];
    let there = of_full_set.into_iter().filter(|name| golden::golden_if_there(name).is_some());
    let of_clone = ["llama.f32", "phi3.f32", "qwen3.f32", "gemma2.f32", "deepseek_v2_lite.f32"];
    for name in of_clone.into_iter().chain(there) {
        for kv_type in [GgmlType::F32, GgmlType::F16] {
            let error = error_of_model(name, &host, kv_type);
            // Values rounded to f16 the other way, or queries rounded to f16 at all.
            let limit = if kv_type == GgmlType::F32 { 1e-10 } else { 1e-6 };
            assert!(error < limit, "{name} with a cache in {kv_type}: nmse {error:e}");
        }
    }
}

/// Quantised models on Hopper's own products: panels of one layer do not lie where others are still read. Few products
/// have few rows, whose activations are rounded to 8 bits.
#[test]
fn small_quantised_models_agree_with_the_reference_on_hopper() {
    let host: Arc<dyn Device> = Arc::new(hopper(Card::HOPPER.n_multiprocessors, Schedule::Forward));
    // K-quants are in models of the full set alone.
    let of_full_set = ["q_qwen3.q4_k_m", "q_qwen3_5_moe.q4_k_m"];
    let there = of_full_set.into_iter().filter(|name| golden::golden_if_there(name).is_some());
    for name in ["gpt_oss.mxfp4", "q_qwen3_small.q8_0"].into_iter().chain(there) {
        let error = error_of_model(name, &host, GgmlType::F32);
        assert!(error < 1e-3, "{name}: nmse {error:e}");
    }
}

/// The same bits token by token as all at once, in memory of their own and in memory that values share.
#[test]
fn small_quantised_models_keep_their_bits() {
    let there =
        ["q_qwen3.q4_k_m"].into_iter().filter(|name| golden::golden_if_there(name).is_some());
    for name in ["q_qwen3_small.q8_0", "q_qwen3_small.q4_0"].into_iter().chain(there) {
        let [apart, shared] = [false, true].map(|packed| {
            let options = Options { packed, ..options(true, Schedule::Forward) };
            let device: Arc<dyn Device> = Arc::new(HostDevice::new(options));
            device
        });
        let expected = logits(name, &apart, GgmlType::F16, TOKENS.len());
        for (device, chunk) in [(&apart, 1), (&shared, 1), (&shared, 7)] {
            let found = logits(name, device, GgmlType::F16, chunk);
            same_bits(&found, &expected).unwrap_or_else(|at| panic!("{name}: element {at}"));
        }
    }
}

/// A short prompt.
const TOKENS: [i32; 20] =
    [3, 14, 15, 9, 26, 5, 35, 8, 97, 93, 23, 84, 62, 64, 33, 83, 27, 9, 50, 2];

/// How far the logits of a short prompt are from the reference's.
fn error_of_model(name: &str, device: &Arc<dyn Device>, kv_type: GgmlType) -> f64 {
    let reference: Arc<dyn Device> = Arc::new(ReferenceDevice::new());
    let [found, expected] = [device, &reference].map(|device| logits(name, device, kv_type, 18));
    nmse(&found, &expected)
}

/// Logits of a short prompt, `chunk` tokens at a time.
fn logits(name: &str, device: &Arc<dyn Device>, kv_type: GgmlType, chunk: usize) -> Vec<f32> {
    let golden = golden::golden(name).unwrap_or_else(|error| panic!("{error}"));
    let runner = ModelRunner::open(&golden.gguf, Arc::clone(device), kv_type);
    let pass = runner.and_then(|runner| runner.prefill(&TOKENS, chunk));
    pass.unwrap_or_else(|error| panic!("{name}: {error}")).logits
}

#[test]
fn measuring_the_bandwidth_reads_every_word() {
    const NEVER: u32 = 0x9e37_79b9;
    let kernels = host_device::kernels();
    let card = Card { n_multiprocessors: 1, ..Card::HOPPER };
    // More than four rounds of all threads, and a part of one.
    let n_words = 8 * 256 * 9 + 77;
    let (data, sink) =
        (kernels.buffer(16 * n_words).expect("memory"), kernels.buffer(4).expect("memory"));
    data.fill(0);
    let run = |launch: &zinc_cuda::launch::Launch| {
        let shape = LaunchShape { grid: launch.grid, block: launch.block, shared: launch.shared };
        kernels
            .launch(launch.kernel.name, shape, &launch.params, Schedule::Forward)
            .expect("a kernel that ends");
    };
    let sum_of = || {
        sink.fill(0);
        run(&measure::read_launch(data.address(), sink.address(), 16 * n_words as u64, card));
        u32::from_le_bytes(sink.read(0, 4).try_into().expect("four bytes"))
    };
    assert_eq!(sum_of(), 0, "zeros are told by nothing");
    for word in [0, 1, 2047, 2048, 4 * 2048 - 1, 4 * 2048, 9 * 2048 - 1, n_words - 1] {
        for part in 0..4 {
            data.write(16 * word + 4 * part, &NEVER.to_le_bytes());
            assert_eq!(sum_of(), NEVER, "part {part} of word {word}");
            data.write(16 * word + 4 * part, &[0; 4]);
        }
    }
    run(&measure::hold_launch(3));
}
