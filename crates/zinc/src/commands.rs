//! One file per command: its flags and what it does.

pub mod bench;
pub mod chat;
pub mod completions;
pub mod diff;
pub mod doctor;
pub mod imatrix;
pub mod inspect;
pub mod logits;
pub mod model;
pub mod perplexity;
pub mod quantize;
pub mod run;
pub mod serve;
pub mod template;
pub mod tokenize;
