//! The choice of experts.

use super::{Lowering, Operand};
use crate::kernels::experts::Chunk;
use crate::kernels::matmul::MAX_ROWS;
use crate::memory::{Buffer, Rows};
use zinc_backend::DeviceError;
use zinc_plan::{ExpertCombine, Node, RouterTopK, TensorId};

/// A router.
pub(crate) struct RouterStep {
    pub router: RouterTopK,
    pub logits: Rows,
    pub bias: Option<Rows>,
    pub ids: Rows,
    pub weights: Rows,
    pub grouping: Grouping,
    /// Number of the router in the plan.
    pub idx: usize,
}

/// The pairs of a row and a slot of one router, ordered by the expert chosen: filled by the router's step, and read
/// by the products with its experts.
#[derive(Clone, Copy)]
pub(crate) struct Grouping {
    /// Experts chosen for each row.
    pub n_slots: usize,
    /// One i32 for each expert: working memory.
    pub counts: Rows,
    /// `row·n_slots + slot` as i32.
    pub pairs: Rows,
    /// [`Chunk`]s.
    pub chunks: Rows,
    /// How many of the chunks there are, as an i32.
    pub n_chunks: Rows,
}

/// A sum over the slots.
pub(crate) struct Combine {
    pub x: Rows,
    pub weights: Rows,
    /// Ids, and the factor of each expert.
    pub scale: Option<[Rows; 2]>,
    pub out: Rows,
}

impl Lowering<'_> {
    pub(super) fn router(
        &mut self,
        node: &Node,
        router: RouterTopK,
    ) -> Result<RouterStep, DeviceError> {
        let bias = node.reads.get(1).filter(|_| router.bias);
        let bias = bias.map(|id| self.value(*id)).transpose()?;
        let logits = self.operand(node.reads[0])?;
        let grouping = self.new_grouping(node, logits)?;
        let idx = self.groupings.len();
        self.groupings.push((node.writes[0], grouping));
        Ok(RouterStep {
            router,
            logits: logits.rows,
            bias,
            ids: self.value(node.writes[0])?,
            weights: self.value(node.writes[1])?,
            grouping,
            idx,
        })
    }

    fn new_grouping(&mut self, node: &Node, logits: Operand) -> Result<Grouping, DeviceError> {
        let n_experts = logits.cols;
        let n_slots = self.operand(node.writes[0])?.cols;
        let n_rows = self.plan.limits.bound(self.plan.tensor(node.writes[0]).shape.rows) as usize;
        let n_pairs = n_rows * n_slots;
        // Each expert's pairs are cut into whole chunks and at most one more.
        let n_chunks = n_pairs / MAX_ROWS + n_experts.min(n_pairs);
        let sizes = [n_experts * 4, n_pairs * 4, n_chunks * size_of::<Chunk>(), 4];
        let total = sizes.iter().map(|size| size.next_multiple_of(64)).sum();
        let buffer = Buffer::new(total)
            .ok_or_else(|| self.unsupported(node, "no memory for the order of experts"))?;
        let mut offset = 0;
        let [counts, pairs, chunks, n_chunks] = sizes.map(|size| {
            let rows = buffer.rows(offset, 1, size, size);
            offset += size.next_multiple_of(64);
            rows
        });
        self.buffers.push(buffer);
        Ok(Grouping { n_slots, counts, pairs, chunks, n_chunks })
    }

    /// The grouping of the router that gives `ids`.
    pub(super) fn grouping(&self, node: &Node, ids: TensorId) -> Result<Grouping, DeviceError> {
        let found = self.groupings.iter().find(|(writes, _)| *writes == ids);
        // Plans are verified: only routers give ids.
        let (_, grouping) =
            found.ok_or_else(|| self.unsupported(node, "ids that no router gives"))?;
        Ok(*grouping)
    }

    pub(super) fn combine(
        &self,
        node: &Node,
        combine: ExpertCombine,
    ) -> Result<Combine, DeviceError> {
        let value = |operand: usize| self.value(node.reads[operand]);
        let scale = match combine.expert_scale {
            true => Some([value(2)?, value(3)?]),
            false => None,
        };
        Ok(Combine { x: value(0)?, weights: value(1)?, scale, out: self.value(node.writes[0])? })
    }
}
