//! zinc-models
