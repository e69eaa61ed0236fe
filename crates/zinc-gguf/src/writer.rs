//! Writing GGUF version 3 files, from memory or tensor by tensor.

use crate::array::Array;
use crate::value::Value;
use bytes::Bytes;
use std::io::{self, Write};
use zinc_quant::GgmlType;

/// Alignment of tensor data where `general.alignment` does not say otherwise.
const DEFAULT_ALIGNMENT: u32 = 32;

/// A file in the making: metadata and tensors, written in the order they were added.
///
/// Writes what it is given: keys and tensor names given twice give a file that readers refuse.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    header: Header,
    data: Vec<Bytes>,
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
        self.value("general.alignment", Value::U32(alignment))
    }

    /// Adds a key.
    ///
    /// # Panics
    /// If it is `general.alignment` and not a power of two.
    pub fn value(&mut self, key: &str, value: Value) -> &mut Writer {
        self.header.value(key, value);
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
        let n_bytes = self.header.tensor(name, ty, dims);
        assert_eq!(n_bytes, data.len() as u64, "{name}: bytes of {dims:?} {ty}");
        self.data.push(data);
        self
    }

    /// The file in memory.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut file = self.header.to_bytes();
        for data in &self.data {
            file.resize(self.header.padded(file.len() as u64) as usize, 0);
            file.extend_from_slice(data);
        }
        // Readers that take the data section whole expect its last tensor to be padded, too.
        file.resize(self.header.padded(file.len() as u64) as usize, 0);
        file
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut stream = self.header.begin(out)?;
        for data in &self.data {
            stream.tensor_bytes(data)?;
        }
        stream.finish()?;
        Ok(())
    }
}

/// Metadata and the list of tensors: all that comes before the data.
#[derive(Clone, Debug, Default)]
pub struct Header {
    metadata: Vec<(String, Value)>,
    tensors: Vec<NewTensor>,
    alignment: Option<u32>,
}

#[derive(Clone, Debug)]
struct NewTensor {
    name: String,
    ty: GgmlType,
    dims: Vec<u64>,
    n_bytes: u64,
}

impl Header {
    /// Adds a key; `general.alignment` also sets the alignment.
    ///
    /// # Panics
    /// If that is not a power of two below 2³².
    pub fn value(&mut self, key: &str, value: Value) {
        if key == "general.alignment" {
            let alignment = value.as_integer().and_then(|value| u32::try_from(value).ok());
            assert!(alignment.is_some_and(u32::is_power_of_two), "alignment {value:?}");
            self.alignment = alignment;
        }
        self.metadata.push((key.to_owned(), value));
    }

    /// Adds a tensor and tells how many bytes its data has; `dims` has the row length first.
    ///
    /// # Panics
    /// If `dims` is not one to four sizes, rows are not whole blocks, or `ty` is a type of caches only.
    pub fn tensor(&mut self, name: &str, ty: GgmlType, dims: &[u64]) -> u64 {
        assert!((1..=4).contains(&dims.len()), "{name}: {dims:?}");
        assert_eq!(GgmlType::from_id(ty.id()), Some(ty), "{name}: {ty} is no type of files");
        let row_bytes = ty.row_bytes(dims[0] as usize);
        let row_bytes = row_bytes.unwrap_or_else(|| panic!("{name}: rows of {dims:?} {ty}"));
        let n_bytes = row_bytes as u64 * dims[1..].iter().product::<u64>();
        self.tensors.push(NewTensor { name: name.to_owned(), ty, dims: dims.to_vec(), n_bytes });
        n_bytes
    }

    /// Size of the whole file.
    pub fn file_bytes(&self) -> u64 {
        let header = self.to_bytes().len() as u64;
        let end = self.tensors.iter().fold(header, |end, tensor| self.padded(end) + tensor.n_bytes);
        self.padded(end)
    }

    /// Writes the header; the data follows through the stream.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn begin<W: Write>(&self, mut out: W) -> io::Result<TensorStream<'_, W>> {
        let header = self.to_bytes();
        out.write_all(&header)?;
        Ok(TensorStream { header: self, out, position: header.len() as u64, tensor: 0, missing: 0 })
    }

    fn padded(&self, position: u64) -> u64 {
        position.next_multiple_of(u64::from(self.alignment.unwrap_or(DEFAULT_ALIGNMENT)))
    }

    fn to_bytes(&self) -> Vec<u8> {
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
            offset += tensor.n_bytes;
        }
        out
    }
}

/// A file whose header is written and whose tensors follow, in the header's order and in pieces of any size.
#[derive(Debug)]
pub struct TensorStream<'a, W> {
    header: &'a Header,
    out: W,
    position: u64,
    /// Tensors begun.
    tensor: usize,
    /// Bytes that the last of them still lacks.
    missing: u64,
}

impl<W: Write> TensorStream<'_, W> {
    /// Writes bytes of the current tensor, or the first of the next when that one is whole.
    ///
    /// # Errors
    /// Those of the output.
    ///
    /// # Panics
    /// If there are more bytes than the tensor lacks, or no further tensor.
    pub fn tensor_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.missing == 0 {
            self.pad()?;
            let tensor = &self.header.tensors[self.tensor];
            self.missing = tensor.n_bytes;
            self.tensor += 1;
        }
        let n_bytes = bytes.len() as u64;
        assert!(n_bytes <= self.missing, "{}", self.header.tensors[self.tensor - 1].name);
        self.out.write_all(bytes)?;
        self.position += n_bytes;
        self.missing -= n_bytes;
        Ok(())
    }

    /// The output, flushed, when all tensors are whole.
    ///
    /// # Errors
    /// Those of the output.
    ///
    /// # Panics
    /// If a tensor is missing or not whole.
    pub fn finish(mut self) -> io::Result<W> {
        assert!(
            self.tensor == self.header.tensors.len() && self.missing == 0,
            "tensors are missing"
        );
        self.pad()?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Fills up to the alignment: before each tensor, and after the last one.
    fn pad(&mut self) -> io::Result<()> {
        let padding = self.header.padded(self.position) - self.position;
        io::copy(&mut io::Read::take(io::repeat(0), padding), &mut self.out)?;
        self.position += padding;
        Ok(())
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
