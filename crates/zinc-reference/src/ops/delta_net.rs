//! Gated DeltaNet, token by token: the recurrent form is the definition.

use zinc_backend::DeviceError;
use zinc_plan::{CausalConv1d, GatedDeltaNet, HeadOrder};

use super::elementwise::sigmoid;
use crate::exec::Matrix;
use crate::storage::State;

/// Where a step's rows stand in their sequences, and where their states are.
pub(crate) struct Recurrence<'a> {
    pub positions: &'a [i32],
    pub seq_of: &'a [i32],
    /// Slot that each sequence goes on from.
    pub from: &'a [i32],
    /// Slot that holds each sequence's state after the step.
    pub slots: &'a [i32],
    /// Slot that also holds the state after each token, or -1.
    pub saves: &'a [i32],
    pub state: &'a State,
}

impl Recurrence<'_> {
    /// Runs `step` for every token on its sequence's state, which is zero before position 0.
    fn run(&self, mut step: impl FnMut(usize, &mut Vec<f32>)) -> Result<(), DeviceError> {
        let mut first = 0;
        for rows in self.seq_of.chunk_by(|a, b| a == b) {
            let seq = rows[0] as usize;
            let mut state = self.state.read(self.from[seq] as usize)?;
            if self.positions[first] == 0 {
                state.fill(0.0);
            }
            for token in first..first + rows.len() {
                step(token, &mut state);
                if let Ok(slot) = usize::try_from(self.saves[token]) {
                    self.state.write(slot, &state)?;
                }
            }
            self.state.write(self.slots[seq] as usize, &state)?;
            first += rows.len();
        }
        Ok(())
    }
}

pub(crate) fn causal_conv1d(
    conv: CausalConv1d,
    x: &Matrix,
    weight: &Matrix,
    recurrence: &Recurrence<'_>,
) -> Result<Matrix, DeviceError> {
    let kernel = conv.kernel as usize;
    let mut y = Matrix::zeros(x.data.len() / x.cols, x.cols);
    recurrence.run(|token, state| {
        // The rows before the token, oldest first, then the token itself.
        state.extend_from_slice(x.row(token));
        let y_row = &mut y.data[token * x.cols..][..x.cols];
        for (channel, y) in y_row.iter_mut().enumerate() {
            let taps = (0..kernel).map(|i| {
                f64::from(weight.row(channel)[i]) * f64::from(state[i * x.cols + channel])
            });
            let sum = taps.sum::<f64>() as f32;
            *y = sum * sigmoid(sum);
        }
        state.drain(..x.cols);
    })?;
    Ok(y)
}

pub(crate) fn delta_gates(a: &Matrix, b: &Matrix, a_log: &Matrix, dt_bias: &Matrix) -> [Matrix; 2] {
    let mut g = Matrix::zeros(a.data.len() / a.cols, a.cols);
    for (g, a) in g.rows_mut().zip(a.rows()) {
        for (head, g) in g.iter_mut().enumerate() {
            let x = f64::from(a[head] + dt_bias.data[head]);
            // ln(1 + e^x) without overflow.
            let softplus = x.max(0.0) + (-x.abs()).exp().ln_1p();
            *g = (f64::from(a_log.data[head]) * softplus) as f32;
        }
    }
    let beta = b.data.iter().map(|b| sigmoid(*b)).collect();
    [g, Matrix { cols: b.cols, data: beta }]
}

/// `operands` are q, k, v, g and beta.
pub(crate) fn gated_delta_net(
    net: &GatedDeltaNet,
    operands: [&Matrix; 5],
    recurrence: &Recurrence<'_>,
) -> Result<Matrix, DeviceError> {
    let [q, k, v, g, beta] = operands;
    let (k_dim, v_dim) = (net.k_dim as usize, net.v_dim as usize);
    let n_v_heads = net.n_v_heads as usize;
    let mut y = Matrix::zeros(v.data.len() / v.cols, v.cols);
    recurrence.run(|token, state| {
        let y_row = &mut y.data[token * v.cols..][..v.cols];
        for head in 0..n_v_heads {
            let k_head = match net.order {
                HeadOrder::Grouped => head / (n_v_heads / net.n_k_heads as usize),
                HeadOrder::Tiled => head % net.n_k_heads as usize,
            };
            let q = &q.row(token)[k_head * k_dim..][..k_dim];
            let k = &k.row(token)[k_head * k_dim..][..k_dim];
            let v = &v.row(token)[head * v_dim..][..v_dim];
            let s = &mut state[head * k_dim * v_dim..][..k_dim * v_dim];
            let decay = f64::from(g.row(token)[head]).exp() as f32;
            let beta = beta.row(token)[head];
            s.iter_mut().for_each(|s| *s *= decay);
            // Each column of S belongs to one element of v.
            for col in 0..v_dim {
                let product = |s: &[f32], x: &[f32]| -> f64 {
                    let rows = x.iter().enumerate();
                    rows.map(|(row, x)| f64::from(*x) * f64::from(s[row * v_dim + col])).sum()
                };
                let update = beta * (v[col] - product(s, k) as f32);
                for (row, k) in k.iter().enumerate() {
                    s[row * v_dim + col] += k * update;
                }
                y_row[head * v_dim + col] = product(s, q) as f32 * net.scale;
            }
        }
    })?;
    Ok(y)
}
