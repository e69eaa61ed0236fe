//! Metadata arrays: views of the file's bytes, decoded element by element when asked for.

use crate::GgufError;
use crate::cursor::{Cursor, Field};
use crate::value::{Value, ValueType, check_bools, read_type, scalar};
use bytes::Bytes;
use std::fmt;

/// Arrays in arrays beyond this depth are refused; no known file goes beyond 1.
const MAX_ARRAY_DEPTH: usize = 4;

/// A metadata array. Elements stay in the file's bytes; they are decoded when asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Numbers or bools.
    Scalars(Scalars),
    /// Strings of any bytes.
    Strings(StringArray),
    /// Arrays, each of its own type and length.
    Arrays(Vec<Array>),
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::Scalars(scalars) => scalars.len(),
            Array::Strings(strings) => strings.len(),
            Array::Arrays(arrays) => arrays.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Type of the elements.
    pub fn element_type(&self) -> ValueType {
        match self {
            Array::Scalars(scalars) => scalars.element_type(),
            Array::Strings(_) => ValueType::String,
            Array::Arrays(_) => ValueType::Array,
        }
    }

    /// Reads element type, count and elements; `depth` is 1 for an array that is itself a value.
    pub(crate) fn read(
        cursor: &mut Cursor,
        field: Field,
        depth: usize,
    ) -> Result<Array, GgufError> {
        if depth > MAX_ARRAY_DEPTH {
            return Err(GgufError::NestedTooDeep {
                field: field.to_string(),
                offset: cursor.offset(),
                limit: MAX_ARRAY_DEPTH,
            });
        }
        let ty = read_type(cursor, field)?;
        match ty {
            ValueType::String => Ok(Array::Strings(StringArray::read(cursor, field)?)),
            ValueType::Array => {
                // An element is at least a type id and a count.
                let count = cursor.count(4 + 8, field)?;
                (0..count)
                    .map(|_| Array::read(cursor, field, depth + 1))
                    .collect::<Result<_, _>>()
                    .map(Array::Arrays)
            }
            _ => Ok(Array::Scalars(Scalars::read(cursor, ty, field)?)),
        }
    }
}

/// An array of numbers or bools: the file's bytes and a type.
#[derive(Clone, PartialEq)]
pub struct Scalars {
    ty: ValueType,
    raw: Bytes,
}

impl Scalars {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.raw.len() / self.element_bytes()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// Type of the elements; never string or array.
    pub fn element_type(&self) -> ValueType {
        self.ty
    }

    /// Element `i`, if there is one.
    pub fn get(&self, i: usize) -> Option<Value> {
        let mut elements = self.raw.chunks_exact(self.element_bytes());
        elements.nth(i).map(|raw| scalar(self.ty, raw))
    }

    /// The elements in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Value> + '_ {
        self.raw.chunks_exact(self.element_bytes()).map(|raw| scalar(self.ty, raw))
    }

    /// The elements as they lie in the file, little-endian.
    pub fn as_bytes(&self) -> &Bytes {
        &self.raw
    }

    fn element_bytes(&self) -> usize {
        self.ty.scalar_bytes().unwrap_or(1)
    }

    fn read(cursor: &mut Cursor, ty: ValueType, field: Field) -> Result<Scalars, GgufError> {
        let element_bytes = ty.scalar_bytes().unwrap_or(1) as u64;
        let count = cursor.count(element_bytes, field)?;
        let offset = cursor.offset();
        let raw = cursor.shared(count * element_bytes, field)?;
        check_bools(ty, &raw, field, offset)?;
        Ok(Scalars { ty, raw })
    }
}

impl fmt::Debug for Scalars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

macro_rules! scalars_from {
    ($($number:ty => $ty:ident),*) => {$(
        impl From<&[$number]> for Array {
            fn from(elements: &[$number]) -> Array {
                let raw = elements.iter().flat_map(|v| v.to_le_bytes()).collect();
                Array::Scalars(Scalars { ty: ValueType::$ty, raw })
            }
        }
    )*};
}
scalars_from!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32,
    f32 => F32, u64 => U64, i64 => I64, f64 => F64);

impl From<&[bool]> for Array {
    fn from(elements: &[bool]) -> Array {
        Array::Scalars(Scalars {
            ty: ValueType::Bool,
            raw: elements.iter().map(|&v| u8::from(v)).collect(),
        })
    }
}

/// An array of byte strings: the file's bytes and where each string ends.
///
/// Eight bytes of memory per string beside the file itself, so a vocabulary of 260 000 tokens costs 2 MB.
#[derive(Clone, PartialEq)]
pub struct StringArray {
    /// The strings as in the file, each behind its 8-byte length.
    raw: Bytes,
    /// `ends[i]`: end of string i in `raw`, hence where the length of string i + 1 begins.
    ends: Vec<usize>,
}

impl StringArray {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no strings.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String `i`.
    ///
    /// # Panics
    /// If `i` is not less than [`StringArray::len`], like indexing a slice.
    pub fn get(&self, i: usize) -> &[u8] {
        let previous_end = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.raw[previous_end + 8..self.ends[i]]
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }

    /// The strings as in the file: each as a 64-bit length and its bytes.
    pub(crate) fn as_bytes(&self) -> &Bytes {
        &self.raw
    }

    fn read(cursor: &mut Cursor, field: Field) -> Result<StringArray, GgufError> {
        let count = cursor.count(8, field)?; // A string is at least its length.
        let start = cursor.offset();
        // Grown, not reserved: a hostile count that the lengths contradict then costs nothing.
        let mut ends = Vec::new();
        let mut walk = cursor.fork();
        for _ in 0..count {
            walk.string_bytes(field)?;
            ends.push((walk.offset() - start) as usize);
        }
        ends.shrink_to_fit();
        let raw = cursor.shared(walk.offset() - start, field)?;
        Ok(StringArray { raw, ends })
    }
}

impl<S: AsRef<[u8]>> FromIterator<S> for StringArray {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> StringArray {
        let mut raw = Vec::new();
        let mut ends = Vec::new();
        for string in strings {
            raw.extend((string.as_ref().len() as u64).to_le_bytes());
            raw.extend(string.as_ref());
            ends.push(raw.len());
        }
        StringArray { raw: raw.into(), ends }
    }
}

impl fmt::Debug for StringArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(String::from_utf8_lossy)).finish()
    }
}
