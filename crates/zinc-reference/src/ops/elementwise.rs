//! Elementwise operations and operations on the columns of heads.

use zinc_backend::{DeviceError, WeightSource};
use zinc_plan::{HeadMatMul, HeadSlice, L2Norm, RmsNorm, TopK};

use super::{dot, rms_norm, weight_row, zip};
use crate::exec::Matrix;

pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn map(x: &Matrix, f: impl Fn(f32) -> f32) -> Matrix {
    let data = x.data.iter().map(|value| f(*value)).collect();
    Matrix { cols: x.cols, data }
}

/// `b` repeated to the shape of `a`: the same shape, one row, one column or one value.
fn broadcast(a: &Matrix, b: &Matrix) -> Matrix {
    let n_rows = b.data.len() / b.cols;
    let rows = a.data.len() / a.cols;
    let mut y = Matrix::zeros(rows, a.cols);
    for (idx, row) in y.rows_mut().enumerate() {
        let source = b.row(if n_rows == 1 { 0 } else { idx });
        for (col, value) in row.iter_mut().enumerate() {
            *value = source[if b.cols == 1 { 0 } else { col }];
        }
    }
    y
}

pub(crate) fn mul(a: &Matrix, b: &Matrix) -> Matrix {
    zip(a, &broadcast(a, b), |a, b| a * b)
}

pub(crate) fn scale(x: &Matrix, factor: f32) -> Matrix {
    map(x, |x| x * factor)
}

pub(crate) fn softcap(x: &Matrix, cap: f32) -> Matrix {
    map(x, |x| cap * (x / cap).tanh())
}

pub(crate) fn sigmoid_gate(x: &Matrix, gate: &Matrix) -> Matrix {
    // A step with one row may have a gate of one value, which is still one column.
    let mut y = Matrix::zeros(0, x.cols);
    for (x, gate) in x.rows().zip(gate.rows()) {
        let gate = |col: usize| gate[if gate.len() == 1 { 0 } else { col }];
        y.data.extend(x.iter().enumerate().map(|(col, x)| x * sigmoid(gate(col))));
    }
    y
}

pub(crate) fn head_slice(slice: HeadSlice, x: &Matrix) -> Matrix {
    let (head_dim, len) = (slice.head_dim as usize, slice.len as usize);
    let heads = x.data.chunks_exact(head_dim);
    let data = heads.flat_map(|head| &head[slice.start as usize..][..len]);
    Matrix { cols: x.cols / head_dim * len, data: data.copied().collect() }
}

pub(crate) fn concat(a: &Matrix, b: &Matrix) -> Matrix {
    let data = a.rows().zip(b.rows()).flat_map(|(a, b)| a.iter().chain(b));
    Matrix { cols: a.cols + b.cols, data: data.copied().collect() }
}

pub(crate) fn l2_norm(norm: L2Norm, x: &Matrix) -> Matrix {
    let group = norm.group as usize;
    let mut y = Matrix::zeros(x.data.len() / x.cols, x.cols);
    let heads = y.data.chunks_exact_mut(group);
    for (y, x) in heads.zip(x.data.chunks_exact(group)) {
        let squares: f64 = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        let scale = (1.0 / (squares + f64::from(norm.eps)).sqrt()) as f32;
        y.iter_mut().zip(x).for_each(|(y, x)| *y = x * scale);
    }
    y
}

/// Columns (as f32) and values of the largest of each row.
pub(crate) fn top_k(top: TopK, x: &Matrix) -> [Matrix; 2] {
    let k = top.k as usize;
    let [mut ids, mut values] = [Matrix::zeros(0, k), Matrix::zeros(0, k)];
    for row in x.rows() {
        // Adding zero makes 0 of -0; a stable sort keeps equals in the order of their columns.
        let rank = |col: &usize| match row[*col] {
            value if value.is_finite() => value + 0.0,
            _ => f32::INFINITY,
        };
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
        order.truncate(k);
        ids.data.extend(order.iter().map(|col| *col as f32));
        values.data.extend(order.iter().map(|col| row[*col]));
    }
    [ids, values]
}

pub(crate) fn rms_norm_gated(norm: RmsNorm, x: &Matrix, weight: &Matrix, z: &Matrix) -> Matrix {
    zip(&rms_norm(norm, x, weight), z, |y, z| y * z * sigmoid(z))
}

pub(crate) fn head_matmul(
    matmul: HeadMatMul,
    weight: &WeightSource,
    x: &Matrix,
) -> Result<Matrix, DeviceError> {
    let n_rows = weight.rows as usize;
    let n_out = n_rows / matmul.n_heads as usize;
    let n_in = weight.cols as usize;
    let mut y = Matrix::zeros(x.data.len() / x.cols, n_rows);
    let mut row = vec![0.0; n_in];
    for out in 0..n_rows {
        weight_row(weight, out, &mut row)?;
        for (y, x) in y.rows_mut().zip(x.rows()) {
            y[out] = dot(&row, &x[out / n_out * n_in..][..n_in]);
        }
    }
    Ok(y)
}
