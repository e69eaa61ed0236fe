//! The operation table on the CUDA backend's lowering and kernels, run on the host.
#![cfg(unix)]

mod host_device;

use std::time::Instant;

use host_device::{HostDevice, Options};
use zinc_backend::Device;
use zinc_cuda::lower::Card;
use zinc_plan::OpKind;
use zinc_testkit::cases;
use zinc_testkit::conformance::{Verdict, check_case};
use zinc_testkit::kernel_host::Schedule;

/// Checks the cases of `ops`, all of them.
fn check(ops: &[OpKind], options: Options) {
    let device = HostDevice::new(options);
    let cases = cases::all(device.caps()).expect("the case table is readable");
    let mut failures = Vec::new();
    for op in ops {
        let mut n_passed = 0;
        for case in cases.iter().filter(|case| case.op == *op) {
            let start = Instant::now();
            match check_case(case, &device) {
                Verdict::Passed(_) => n_passed += 1,
                Verdict::Unsupported(reason) => {
                    eprintln!("{}: not supported: {reason}", case.label())
                }
                Verdict::Failed(reason) => failures.push(format!("{}: {reason}", case.label())),
            }
            let seconds = start.elapsed().as_secs_f64();
            if seconds > 0.5 {
                eprintln!("{}: {seconds:.1} s", case.label());
            }
        }
        eprintln!("{}: {n_passed} cases passed", op.name());
        assert!(n_passed > 0 || !failures.is_empty(), "{}: no case was tried", op.name());
    }
    device.print_times();
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn dev() {
    let names = std::env::var("OPS").unwrap_or_default();
    let ops: Vec<_> =
        OpKind::ALL.into_iter().filter(|op| names.split(',').any(|n| n == op.name())).collect();
    check(&ops, Options { batch_invariant: true, schedule: Schedule::Forward, card: Card::HOPPER });
}
