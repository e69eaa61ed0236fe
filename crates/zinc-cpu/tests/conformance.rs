//! The operation case table and the golden models on the CPU.

use std::sync::Arc;

use zinc_backend::Device;
use zinc_cpu::{CpuDevice, Isa};
use zinc_plan::OpKind;
use zinc_testkit::conformance::check_device;
use zinc_testkit::golden_check;

/// More threads than rows in most cases, and not a power of two: work is cut unevenly.
const N_THREADS: usize = 3;

/// Operations that are refused.
const NO_KERNEL: [OpKind; 0] = [];

#[test]
fn case_table_holds_on_every_instruction_set() {
    for isa in Isa::available() {
        eprintln!("instruction set {}", isa.name());
        let device = CpuDevice::new(N_THREADS, isa).expect("threads");
        check_device(&device).assert_passed(&NO_KERNEL);
    }
}

#[test]
fn goldens_of_supported_families_agree() {
    let device = CpuDevice::new(N_THREADS, Isa::best()).expect("threads");
    let device: Arc<dyn Device> = Arc::new(device);
    golden_check::check_all(&device);
    golden_check::check_f16_cache(&device);
}
