//! Elementwise operations and rearrangements of columns: attributes and shape rules.

use super::{Inferred, expect_f32, expect_multiple, expect_rows, expect_shape, f32_result};
use crate::plan::{Dim, Shape, TensorInfo};

/// Attributes of [`Op::Scale`](crate::Op::Scale).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Scale {
    /// Factor on every element.
    pub factor: f32,
}

/// Attributes of [`Op::Softcap`](crate::Op::Softcap).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Softcap {
    /// Bound that results approach.
    pub cap: f32,
}

/// Attributes of [`Op::L2Norm`](crate::Op::L2Norm).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct L2Norm {
    /// Added to the sum of squares.
    pub eps: f32,
    /// Columns normalised together: one head.
    pub group: u32,
}

/// Attributes of [`Op::HeadSlice`](crate::Op::HeadSlice).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadSlice {
    /// Columns of one head.
    pub head_dim: u32,
    /// First column that is kept of each head.
    pub start: u32,
    /// Columns that are kept of each head.
    pub len: u32,
}

/// Attributes of [`Op::HeadMatMul`](crate::Op::HeadMatMul).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadMatMul {
    /// Matrices stacked in the weight, one per head.
    pub n_heads: u32,
}

/// `b` has the shape of `a`, or is one row of it, or one value.
pub(super) fn infer_mul(ins: &[&TensorInfo]) -> Inferred {
    let (a, b) = (ins[0], ins[1]);
    expect_f32(a)?;
    expect_f32(b)?;
    let is_one_row = b.shape.rows == Dim::Fixed(1) && [1, a.shape.cols].contains(&b.shape.cols);
    if !is_one_row {
        expect_shape(b, a.shape)?;
    }
    f32_result(a.shape.rows, a.shape.cols)
}

/// The gate has the shape of `x`, or one column.
pub(super) fn infer_gate(ins: &[&TensorInfo]) -> Inferred {
    let (x, gate) = (ins[0], ins[1]);
    expect_f32(x)?;
    expect_f32(gate)?;
    expect_rows(gate, x.shape.rows)?;
    if gate.shape.cols != 1 {
        expect_shape(gate, x.shape)?;
    }
    f32_result(x.shape.rows, x.shape.cols)
}

/// Two operands with the same rows, side by side in the result.
pub(super) fn infer_concat(ins: &[&TensorInfo]) -> Inferred {
    let (a, b) = (ins[0], ins[1]);
    expect_f32(a)?;
    expect_f32(b)?;
    expect_rows(b, a.shape.rows)?;
    let cols = a.shape.cols.checked_add(b.shape.cols);
    f32_result(a.shape.rows, cols.ok_or("result is too wide")?)
}

/// One operand, a result of its shape.
pub(super) fn infer_map(ins: &[&TensorInfo]) -> Inferred {
    expect_f32(ins[0])?;
    f32_result(ins[0].shape.rows, ins[0].shape.cols)
}

pub(super) fn infer_head_slice(slice: HeadSlice, ins: &[&TensorInfo]) -> Inferred {
    let x = ins[0];
    expect_f32(x)?;
    expect_multiple(x, slice.head_dim)?;
    let end = slice.start.checked_add(slice.len);
    if slice.len == 0 || end.is_none_or(|end| end > slice.head_dim) {
        return Err(format!(
            "columns {}+{} are not inside heads of {}",
            slice.start, slice.len, slice.head_dim
        ));
    }
    f32_result(x.shape.rows, x.shape.cols / slice.head_dim * slice.len)
}

pub(super) fn infer_head_matmul(matmul: HeadMatMul, ins: &[&TensorInfo]) -> Inferred {
    let (weight, x) = (ins[0], ins[1]);
    let Dim::Fixed(n_rows) = weight.shape.rows else {
        return Err(format!("{} must have fixed rows", weight.name));
    };
    let n_heads = matmul.n_heads;
    if n_heads == 0 || !n_rows.is_multiple_of(n_heads) {
        return Err(format!("{n_rows} rows are not {n_heads} matrices"));
    }
    let n_in = weight.shape.cols.checked_mul(n_heads);
    if n_in != Some(x.shape.cols) {
        return Err(format!(
            "{} takes {n_heads} heads of {} columns, {} has {} columns",
            weight.name, weight.shape.cols, x.name, x.shape.cols
        ));
    }
    f32_result(x.shape.rows, n_rows)
}

/// Attributes of [`Op::LatentAttention`](crate::Op::LatentAttention).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LatentAttention {
    /// Query heads; all share the one latent key.
    pub n_heads: u32,
    /// Elements of the compressed key/value row.
    pub latent_dim: u32,
    /// Elements of the rotated key row.
    pub rope_dim: u32,
    /// Factor on the scores.
    pub scale: f32,
    /// Rows of a cache page, as in [`Attention`](crate::Attention).
    pub page_size: u32,
}

pub(super) fn infer_latent_attention(a: &LatentAttention, ins: &[&TensorInfo]) -> Inferred {
    if a.page_size == 0 {
        return Err("page size must not be zero".into());
    }
    let n_latent = a.n_heads * a.latent_dim;
    expect_f32(ins[0])?;
    expect_f32(ins[1])?;
    expect_shape(ins[0], Shape::new(Dim::Tokens, n_latent))?;
    expect_shape(ins[1], Shape::new(Dim::Tokens, a.n_heads * a.rope_dim))?;
    expect_shape(ins[2], Shape::new(Dim::CacheRows, a.latent_dim))?;
    expect_shape(ins[3], Shape::new(Dim::CacheRows, a.rope_dim))?;
    expect_rows(ins[4], Dim::Tokens)?;
    expect_rows(ins[5], Dim::Tokens)?;
    expect_rows(ins[6], Dim::Seqs)?;
    f32_result(Dim::Tokens, n_latent)
}
