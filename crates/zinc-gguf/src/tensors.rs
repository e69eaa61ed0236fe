//! The tensor index: where each tensor lies, checked against the file's size.

use crate::GgufError;
use crate::cursor::{Cursor, Field};
use zinc_quant::GgmlType;

/// GGUF's limit on dimensions.
const MAX_DIMS: u32 = 4;

/// The format says 64, but programs that raise ggml's limit write longer names.
const MAX_NAME_BYTES: u64 = 255;

/// Name length, number of dimensions, type, offset: a description has at least these bytes.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;

/// Name, type, shape and place of one tensor. All are checked when the file is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Name, for example `blk.0.attn_q.weight`.
    pub name: String,
    /// Type of the elements.
    pub ty: GgmlType,
    /// One to four sizes, the contiguous dimension (ne0, the row length) first.
    pub dims: Vec<u64>,
    /// Index into [`crate::Gguf::shards`].
    pub shard: usize,
    /// First byte in the shard's file.
    pub offset: u64,
    /// Size in bytes.
    pub n_bytes: u64,
}

impl TensorEntry {
    /// Product of the dimensions.
    pub fn n_elems(&self) -> u64 {
        self.dims.iter().product()
    }

    fn end(&self) -> u64 {
        self.offset + self.n_bytes
    }
}

/// Reads the number of tensors, bounded by the bytes left.
pub(crate) fn read_count(cursor: &mut Cursor) -> Result<u64, GgufError> {
    cursor.count(MIN_TENSOR_BYTES, Field::TensorCount)
}

/// Reads `count` descriptions. Returns the tensors, ordered as in the file, and where the data begins.
pub(crate) fn read(
    cursor: &mut Cursor,
    count: u64,
    alignment: u64,
    file_len: u64,
) -> Result<(Vec<TensorEntry>, u64), GgufError> {
    let mut tensors = Vec::new();
    for i in 0..count {
        tensors.push(read_one(cursor, i, alignment)?);
    }
    // A header that fills the file and has no tensors needs no padding, so this may lie past the end.
    let data_start = cursor.offset().checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    for tensor in &mut tensors {
        place(tensor, data_start, file_len)?;
    }
    check_overlaps(&tensors)?;
    Ok((tensors, data_start))
}

/// One description; the offset is still relative to the data's start.
fn read_one(cursor: &mut Cursor, i: u64, alignment: u64) -> Result<TensorEntry, GgufError> {
    let start = cursor.offset();
    let name = cursor.name(MAX_NAME_BYTES, Field::TensorName(i))?;
    let field = Field::Tensor(&name);
    let dims = read_dims(cursor, &name)?;

    let offset = cursor.offset();
    let id = cursor.u32(field)?;
    let Some(ty) = GgmlType::from_id(id) else {
        return Err(GgufError::UnknownTensorType { name, offset, id });
    };
    let n_bytes = tensor_bytes(&name, start, &dims, ty)?;

    let offset = cursor.offset();
    let data_offset = cursor.u64(field)?;
    if !data_offset.is_multiple_of(alignment) {
        return Err(GgufError::Misaligned { name, offset, found: data_offset, alignment });
    }
    Ok(TensorEntry { name, ty, dims, shard: 0, offset: data_offset, n_bytes })
}

fn read_dims(cursor: &mut Cursor, name: &str) -> Result<Vec<u64>, GgufError> {
    let field = Field::Tensor(name);
    let offset = cursor.offset();
    let n_dims = cursor.u32(field)?;
    if n_dims > MAX_DIMS {
        return Err(GgufError::TooManyDims { name: name.to_owned(), offset, n_dims });
    }
    if n_dims == 0 {
        return Ok(vec![1]);
    }
    let mut dims = Vec::with_capacity(n_dims as usize);
    for axis in 0..n_dims as usize {
        let offset = cursor.offset();
        let size = cursor.u64(field)?;
        if size == 0 {
            return Err(GgufError::ZeroDim { name: name.to_owned(), offset, axis });
        }
        dims.push(size);
    }
    Ok(dims)
}

/// Size of a tensor described at `offset`. Rows must be whole blocks; rows are contiguous.
fn tensor_bytes(name: &str, offset: u64, dims: &[u64], ty: GgmlType) -> Result<u64, GgufError> {
    let (row_len, rows) = (dims[0], &dims[1..]);
    if !row_len.is_multiple_of(ty.block_len() as u64) {
        return Err(GgufError::PartialBlock {
            name: name.to_owned(),
            offset,
            n_elems: row_len,
            ty,
        });
    }
    // Elements may not overflow either: kernels and plans count in them.
    let n_elems = rows.iter().try_fold(row_len, |n, &dim| n.checked_mul(dim));
    n_elems
        .filter(|&n| n <= i64::MAX as u64)
        .and_then(|n| (n / ty.block_len() as u64).checked_mul(ty.block_bytes() as u64))
        .ok_or_else(|| GgufError::SizeOverflow {
            name: name.to_owned(),
            offset,
            dims: dims.to_vec(),
            ty,
        })
}

/// Makes the tensor's offset absolute and checks that the tensor lies in the file.
fn place(tensor: &mut TensorEntry, data_start: u64, file_len: u64) -> Result<(), GgufError> {
    let start = u128::from(data_start) + u128::from(tensor.offset);
    let end = start + u128::from(tensor.n_bytes);
    if end > u128::from(file_len) {
        return Err(GgufError::TensorPastEnd {
            name: tensor.name.clone(),
            start: u64::try_from(start).unwrap_or(u64::MAX),
            end,
            file_len,
        });
    }
    tensor.offset += data_start; // start <= end <= file_len
    Ok(())
}

fn check_overlaps(tensors: &[TensorEntry]) -> Result<(), GgufError> {
    let mut by_offset: Vec<&TensorEntry> = tensors.iter().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    for pair in by_offset.windows(2) {
        if pair[1].offset < pair[0].end() {
            return Err(GgufError::Overlap {
                first: pair[0].name.clone(),
                second: pair[1].name.clone(),
                offset: pair[1].offset,
            });
        }
    }
    Ok(())
}
