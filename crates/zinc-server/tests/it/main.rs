//! The server over real sockets, with the built-in model on the CPU device and plain TCP clients.

#![allow(clippy::unwrap_used)]

mod answers;
mod catalog;
mod conversations;
mod faults;
mod framing;
mod lifecycle;
mod limits;
mod random;
mod refusals;
mod support;
