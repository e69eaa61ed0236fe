//! The launch at the end of a block of experts.

use zinc_backend::DeviceError;
use zinc_plan::{Dim, ExpertCombine, Op, TensorId};
use zinc_quant::GgmlType;

use super::block::{self, ExpertBlock, Uses};
use crate::launch::{Count, Kernel, Launch, Rows};
use crate::lower::Lowering;
use crate::lower::linear::ring::Ring;

/// Warps of a block.
const WARPS: [u32; 3] = [16, 12, 8];
/// Most slots of a row, the shared expert's included: a lane of half a warp has what belongs to one.
const MOST_SLOTS: u32 = 16;

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
    piece: u32,
    unused: u32,
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

/// Blocks of a row, their warps and shared memory, and how many blocks of 32 weights of a row come at once.
struct Shape {
    n_blocks: u32,
    warps: u32,
    piece: u32,
    shared: u32,
}

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
                    self.plan.limits.bound(shape.rows).min(u64::from(self.least_grouped) - 1);
                n_bytes += (n_rows * u64::from(shape.cols) * 4).next_multiple_of(64);
            }
            most_bytes = most_bytes.max(n_bytes);
        }
        // Asked for whatever the bucket, so that later nodes find their scratch at the same place.
        let scratch = self.persistent(most_bytes);
        if self.rows(Dim::Tokens) < self.least_grouped {
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
        let n_slots = ids.cols + u32::from(is_joint(block));
        let is_known = name(weight.dtype).is_some() && n_slots <= MOST_SLOTS;
        // In all small steps, so that buckets agree.
        let has_room = |n_rows| self.joined_shape(block, n_rows).is_some();
        is_known && ids.rows == Dim::Tokens && (1..self.least_grouped).all(has_room)
    }

    /// Shape of the launch for a step of `n_rows`.
    fn joined_shape(&self, block: &ExpertBlock, n_rows: u32) -> Option<Shape> {
        let down = &self.plan.nodes[block.down];
        let [weight, ids] = [0, 2].map(|operand| self.plan.tensor(down.reads[operand]));
        let (n_in, n_out) = (weight.shape.cols, self.plan.tensor(block.out).shape.cols);
        let n_slots = ids.shape.cols + u32::from(is_joint(block));
        let n_pairs = n_out.div_ceil(2);
        let n_blocks = (self.card.n_multiprocessors / n_rows.max(1)).clamp(1, n_pairs);
        // Quants with their scales and sums, the values that they are made from, and the products.
        let acts = n_slots.checked_mul(n_in / 32 * 40)?.next_multiple_of(16);
        let acts = acts.checked_add(n_slots.checked_mul(4 * n_in)?)?;
        let n_units = n_pairs.div_ceil(n_blocks) * n_slots;
        let others = acts.checked_add((8 * n_units).next_multiple_of(16))?;
        let room = self.card.shared_per_block.checked_sub(others)?;
        let shape = |warps: u32| {
            let ring = Ring::new(weight.dtype, n_in, warps, room)?;
            Some(Shape { n_blocks, warps, piece: ring.piece, shared: others + ring.n_bytes })
        };
        // Few of the warps are idle in the last round.
        let shapes = WARPS.into_iter().filter_map(shape);
        shapes.min_by_key(|shape| n_units.div_ceil(shape.warps) * shape.warps)
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
        let n_rows = self.rows(ids.rows);
        let Some(shape) = self.joined_shape(block, n_rows) else {
            return Err(self.unsupported(down, "experts without room in shared memory"));
        };
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
            piece: shape.piece,
            unused: 0,
        };
        let name = name(weight.dtype).unwrap_or_default();
        let kernel = Kernel { module: "expert_down", name };
        let launch = Launch::new(kernel, params, [shape.n_blocks, n_rows, 1], shape.warps * 32);
        self.push(launch.with_shared(shape.shared));
        Ok(())
    }
}

/// Whether the product of the shared expert goes with those of the chosen ones.
fn is_joint(block: &ExpertBlock) -> bool {
    block.shared.is_some_and(|shared| shared.down.is_some())
}
