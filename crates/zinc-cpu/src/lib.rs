//! The CPU backend: one device, `cpu`, with threads and SIMD chosen at run time.
//!
//! - [`simd`]: sixteen-lane vectors with one implementation per instruction set, and the choice between them.
//! - `kernels`: plain functions on slices, written once over those vectors.
//! - `lower`: plan nodes to kernels and addresses. `exec`: the walk of all workers through the nodes of a step.
//! - `pool`: the threads. `memory`, `store`: the arena, the states, and weights read in place from the mapped file.
//!
//! **Contract.** A result row has the same bits whatever the number of rows in the step, the number of threads and
//! the chunking of the prompt (every accumulation order is fixed by shape and type). Products of quantised weights
//! use 8-bit activations and exact integer sums, and give the same bits on every instruction set; products of float
//! weights use f32 activations. A steady step allocates nothing.

mod device;
#[allow(unsafe_code)]
mod exec;
mod kernels;
mod lower;
mod machine;
#[allow(unsafe_code)]
mod memory;
#[allow(unsafe_code)]
mod pool;
mod simd;
mod store;

pub use device::{CpuBackend, CpuDevice};
pub use simd::Isa;

/// Name of the device.
pub const NAME: &str = "cpu";
