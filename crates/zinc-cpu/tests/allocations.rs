//! A steady decode step allocates nothing, neither on the calling thread nor on the workers.

#![allow(clippy::unwrap_used, unsafe_code)]

#[path = "support/model.rs"]
mod model;

use model::{Mixer, Model, Running, inputs};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use zinc_backend::StepOutputs;
use zinc_cpu::Isa;
use zinc_quant::GgmlType;

/// The system's allocator, counting.
struct Counting;

static N_ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: forwards to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        N_ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: forwarded.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: forwarded.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        N_ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: forwarded.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// The only test of this file: another one at the same time would be counted too.
#[test]
fn steady_decode_allocates_nothing() {
    let models = [
        (GgmlType::F32, Mixer::Attention),
        (GgmlType::Q8_0, Mixer::DeltaNet),
        (GgmlType::Q4_K, Mixer::Latent),
    ];
    for (ty, mixer) in models {
        let model = Model { cache: GgmlType::F16, sinks: true, mixer, ..Model::new(ty) };
        let mut running = Running::cpu(&model, 2, Isa::best());
        let mut outputs = StepOutputs::default();
        let limits = running.exec.plan().limits;
        let steps: Vec<_> = (0..20).map(|position| inputs(&[(0, position)], &limits)).collect();
        let mut before = 0;
        for (i, step) in steps.iter().enumerate() {
            if i == 3 {
                before = N_ALLOCATIONS.load(Ordering::Relaxed);
            }
            let ticket = running.exec.submit(step).unwrap();
            running.exec.wait(ticket, &mut outputs).unwrap();
        }
        let n = N_ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert_eq!(n, 0, "{ty} {mixer:?}: allocations in 17 decode steps");
    }
}
