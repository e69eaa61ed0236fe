//! The launch at the end of a block of experts.

use zinc_backend::DeviceError;
use zinc_plan::{Dim, ExpertCombine, Op, TensorId};
use zinc_quant::GgmlType;

use super::Grouping;
use super::block::{self, ExpertBlock, Uses};
use crate::launch::{Count, Kernel, Launch, Rows};
use crate::lower::Lowering;

/// Warps of a block, as in the kernel: each makes one column at a time.
const WARPS: u32 = 8;
/// Blocks of threads that a multiprocessor has at once.
const BLOCKS: u32 = 2;
/// Most experts of a row: a lane has what belongs to one.
const MOST_SLOTS: u32 = 32;

/// `ExpertDownParams` of `expert_down.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct ExpertDownParams {
    n: Count,
    hidden: Rows,
    shared: Rows,
    gate: Rows,
    residual: Rows,
    out: Rows,
    w: u64,
    matrix_bytes: u64,
    w_shared: u64,
    bias: u64,
    scale: u64,
    ids: u64,
    weights: u64,
    row_bytes: u64,
    k: u32,
    n_in: u32,
}

macro_rules! kernels {
    ($($dtype:ident $name:literal),*) => {
        fn name(dtype: GgmlType) -> Option<&'static str> {
            match dtype {
                $(GgmlType::$dtype => Some(concat!("expert_down_", $name)),)*
                _ => None,
            }
        }
    };
}
kernels!(
    Q4_0 "q4_0", Q4_1 "q4_1", Q5_0 "q5_0", Q5_1 "q5_1", Q8_0 "q8_0", Q4_K "q4_k", Q5_K "q5_k",
    Q6_K "q6_k", MXFP4 "mxfp4", IQ4_NL "iq4_nl", IQ4_XS "iq4_xs"
);

impl Lowering<'_> {
    /// Finds routers and blocks of experts, and gives what lies between their launches its place, if the step is small.
    pub(in crate::lower) fn place_expert_blocks(&mut self) {
        let uses = Uses::of(self.plan);
        let mut blocks = block::find(&uses);
        blocks.retain(|block| self.has_joined_kernel(block));
        let routers = self.find_routers(&uses, &mut blocks);
        let mut most_bytes = 0;
        let mut offsets = Vec::new();
        for block in &blocks {
            let mut n_bytes = 0;
            for id in &block.inner {
                offsets.push((*id, n_bytes));
                let shape = self.plan.tensor(*id).shape;
                let n_rows =
                    self.plan.limits.bound(shape.rows).min(u64::from(Grouping::MIN_TOKENS) - 1);
                n_bytes += (n_rows * u64::from(shape.cols) * 4).next_multiple_of(64);
            }
            most_bytes = most_bytes.max(n_bytes);
        }
        // Asked for whatever the bucket, so that later nodes find their scratch at the same place.
        let scratch = self.persistent(most_bytes);
        if self.rows(Dim::Tokens) < Grouping::MIN_TOKENS {
            self.moved = offsets.into_iter().map(|(id, offset)| (id, scratch + offset)).collect();
            self.expert_blocks = blocks;
            self.routers = routers;
        }
    }

    /// Whether there is a kernel for the block's weights, and room for its activations.
    fn has_joined_kernel(&self, block: &ExpertBlock) -> bool {
        let down = &self.plan.nodes[block.down];
        let weight = self.plan.tensor(down.reads[0]);
        let ids = self.plan.tensor(down.reads[2]).shape;
        let fits = self.joined_shared(block) <= self.card.shared_per_block;
        name(weight.dtype).is_some() && ids.cols <= MOST_SLOTS && ids.rows == Dim::Tokens && fits
    }

    /// Bytes of shared memory: quants with their scales and sums, and the results of each warp.
    fn joined_shared(&self, block: &ExpertBlock) -> u32 {
        let down = &self.plan.nodes[block.down];
        let [weight, ids] = [0, 2].map(|operand| self.plan.tensor(down.reads[operand]).shape.cols);
        let is_joint = block.shared.is_some_and(|shared| shared.down.is_some());
        let n_slots = ids + u32::from(is_joint);
        n_slots.saturating_mul(weight / 32 * 40 + WARPS * 4)
    }

    /// Lowers the end of a block of experts, if one begins at node `idx`; the number of its nodes.
    ///
    /// # Errors
    /// Tensors that are not bound.
    pub(in crate::lower) fn expert_block(
        &mut self,
        idx: usize,
    ) -> Result<Option<usize>, DeviceError> {
        let found = self.expert_blocks.iter().find(|block| block.nodes.start == idx);
        let Some(block) = found.cloned() else { return Ok(None) };
        let plan = self.plan;
        let first_launch = self.launches.len();
        for kept in &block.kept {
            // The node before may have done the work of this one.
            if *kept >= self.resume {
                (self.node, self.resume) = (*kept, kept + 1);
                self.lower(&plan.nodes[*kept])?;
            }
        }
        self.node = idx;
        self.launches[first_launch..].iter_mut().for_each(|launch| launch.node = idx);
        self.expert_down(&block)?;
        Ok(Some(block.nodes.len()))
    }

    fn expert_down(&mut self, block: &ExpertBlock) -> Result<(), DeviceError> {
        const NO_ROWS: Rows = Rows { data: 0, stride: 0, cols: 0 };
        let [down, combine] = [block.down, block.combine].map(|idx| &self.plan.nodes[idx]);
        let (weight, ids) = (self.operand(down.reads[0])?, self.operand(down.reads[2])?);
        let rows = |id: Option<TensorId>| id.map_or(Ok(NO_ROWS), |id| self.float_rows(id));
        let address = |id: Option<&TensorId>| {
            id.map_or(Ok(0), |id| self.operand(*id).map(|operand| operand.address))
        };
        let w_shared = block.shared.and_then(|shared| shared.down);
        let has_scale = combine.op == Op::ExpertCombine(ExpertCombine { expert_scale: true });
        let out = self.float_rows(block.out)?;
        let params = ExpertDownParams {
            n: self.count(ids.rows),
            hidden: self.float_rows(block.hidden)?,
            shared: rows(block.shared.map(|shared| shared.value))?,
            gate: rows(block.shared.and_then(|shared| shared.gate))?,
            residual: rows(block.residual)?,
            out,
            w: weight.address,
            matrix_bytes: u64::from(out.cols) * weight.stride,
            w_shared: address(w_shared.map(|idx| &self.plan.nodes[idx].reads[0]))?,
            bias: address(down.reads.get(3))?,
            scale: address(combine.reads.get(3).filter(|_| has_scale))?,
            ids: ids.address,
            weights: address(combine.reads.get(1))?,
            row_bytes: weight.stride,
            k: ids.cols,
            n_in: weight.cols,
        };
        let name = name(weight.dtype).unwrap_or_default();
        let n_rows = self.rows(ids.rows);
        let places = self.card.n_multiprocessors * BLOCKS / n_rows.max(1);
        let grid = [out.cols.div_ceil(WARPS).min(places.max(1)), n_rows, 1];
        let launch = Launch::new(Kernel { module: "expert_down", name }, params, grid, WARPS * 32);
        self.push(launch.with_shared(self.joined_shared(block)));
        Ok(())
    }
}
