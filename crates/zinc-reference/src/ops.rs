//! One function per base operation. Formulas are those of [`zinc_plan::Op`].

use zinc_backend::{DeviceError, WeightSource};
use zinc_plan::{Activation, Attention, RmsNorm, Rope, RopeMode};

pub(crate) mod delta_net;
pub(crate) mod elementwise;
pub(crate) mod latent_attention;
pub(crate) mod moe;

use crate::exec::Matrix;
use crate::storage::{State, read_row};

/// Row `row` of a weight as f32.
fn weight_row(weight: &WeightSource, row: usize, out: &mut [f32]) -> Result<(), DeviceError> {
    let row_bytes = weight.data.len() / weight.rows.max(1) as usize;
    read_row(weight.dtype, &weight.data[row * row_bytes..][..row_bytes], out)
}

/// A whole weight as f32: norm weights and biases.
pub(crate) fn whole(weight: &WeightSource) -> Result<Matrix, DeviceError> {
    let mut matrix = Matrix::zeros(weight.rows as usize, weight.cols as usize);
    for (idx, row) in matrix.rows_mut().enumerate() {
        weight_row(weight, idx, row)?;
    }
    Ok(matrix)
}

pub(crate) fn embed(table: &WeightSource, ids: &[i32], scale: f32) -> Result<Matrix, DeviceError> {
    let mut y = Matrix::zeros(ids.len(), table.cols as usize);
    for (row, id) in y.rows_mut().zip(ids) {
        weight_row(table, *id as usize, row)?;
        row.iter_mut().for_each(|value| *value *= scale);
    }
    Ok(y)
}

pub(crate) fn gather_rows(x: &Matrix, rows: &[i32]) -> Matrix {
    let data = rows.iter().flat_map(|row| x.row(*row as usize)).copied().collect();
    Matrix { cols: x.cols, data }
}

/// Applies `f` to pairs of elements.
fn zip(a: &Matrix, b: &Matrix, f: impl Fn(f32, f32) -> f32) -> Matrix {
    let data = a.data.iter().zip(&b.data).map(|(a, b)| f(*a, *b)).collect();
    Matrix { cols: a.cols, data }
}

pub(crate) fn add(a: &Matrix, b: &Matrix) -> Matrix {
    zip(a, b, |a, b| a + b)
}

pub(crate) fn gated_act(act: Activation, gate: &Matrix, up: &Matrix) -> Matrix {
    zip(gate, up, |gate, up| match act {
        Activation::Silu => gate / (1.0 + (-gate).exp()) * up,
        Activation::GeluTanh => {
            let x = f64::from(gate);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            (0.5 * x * (1.0 + inner.tanh())) as f32 * up
        }
        Activation::SwigluOai => {
            let (gate, up) = (gate.min(7.0), up.clamp(-7.0, 7.0));
            gate / (1.0 + (-1.702 * gate).exp()) * (up + 1.0)
        }
    })
}

pub(crate) fn rms_norm(norm: RmsNorm, x: &Matrix, weight: &Matrix) -> Matrix {
    let group = norm.group as usize;
    let mut y = Matrix::zeros(x.data.len() / x.cols, x.cols);
    for (y, x) in y.data.chunks_exact_mut(group).zip(x.data.chunks_exact(group)) {
        let squares: f64 = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        let scale = (1.0 / (squares / group as f64 + f64::from(norm.eps)).sqrt()) as f32;
        for ((y, x), w) in y.iter_mut().zip(x).zip(&weight.data) {
            *y = x * scale * w;
        }
    }
    y
}

/// Sum of products, carried in f64.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}

pub(crate) fn matmul(
    weight: &WeightSource,
    x: &Matrix,
    bias: Option<&Matrix>,
) -> Result<Matrix, DeviceError> {
    let n_out = weight.rows as usize;
    let mut y = Matrix::zeros(x.data.len() / x.cols, n_out);
    let mut row = vec![0.0; weight.cols as usize];
    for out in 0..n_out {
        weight_row(weight, out, &mut row)?;
        let bias = bias.map_or(0.0, |bias| bias.data[out]);
        for (y, x) in y.rows_mut().zip(x.rows()) {
            y[out] = dot(&row, x) + bias;
        }
    }
    Ok(y)
}

pub(crate) fn rope(
    rope: Rope,
    x: &Matrix,
    positions: &[i32],
    table: &Matrix,
    variants: &[i32],
) -> Matrix {
    let half = rope.n_dims as usize / 2;
    let mut y = Matrix { cols: x.cols, data: x.data.clone() };
    for ((row, position), variant) in y.rows_mut().zip(positions).zip(variants) {
        let (frequencies, magnitude) = table.row(*variant as usize).split_at(half);
        for head in row.chunks_exact_mut(rope.head_dim as usize) {
            for (i, frequency) in frequencies.iter().enumerate() {
                let (a, b) = match rope.mode {
                    RopeMode::Norm => (2 * i, 2 * i + 1),
                    RopeMode::Neox => (i, i + half),
                };
                // The angle is rounded to f32 as the models' own implementations do.
                let (sin, cos) = f64::from(*position as f32 * frequency).sin_cos();
                let (sin, cos) = (sin as f32 * magnitude[0], cos as f32 * magnitude[0]);
                (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
            }
        }
    }
    y
}

pub(crate) fn kv_write(x: &Matrix, slots: &[i32], cache: &State) -> Result<(), DeviceError> {
    for (row, slot) in x.rows().zip(slots) {
        cache.write(*slot as usize, row)?;
    }
    Ok(())
}

/// Where the tokens of a step and the keys of their sequences are.
pub(crate) struct Placement<'a> {
    pub positions: &'a [i32],
    pub seq_of: &'a [i32],
    /// Page table of each sequence: a ring.
    pub pages: Vec<&'a [i32]>,
    pub page_size: usize,
}

impl Placement<'_> {
    /// Cache row of the key at position `j` of the sequence that `token` belongs to.
    pub(crate) fn cache_row(&self, token: usize, j: usize) -> usize {
        let pages = self.pages[self.seq_of[token] as usize];
        let page = pages[j / self.page_size % pages.len()] as usize;
        page * self.page_size + j % self.page_size
    }
}

pub(crate) fn attention(
    attention: &Attention,
    q: &Matrix,
    [cache_k, cache_v]: [&State; 2],
    place: &Placement<'_>,
    sinks: Option<&Matrix>,
) -> Result<Matrix, DeviceError> {
    let (k_dim, v_dim) = (attention.k_dim as usize, attention.v_dim as usize);
    let n_kv_heads = attention.n_kv_heads as usize;
    let heads_per_kv = attention.n_heads as usize / n_kv_heads;
    let n_tokens = place.positions.len();
    let mut y = Matrix::zeros(n_tokens, attention.n_heads as usize * v_dim);
    for (token, y_row) in y.rows_mut().enumerate() {
        let position = place.positions[token] as usize;
        let first = attention.window.map_or(0, |w| (position + 1).saturating_sub(w as usize));
        // Scores of every head for each key, then the softmax-weighted sum of the values.
        let mut scores = vec![Vec::with_capacity(position + 1 - first); attention.n_heads as usize];
        for j in first..=position {
            let k_row = cache_k.read(place.cache_row(token, j))?;
            for (head, scores) in scores.iter_mut().enumerate() {
                let query = &q.row(token)[head * k_dim..][..k_dim];
                let key = &k_row[head / heads_per_kv * k_dim..][..k_dim];
                let score = dot(query, key) * attention.scale;
                scores.push(attention.softcap.map_or(score, |cap| cap * (score / cap).tanh()));
            }
        }
        for (head, scores) in scores.iter_mut().enumerate() {
            softmax(scores, sinks.map(|sinks| sinks.data[head]));
        }
        let mut sums = vec![0.0f64; y_row.len()];
        for j in first..=position {
            let v_row = cache_v.read(place.cache_row(token, j))?;
            for (head, scores) in scores.iter().enumerate() {
                let value = &v_row[head / heads_per_kv * v_dim..][..v_dim];
                for (sum, v) in sums[head * v_dim..][..v_dim].iter_mut().zip(value) {
                    *sum += f64::from(scores[j - first]) * f64::from(*v);
                }
            }
        }
        y_row.iter_mut().zip(&sums).for_each(|(y, sum)| *y = *sum as f32);
    }
    Ok(y)
}

/// Softmax in place; `sink` is one more score that takes its share and is dropped.
fn softmax(scores: &mut [f32], sink: Option<f32>) {
    let all = || scores.iter().copied().chain(sink);
    let max = all().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = all().map(|score| f64::from(score - max).exp()).sum();
    for score in scores {
        *score = (f64::from(*score - max).exp() / sum) as f32;
    }
}
