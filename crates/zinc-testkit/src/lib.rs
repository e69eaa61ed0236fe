//! zinc-testkit
