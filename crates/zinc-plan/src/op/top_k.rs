//! The largest values of a row.

use zinc_quant::GgmlType;

use super::{Inferred, expect_f32};
use crate::plan::{Shape, TensorInfo};

/// Attributes of [`Op::TopK`](crate::Op::TopK).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TopK {
    /// Values that are kept of each row.
    pub k: u32,
}

pub(super) fn infer(top: TopK, ins: &[&TensorInfo]) -> Inferred {
    let x = ins[0];
    expect_f32(x)?;
    if top.k == 0 || top.k > x.shape.cols {
        return Err(format!("{} of {} columns", top.k, x.shape.cols));
    }
    let shape = Shape::new(x.shape.rows, top.k);
    Ok(vec![(GgmlType::I32, shape), (GgmlType::F32, shape)])
}
