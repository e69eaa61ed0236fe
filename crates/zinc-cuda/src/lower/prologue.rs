//! Nodes whose work the products that read their results do themselves: norms, gates and quantising of few rows.

use zinc_backend::DeviceError;
use zinc_plan::{Dim, HeadSlice, Node, Op, RmsNorm, TensorId, TensorKind};
use zinc_quant::GgmlType;

use super::{Grouping, Lowering};
use crate::launch::Rows;

/// `Prologue` of `prologue.cuh`: what a product makes its activations from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::NoUninit)]
pub struct Prologue {
    x: u64,
    z: u64,
    w: u64,
    x_stride: u32,
    z_stride: u32,
    kind: u32,
    group: u32,
    z_cols: u32,
    z_step: u32,
    eps: f32,
    unused: u32,
}

/// `PrologueKind` of `prologue.cuh`.
const QUANTIZED: u32 = 0;
const FLOATS: u32 = 1;
const NORM: u32 = 2;
const GATED_NORM: u32 = 3;
const GATED: u32 = 4;

/// Columns that a warp sums: as in `row_norm.cuh`.
const PIECE: u32 = 128;
/// Places for sums of pieces: as in `prologue.cuh`.
const MOST_PIECES: u32 = 512;

impl Prologue {
    /// The activations are in memory as q8.
    pub const NONE: Prologue = Prologue {
        x: 0,
        z: 0,
        w: 0,
        x_stride: 0,
        z_stride: 0,
        kind: QUANTIZED,
        group: 0,
        z_cols: 4,
        z_step: 4,
        eps: 0.0,
        unused: 0,
    };

    /// The values of rows as they are.
    pub(super) fn floats(x: Rows) -> Prologue {
        Prologue { x: x.data, x_stride: x.stride, kind: FLOATS, ..Prologue::NONE }
    }

    /// Bytes of shared memory for `n` columns: them, and what they are multiplied by.
    pub(super) fn n_bytes(&self, n: u32) -> u32 {
        match self.kind {
            QUANTIZED => 0,
            FLOATS => 4 * n,
            _ => 8 * n,
        }
    }

    /// Whether for `cols` columns four floats at a time are aligned everywhere, no block of 32 lies in two groups, and
    /// there is a place for the sum of each piece.
    pub(super) fn fits(&self, cols: u32) -> bool {
        let columns = self.x_stride | self.z_stride | self.z_cols | self.z_step;
        (self.x | self.z | self.w).is_multiple_of(16)
            && columns.is_multiple_of(4)
            && self.group.is_multiple_of(32)
            && (self.kind != GATED_NORM || self.group <= PIECE)
            && cols.div_ceil(if self.kind == GATED_NORM { self.group } else { PIECE })
                <= MOST_PIECES
    }
}

impl Lowering<'_> {
    /// Whether the launches of others do this node's work: the products that read its result, or an earlier one.
    ///
    /// # Errors
    /// As [`Lowering::operand`].
    pub(super) fn is_done_by_others(&mut self, node: &Node) -> Result<bool, DeviceError> {
        let id = node.writes[0];
        match node.op {
            Op::HeadSlice(_) => {
                return Ok(self.is_gate_of_products(node)? || self.is_query_of_chain(node)?);
            }
            Op::QuantizeAct | Op::GateUpAct(_) if self.written.contains(&id) => return Ok(true),
            Op::QuantizeAct if self.prologue_of(id) != Prologue::NONE => return Ok(true),
            _ => (),
        }
        let found = self.prologue_from(node)?;
        self.prologues.extend(found);
        Ok(found.is_some())
    }

    /// What the products of the activations `id` make them from.
    pub(super) fn prologue_of(&self, id: TensorId) -> Prologue {
        let found = self.prologues.iter().rev().find(|(of, _)| *of == id);
        found.map_or(Prologue::NONE, |(_, prologue)| *prologue)
    }

    /// What activations are made from if the products that read them do the work of `node`, and which ones; none if
    /// the result has other readers or a product takes several rows.
    fn prologue_from(&self, node: &Node) -> Result<Option<(TensorId, Prologue)>, DeviceError> {
        let is_norm = matches!(node.op, Op::RmsNorm(_) | Op::RmsNormGated(_));
        let id = match node.op {
            Op::QuantizeAct => Some(node.writes[0]),
            Op::RmsNorm(_) | Op::RmsNormGated(_) | Op::SigmoidGate => {
                let id = node.writes[0];
                self.only_quantized(id).or_else(|| self.quantized_beside_router(id))
            }
            _ => None,
        };
        let Some(id) = id.filter(|id| self.is_read_by_rows(*id, is_norm)) else { return Ok(None) };
        // Products load weights before launches before them are done.
        let is_weight = |id: &TensorId| self.plan.tensor(*id).kind == TensorKind::Weight;
        if is_norm && !node.reads.get(1).is_some_and(is_weight) {
            return Ok(None);
        }
        let x = self.float_rows(node.reads[0])?;
        let weights = || self.operand(node.reads[1]).map(|weights| weights.address);
        let of = |kind| Prologue { kind, ..Prologue::floats(x) };
        let prologue = match node.op {
            Op::RmsNorm(RmsNorm { group, eps }) if group == x.cols => {
                Prologue { w: weights()?, group, eps, ..of(NORM) }
            }
            Op::RmsNorm(_) => return Ok(None),
            Op::RmsNormGated(RmsNorm { group, eps }) => {
                let z = self.float_rows(node.reads[2])?;
                let (w, z, z_stride) = (weights()?, z.data, z.stride);
                Prologue { w, group, eps, z, z_stride, ..of(GATED_NORM) }
            }
            Op::SigmoidGate => match self.gate(node.reads[1])? {
                Some((z, z_cols, z_step)) => {
                    Prologue { z: z.data, z_stride: z.stride, z_cols, z_step, ..of(GATED) }
                }
                None => return Ok(None),
            },
            _ => of(FLOATS),
        };
        let fits = prologue.fits(x.cols) && self.has_room_for(id, &prologue);
        Ok(fits.then_some((id, prologue)))
    }

    /// Where the gates of a `SigmoidGate` lie, with the columns side by side and from those to the next. A slice of
    /// heads is read where it comes from. None where one gate is for several elements.
    fn gate(&self, id: TensorId) -> Result<Option<(Rows, u32, u32)>, DeviceError> {
        let tensor = self.plan.tensor(id).shape;
        if tensor.cols == 1 || tensor.rows == Dim::Fixed(1) {
            return Ok(None);
        }
        if let Some((base, HeadSlice { head_dim, start, len })) = self.slice_for_one(id) {
            return Ok(Some((self.float_rows(base)?.from_column(start), len, head_dim)));
        }
        Ok(Some((self.float_rows(id)?, tensor.cols, tensor.cols)))
    }

    /// What a slice of heads is a slice of, if only one node reads it: that may read it where it comes from.
    pub(super) fn slice_for_one(&self, id: TensorId) -> Option<(TensorId, HeadSlice)> {
        let makes = |node: &&Node| node.writes.contains(&id);
        let node = self.plan.nodes.iter().find(makes)?;
        let Op::HeadSlice(slice) = node.op else { return None };
        self.only_reader(id).map(|_| (node.reads[0], slice))
    }

    /// Whether products read this slice of heads as their gate.
    fn is_gate_of_products(&self, node: &Node) -> Result<bool, DeviceError> {
        let id = node.writes[0];
        let takes_gate =
            |node: &&Node| node.op == Op::SigmoidGate && node.reads[1] == id && node.reads[0] != id;
        let Some(reader) = self.only_reader(id).filter(takes_gate) else { return Ok(false) };
        Ok(self.prologue_from(reader)?.is_some())
    }

    /// Nodes that read a value, or a view of it.
    fn readers(&self, id: TensorId) -> impl Iterator<Item = &Node> {
        let is_id = move |read: &TensorId| self.plan.locate(*read).0 == id;
        self.plan.nodes.iter().filter(move |node| node.reads.iter().any(is_id))
    }

    /// The one node that reads a value, as a whole, if the host does not.
    fn only_reader(&self, id: TensorId) -> Option<&Node> {
        let mut readers = self.readers(id);
        let reader = readers.next().filter(|reader| reader.reads.contains(&id))?;
        let is_wanted = self.plan.outputs.iter().any(|output| self.plan.locate(*output).0 == id);
        (readers.next().is_none() && !is_wanted).then_some(reader)
    }

    /// The quantised form of a value, if that is all that is read of it.
    fn only_quantized(&self, id: TensorId) -> Option<TensorId> {
        let reader = self.only_reader(id).filter(|reader| reader.op == Op::QuantizeAct)?;
        Some(reader.writes[0])
    }

    /// Whether the products that read the activations `id` have room in shared memory to make them, without a loss of
    /// warps.
    fn has_room_for(&self, id: TensorId, prologue: &Prologue) -> bool {
        self.readers(id).all(|node| {
            let weights = &node.reads[..node.op.n_weight_operands()];
            let mut weights = weights.iter().map(|id| self.plan.tensor(*id));
            weights.all(|weight| self.makes_activations(weight.dtype, weight.shape.cols, prologue))
        })
    }

    /// Whether all readers of activations are products whose blocks take one row each, or of `whole_rows` only if none
    /// takes a part of it.
    fn is_read_by_rows(&self, id: TensorId, whole_rows: bool) -> bool {
        let (plan, shape) = (self.plan, self.plan.tensor(id).shape);
        let rows = self.rows(shape.rows);
        let takes_row = |node: &Node| {
            let few = match node.op {
                Op::MatMul(_) | Op::GateUpAct(_) => rows <= 1,
                Op::HeadMatMul(_) => rows < Grouping::MIN_TOKENS,
                Op::ExpertMatMul(_) | Op::ExpertGateUpAct(_) => rows < self.least_grouped,
                _ => return false,
            };
            let is_whole = plan.tensor(node.reads[0]).shape.cols == shape.cols;
            // What the memory pass does not keep for them.
            let is_of_experts = matches!(node.op, Op::ExpertMatMul(_));
            let takes_part = is_whole || !(whole_rows || is_of_experts);
            few && node.reads[node.op.n_weight_operands()] == id && takes_part
        };
        let is_wanted = plan.outputs.iter().any(|output| plan.locate(*output).0 == id);
        plan.tensor(id).dtype == GgmlType::Q8_1
            && !is_wanted
            && self.readers(id).next().is_some()
            && self.readers(id).all(takes_row)
    }
}
