//! Routing and what comes back from the experts.

use super::Lowering;
use zinc_backend::DeviceError;
use zinc_plan::{ExpertCombine, Node, RouterTopK};

/// Rows of chosen experts in the order of the experts, as `group_experts` writes them after each router for buckets of
/// more than [`Grouping::MIN_TOKENS`] tokens: for matrix products that take all rows of an expert together.
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
    /// Upper bound of the number of tiles for the bucket: `tokens * k / TILE + n_experts`.
    pub max_tiles: u32,
}

impl Grouping {
    /// Buckets of fewer tokens have no grouping: each pair is a product of its own.
    pub const MIN_TOKENS: u32 = 9;
    /// Pairs of one expert that are multiplied together.
    pub const TILE: u32 = 64;
}

impl Lowering<'_> {
    pub(super) fn router_top_k(&mut self, node: &Node, _: &RouterTopK) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }

    pub(super) fn expert_combine(&mut self, node: &Node, _: ExpertCombine) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }
}
