//! What lowering needs to know of a card.

use crate::driver::CardInfo;

/// Sizes of a card that launches are shaped by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Card {
    /// Compute capability times ten.
    pub capability: u32,
    /// Streaming multiprocessors.
    pub n_multiprocessors: u32,
    /// Bytes of shared memory that a block may ask for.
    pub shared_per_block: u32,
    /// Bytes of shared memory of a multiprocessor.
    pub shared_per_multiprocessor: u32,
}

impl Card {
    /// A Hopper card, for launch lists without a card.
    pub const HOPPER: Card = Card {
        capability: 90,
        n_multiprocessors: 132,
        shared_per_block: 227 << 10,
        shared_per_multiprocessor: 228 << 10,
    };
}

impl From<&CardInfo> for Card {
    fn from(info: &CardInfo) -> Card {
        Card {
            capability: info.capability,
            n_multiprocessors: info.n_multiprocessors,
            shared_per_block: info.shared_per_block,
            shared_per_multiprocessor: info.shared_per_multiprocessor,
        }
    }
}
