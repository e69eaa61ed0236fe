//! Block formats of GGUF tensors: names, sizes, byte layouts, reference dequantisers and quantisers.
//!
//! Contract:
//! - [`GgmlType`] knows every tensor type of the format, so that any file can be indexed and sized; and
//!   [`GgmlType::F8_E4M3`], which only caches have.
//! - [`dequantize`] is the definition of what a block's bytes mean. It is scalar, allocation-free and
//!   bit-exact with ggml's reference; kernels are tested against it.
//! - [`quantize`] is the deterministic reference quantiser of the simple formats, bit-exact with ggml's;
//!   the cache and activations are quantised with it.
//! - [`quantize_weights`] searches for the block of least weighted error; model files are made with it.
//! - Block structs ([`Q4K`], [`Q8_0`], …) have alignment 1 and no padding, so any byte slice whose
//!   length is a multiple of the block size can be viewed as blocks with [`bytemuck::cast_slice`].
//!
//! Layouts follow `ggml/src/ggml-common.h` of llama.cpp, the only published definition of the format.
//! All multi-byte fields are little-endian.

mod block;
mod convert;
mod error;
mod float;
mod fp4;
mod fp8;
mod ggml_type;
mod iq1;
mod iq2;
mod iq3;
mod iq4;
mod iq_grids;
mod q1_0;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_k;
mod q5_0;
mod q5_k;
mod q6_k;
mod q8_0;
mod q8_k;
mod search;
mod ternary;

pub use block::{Block, F16Bits, QK_K, QuantizeBlock};
pub use convert::{dequantize, quantize};
pub use error::QuantError;
pub use fp4::{FP4_VALUES, Mxfp4, Nvfp4};
pub use fp8::{e4m3_from_f32, e4m3_to_f32};
pub use ggml_type::GgmlType;
pub use iq1::{Iq1M, Iq1S};
pub use iq2::{Iq2S, Iq2Xs, Iq2Xxs};
pub use iq3::{Iq3S, Iq3Xxs};
pub use iq4::{IQ4_VALUES, Iq4Nl, Iq4Xs};
pub use q1_0::{Q1_0, Q2_0};
pub use q2_k::Q2K;
pub use q3_k::Q3K;
pub use q4_0::{Q4_0, Q4_1};
pub use q4_k::{Q4K, scale_min};
pub use q5_0::{Q5_0, Q5_1};
pub use q5_k::Q5K;
pub use q6_k::Q6K;
pub use q8_0::{Q8_0, Q8_1};
pub use q8_k::Q8K;
pub use search::quantize_weights;
pub use ternary::{Tq1_0, Tq2_0};
