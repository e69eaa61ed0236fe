//! Operations on f32 rows: a task is a row.

use super::CpuExecutable;
use crate::kernels::act::{QuantizeBlocks, QuantizeSupers};
use crate::kernels::delta_net::{GateRow, gates};
use crate::kernels::elementwise::{
    Add, Gated, Mul, Rope, Scale, SigmoidGate, SigmoidGateRow, Softcap, Zip, concat, head_slice,
    rope_turns,
};
use crate::kernels::experts::Combine;
use crate::kernels::norm::{L2Norm, RmsNorm, RmsNormGated};
use crate::kernels::top_k::top_k;
use crate::lower::{self, RowOp};
use zinc_quant::GgmlType;

impl CpuExecutable {
    /// One row of an operation on f32 rows.
    pub(super) fn row(&self, op: &RowOp, row: usize) {
        // All arms: a task owns row `row` of the result.
        // SAFETY: the plan.
        unsafe {
            match *op {
                RowOp::GatherRows { x, rows, out } => {
                    let from = rows.row::<i32>(row)[0] as usize;
                    out.row_mut::<f32>(row).copy_from_slice(x.row(from));
                }
                RowOp::Add { a, b, out } => {
                    self.isa.run(Add { a: a.row(row), b: b.row(row), out: out.row_mut(row) });
                }
                RowOp::GatedAct { act, gate, up, out } => {
                    let (gate, up, out) = (gate.row(row), up.row(row), out.row_mut(row));
                    self.isa.run(Zip { f: Gated(act), a: gate, b: up, out });
                }
                RowOp::Mul { a, b, out } => {
                    let (a, out) = (a.row(row), out.row_mut(row));
                    match b.rows.row(if b.is_one { 0 } else { row }) {
                        [factor] => self.isa.run(Scale { x: a, factor: *factor, out }),
                        b => self.isa.run(Mul { a, b, out }),
                    }
                }
                RowOp::Scale { x, factor, out } => {
                    self.isa.run(Scale { x: x.row(row), factor, out: out.row_mut(row) });
                }
                RowOp::Softcap { x, cap, out } => {
                    let (x, out) = (x.row(row), out.row_mut(row));
                    self.isa.run(Zip { f: Softcap(cap), a: x, b: x, out });
                }
                RowOp::SigmoidGate { x, gate, out } => {
                    let (x, out) = (x.row(row), out.row_mut(row));
                    match gate.row(row) {
                        [gate] => self.isa.run(SigmoidGateRow { x, gate: *gate, out }),
                        gate => self.isa.run(Zip { f: SigmoidGate, a: x, b: gate, out }),
                    }
                }
                RowOp::HeadSlice { slice, x, out } => {
                    head_slice(slice, x.row(row), out.row_mut(row));
                }
                RowOp::Concat { a, b, out } => concat(a.row(row), b.row(row), out.row_mut(row)),
                RowOp::L2Norm { x, norm, out } => {
                    let (group, eps) = (norm.group as usize, norm.eps);
                    self.isa.run(L2Norm { x: x.row(row), group, eps, out: out.row_mut(row) });
                }
                RowOp::RmsNormGated { x, w, z, eps, out } => {
                    let norm = RmsNorm { x: x.row(row), w: w.row(0), eps, out: out.row_mut(row) };
                    self.isa.run(RmsNormGated { norm, z: z.row(row) });
                }
                RowOp::RmsNorm { x, w, eps, out } => {
                    self.isa.run(RmsNorm {
                        x: x.row(row),
                        w: w.row(0),
                        eps,
                        out: out.row_mut(row),
                    });
                }
                RowOp::Combine(lower::Combine { x, weights, scale, out }) => {
                    let scale = scale.map(|[ids, scale]| (ids.row(row), scale.row(0)));
                    let (x, weights) = (x.row(row), weights.row(row));
                    self.isa.run(Combine { x, weights, scale, out: out.row_mut(row) });
                }
                RowOp::TopK { x, ids, values } => {
                    top_k(x.row(row), ids.row_mut(row), values.row_mut(row));
                }
                RowOp::QuantizeAct { x, dtype: GgmlType::Q8_K, out } => {
                    self.isa.run(QuantizeSupers { x: x.row(row), out: out.row_mut(row) });
                }
                RowOp::QuantizeAct { x, out, .. } => {
                    self.isa.run(QuantizeBlocks { x: x.row(row), out: out.row_mut(row) });
                }
                RowOp::DeltaGates { inputs: [a, b, a_log, dt_bias], outs: [g, beta] } => {
                    let (a, b) = (a.row(row), b.row(row));
                    let inputs = GateRow { a, b, a_log: a_log.row(0), dt_bias: dt_bias.row(0) };
                    gates(inputs, g.row_mut(row), beta.row_mut(row));
                }
                RowOp::RopeTurns { positions, variants, table, out } => {
                    let variant = variants.row::<i32>(row)[0] as usize;
                    rope_turns(positions.row::<i32>(row)[0], table.row(variant), out.row_mut(row));
                }
                RowOp::Rope { mode, head_dim, x, turns, out } => {
                    let (x, turns) = (x.row(row), turns.row(row));
                    self.isa.run(Rope { mode, head_dim, x, turns, out: out.row_mut(row) });
                }
            }
        }
    }
}
