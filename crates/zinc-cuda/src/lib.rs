//! The CUDA backend: NVIDIA cards from compute capability 7.5 on, through the driver alone.
//!
//! - [`driver`]: the driver's library opened at run time. `memory`: buffers of the card and of the machine.
//! - [`launch`]: a launch as data: kernel, parameter bytes, grid. `lower`: plan nodes to launches.
//! - `pipeline`: PTX and machine code in the binary to loaded kernels, with a cache on the disk. `record`: launches to
//!   graphs.
//! - [`measure`]: the card's bandwidth, and how launches are timed.
//! - `store`: weights repacked on the card while they are read, and states. `exec`: steps; `turns`: those that are queued
//!   before they are known. `lock`: one process a card.
//!
//! `kernels/README.md` says how kernels are written; every kernel file there opens with formula, geometry and bound.
//!
//! # Conventions between lowering and kernels
//!
//! **Launches are made per bucket.** A bucket is an upper bound of tokens, sequences and wanted rows of a step
//! ([`lower::Bucket`]). For each bucket that occurs, the plan is lowered once and recorded as a graph, so grids and
//! parameters are plain numbers. What changes inside a bucket is read from the card's memory.
//!
//! **Step data.** The inputs of a step lie in one buffer that a single copy or the step's first launch fills. It begins with a header of
//! four i32: actual tokens, sequences, wanted rows, bytes of all. Each input tensor follows at a fixed address, at the
//! size of the plan's limits, i32 row-major (hidden states f32). A kernel takes a `Count` ([`launch::Count`]) and
//! compares its row with it; blocks past it do nothing (but wait, see below).
//!
//! **Rows.** A value's row `r` begins at `address + r * stride` bytes; `stride` is that of the view's base, in bytes,
//! always a multiple of the element size, not more. Kernels that want wider loads check the alignment in lowering.
//!
//! **Activations in q8.** `QuantizeAct` writes type `Q8_1` in a layout of this crate: all quants first, i8
//! `[max_rows][cols]`, then one f32 scale for each 32 values, `[max_rows][cols / 32]`. Where the scales begin is
//! [`lower::q8_scales`]. Blocks of 32 along the row; scale = amax / 127, quant = round to nearest even of x / scale;
//! scale 0 gives quants 0. Every quantised weight type is multiplied with these, many rows on Hopper excepted (below);
//! F32, F16 and BF16 weights with f32. They never reach memory where all products of them take a row a block: those make
//! them from what the plan makes them from ([`lower::prologue`]).
//!
//! **Activations as panels of f16.** Products of many rows on Hopper take wgmma (`kernels/gemm.cuh`), which wants panels
//! of 64 elements of all rows, in f16, with a power of two for each row (`kernels/panels.cuh`). `kernels/panels.cu` makes
//! them from f32 in place of q8, puts rows in the order of their experts, and adds the parts of products whose sums are
//! cut ([`lower::linear`]).
//!
//! **Weights.** Quantised types are repacked at load into rows of planes (`kernels/formats.cuh`,
//! [`store::RowLayout`]): a row begins at `row * row_bytes`. F32, F16 and BF16 lie as in the file.
//!
//! **Scratch.** `Lowering::transient` gives memory that one node's launches may use, `Lowering::persistent` memory
//! that later nodes of the step read too (the grouping of experts, values between the launches of a block of experts).
//!
//! **Dependent launch.** Every launch but one that brings inputs, and the one after it, may start while the one before
//! it still runs. So every thread block of every kernel calls `pdl_launch()` early and `pdl_wait()` before it touches what another launch may (`kernels/README.md`), on
//! every path, also when it has nothing to do: the wait orders all launches before it, because they waited too.
//!
//! **Locks.** A process has a card alone, or shares it with others that say so (`lock.rs`). The lock files lie where all
//! users and services of the machine find them: in `/run/lock` or `/dev/shm`, whichever everybody may write to, else in
//! the directory for temporary files. Containers have these of their own, and see only their own processes.
//!
//! **Contract.** A result row's order of summation is fixed by operation, shape, type and kernel variant; which variant
//! runs depends on the bucket. With `batch_invariant` set the variants of small steps are used for all, and a row has
//! the same bits whatever the rows beside it.

mod card;
mod device;
#[allow(unsafe_code)]
pub mod driver;
mod exec;
pub mod launch;
mod lock;
pub mod lower;
pub mod measure;
#[allow(unsafe_code)]
mod memory;
pub mod pipeline;
mod record;
pub mod store;
mod turns;

pub use device::{CudaBackend, CudaDevice, CudaOptions, caps, why_none, why_unusable};
