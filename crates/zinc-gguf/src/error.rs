//! The crate's error type.

use std::io;
use std::path::PathBuf;
use zinc_quant::GgmlType;

/// Why a file was refused, or a metadata value is not what was asked for.
///
/// `offset` is the byte position in the file (of the shard, for split files).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // The messages say what each field is.
pub enum GgufError {
    /// Any of the errors below, with the file it occurred in.
    #[error("{}: {source}", path.display())]
    InFile { path: PathBuf, source: Box<GgufError> },
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("is {what}, not a regular file; pass the path of a .gguf file")]
    NotAFile { what: &'static str },
    #[error("the file is empty; was the download interrupted?")]
    Empty,
    #[error("not a GGUF file: it begins with {found:02x?}, GGUF files with the letters \"GGUF\"")]
    BadMagic { found: [u8; 4] },
    #[error("big-endian GGUF is not supported; convert the model for little-endian machines")]
    BigEndian,
    #[error(
        "GGUF version {version} is not supported (2 and 3 are); \
         {}", if *.version < 2 { "convert the model again with current tools" } else { "a newer zinc may read it" }
    )]
    UnsupportedVersion { version: u32 },
    #[error(
        "{field} at byte {offset} needs {needed} bytes, only {available} are left; \
         the file is truncated or damaged"
    )]
    Truncated { field: String, offset: u64, needed: u64, available: u64 },
    #[error(
        "{field} at byte {offset}: count {count} is more than {available} remaining bytes can hold"
    )]
    CountTooLarge { field: String, offset: u64, count: u64, available: u64 },
    #[error("{field} at byte {offset} has {length} bytes, at most {max_bytes} are allowed")]
    NameTooLong { field: String, offset: u64, length: u64, max_bytes: u64 },
    #[error("{field} at byte {offset} is not valid UTF-8")]
    NotUtf8 { field: String, offset: u64 },
    #[error("{field} at byte {offset} is {found}, a bool is 0 or 1")]
    BadBool { field: String, offset: u64, found: u8 },
    #[error("{field} at byte {offset}: unknown value type {id}")]
    UnknownValueType { field: String, offset: u64, id: u32 },
    #[error("{field} at byte {offset}: arrays are nested more than {limit} deep")]
    NestedTooDeep { field: String, offset: u64, limit: usize },
    #[error("metadata key {key:?} at byte {offset} occurs twice")]
    DuplicateKey { key: String, offset: u64 },
    #[error("general.alignment is {found}, it must be a power of two")]
    BadAlignment { found: u64 },
    #[error("tensor name {name:?} occurs twice, the second time for the data at byte {offset}")]
    DuplicateTensor { name: String, offset: u64 },
    #[error("tensor {name:?} at byte {offset} has {n_dims} dimensions, at most 4 are allowed")]
    TooManyDims { name: String, offset: u64, n_dims: u32 },
    #[error("tensor {name:?} at byte {offset}: dimension {axis} is 0")]
    ZeroDim { name: String, offset: u64, axis: usize },
    #[error("tensor {name:?} at byte {offset}: the size of {dims:?} {ty} overflows")]
    SizeOverflow { name: String, offset: u64, dims: Vec<u64>, ty: GgmlType },
    #[error(
        "tensor {name:?} at byte {offset}: rows of {n_elems} elements do not fill whole {ty} blocks of {}",
        ty.block_len()
    )]
    PartialBlock { name: String, offset: u64, n_elems: u64, ty: GgmlType },
    #[error(
        "tensor {name:?} at byte {offset}: unknown tensor type {id}; \
         the format was withdrawn or is newer than this zinc"
    )]
    UnknownTensorType { name: String, offset: u64, id: u32 },
    #[error(
        "tensor {name:?} at byte {offset}: its data offset {found} is not a multiple of the alignment {alignment}"
    )]
    Misaligned { name: String, offset: u64, found: u64, alignment: u64 },
    #[error(
        "tensor {name:?} lies at bytes {start}..{end}, the file ends at {file_len}; \
         it is truncated: download it again"
    )]
    TensorPastEnd { name: String, start: u64, end: u128, file_len: u64 },
    #[error("tensors {first:?} and {second:?} overlap at byte {offset}")]
    Overlap { first: String, second: String, offset: u64 },
    #[error("metadata key {key:?} is missing")]
    MissingKey { key: String },
    #[error("metadata key {key:?} is {found}, expected {expected}")]
    WrongType { key: String, found: String, expected: &'static str },
    #[error("metadata key {key:?} {found}, out of range for {expected}")]
    OutOfRange { key: String, found: String, expected: &'static str },
    #[error(
        "this is one of {count} parts of a split model; open it by path, with the other parts beside it"
    )]
    SplitInMemory { count: u64 },
    #[error("this is part {number} of a split model; open the first part, {}", first.display())]
    NotFirstShard { number: u64, first: PathBuf },
    #[error("split model: {reason}")]
    Split { reason: String },
    #[error("importance matrix: {reason}")]
    Imatrix { reason: String },
}

impl GgufError {
    /// The same error, naming the file.
    pub(crate) fn in_file(self, path: &std::path::Path) -> GgufError {
        GgufError::InFile { path: path.to_owned(), source: Box::new(self) }
    }
}
