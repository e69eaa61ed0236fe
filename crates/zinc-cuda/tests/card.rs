//! The operation case table and the golden models on every card of this machine; without one there is nothing to test.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use zinc_backend::{Backend, Device};
use zinc_cuda::{CudaBackend, CudaOptions};
use zinc_testkit::cases::Case;
use zinc_testkit::conformance::{check_cases, check_device};
use zinc_testkit::golden_check;

/// Golden models that every clone has.
const N_IN_CLONE: usize = 9;

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

/// What the operation of a case is called, and it with its type.
fn parts_of(case: &Case) -> (String, Option<String>) {
    let op = case.op.name();
    (op.to_owned(), case.dtype.map(|dtype| format!("{op}:{dtype}")))
}

/// The table is long under a tool that watches every access: `sanitize.py` runs it in parts.
#[test]
#[ignore = "a part of case_table_holds, for sanitizers; ZINC_OPS names operations, or operation:type"]
fn cases_of_some_operations_hold() {
    let wanted = std::env::var("ZINC_OPS").unwrap_or_default();
    let is_wanted = |case: &Case| {
        let (op, of_type) = parts_of(case);
        wanted.split(',').any(|name| name == op || Some(name) == of_type.as_deref())
    };
    for device in devices(false) {
        let report = check_cases(&*device, is_wanted);
        assert!(report.failures().is_empty(), "{report}");
        assert!(!report.cases.is_empty(), "no operation is called {wanted}");
    }
}

#[test]
#[ignore = "for sanitize.py"]
fn parts_are_named() {
    for device in devices(false) {
        let cases = zinc_testkit::cases::all(device.caps()).expect("the case table is readable");
        let parts = cases.iter().map(parts_of).map(|(op, of_type)| of_type.unwrap_or(op));
        for part in parts.collect::<BTreeSet<_>>() {
            println!("part {part}");
        }
    }
}

/// Among others that chunks of a prompt change no bit, which holds for the invariant variants.
#[test]
fn goldens_agree() {
    for device in devices(true) {
        golden_check::check_all(&device, N_IN_CLONE);
        golden_check::check_f16_cache(&device);
    }
}

#[test]
fn a_card_that_is_not_there_is_named() {
    let error = CudaBackend::default().open("cuda99").err().expect("no such card").to_string();
    assert!(error.contains("cuda99"), "{error}");
}
