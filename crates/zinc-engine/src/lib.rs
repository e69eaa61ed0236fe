//! zinc-engine

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod kv;
mod matcher;
pub mod sampler;
pub mod scheduler;
pub mod sequence;
pub mod stop;
