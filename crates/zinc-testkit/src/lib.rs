//! Everything the tests of several crates share; nothing of it is in the program.
//!
//! - [`conformance`]: the case table `testdata/ops/*.toml`, run on any device and compared with the
//!   reference, operation by operation.
//! - [`golden`] and [`model_runner`]: tiny models with expected logits and hidden states, run on any
//!   device straight through its plan.
//! - [`kernel_host`]: GPU kernels compiled as C++ and run one fiber per thread.
//! - [`snapshot`]: expected text, rewritten with `ZINC_UPDATE=1`.
//!
//! All data is seeded and the same on every machine. The full set of golden models lies beside the
//! repository (`../shared`, or where `ZINC_SHARED` says); a part of it is in `testdata/golden`.

pub mod breakage;
pub mod cases;
pub mod compare;
pub mod conformance;
mod error;
pub mod golden;
pub mod golden_check;
#[cfg(unix)]
#[allow(unsafe_code)]
pub mod kernel_host;
pub mod model_runner;
pub mod ops_doc;
pub mod paths;
pub mod random;
pub mod snapshot;

pub use error::TestError;
