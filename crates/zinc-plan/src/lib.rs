//! zinc-plan
