//! zinc-engine
