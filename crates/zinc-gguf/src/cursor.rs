//! Bounds-checked reading of a file's bytes, with errors that name the field.

use crate::GgufError;
use bytes::Bytes;
use std::fmt;

/// What is being read, formatted only when an error needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Field<'a> {
    Magic,
    Version,
    TensorCount,
    KeyCount,
    Key(u64),
    Value(&'a str),
    TensorName(u64),
    Tensor(&'a str),
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Magic => write!(f, "magic"),
            Field::Version => write!(f, "version"),
            Field::TensorCount => write!(f, "tensor count"),
            Field::KeyCount => write!(f, "metadata key count"),
            Field::Key(i) => write!(f, "metadata key #{i}"),
            Field::Value(key) => write!(f, "value of metadata key {:?}", abbreviate(key)),
            Field::TensorName(i) => write!(f, "name of tensor #{i}"),
            Field::Tensor(name) => write!(f, "description of tensor {name:?}"),
        }
    }
}

/// A key as messages show it: keys may have 64 KB.
pub(crate) fn abbreviate(key: &str) -> String {
    match key.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &key[..end]),
        None => key.to_owned(),
    }
}

/// A position in the file. Every method either advances past what it returns or fails.
pub(crate) struct Cursor<'a> {
    file: &'a Bytes,
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(file: &'a Bytes) -> Cursor<'a> {
        Cursor { file, position: 0 }
    }

    pub(crate) fn offset(&self) -> u64 {
        self.position as u64
    }

    /// A second cursor at the same position.
    pub(crate) fn fork(&self) -> Cursor<'a> {
        Cursor { file: self.file, position: self.position }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.file.len() - self.position
    }

    pub(crate) fn bytes(&mut self, n_bytes: u64, field: Field) -> Result<&'a [u8], GgufError> {
        let start = self.position;
        match usize::try_from(n_bytes) {
            Ok(length) if length <= self.remaining() => {
                self.position += length;
                Ok(&self.file[start..self.position])
            }
            _ => Err(GgufError::Truncated {
                field: field.to_string(),
                offset: self.offset(),
                needed: n_bytes,
                available: self.remaining() as u64,
            }),
        }
    }

    /// Like [`Cursor::bytes`], sharing ownership of the file instead of borrowing it.
    pub(crate) fn shared(&mut self, n_bytes: u64, field: Field) -> Result<Bytes, GgufError> {
        let slice = self.bytes(n_bytes, field)?;
        Ok(self.file.slice_ref(slice))
    }

    pub(crate) fn array<const N: usize>(&mut self, field: Field) -> Result<[u8; N], GgufError> {
        let mut raw = [0; N];
        raw.copy_from_slice(self.bytes(N as u64, field)?);
        Ok(raw)
    }

    pub(crate) fn u32(&mut self, field: Field) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: Field) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A count of items of which each takes at least `min_bytes` more bytes of the file: refusing
    /// larger counts here is what bounds every allocation made for them.
    pub(crate) fn count(&mut self, min_bytes: u64, field: Field) -> Result<u64, GgufError> {
        let offset = self.offset();
        let count = self.u64(field)?;
        let available = self.remaining() as u64;
        if count > available / min_bytes {
            return Err(GgufError::CountTooLarge {
                field: field.to_string(),
                offset,
                count,
                available,
            });
        }
        Ok(count)
    }

    /// A length-prefixed string of any bytes.
    pub(crate) fn string_bytes(&mut self, field: Field) -> Result<&'a [u8], GgufError> {
        let length = self.u64(field)?;
        self.bytes(length, field)
    }

    /// A length-prefixed UTF-8 string, validated on the copy.
    pub(crate) fn string(&mut self, field: Field) -> Result<String, GgufError> {
        let offset = self.offset();
        let bytes = self.string_bytes(field)?.to_vec();
        String::from_utf8(bytes).map_err(|error| GgufError::NotUtf8 {
            field: field.to_string(),
            offset: offset + 8 + error.utf8_error().valid_up_to() as u64,
        })
    }

    /// A string that messages and indices will hold, hence of limited length.
    pub(crate) fn name(&mut self, max_bytes: u64, field: Field) -> Result<String, GgufError> {
        let offset = self.offset();
        let length = self.fork().u64(field)?;
        if length > max_bytes {
            return Err(GgufError::NameTooLong {
                field: field.to_string(),
                offset,
                length,
                max_bytes,
            });
        }
        self.string(field)
    }
}
