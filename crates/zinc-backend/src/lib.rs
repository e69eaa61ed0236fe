//! zinc-backend
