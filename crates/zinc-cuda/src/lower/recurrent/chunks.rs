//! Gated DeltaNet over many rows of a sequence: chunk by chunk, with the tensor cores.

use zinc_backend::DeviceError;
use zinc_plan::{Dim, GatedDeltaNet, Node};

use super::{DeltaParams, Lowering};
use crate::launch::{Kernel, Launch};

/// Rows of a chunk, elements of a head, and columns of the state that a block of the walk has: `CHUNK`, `DIM` and
/// `WALK_COLS` of `delta_chunks.cu`.
const CHUNK: u32 = 32;
const DIM: u32 = 128;
const WALK_COLS: u32 = 32;

/// Bytes of `Chunk` of `delta_chunks.cu`.
const CHUNK_BYTES: u64 = 4 * (CHUNK * DIM + 2 * CHUNK * CHUNK + CHUNK) as u64;

/// Bytes of `WalkShared` of `delta_chunks.cu`.
const WALK_SHARED: u32 =
    4 * (CHUNK * (2 * (DIM + 4) + CHUNK + 4 + DIM + 8) + (DIM + CHUNK) * (WALK_COLS + 8));

/// Fewer rows, of the step or of a sequence on average, are left to the recurrence. By estimate, not yet measured: a
/// chunk takes as long as four rows there, and what comes before the walk as long as fifteen.
const MIN_ROWS: u32 = 64;
const MIN_ROWS_OF_SEQ: u32 = 16;

/// `DeltaChunksParams` of `delta_chunks.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct DeltaChunksParams {
    delta: DeltaParams,
    chunks: u64,
}

impl Lowering<'_> {
    /// Scratch for the rows of `net` in chunks, if they are worth it. Their sums have another order than those of rows
    /// one by one, and one that depends on where a step begins.
    pub(super) fn chunk_scratch(&mut self, net: &GatedDeltaNet) -> Option<u64> {
        let fits = (net.k_dim, net.v_dim) == (DIM, DIM)
            && self.card.capability >= 80
            && self.card.shared_per_block >= WALK_SHARED;
        let limits = &self.plan.limits;
        if !fits || self.batch_invariant || limits.max_tokens < MIN_ROWS {
            return None;
        }
        // As `chunk_at` numbers them; asked for whatever the bucket, since the largest one may have too many sequences.
        let most_seqs = limits.max_seqs.min(limits.max_tokens / MIN_ROWS_OF_SEQ);
        let most_chunks = u64::from(limits.max_tokens / CHUNK + most_seqs);
        let scratch = self.transient(most_chunks * u64::from(net.n_v_heads) * CHUNK_BYTES);
        let (tokens, seqs) = (self.bucket.tokens, self.bucket.seqs);
        (tokens >= MIN_ROWS.max(seqs * MIN_ROWS_OF_SEQ)).then_some(scratch)
    }

    pub(super) fn delta_chunks(
        &mut self,
        node: &Node,
        net: &GatedDeltaNet,
        chunks: u64,
    ) -> Result<(), DeviceError> {
        let params = DeltaChunksParams { delta: self.delta_params(node, net)?, chunks };
        let (tokens, seqs) = (self.rows(Dim::Tokens), self.bucket.seqs);
        let kernel = |name| Kernel { module: "delta_chunks", name };
        let grid = [net.n_v_heads, tokens.div_ceil(CHUNK), seqs];
        self.push(Launch::new(kernel("delta_chunks"), params, grid, 128));
        let grid = [DIM / WALK_COLS, net.n_v_heads, seqs];
        let walk = Launch::new(kernel("delta_walk"), params, grid, 128);
        self.push(walk.with_shared(WALK_SHARED));
        Ok(())
    }
}
