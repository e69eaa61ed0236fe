//! From token ids to text: the engine between a model file and a device.
//!
//! A [`Model`] is an opened GGUF file; a [`LoadedModel`] has given its weights to a device. On it
//! an [`Engine`] serves [`Request`]s and reports [`Event`]s, an [`Evaluator`] computes given tokens
//! and returns logits or any tensor of the plan, and an [`MtpHead`] drafts tokens ahead of it.
//!
//! **Contract.** Nothing here knows a device's kind or a model family's name, and the only way to
//! compute is a plan that a device compiled. What is asked for is checked when it is asked for and
//! refused with the numbers: nothing is truncated or ignored. Results do not depend on chunk sizes,
//! on what else runs, or on what a cache held before. No threads, no I/O beyond opening the model.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use zinc_engine::{Engine, EngineOptions, Event, LoadedModel, Model, Request};
//! use zinc_token::EncodeOptions;
//!
//! # fn main() -> Result<(), zinc_engine::EngineError> {
//! let model = Arc::new(Model::open("model.gguf".as_ref())?);
//! let options = EncodeOptions { add_special: true, ..EncodeOptions::default() };
//! let prompt = model.tokenizer().encode("Once upon a time", options);
//!
//! let device = Arc::new(zinc_reference::ReferenceDevice::new());
//! let loaded = Arc::new(LoadedModel::load(model, device, &mut |_done, _total| {})?);
//! let mut engine = Engine::new(loaded, &EngineOptions::default())?;
//! engine.submit(Request { prompt, max_tokens: Some(100), ..Request::default() })?;
//! while !engine.is_idle() {
//!     engine.step(&mut |event| {
//!         if let Event::Token { text, .. } = event {
//!             print!("{text}");
//!         }
//!     })?;
//! }
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod activations;
mod cache;
mod cache_shape;
mod draft;
mod ends;
mod engine;
mod error;
mod evaluate;
mod generation;
pub mod kv;
mod lane;
mod matcher;
mod memory;
mod model;
pub mod mtp;
mod options;
mod pooling;
mod profile;
mod request;
mod routers;
mod runner;
pub mod sampler;
pub mod scheduler;
pub mod sequence;
mod stats;
pub mod steer;
mod step;
pub mod stop;

pub use activations::ActivationSums;
pub use cache_shape::CacheRows;
pub use draft::{DraftSource, Speculation};
pub use engine::Engine;
pub use error::EngineError;
pub use evaluate::{Evaluator, StepRows, Tapped, Taps};
pub use memory::{CacheNeed, LayerNeed, MemoryNeed};
pub use model::Model;
pub use mtp::{Draft, MtpHead, MtpRows};
pub use options::{DEFAULT_N_CTX, EngineOptions, KV_TYPES};
pub use profile::{OpProfile, Phase, PlanProfile};
pub use request::{Event, Pooling, Request, Usage};
pub use routers::Router;
pub use runner::LoadedModel;
pub use sampler::SamplingParams;
pub use sequence::{FinishReason, SequenceId};
pub use stats::{DraftStats, Stats};
pub use steer::{Allowed, Steer, SteerError};
