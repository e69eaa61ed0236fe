//! Opening a model: one file, or the shards of a split one.

use crate::GgufError;
use crate::cursor::{Cursor, Field};
use crate::metadata::Metadata;
use crate::tensors::{self, TensorEntry};
use crate::{mmap, split};
use bytes::Bytes;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

const DEFAULT_ALIGNMENT: u64 = 32;

/// A model file, or all files of a split model, indexed. Cheap to hold: weights stay in the mapping.
#[derive(Debug)]
pub struct Gguf {
    shards: Vec<Shard>,
    metadata: Metadata,
    tensors: Vec<TensorEntry>,
    by_name: HashMap<String, usize>,
}

/// One file of a model.
#[derive(Clone)]
pub struct Shard {
    /// Where it was opened; `None` for a file in memory.
    pub path: Option<PathBuf>,
    /// The whole file.
    pub bytes: Bytes,
    /// GGUF version, 2 or 3.
    pub version: u32,
    /// Alignment of tensor data, a power of two.
    pub alignment: u64,
    /// Where tensor data begins. Past the end in files without tensors, whose header is not padded.
    pub data_start: u64,
    /// How many of the model's tensors lie in this file.
    pub n_tensors: usize,
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("path", &self.path)
            .field("version", &self.version)
            .field("n_bytes", &self.bytes.len())
            .field("n_tensors", &self.n_tensors)
            .finish_non_exhaustive()
    }
}

impl Gguf {
    /// Maps and indexes the file at `path`. If it is the first part of a split model
    /// (`NAME-00001-of-0000N.gguf`), all parts beside it are opened and checked to belong together.
    ///
    /// # Errors
    /// Always [`GgufError::InFile`], naming the file at fault.
    pub fn open(path: &Path) -> Result<Gguf, GgufError> {
        let first = Parsed::open(path)?;
        let rest = split::other_shards(path, &first.metadata).map_err(|e| e.in_file(path))?;
        let mut parts = vec![first];
        for (i, shard_path) in rest.iter().enumerate() {
            let part = Parsed::open(shard_path)?;
            split::check_shard(&part.metadata, i + 1, rest.len() + 1)
                .map_err(|e| e.in_file(shard_path))?;
            parts.push(part);
        }
        let n_tensors = parts.iter().map(|part| part.tensors.len()).sum();
        split::check_tensor_count(&parts[0].metadata, n_tensors).map_err(|e| e.in_file(path))?;
        Gguf::assemble(parts).map_err(|e| e.in_file(path))
    }

    /// Indexes a file in memory, for example a model embedded in the program.
    ///
    /// # Errors
    /// As the crate's documentation says; [`GgufError::SplitInMemory`] for a part of a split model.
    pub fn from_bytes(bytes: Bytes) -> Result<Gguf, GgufError> {
        let parsed = Parsed::parse(bytes, None)?;
        match split::count(&parsed.metadata)? {
            count if count > 1 => Err(GgufError::SplitInMemory { count }),
            _ => Gguf::assemble(vec![parsed]),
        }
    }

    /// GGUF version of the (first) file, 2 or 3.
    pub fn version(&self) -> u32 {
        self.shards[0].version
    }

    /// Alignment of tensor data in the (first) file.
    pub fn alignment(&self) -> u64 {
        self.shards[0].alignment
    }

    /// Size of all files together.
    pub fn n_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes.len() as u64).sum()
    }

    /// The files, at least one.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Metadata of the (first) file.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors in file order, file after file.
    pub fn tensors(&self) -> &[TensorEntry] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    /// The tensor's bytes, a view that keeps the file mapped. Its address is aligned as in the file:
    /// to [`Shard::alignment`] for mapped files, and relative to the buffer for [`Gguf::from_bytes`].
    ///
    /// # Panics
    /// May panic if `tensor` is not one of this file's [`Gguf::tensors`].
    pub fn data(&self, tensor: &TensorEntry) -> Bytes {
        let start = tensor.offset as usize;
        self.shards[tensor.shard].bytes.slice(start..start + tensor.n_bytes as usize)
    }

    /// Joins files whose membership has been checked.
    fn assemble(parts: Vec<Parsed>) -> Result<Gguf, GgufError> {
        let mut gguf = Gguf {
            shards: Vec::with_capacity(parts.len()),
            metadata: Metadata::default(),
            tensors: Vec::new(),
            by_name: HashMap::new(),
        };
        for (shard, part) in parts.into_iter().enumerate() {
            if shard == 0 {
                gguf.metadata = part.metadata;
            }
            gguf.shards.push(part.shard);
            for mut tensor in part.tensors {
                tensor.shard = shard;
                let index = gguf.tensors.len();
                if gguf.by_name.insert(tensor.name.clone(), index).is_some() {
                    return Err(GgufError::DuplicateTensor {
                        name: tensor.name,
                        offset: tensor.offset,
                    });
                }
                gguf.tensors.push(tensor);
            }
        }
        Ok(gguf)
    }
}

/// One file, read on its own.
struct Parsed {
    shard: Shard,
    metadata: Metadata,
    tensors: Vec<TensorEntry>,
}

impl Parsed {
    fn open(path: &Path) -> Result<Parsed, GgufError> {
        mmap::map(path)
            .and_then(|bytes| Parsed::parse(bytes, Some(path.to_owned())))
            .map_err(|e| e.in_file(path))
    }

    fn parse(bytes: Bytes, path: Option<PathBuf>) -> Result<Parsed, GgufError> {
        let mut cursor = Cursor::new(&bytes);
        let version = read_version(&mut cursor)?;
        let n_tensors = tensors::read_count(&mut cursor)?;
        let n_keys = Metadata::read_count(&mut cursor)?;
        let metadata = Metadata::read(&mut cursor, n_keys)?;
        let alignment = alignment(&metadata)?;
        let file_len = bytes.len() as u64;
        let (tensors, data_start) = tensors::read(&mut cursor, n_tensors, alignment, file_len)?;
        Ok(Parsed {
            shard: Shard { path, version, alignment, data_start, n_tensors: tensors.len(), bytes },
            metadata,
            tensors,
        })
    }
}

fn read_version(cursor: &mut Cursor) -> Result<u32, GgufError> {
    if cursor.remaining() == 0 {
        return Err(GgufError::Empty);
    }
    let found = cursor.array(Field::Magic)?;
    if found != *b"GGUF" {
        return Err(GgufError::BadMagic { found });
    }
    match cursor.u32(Field::Version)? {
        version @ 2..=3 => Ok(version),
        // A small number in the other byte order: versions 1 to 65535 leave the low half empty.
        version if version & 0xFFFF == 0 && version != 0 => Err(GgufError::BigEndian),
        version => Err(GgufError::UnsupportedVersion { version }),
    }
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    match metadata.u64("general.alignment")? {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(alignment) if alignment.is_power_of_two() => Ok(alignment),
        Some(found) => Err(GgufError::BadAlignment { found }),
    }
}
