//! The routes, one file per API.

pub mod catalog;
pub mod chat;
pub mod common;
pub mod completions;
pub mod embeddings;
pub mod messages;
pub mod models;
pub mod native;
pub mod responses;
