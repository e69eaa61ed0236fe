//! zinc-reference
