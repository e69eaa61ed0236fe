//! Builder methods of the gated DeltaNet.

use zinc_quant::GgmlType;

use super::Builder;
use crate::PlanError;
use crate::op::{CausalConv1d, GatedDeltaNet, Op, RmsNorm, delta_net};
use crate::plan::{Dim, Shape, TensorId, TensorInfo, TensorKind};

impl Builder {
    /// An f32 state of `cols` elements per sequence slot that lives across steps.
    ///
    /// # Errors
    /// A name that is taken.
    pub fn recurrent_state(&mut self, name: &str, cols: u32) -> Result<TensorId, PlanError> {
        self.add_tensor(TensorInfo {
            name: name.into(),
            dtype: GgmlType::F32,
            shape: Shape::new(Dim::StateSlots, cols),
            kind: TensorKind::State,
        })
    }

    /// Adds a node that computes a value and updates `state`, which must have `cols` columns.
    fn recurrent_node(
        &mut self,
        label: &str,
        op: Op,
        mut reads: Vec<TensorId>,
        (state, cols): (TensorId, Option<u32>),
    ) -> Result<TensorId, PlanError> {
        let shape = self.plan.tensor(state).shape;
        if shape.rows != Dim::StateSlots || Some(shape.cols) != cols {
            return Err(PlanError::Operand {
                label: label.into(),
                op: op.kind().name(),
                reason: format!("state has {} columns, needs {cols:?}", shape.cols),
            });
        }
        for kind in delta_net::PLACEMENT {
            reads.push(self.input(kind)?);
        }
        let y = self.node(label, op, reads)?;
        if let Some(node) = self.plan.nodes.last_mut() {
            node.writes.push(state);
        }
        Ok(y)
    }

    /// Depthwise convolution over each sequence, then silu. See [`Op::CausalConv1d`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn causal_conv1d(
        &mut self,
        label: &str,
        attributes: CausalConv1d,
        [x, weight]: [TensorId; 2],
        state: TensorId,
    ) -> Result<TensorId, PlanError> {
        let n_kept = attributes.kernel.saturating_sub(1);
        let cols = self.plan.tensor(x).shape.cols.checked_mul(n_kept);
        let op = Op::CausalConv1d(attributes);
        self.recurrent_node(label, op, vec![x, weight], (state, cols))
    }

    /// Decay and step size of each head, named `{label}.g` and `{label}.beta`. See
    /// [`Op::DeltaGates`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn delta_gates(
        &mut self,
        label: &str,
        [a, b]: [TensorId; 2],
        [a_log, dt_bias]: [TensorId; 2],
    ) -> Result<[TensorId; 2], PlanError> {
        let reads = vec![a, b, a_log, dt_bias];
        self.node_of(label, ["g", "beta"], Op::DeltaGates, reads)
    }

    /// The recurrence over `[q, k, v, g, beta]`. See [`Op::GatedDeltaNet`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn gated_delta_net(
        &mut self,
        label: &str,
        attributes: GatedDeltaNet,
        operands: [TensorId; 5],
        state: TensorId,
    ) -> Result<TensorId, PlanError> {
        let cols = Some(delta_net::state_cols(&attributes));
        let op = Op::GatedDeltaNet(attributes);
        self.recurrent_node(label, op, operands.to_vec(), (state, cols))
    }

    /// RMS norm of x times silu(z). See [`Op::RmsNormGated`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn rms_norm_gated(
        &mut self,
        label: &str,
        attributes: RmsNorm,
        [x, weight, z]: [TensorId; 3],
    ) -> Result<TensorId, PlanError> {
        self.node(label, Op::RmsNormGated(attributes), vec![x, weight, z])
    }
}
