//! The pair of a shared expert, which the launch for the chosen ones' pairs takes along.

use zinc_backend::DeviceError;
use zinc_plan::{ExpertGateUpAct, Node, Op, TensorId};

use super::Stack;
use crate::lower::{Lowering, Operand};

/// A pair of single matrices that takes the activations of a stacked one, in a slot behind the others.
#[derive(Clone, Copy)]
pub(super) struct Beside {
    pub gate: Stack,
    pub up: Stack,
    pub out: Operand,
}

impl Lowering<'_> {
    /// The later pair of a shared expert that the launch for the experts of `node` can take along in a step of one
    /// row: of the same activations, types, widths and act. That node has nothing to do then; the memory pass keeps
    /// the place of its result free from `node` on.
    pub(super) fn pair_beside(
        &mut self,
        node: &Node,
        pair: &ExpertGateUpAct,
    ) -> Result<Option<Beside>, DeviceError> {
        let plan = self.plan;
        let shape = |id: TensorId| plan.tensor(id).shape;
        let (n_weights, out) = (pair.n_weights(), shape(node.writes[0]));
        let [x, ids] = [n_weights, n_weights + 1].map(|operand| node.reads[operand]);
        if pair.bias || self.rows(out.rows) > 1 || shape(x).cols != shape(node.reads[0]).cols {
            return Ok(None);
        }
        let dtype = plan.tensor(node.reads[0]).dtype;
        let has_type = |id: &TensorId| plan.tensor(*id).dtype == dtype;
        // The memory pass keeps the place of the first one.
        let takes_x = |(_, other): &(usize, &Node)| {
            matches!(other.op, Op::GateUpAct(_)) && other.reads[2] == x
        };
        let is_like = |(idx, other): &(usize, &Node)| {
            *idx > self.node
                && matches!(other.op, Op::GateUpAct(shared) if shared.act == pair.act)
                && shape(other.writes[0]).cols * shape(ids).cols == out.cols
                && other.reads[..2].iter().chain(&node.reads[..n_weights]).all(has_type)
        };
        let found = plan.nodes.iter().enumerate().find(takes_x).filter(is_like);
        let Some((_, other)) = found.filter(|_| super::matvec::is_known(dtype)) else {
            return Ok(None);
        };
        let [gate, up] = [self.stack(other, 0, 1, None)?, self.stack(other, 1, 1, None)?];
        let out = self.operand(other.writes[0])?;
        self.written.push(other.writes[0]);
        Ok(Some(Beside { gate, up, out }))
    }
}
