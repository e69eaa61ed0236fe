//! Reading and writing GGUF, the model file format of llama.cpp.
//!
//! Contract: a file is untrusted. Whatever its bytes, [`Gguf::open`] and [`Gguf::from_bytes`] return
//! either a file whose every tensor lies inside it, or a [`GgufError`] that names the field and the
//! byte offset; they never panic, and never allocate more than a small multiple of the file's header.
//! Tensor data is not read, only located: [`Gguf::data`] is a view of the mapping.
//!
//! Format: versions 2 and 3, little-endian, as `gguf.h` of llama.cpp describes it. Decisions where the
//! format leaves room:
//! - keys, tensor names and single string values must be UTF-8; strings in arrays may be any bytes,
//!   since vocabularies hold pieces of characters;
//! - a tensor of zero dimensions is one element, `dims == [1]`; a dimension of zero is refused;
//! - tensors may lie in any order and with gaps, but must be aligned and must not overlap.

mod array;
mod cursor;
mod error;
mod file;
mod imatrix;
mod metadata;
mod mmap;
mod split;
mod tensors;
mod value;
pub mod writer;

pub use array::{Array, Scalars, StringArray};
pub use error::GgufError;
pub use file::{Gguf, Shard};
pub use imatrix::{Imatrix, ImatrixEntry};
pub use metadata::Metadata;
pub use tensors::TensorEntry;
pub use value::{Value, ValueType};
