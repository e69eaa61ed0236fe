//! The CPU backend.
mod kernels;
mod simd;
