//! zinc-cpu
