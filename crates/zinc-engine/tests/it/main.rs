//! The engine against golden data and against itself.

mod alloc;
mod fake;
mod generate;
mod golden;
mod safetensors;
mod support;
