//! Metadata values and how they are read.

use crate::GgufError;
use crate::cursor::{Cursor, Field};
use bytes::Bytes;
use std::fmt;

/// Arrays in arrays beyond this depth are refused; no known file goes beyond 1.
pub(crate) const MAX_ARRAY_DEPTH: usize = 4;

/// Type of a metadata value, with the id GGUF stores.
#[allow(missing_docs)] // The format's own names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// The type with this GGUF id.
    pub fn from_id(id: u32) -> Option<ValueType> {
        use ValueType::*;
        [
            U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64,
        ]
        .into_iter()
        .find(|ty| ty.id() == id)
    }

    /// The id GGUF stores.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// Name of several values, for messages: "an array of strings".
    pub(crate) fn plural(self) -> &'static str {
        match self {
            ValueType::String => "strings",
            ValueType::Array => "arrays",
            ValueType::Bool => "bools",
            _ => self.name(),
        }
    }

    /// Whether values are integers.
    pub const fn is_integer(self) -> bool {
        use ValueType::*;
        matches!(self, U8 | I8 | U16 | I16 | U32 | I32 | U64 | I64)
    }

    /// Bytes of one value; `None` for strings and arrays.
    pub const fn scalar_bytes(self) -> Option<usize> {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            String | Array => None,
        }
    }
}

impl ValueType {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        use ValueType::*;
        match self {
            U8 => "u8",
            I8 => "i8",
            U16 => "u16",
            I16 => "i16",
            U32 => "u32",
            I32 => "i32",
            F32 => "f32",
            Bool => "bool",
            String => "string",
            Array => "array",
            U64 => "u64",
            I64 => "i64",
            F64 => "f64",
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One metadata value.
#[allow(missing_docs)] // The format's own names.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// The value's type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// The value if it is an integer of any width.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// Reads the value of `key`, type id first.
    pub(crate) fn read(cursor: &mut Cursor, key: &str) -> Result<Value, GgufError> {
        let field = Field::Value(key);
        let ty = read_type(cursor, field)?;
        match ty {
            ValueType::String => Ok(Value::String(cursor.string(field)?)),
            ValueType::Array => Ok(Value::Array(Array::read(cursor, field, 1)?)),
            _ => {
                let offset = cursor.offset();
                let raw = cursor.bytes(ty.scalar_bytes().unwrap_or(0) as u64, field)?;
                check_bools(ty, raw, field, offset)?;
                Ok(scalar(ty, raw))
            }
        }
    }
}

fn read_type(cursor: &mut Cursor, field: Field) -> Result<ValueType, GgufError> {
    let offset = cursor.offset();
    let id = cursor.u32(field)?;
    ValueType::from_id(id).ok_or_else(|| GgufError::UnknownValueType {
        field: field.to_string(),
        offset,
        id,
    })
}

fn check_bools(ty: ValueType, raw: &[u8], field: Field, offset: u64) -> Result<(), GgufError> {
    let bad = raw.iter().position(|&byte| byte > 1);
    match bad.filter(|_| ty == ValueType::Bool) {
        None => Ok(()),
        Some(i) => Err(GgufError::BadBool {
            field: field.to_string(),
            offset: offset + i as u64,
            found: raw[i],
        }),
    }
}

/// `raw` has the type's length: all callers slice by [`ValueType::scalar_bytes`].
fn scalar(ty: ValueType, raw: &[u8]) -> Value {
    fn le<const N: usize>(raw: &[u8]) -> [u8; N] {
        let mut array = [0; N];
        array.copy_from_slice(raw);
        array
    }
    match ty {
        ValueType::U8 => Value::U8(raw[0]),
        ValueType::I8 => Value::I8(raw[0] as i8),
        ValueType::U16 => Value::U16(u16::from_le_bytes(le(raw))),
        ValueType::I16 => Value::I16(i16::from_le_bytes(le(raw))),
        ValueType::U32 => Value::U32(u32::from_le_bytes(le(raw))),
        ValueType::I32 => Value::I32(i32::from_le_bytes(le(raw))),
        ValueType::F32 => Value::F32(f32::from_le_bytes(le(raw))),
        ValueType::Bool => Value::Bool(raw[0] != 0),
        ValueType::U64 => Value::U64(u64::from_le_bytes(le(raw))),
        ValueType::I64 => Value::I64(i64::from_le_bytes(le(raw))),
        ValueType::F64 => Value::F64(f64::from_le_bytes(le(raw))),
        ValueType::String | ValueType::Array => unreachable!("not a scalar type"),
    }
}

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

    fn read(cursor: &mut Cursor, field: Field, depth: usize) -> Result<Array, GgufError> {
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
        self.raw
            .chunks_exact(self.element_bytes())
            .map(|raw| scalar(self.ty, raw))
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
        StringArray {
            raw: raw.into(),
            ends,
        }
    }
}

impl fmt::Debug for StringArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.iter().map(String::from_utf8_lossy))
            .finish()
    }
}

impl StringArray {
    /// The strings as in the file: each as a 64-bit length and its bytes.
    pub(crate) fn as_bytes(&self) -> &Bytes {
        &self.raw
    }
}
