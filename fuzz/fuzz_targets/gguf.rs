//! Any bytes, opened as a model file and read wherever its index points.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/zinc-gguf/tests/support/walk.rs"]
mod walk;

fuzz_target!(|file: &[u8]| {
    // Refusing a file is as good as opening it; panics, hangs and large allocations are the findings.
    let _ = walk::open_and_walk(Bytes::copy_from_slice(file));
});
