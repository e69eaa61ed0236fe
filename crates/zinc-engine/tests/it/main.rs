//! The engine against golden data and against itself.

#![allow(clippy::unwrap_used)]

mod activations;
mod alloc;
mod fake;
mod generate;
mod golden;
mod isolation;
mod memory;
mod mtp;
mod reuse;
mod serving;
mod support;
