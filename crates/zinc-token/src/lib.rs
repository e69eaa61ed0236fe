//! zinc-token
pub mod template;
