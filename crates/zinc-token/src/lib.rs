//! zinc-token
