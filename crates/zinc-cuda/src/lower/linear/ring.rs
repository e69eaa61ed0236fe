//! The rings that bring two rows of weights at a time to each warp: `ring.cuh` and `product.cuh`.

use zinc_quant::GgmlType;

use crate::store::RowLayout;

/// Pieces under way, as in `ring.cuh`.
const STAGES: u32 = 2;
/// Bytes of shared memory that the kernels have besides: `partial` of `prologue.cuh`.
const PARTIAL: u32 = 2048;

/// The rings of a block's warps.
#[derive(Clone, Copy)]
pub(in crate::lower) struct Ring {
    /// Blocks of 32 weights of a row that come at once.
    pub piece: u32,
    /// Bytes of shared memory, of all warps with their barriers.
    pub n_bytes: u32,
}

impl Ring {
    /// Rings for rows of `n_in` weights: of whole rows if they fit into `room` bytes, else of as long pieces as do.
    pub fn new(dtype: GgmlType, n_in: u32, warps: u32, room: u32) -> Option<Ring> {
        // Of two rows of so many weights.
        let bytes = |n: u32| u32::try_from(RowLayout::of(dtype, n)?.row_bytes).ok()?.checked_mul(2);
        let (whole, chunk) = (bytes(n_in)?, bytes(1024)?);
        let room = (room.checked_sub(PARTIAL)? / (warps * STAGES)).checked_sub(8)?;
        let (piece, stage) = match room >= whole {
            true => (n_in / 32, whole),
            false => (room / chunk * 32, room / chunk * chunk),
        };
        (piece > 0).then_some(Ring { piece, n_bytes: warps * STAGES * (stage + 8) })
    }
}
