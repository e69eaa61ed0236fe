//! The crate's error type.

use crate::GgmlType;

/// Why a conversion was refused. Nothing has been written when one is returned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantError {
    /// The number of elements does not fill whole blocks.
    #[error("{ty}: {n_elems} elements do not fill whole blocks of {}", ty.block_len())]
    PartialBlock {
        /// Type of the blocks.
        ty: GgmlType,
        /// Elements asked for.
        n_elems: usize,
    },
    /// The byte slice and the element slice do not describe the same blocks.
    #[error("{ty}: {n_elems} elements take {expected} bytes, got {found}")]
    LengthMismatch {
        /// Type of the blocks.
        ty: GgmlType,
        /// Elements in the f32 slice.
        n_elems: usize,
        /// Bytes these elements take.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// This type holds no weights, so it has no f32 meaning here.
    #[error("{0} tensors cannot be dequantised: integer types hold indices, not weights")]
    CannotDequantize(GgmlType),
    /// There is no quantiser to this type.
    #[error("there is no such quantiser to {0}")]
    CannotQuantize(GgmlType),
}
