//! Routing and what comes back from the experts.

pub(super) mod block;
mod down;
pub(super) mod router;

use zinc_backend::DeviceError;
use zinc_plan::{ExpertCombine, Gating, GroupScore, Node, Op, Plan, RouterTopK, TensorId};

use super::{Card, Lowering};
use crate::device::HOPPER;
use crate::launch::{Count, Kernel, Launch, Rows};

/// Experts that the router's kernel has room for: `MOST_EXPERTS` of `router.cuh`.
const MOST_EXPERTS: u32 = 1024;

/// `RouterParams` of `router.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct RouterParams {
    logits: Rows,
    n: Count,
    bias: u64,
    ids: u64,
    weights: u64,
    k: u32,
    gating: u32,
    group_score: u32,
    n_groups: u32,
    n_groups_used: u32,
    normalize: u32,
    scale: f32,
    unused: u32,
}

/// `GroupParams` of `moe.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct GroupParams {
    ids: u64,
    offsets: u64,
    pairs: u64,
    tiles: u64,
    n_tiles: u64,
    n: Count,
    k: u32,
    n_experts: u32,
    tile: u32,
    unused: u32,
}

/// `CombineParams` of `rows.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct CombineParams {
    x: Rows,
    y: Rows,
    n: Count,
    weights: u64,
    ids: u64,
    scale: u64,
    k: u32,
    unused: u32,
}

/// Rows of chosen experts in the order of the experts, as `group_experts` writes them after each router for buckets of
/// at least [`Grouping::least_rows`] tokens: for matrix products that take all rows of an expert together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grouping {
    /// `i32 [n_experts + 1]`: where the pairs of each expert begin; the last one is the number of pairs.
    pub offsets: u64,
    /// `i32 [max_tokens * k]`: `token * k + slot`, sorted by expert, in order of token among equals.
    pub pairs: u64,
    /// `i32 [max_tiles * 2]`: expert and first pair (index into `pairs`) of each tile of [`Grouping::TILE`] pairs.
    pub tiles: u64,
    /// `i32 [1]`: number of tiles.
    pub n_tiles: u64,
    /// Experts there are.
    pub n_experts: u32,
    /// Upper bound of the number of tiles for the bucket: `tokens * k / TILE + n_experts`.
    pub max_tiles: u32,
}

impl Grouping {
    /// Buckets of fewer tokens are made row by row, and have no grouping: each pair is a product of its own.
    pub const MIN_TOKENS: u32 = 9;
    /// Pairs of one expert that are multiplied together.
    pub const TILE: u32 = 64;

    /// Most that [`Grouping::least_rows`] gives: what lies beside experts is made row by row below it, too.
    const MOST_LEAST: u32 = 40;

    /// Fewest tokens of a bucket whose pairs are grouped in this plan: where there are three pairs for four experts. With
    /// fewer most experts have one pair at most, and turning their weights for several rows does not pay: 16 sequences of
    /// qwen3.5-35b-a3b (256 experts, 8 chosen) 1,478 tok/s grouped and 2,062 apart, 24 of them 1,889 and 1,825 (H200). On
    /// other cards, whose grouped products are other kernels, nothing was measured.
    pub(super) fn least_rows(plan: &Plan, card: Card) -> u32 {
        if card.capability != HOPPER {
            return Grouping::MIN_TOKENS;
        }
        let of_router = |node: &Node| match node.op {
            Op::RouterTopK(_) => {
                let [n_experts, k]: [u32; 2] =
                    [node.reads[0], node.writes[0]].map(|id| plan.tensor(id).shape.cols);
                Some((3 * n_experts).div_ceil(4 * k.max(1)))
            }
            _ => None,
        };
        let least = plan.nodes.iter().filter_map(of_router).max();
        least.unwrap_or(0).clamp(Grouping::MIN_TOKENS, Grouping::MOST_LEAST)
    }
}

impl Lowering<'_> {
    pub(super) fn router_top_k(
        &mut self,
        node: &Node,
        router: &RouterTopK,
    ) -> Result<(), DeviceError> {
        let params = self.router_params(node, router)?;
        let kernel = Kernel { module: "moe", name: "router_top_k" };
        let rows = self.rows(self.plan.tensor(node.reads[0]).shape.rows);
        self.push(Launch::new(kernel, params, [rows, 1, 1], 128));
        self.group_experts(node.writes[0], &params);
        Ok(())
    }

    fn router_params(&self, node: &Node, router: &RouterTopK) -> Result<RouterParams, DeviceError> {
        let logits = self.float_rows(node.reads[0])?;
        if logits.cols > MOST_EXPERTS {
            return Err(self.unsupported(node, format!("{} experts", logits.cols)));
        }
        let bias = node.reads.get(1).filter(|_| router.bias);
        Ok(RouterParams {
            logits,
            n: self.count(self.plan.tensor(node.reads[0]).shape.rows),
            bias: bias.map_or(Ok(0), |id| self.operand(*id).map(|bias| bias.address))?,
            ids: self.operand(node.writes[0])?.address,
            weights: self.operand(node.writes[1])?.address,
            k: router.n_experts_used,
            gating: match router.gating {
                Gating::Softmax => 0,
                Gating::TopKSoftmax => 1,
                Gating::Sigmoid => 2,
            },
            group_score: match router.groups.map(|groups| groups.score) {
                None => 0,
                Some(GroupScore::Max) => 1,
                Some(GroupScore::TopTwo) => 2,
            },
            n_groups: router.groups.map_or(1, |groups| groups.n_groups),
            n_groups_used: router.groups.map_or(1, |groups| groups.n_groups_used),
            normalize: u32::from(router.normalize),
            scale: router.scale,
            unused: 0,
        })
    }

    /// Sorts the chosen pairs by expert, where products take them so.
    fn group_experts(&mut self, id: TensorId, router: &RouterParams) {
        let RouterParams { ids, k, logits: Rows { cols: n_experts, .. }, .. } = *router;
        // Asked for whatever the bucket, so that later nodes find their scratch at the same place.
        let most_pairs = u64::from(self.plan.limits.max_tokens) * u64::from(k);
        let most_tiles = most_pairs / u64::from(Grouping::TILE) + u64::from(n_experts);
        let n_ints = [u64::from(n_experts) + 1, most_pairs, 2 * most_tiles, 1];
        let [offsets, pairs, tiles, n_tiles] = n_ints.map(|n| self.persistent(4 * n));
        let dim = self.plan.tensor(id).shape.rows;
        let n_rows = self.rows(dim);
        // Counts of 32 warps, where experts begin, where their tiles begin.
        let shared = 34 * 4 * n_experts;
        let fits = shared + 1024 <= self.card.shared_per_block;
        if self.batch_invariant || n_rows < self.least_grouped || !fits {
            return;
        }
        let params = GroupParams {
            ids,
            offsets,
            pairs,
            tiles,
            n_tiles,
            n: self.count(dim),
            k,
            n_experts,
            tile: Grouping::TILE,
            unused: 0,
        };
        let kernel = Kernel { module: "moe", name: "group_experts" };
        self.push(Launch::new(kernel, params, [1, 1, 1], 1024).with_shared(shared));
        let max_tiles = n_rows * k / Grouping::TILE + n_experts;
        self.groupings
            .push((id, Grouping { offsets, pairs, tiles, n_tiles, n_experts, max_tiles }));
    }

    pub(super) fn expert_combine(
        &mut self,
        node: &Node,
        combine: ExpertCombine,
    ) -> Result<(), DeviceError> {
        let dim = self.plan.tensor(node.writes[0]).shape.rows;
        let y = self.float_rows(node.writes[0])?;
        let weights = self.operand(node.reads[1])?;
        let address = |idx: usize| match combine.expert_scale {
            true => self.operand(node.reads[idx]).map(|operand| operand.address),
            false => Ok(0),
        };
        let params = CombineParams {
            x: self.float_rows(node.reads[0])?,
            y,
            n: self.count(dim),
            weights: weights.address,
            ids: address(2)?,
            scale: address(3)?,
            k: weights.cols,
            unused: 0,
        };
        let grid = [y.cols.div_ceil(1024), self.rows(dim), 1];
        let kernel = Kernel { module: "rows", name: "expert_combine" };
        self.push(Launch::new(kernel, params, grid, 256));
        Ok(())
    }
}
