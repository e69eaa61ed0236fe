//! Making a smaller model file of a larger one: which tensor gets which type, and the work itself.

pub mod convert;
pub mod file_type;
pub mod importance;
pub mod policy;

pub use file_type::FileType;
