//! Metadata values and how they are read.

use crate::GgufError;
use crate::array::Array;
use crate::cursor::{Cursor, Field};
use std::fmt;

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
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64]
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

/// Reads the id of a value type.
pub(crate) fn read_type(cursor: &mut Cursor, field: Field) -> Result<ValueType, GgufError> {
    let offset = cursor.offset();
    let id = cursor.u32(field)?;
    ValueType::from_id(id).ok_or_else(|| GgufError::UnknownValueType {
        field: field.to_string(),
        offset,
        id,
    })
}

/// Refuses raw bools that are neither 0 nor 1; other types pass.
pub(crate) fn check_bools(
    ty: ValueType,
    raw: &[u8],
    field: Field,
    offset: u64,
) -> Result<(), GgufError> {
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

/// The value whose bytes are `raw`, of the type's length: all callers slice by [`ValueType::scalar_bytes`].
pub(crate) fn scalar(ty: ValueType, raw: &[u8]) -> Value {
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
