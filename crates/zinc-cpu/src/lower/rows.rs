//! Operations on f32 rows, one row a task.

use super::{Combine, Lowering, Turns};
use crate::memory::{Buffer, Rows};
use zinc_backend::DeviceError;
use zinc_plan::{
    Activation, Dim, GatedAct, HeadSlice, L2Norm, Node, RmsNorm, Rope, RopeMode, Scale, Softcap,
};
use zinc_quant::GgmlType;

/// What is done to each row.
pub(crate) enum RowOp {
    GatherRows { x: Rows, rows: Rows, out: Rows },
    Add { a: Rows, b: Rows, out: Rows },
    GatedAct { act: Activation, gate: Rows, up: Rows, out: Rows },
    RmsNorm { x: Rows, w: Rows, eps: f32, out: Rows },
    QuantizeAct { x: Rows, dtype: GgmlType, out: Rows },
    Mul { a: Rows, b: Broadcast, out: Rows },
    Scale { x: Rows, factor: f32, out: Rows },
    Softcap { x: Rows, cap: f32, out: Rows },
    SigmoidGate { x: Rows, gate: Rows, out: Rows },
    HeadSlice { slice: HeadSlice, x: Rows, out: Rows },
    Concat { a: Rows, b: Rows, out: Rows },
    L2Norm { x: Rows, norm: L2Norm, out: Rows },
    RmsNormGated { x: Rows, w: Rows, z: Rows, eps: f32, out: Rows },
    DeltaGates { inputs: [Rows; 4], outs: [Rows; 2] },
    Combine(Combine),
    TopK { x: Rows, ids: Rows, values: Rows },
    RopeTurns { positions: Rows, variants: Rows, table: Rows, out: Rows },
    Rope { mode: RopeMode, head_dim: usize, x: Rows, turns: Rows, out: Rows },
}

/// An operand with the rows of the result, or with one row for all of them.
#[derive(Clone, Copy)]
pub(crate) struct Broadcast {
    pub rows: Rows,
    pub is_one: bool,
}

impl Lowering<'_> {
    pub(super) fn gather_rows(&self, node: &Node) -> Result<RowOp, DeviceError> {
        let [x, rows] = [self.value(node.reads[0])?, self.input(node.reads[1])?];
        Ok(RowOp::GatherRows { x, rows, out: self.value(node.writes[0])? })
    }

    pub(super) fn add(&self, node: &Node) -> Result<RowOp, DeviceError> {
        let [a, b] = [self.value(node.reads[0])?, self.value(node.reads[1])?];
        Ok(RowOp::Add { a, b, out: self.value(node.writes[0])? })
    }

    pub(super) fn gated_act(&self, node: &Node, gated: GatedAct) -> Result<RowOp, DeviceError> {
        let [gate, up] = [self.value(node.reads[0])?, self.value(node.reads[1])?];
        Ok(RowOp::GatedAct { act: gated.act, gate, up, out: self.value(node.writes[0])? })
    }

    pub(super) fn rms_norm(&self, node: &Node, norm: RmsNorm) -> Result<RowOp, DeviceError> {
        let [x, w] = [self.value(node.reads[0])?, self.value(node.reads[1])?];
        Ok(RowOp::RmsNorm { x, w, eps: norm.eps, out: self.value(node.writes[0])? })
    }

    pub(super) fn mul(&self, node: &Node) -> Result<RowOp, DeviceError> {
        let [a, b] = [self.value(node.reads[0])?, self.value(node.reads[1])?];
        let is_one = self.plan.tensor(node.reads[1]).shape.rows == Dim::Fixed(1);
        let b = Broadcast { rows: b, is_one };
        Ok(RowOp::Mul { a, b, out: self.value(node.writes[0])? })
    }

    pub(super) fn scale(&self, node: &Node, scale: Scale) -> Result<RowOp, DeviceError> {
        let x = self.value(node.reads[0])?;
        Ok(RowOp::Scale { x, factor: scale.factor, out: self.value(node.writes[0])? })
    }

    pub(super) fn softcap(&self, node: &Node, softcap: Softcap) -> Result<RowOp, DeviceError> {
        let x = self.value(node.reads[0])?;
        Ok(RowOp::Softcap { x, cap: softcap.cap, out: self.value(node.writes[0])? })
    }

    pub(super) fn top_k(&self, node: &Node) -> Result<RowOp, DeviceError> {
        let [ids, values] = [self.value(node.writes[0])?, self.value(node.writes[1])?];
        Ok(RowOp::TopK { x: self.value(node.reads[0])?, ids, values })
    }

    pub(super) fn sigmoid_gate(&self, node: &Node) -> Result<RowOp, DeviceError> {
        let [x, gate] = [self.value(node.reads[0])?, self.value(node.reads[1])?];
        Ok(RowOp::SigmoidGate { x, gate, out: self.value(node.writes[0])? })
    }

    pub(super) fn head_slice(&self, node: &Node, slice: HeadSlice) -> Result<RowOp, DeviceError> {
        let x = self.value(node.reads[0])?;
        Ok(RowOp::HeadSlice { slice, x, out: self.value(node.writes[0])? })
    }

    pub(super) fn concat(&self, node: &Node) -> Result<RowOp, DeviceError> {
        let [a, b] = [self.value(node.reads[0])?, self.value(node.reads[1])?];
        Ok(RowOp::Concat { a, b, out: self.value(node.writes[0])? })
    }

    pub(super) fn l2_norm(&self, node: &Node, norm: L2Norm) -> Result<RowOp, DeviceError> {
        let x = self.value(node.reads[0])?;
        Ok(RowOp::L2Norm { x, norm, out: self.value(node.writes[0])? })
    }

    pub(super) fn rms_norm_gated(&self, node: &Node, norm: RmsNorm) -> Result<RowOp, DeviceError> {
        let [x, w] = [self.value(node.reads[0])?, self.value(node.reads[1])?];
        let (z, out) = (self.value(node.reads[2])?, self.value(node.writes[0])?);
        Ok(RowOp::RmsNormGated { x, w, z, eps: norm.eps, out })
    }

    pub(super) fn delta_gates(&self, node: &Node) -> Result<RowOp, DeviceError> {
        let value = |idx: usize| self.value(node.reads[idx]);
        let inputs = [value(0)?, value(1)?, value(2)?, value(3)?];
        let outs = [self.value(node.writes[0])?, self.value(node.writes[1])?];
        Ok(RowOp::DeltaGates { inputs, outs })
    }

    pub(super) fn quantize_act(&self, node: &Node) -> Result<RowOp, DeviceError> {
        let dtype = self.plan.tensor(node.writes[0]).dtype;
        let x = self.value(node.reads[0])?;
        Ok(RowOp::QuantizeAct { x, dtype, out: self.value(node.writes[0])? })
    }

    pub(super) fn rope(&mut self, node: &Node, rope: Rope) -> Result<RowOp, DeviceError> {
        Ok(RowOp::Rope {
            mode: rope.mode,
            head_dim: rope.head_dim as usize,
            x: self.value(node.reads[0])?,
            turns: self.turns_of(node, rope.n_dims as usize / 2)?,
            out: self.value(node.writes[0])?,
        })
    }

    /// The buffer that holds the cosines and sines of a rotation: one for each table, computed once per step.
    fn turns_of(&mut self, node: &Node, n_pairs: usize) -> Result<Rows, DeviceError> {
        let [positions, table, variants] = [node.reads[1], node.reads[2], node.reads[3]];
        let same = |turns: &&Turns| {
            (turns.positions, turns.table, turns.variants) == (positions, table, variants)
        };
        if let Some(turns) = self.turns.iter().find(same) {
            return Ok(turns.out);
        }
        let n_rows = self.plan.limits.max_tokens as usize;
        let row_bytes = n_pairs * size_of::<[f32; 2]>();
        let buffer = Buffer::new(n_rows * row_bytes)
            .ok_or_else(|| self.unsupported(node, "no memory for angles"))?;
        let out = buffer.rows(0, n_rows, row_bytes, row_bytes);
        self.buffers.push(buffer);
        self.turns.push(Turns { table, positions, variants, out });
        Ok(out)
    }
}
