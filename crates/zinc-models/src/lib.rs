//! Model families: GGUF metadata to a [`zinc_plan::Plan`].
//!
//! [`Model::from_gguf`] reads the configuration and checks it; [`Model::plan`] builds the plan for
//! given limits. One file per family, blocks shared by all, a registry line each. Nothing here
//! knows a device, and nothing outside this crate knows a family's name.

mod blocks;
mod config;
mod deepseek2;
mod error;
mod gemma2;
mod gemma3;
mod gemma4;
mod gpt_oss;
mod graph;
mod llama;
mod model;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen35;
mod qwen3_moe;
mod qwen3_next;
mod registry;
mod rope;

pub use config::{
    DeltaNetConfig, ExpertConfig, LatentConfig, LayerConfig, LocalRope, ModelConfig, RopeScaling,
};
pub use error::ModelError;
pub use model::{Model, PlanOptions};
pub use registry::architectures;
