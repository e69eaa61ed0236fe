//! Operations on f32 rows: a task is a row.

use super::CpuExecutable;
use crate::kernels::act::{QuantizeBlocks, QuantizeSupers};
use crate::kernels::elementwise::{Add, GatedAct, RmsNorm, Rope, rope_turns};
use crate::lower::RowOp;
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
                    self.isa.run(GatedAct {
                        act,
                        gate: gate.row(row),
                        up: up.row(row),
                        out: out.row_mut(row),
                    });
                }
                RowOp::RmsNorm { x, w, eps, out } => {
                    self.isa.run(RmsNorm {
                        x: x.row(row),
                        w: w.row(0),
                        eps,
                        out: out.row_mut(row),
                    });
                }
                RowOp::QuantizeAct { x, dtype: GgmlType::Q8_K, out } => {
                    self.isa.run(QuantizeSupers { x: x.row(row), out: out.row_mut(row) });
                }
                RowOp::QuantizeAct { x, out, .. } => {
                    self.isa.run(QuantizeBlocks { x: x.row(row), out: out.row_mut(row) });
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
