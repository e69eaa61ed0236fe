//! The key-value pairs of a file and typed access to them.

use crate::GgufError;
use crate::array::{Array, StringArray};
use crate::cursor::{Cursor, Field, abbreviate};
use crate::value::Value;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Metadata in file order, with a hashed index.
///
/// The typed getters return `Ok(None)` for an absent key and an error naming key and type for a value
/// of another kind. Integer getters accept every integer width whose value fits, because writers differ.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

/// The format's limit.
const MAX_KEY_BYTES: u64 = 65_535;

/// A key is at least its length, a type id and one byte of value.
const MIN_ENTRY_BYTES: u64 = 8 + 4 + 1;

impl Metadata {
    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&i| &self.entries[i].1)
    }

    /// All pairs in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> + '_ {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// An integer that fits u32.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.integer(key, "an integer in the range of u32")
    }

    /// An integer that fits u64.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.integer(key, "an integer in the range of u64")
    }

    /// A floating point number; an f64 is rounded.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(&Value::F32(value)) => Ok(Some(value)),
            Some(&Value::F64(value)) => Ok(Some(value as f32)),
            Some(other) => Err(wrong_type(key, other, "a float")),
        }
    }

    /// A bool.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(&Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(key, other, "a bool")),
        }
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(key, other, "a string")),
        }
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&StringArray>, GgufError> {
        const EXPECTED: &str = "an array of strings";
        match self.array(key, EXPECTED)? {
            None => Ok(None),
            Some(Array::Strings(strings)) => Ok(Some(strings)),
            Some(other) => Err(wrong_element(key, other, EXPECTED)),
        }
    }

    /// An array of floats; f64 elements are rounded.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        self.elements(key, "an array of floats", |value| match value {
            Value::F32(value) => Some(value),
            Value::F64(value) => Some(value as f32),
            _ => None,
        })
    }

    /// An array of integers of any width that all fit i32.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, GgufError> {
        self.integers(key, "an array of integers in the range of i32")
    }

    /// An array of integers of any width that all fit u32.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, GgufError> {
        self.integers(key, "an array of integers in the range of u32")
    }

    /// An array of bools.
    pub fn bools(&self, key: &str) -> Result<Option<Vec<bool>>, GgufError> {
        self.elements(key, "an array of bools", |value| match value {
            Value::Bool(value) => Some(value),
            _ => None,
        })
    }

    /// [`Metadata::u32`], an error if absent.
    pub fn require_u32(&self, key: &str) -> Result<u32, GgufError> {
        self.u32(key)?.ok_or_else(|| missing(key))
    }

    /// [`Metadata::u64`], an error if absent.
    pub fn require_u64(&self, key: &str) -> Result<u64, GgufError> {
        self.u64(key)?.ok_or_else(|| missing(key))
    }

    /// [`Metadata::f32`], an error if absent.
    pub fn require_f32(&self, key: &str) -> Result<f32, GgufError> {
        self.f32(key)?.ok_or_else(|| missing(key))
    }

    /// [`Metadata::str`], an error if absent.
    pub fn require_str(&self, key: &str) -> Result<&str, GgufError> {
        self.str(key)?.ok_or_else(|| missing(key))
    }

    /// [`Metadata::strings`], an error if absent.
    pub fn require_strings(&self, key: &str) -> Result<&StringArray, GgufError> {
        self.strings(key)?.ok_or_else(|| missing(key))
    }

    fn integer<T: TryFrom<i128>>(
        &self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let integer = value.as_integer().ok_or_else(|| wrong_type(key, value, expected))?;
        T::try_from(integer)
            .map(Some)
            .map_err(|_| out_of_range(key, format!("is {integer}"), expected))
    }

    fn integers<T: TryFrom<i128>>(
        &self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<Vec<T>>, GgufError> {
        let Some(array) = self.array(key, expected)? else {
            return Ok(None);
        };
        let scalars = match array {
            Array::Scalars(scalars) if scalars.element_type().is_integer() => scalars,
            other => return Err(wrong_element(key, other, expected)),
        };
        let narrow = |(i, value): (usize, Value)| {
            let integer = value.as_integer().unwrap_or(0); // Checked above: all are integers.
            T::try_from(integer)
                .map_err(|_| out_of_range(key, format!("has {integer} at index {i}"), expected))
        };
        let narrowed = scalars.iter().enumerate().map(narrow);
        narrowed.collect::<Result<_, _>>().map(Some)
    }

    fn array(&self, key: &str, expected: &'static str) -> Result<Option<&Array>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(array)),
            Some(other) => Err(wrong_type(key, other, expected)),
        }
    }

    fn elements<T>(
        &self,
        key: &str,
        expected: &'static str,
        convert: impl Fn(Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, GgufError> {
        let Some(array) = self.array(key, expected)? else {
            return Ok(None);
        };
        let elements = match array {
            Array::Scalars(scalars) => scalars.iter().map(convert).collect(),
            Array::Strings(_) | Array::Arrays(_) => None,
        };
        match elements {
            Some(elements) => Ok(Some(elements)),
            None => Err(wrong_element(key, array, expected)),
        }
    }

    /// Reads `count` pairs.
    pub(crate) fn read(cursor: &mut Cursor, count: u64) -> Result<Metadata, GgufError> {
        let mut metadata = Metadata::default();
        for i in 0..count {
            let offset = cursor.offset();
            let key = cursor.name(MAX_KEY_BYTES, Field::Key(i))?;
            let value = Value::read(cursor, &key)?;
            match metadata.index.entry(key) {
                Entry::Occupied(entry) => {
                    let key = abbreviate(entry.key());
                    return Err(GgufError::DuplicateKey { key, offset });
                }
                Entry::Vacant(entry) => {
                    metadata.entries.push((entry.key().clone(), value));
                    entry.insert(metadata.entries.len() - 1);
                }
            }
        }
        Ok(metadata)
    }

    /// Reads the number of pairs, bounded by the bytes left.
    pub(crate) fn read_count(cursor: &mut Cursor) -> Result<u64, GgufError> {
        cursor.count(MIN_ENTRY_BYTES, Field::KeyCount)
    }
}

fn missing(key: &str) -> GgufError {
    GgufError::MissingKey { key: key.to_owned() }
}

fn wrong_type(key: &str, found: &Value, expected: &'static str) -> GgufError {
    GgufError::WrongType { key: key.to_owned(), found: found.value_type().to_string(), expected }
}

fn wrong_element(key: &str, found: &Array, expected: &'static str) -> GgufError {
    GgufError::WrongType {
        key: key.to_owned(),
        found: format!("an array of {}", found.element_type().plural()),
        expected,
    }
}

fn out_of_range(key: &str, found: String, expected: &'static str) -> GgufError {
    GgufError::OutOfRange { key: key.to_owned(), found, expected }
}
