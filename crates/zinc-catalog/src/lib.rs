//! Finds, downloads, verifies and keeps model files.
//!
//! Contract: a pull ends with a whole file that has the hash it must have, under its name, or in one
//! error that says what to do; what came before the error is kept, also when the process is killed, and
//! the next pull goes on from there. Files are never changed once they have their name. Names, hashes
//! and sizes from servers and from other programs' caches are untrusted: no path leaves its directory,
//! nothing is allocated for a length that a server claims, and a token goes to the Hub's host only.
//!
//! - [`Catalog`]: models known by name, from one readable file that is part of the program.
//! - [`Reference`]: what people type after `-m`.
//! - [`Puller`]: plans a pull and does it; reads the header of a remote file alone ([`StandIn`]).
//! - [`Store`]: the records of models on this machine.
//! - [`Fit`]: whether a model fits on a device, from the engine's memory plan.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod catalog;
mod download;
mod error;
mod fit;
mod foreign;
mod header;
mod home;
mod http;
mod hub;
mod import;
mod names;
mod part;
mod pull;
mod ranges;
mod reference;
mod size;
mod store;

pub use catalog::{
    CATALOG_BYTES_MAX, CacheShape, Catalog, Entry, PinnedFile, Quant, Sampling, Thinking,
};
pub use download::Step;
pub use error::CatalogError;
pub use fit::Fit;
pub use foreign::Found;
pub use header::StandIn;
pub use home::{Home, hub_token};
pub use http::{Auth, Http, Patience};
pub use hub::{Hub, Repo, RepoFile, Variant};
pub use import::ImportMode;
pub use names::{BUILTIN_NAME, PartName, bits_per_weight};
pub use pull::{Event, Listener, Plan, PlannedFile, Puller};
pub use reference::{HubReference, Reference};
pub use reqwest::Url;
pub use size::free_space;
pub use store::{Leftover, LeftoverKind, Record, RecordedFile, Source, Store};
