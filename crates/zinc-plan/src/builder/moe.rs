//! Builder methods of the mixture of experts.

use super::Builder;
use crate::PlanError;
use crate::op::{ExpertCombine, ExpertMatMul, Op, RouterTopK};
use crate::plan::TensorId;

impl Builder {
    /// Chooses experts: their ids and weights, named `{label}.ids` and `{label}.weights`. See
    /// [`Op::RouterTopK`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn router_top_k(
        &mut self,
        label: &str,
        attributes: RouterTopK,
        logits: TensorId,
        bias: Option<TensorId>,
    ) -> Result<[TensorId; 2], PlanError> {
        let op = Op::RouterTopK(RouterTopK { bias: bias.is_some(), ..attributes });
        let reads = [logits].into_iter().chain(bias).collect();
        self.node_of(label, ["ids", "weights"], op, reads)
    }

    /// Products with the matrices of the chosen experts. See [`Op::ExpertMatMul`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn expert_matmul(
        &mut self,
        label: &str,
        n_experts: u32,
        [weight, x, ids]: [TensorId; 3],
        bias: Option<TensorId>,
    ) -> Result<TensorId, PlanError> {
        let op = Op::ExpertMatMul(ExpertMatMul { n_experts, bias: bias.is_some() });
        let reads = [weight, x, ids].into_iter().chain(bias).collect();
        self.node(label, op, reads)
    }

    /// Weighted sum of the experts' results; `scale` holds the ids and a factor for each expert.
    /// See [`Op::ExpertCombine`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn expert_combine(
        &mut self,
        label: &str,
        x: TensorId,
        weights: TensorId,
        scale: Option<[TensorId; 2]>,
    ) -> Result<TensorId, PlanError> {
        let op = Op::ExpertCombine(ExpertCombine { expert_scale: scale.is_some() });
        let reads = [x, weights].into_iter().chain(scale.into_iter().flatten());
        self.node(label, op, reads.collect())
    }
}
