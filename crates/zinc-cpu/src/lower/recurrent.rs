//! Operations with a state per sequence: the convolution and the recurrence of a gated DeltaNet.

use super::{Lowering, Operand};
use crate::memory::{Buffer, Rows};
use zinc_backend::DeviceError;
use zinc_plan::{CausalConv1d, GatedDeltaNet, Node, TensorId};

/// The states, and where the sequences of a step find and leave theirs.
pub(crate) struct Recurrence {
    pub states: Rows,
    pub positions: Rows,
    pub seq_of: Rows,
    /// Row of the state before the first row of each sequence.
    pub from: Rows,
    /// Row for the state after the last one.
    pub to: Rows,
    /// Row for the state after each row, or -1.
    pub saves: Rows,
}

/// Causal depthwise convolution with silu.
pub(crate) struct ConvStep {
    pub n_taps: usize,
    pub x: Operand,
    /// The weight transposed: a row of channels for each tap.
    pub taps: Rows,
    pub recurrence: Recurrence,
    pub out: Rows,
}

/// The gated delta rule.
pub(crate) struct DeltaStep {
    pub net: GatedDeltaNet,
    pub q: Rows,
    pub k: Rows,
    pub v: Rows,
    pub g: Rows,
    pub beta: Rows,
    pub recurrence: Recurrence,
    pub out: Rows,
}

impl Lowering<'_> {
    pub(super) fn causal_conv1d(
        &mut self,
        node: &Node,
        conv: CausalConv1d,
    ) -> Result<ConvStep, DeviceError> {
        let x = self.operand(node.reads[0])?;
        let weight = &self.weights.bind(self.plan, node.reads[1])?.data;
        let weight: Vec<f32> =
            weight.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let n_taps = conv.kernel as usize;
        let by_tap = |tap: usize| weight.iter().skip(tap).step_by(n_taps);
        let by_tap: Vec<f32> = (0..n_taps).flat_map(by_tap).copied().collect();
        let buffer = Buffer::copy_of(&by_tap)
            .ok_or_else(|| self.unsupported(node, "no memory for its weights"))?;
        let row_bytes = x.cols * size_of::<f32>();
        let taps = buffer.rows(0, n_taps, row_bytes, row_bytes);
        self.buffers.push(buffer);
        Ok(ConvStep {
            n_taps,
            x,
            taps,
            recurrence: self.recurrence(node, &node.reads[2..])?,
            out: self.value(node.writes[0])?,
        })
    }

    pub(super) fn gated_delta_net(
        &self,
        node: &Node,
        net: GatedDeltaNet,
    ) -> Result<DeltaStep, DeviceError> {
        let value = |idx: usize| self.value(node.reads[idx]);
        Ok(DeltaStep {
            net,
            q: value(0)?,
            k: value(1)?,
            v: value(2)?,
            g: value(3)?,
            beta: value(4)?,
            recurrence: self.recurrence(node, &node.reads[5..])?,
            out: self.value(node.writes[0])?,
        })
    }

    /// `placed` says where rows stand in their sequences and sequences in the states.
    fn recurrence(&self, node: &Node, placed: &[TensorId]) -> Result<Recurrence, DeviceError> {
        Ok(Recurrence {
            states: self.value(node.writes[1])?,
            positions: self.input(placed[0])?,
            seq_of: self.input(placed[1])?,
            from: self.input(placed[2])?,
            to: self.input(placed[3])?,
            saves: self.input(placed[4])?,
        })
    }
}
