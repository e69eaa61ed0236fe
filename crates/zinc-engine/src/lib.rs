//! zinc-engine

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod matcher;
pub mod sampler;
pub mod stop;
