//! The HTTP server.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod auth;
mod error;
mod ids;
mod metrics;
mod options;
mod reply;
pub mod schema;

pub use error::{ApiError, Dialect};
pub use options::{Config, ConfigError, KnownModel, Limits, ModelDefaults, ServeOptions};
