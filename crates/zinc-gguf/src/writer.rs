//! Writing GGUF version 3 files.

use crate::array::Array;
use crate::value::Value;
use bytes::Bytes;
use std::io::{self, Write};
use zinc_quant::GgmlType;

/// A file in the making: metadata and tensors, written in the order they were added.
///
/// Writes what it is given: keys and tensor names given twice give a file that readers refuse.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    metadata: Vec<(String, Value)>,
    tensors: Vec<NewTensor>,
    alignment: Option<u32>,
}

#[derive(Clone, Debug)]
struct NewTensor {
    name: String,
    ty: GgmlType,
    dims: Vec<u64>,
    data: Bytes,
}

impl Writer {
    /// An empty file with the default alignment of 32 bytes.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// Sets the alignment of tensor data and records it as `general.alignment`.
    ///
    /// # Panics
    /// If it is not a power of two.
    pub fn alignment(&mut self, alignment: u32) -> &mut Writer {
        assert!(alignment.is_power_of_two(), "alignment {alignment}");
        self.alignment = Some(alignment);
        self.value("general.alignment", Value::U32(alignment))
    }

    /// Adds a key.
    pub fn value(&mut self, key: &str, value: Value) -> &mut Writer {
        self.metadata.push((key.to_owned(), value));
        self
    }

    /// Adds a tensor; `dims` has the row length first.
    ///
    /// # Panics
    /// If `dims` is not one to four sizes or `data` is not the bytes of that many elements.
    pub fn tensor(
        &mut self,
        name: &str,
        ty: GgmlType,
        dims: &[u64],
        data: impl Into<Bytes>,
    ) -> &mut Writer {
        let data = data.into();
        assert!((1..=4).contains(&dims.len()), "{name}: {dims:?}");
        let n_elems = dims.iter().product::<u64>() as usize;
        assert_eq!(ty.row_bytes(n_elems), Some(data.len()), "{name}: bytes of {dims:?} {ty}");
        self.tensors.push(NewTensor { name: name.to_owned(), ty, dims: dims.to_vec(), data });
        self
    }

    /// The file in memory.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut file = self.header();
        for tensor in &self.tensors {
            file.resize(self.padded(file.len() as u64) as usize, 0);
            file.extend_from_slice(&tensor.data);
        }
        file
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let header = self.header();
        out.write_all(&header)?;
        let mut position = header.len() as u64;
        for tensor in &self.tensors {
            let padding = self.padded(position) - position;
            io::copy(&mut io::Read::take(io::repeat(0), padding), out)?;
            out.write_all(&tensor.data)?;
            position += padding + tensor.data.len() as u64;
        }
        Ok(())
    }

    fn padded(&self, position: u64) -> u64 {
        position.next_multiple_of(u64::from(self.alignment.unwrap_or(32)))
    }

    fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_string(&mut out, key.as_bytes());
            out.extend(value.value_type().id().to_le_bytes());
            put_value(&mut out, value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            put_string(&mut out, tensor.name.as_bytes());
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            for dim in &tensor.dims {
                out.extend(dim.to_le_bytes());
            }
            out.extend(tensor.ty.id().to_le_bytes());
            offset = self.padded(offset);
            out.extend(offset.to_le_bytes());
            offset += tensor.data.len() as u64;
        }
        out
    }
}

fn put_string(out: &mut Vec<u8>, string: &[u8]) {
    out.extend((string.len() as u64).to_le_bytes());
    out.extend_from_slice(string);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_string(out, v.as_bytes()),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend(array.element_type().id().to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::Scalars(scalars) => out.extend_from_slice(scalars.as_bytes()),
        Array::Strings(strings) => out.extend_from_slice(strings.as_bytes()),
        Array::Arrays(arrays) => arrays.iter().for_each(|inner| put_array(out, inner)),
    }
}
