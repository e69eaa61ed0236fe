//! The operation case table and the golden models on every card of this machine; without one there is nothing to test.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use zinc_backend::{Backend, Device};
use zinc_cuda::{CudaBackend, CudaOptions};
use zinc_testkit::cases::Case;
use zinc_testkit::conformance::{Verdict, check_case, check_device};
use zinc_testkit::golden_check;

/// Every card, opened.
fn devices(batch_invariant: bool) -> Vec<Arc<dyn Device>> {
    if let Some(why) = zinc_cuda::why_none() {
        eprintln!("not run: {why}");
        return Vec::new();
    }
    let cache_dir = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("cubins"));
    let options = CudaOptions { batch_invariant, share: true, cache_dir, ..CudaOptions::default() };
    let backend = CudaBackend { options };
    let open = |name: &str| backend.open(name).expect("an idle card");
    backend.devices().iter().map(|info| open(&info.name)).collect()
}

#[test]
fn case_table_holds() {
    for device in devices(false) {
        check_device(&*device).assert_passed(&[]);
    }
}

#[test]
fn case_table_holds_bit_for_bit_when_batch_invariant() {
    for device in devices(true) {
        check_device(&*device).assert_passed(&[]);
    }
}

/// What the operation of a case is called, with its type where it has one.
fn part_of(case: &Case) -> String {
    match case.dtype {
        Some(dtype) => format!("{}:{dtype}", case.op.name()),
        None => case.op.name().to_owned(),
    }
}

/// Runs the cases of `part`: an operation, `operation:type`, or of either every n-th case, `operation:type/k/n`.
fn check_part(device: &dyn Device, part: &str) {
    let mut fields = part.split('/');
    let name = fields.next().unwrap_or_default();
    let place: Vec<usize> =
        fields.map(|field| field.parse().expect("k and n are numbers")).collect();
    let (k, n) = match place[..] {
        [] => (0, 1),
        [k, n] if k < n => (k, n),
        _ => panic!("{part} is not operation, operation:type or operation:type/k/n"),
    };
    let mut cases = zinc_testkit::cases::all(device.caps()).expect("the case table is readable");
    cases.retain(|case| name == part_of(case) || name == case.op.name());
    assert!(!cases.is_empty(), "no operation is called {name}");
    for case in cases.iter().skip(k).step_by(n) {
        println!("case {}", case.label());
        let verdict = check_case(case, device);
        assert!(!matches!(verdict, Verdict::Failed(_)), "{}: {verdict:?}", case.label());
    }
}

/// The table is long under a tool that watches every access: `sanitize.py` runs it in parts.
#[test]
#[ignore = "a part of case_table_holds, for sanitizers; ZINC_OPS names parts"]
fn cases_of_some_operations_hold() {
    let wanted = std::env::var("ZINC_OPS").unwrap_or_default();
    for device in devices(false) {
        wanted.split(',').for_each(|part| check_part(&*device, part));
    }
}

#[test]
#[ignore = "for sanitize.py"]
fn parts_are_named() {
    if let Some(device) = devices(false).first() {
        let cases = zinc_testkit::cases::all(device.caps()).expect("the case table is readable");
        let mut n_cases = BTreeMap::new();
        cases.iter().for_each(|case| *n_cases.entry(part_of(case)).or_insert(0) += 1);
        n_cases.iter().for_each(|(part, n)| println!("part {part} {n}"));
    }
}

/// Among others that chunks of a prompt change no bit, which holds for the invariant variants.
#[test]
fn goldens_agree() {
    for device in devices(true) {
        golden_check::check_all(&device);
        golden_check::check_f16_cache(&device);
    }
}

/// The same with the kernels for large steps, whose rows may differ with the step.
#[test]
fn goldens_agree_by_the_size_of_steps() {
    for device in devices(false) {
        golden_check::check_all(&device);
        golden_check::check_f16_cache(&device);
    }
}

#[test]
fn a_card_that_is_not_there_is_named() {
    let error = CudaBackend::default().open("cuda99").err().expect("no such card").to_string();
    assert!(error.contains("cuda99"), "{error}");
}
