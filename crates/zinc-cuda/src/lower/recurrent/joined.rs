//! What lies between the projections of a DeltaNet layer and its recurrence, as one launch: gates, convolution, and
//! norms of query and key heads, which are written where the convolution would have written the heads themselves.

use zinc_backend::DeviceError;
use zinc_plan::{CausalConv1d, L2Norm, Node, Op, TensorId, TensorKind};

use super::{CONV_COLS, Lowering, MOST_TAPS};

/// Nodes `DeltaGates, CausalConv1d, L2Norm, L2Norm`; the norms read the first columns of the convolution.
struct Chain<'a> {
    gates: &'a Node,
    conv_node: &'a Node,
    conv: CausalConv1d,
    norms: [&'a Node; 2],
    norm: L2Norm,
}

impl<'a> Chain<'a> {
    const LEN: usize = 4;

    /// The chain that these nodes begin with.
    fn at(nodes: &'a [Node]) -> Option<Chain<'a>> {
        let [gates, conv_node, q, k, ..] = nodes else { return None };
        let (Op::DeltaGates, Op::CausalConv1d(conv), Op::L2Norm(norm), Op::L2Norm(of_k)) =
            (gates.op, conv_node.op, q.op, k.op)
        else {
            return None;
        };
        let fits = norm == of_k && CONV_COLS.is_multiple_of(norm.group) && conv.kernel <= MOST_TAPS;
        fits.then_some(Chain { gates, conv_node, conv, norms: [q, k], norm })
    }
}

impl Lowering<'_> {
    /// Lowers the chain that begins at node `idx`, if one does; the number of its nodes.
    ///
    /// # Errors
    /// Tensors that are not bound.
    pub(in crate::lower) fn delta_inputs(
        &mut self,
        idx: usize,
    ) -> Result<Option<usize>, DeviceError> {
        let plan = self.plan;
        let Some(chain) = Chain::at(&plan.nodes[idx..]) else { return Ok(None) };
        let Some(n_normed) = self.n_normed(&chain) else { return Ok(None) };
        if !self.may_replace(&chain, idx, n_normed) || self.gates_overlap(&chain)? {
            return Ok(None);
        }
        let mut params = self.conv_params(chain.conv_node, chain.conv)?;
        params.gates = self.gates(chain.gates)?;
        (params.n_normed, params.group, params.eps) = (n_normed, chain.norm.group, chain.norm.eps);
        self.push_conv(params);
        let in_place = chain.norms.map(|norm| (norm.writes[0], norm.reads[0]));
        self.in_place.extend(in_place);
        Ok(Some(Chain::LEN))
    }

    /// The column of a value in the rows of the convolution.
    fn column_of(&self, chain: &Chain<'_>, id: TensorId) -> Option<u32> {
        match self.plan.tensor(id).kind {
            TensorKind::View { base, col } => (base == chain.conv_node.writes[0]).then_some(col),
            _ => (id == chain.conv_node.writes[0]).then_some(0),
        }
    }

    /// Columns of queries and keys, where they come first.
    fn n_normed(&self, chain: &Chain<'_>) -> Option<u32> {
        let [q, k] = chain.norms.map(|norm| norm.reads[0]);
        let q_cols = self.plan.tensor(q).shape.cols;
        let is_next = self.column_of(chain, q)? == 0 && self.column_of(chain, k)? == q_cols;
        is_next.then_some(q_cols + self.plan.tensor(k).shape.cols)
    }

    /// Whether nobody misses the heads before their norms, and the results of the norms can be where these were: all
    /// that read them also read other columns of the convolution, which is alive for that long.
    fn may_replace(&self, chain: &Chain<'_>, idx: usize, n_normed: u32) -> bool {
        let plan = self.plan;
        let normed = chain.norms.map(|norm| norm.writes[0]);
        let column = |id: TensorId| self.column_of(chain, id);
        let is_replaced = |id: TensorId| column(id).is_some_and(|col| col < n_normed);
        let others = plan.nodes[..idx].iter().chain(&plan.nodes[idx + Chain::LEN..]);
        let reads_well = |node: &Node| {
            let reads_normed = node.reads.iter().any(|id| normed.contains(id));
            let is_late = reads_normed && !node.reads.iter().any(|id| column(*id).is_some());
            !is_late && !node.reads.iter().any(|id| is_replaced(*id))
        };
        let is_based = |tensor: &zinc_plan::TensorInfo| matches!(tensor.kind, TensorKind::View { base, .. } if normed.contains(&base));
        let is_output = |id: &TensorId| normed.contains(id) || is_replaced(*id);
        others.into_iter().all(reads_well)
            && plan.tensors_where(is_based).next().is_none()
            && !plan.outputs.iter().any(is_output)
    }

    /// Whether the convolution's result lies where the gates are still made from.
    fn gates_overlap(&self, chain: &Chain<'_>) -> Result<bool, DeviceError> {
        let extent = |id: TensorId| {
            let operand = self.operand(id)?;
            let to_last = self.plan.limits.bound(operand.rows).saturating_sub(1) * operand.stride;
            let n_bytes = to_last + u64::from(operand.cols) * 4;
            Ok::<_, DeviceError>((operand.address, operand.address + n_bytes))
        };
        let y = extent(chain.conv_node.writes[0])?;
        let meets = |read: (u64, u64)| read.0 < y.1 && y.0 < read.1;
        Ok(meets(extent(chain.gates.reads[0])?) || meets(extent(chain.gates.reads[1])?))
    }
}
