//! Tokenizers, streaming decode and chat templates, all from the metadata of a GGUF file.
//!
//! Contract: a [`Tokenizer`] gives the ids that the model was trained on, exactly. Building one may fail with a
//! [`TokenError`]; encoding and decoding cannot, whatever text or ids they get, and take time linear in them up to a
//! logarithm. Text becomes control tokens only where the caller asks for it ([`EncodeOptions::parse_special`]).
//!
//! Text passes through three steps: special tokens are cut out (`special.rs`), the rest is cut into words
//! (`pretokenizer.rs`), and each word is merged from bytes or characters into tokens (`encoder.rs`, with the rules of
//! `bpe.rs` or `spm.rs`).

mod bpe;
mod cache;
mod encoder;
mod error;
mod merge;
mod pretokenizer;
mod special;
mod spm;
mod stream;
pub mod template;
mod tokenizer;
mod unicode;
mod vocab;

pub use error::TokenError;
pub use special::Part;
pub use stream::{DecodeOptions, StreamDecoder};
pub use tokenizer::{EncodeOptions, Tokenizer};
pub use vocab::{Roles, TokenKind, Vocab, VocabSpec};
