//! The cache of one sequence at a time, and what it still holds of the previous one.
//!
//! When a sequence ends, its keys and values stay. The next one keeps the longest common prefix of
//! tokens, so a conversation's next turn computes what is new only. Reuse is exact: a token's keys
//! and values depend on the tokens before it and on the row of the rope table, and both are
//! compared.

use crate::kv::{PagePool, PageTable};
use crate::sequence::SequenceId;

/// A sequence slot.
#[derive(Debug)]
pub(crate) struct CacheSlot {
    /// The sequence that uses the slot now.
    pub owner: Option<SequenceId>,
    /// Pages that hold the keys and values.
    pub table: PageTable,
    /// Tokens whose keys and values are in the pages.
    tokens: Vec<u32>,
    /// Row of the rope table that the keys were turned by.
    pub rope_variant: i32,
    /// Row of the recurrent states that belongs to the slot.
    pub state_slot: i32,
    /// A shorter prefix can be kept than was computed. Not so with recurrent states, which hold
    /// nothing but the end of what they have seen.
    rewinds: bool,
}

impl CacheSlot {
    /// A free slot for up to `n_ctx` tokens in `n_pages` pages.
    pub fn new(n_ctx: u32, n_pages: u32, state_slot: i32, rewinds: bool) -> CacheSlot {
        let table = PageTable::with_capacity(n_pages);
        CacheSlot {
            owner: None,
            table,
            tokens: Vec::with_capacity(n_ctx as usize),
            rope_variant: 0,
            state_slot,
            rewinds,
        }
    }

    /// How many of a prompt's tokens need not be computed; the last one always does, for its
    /// logits.
    pub fn n_reusable(&self, prompt: &[u32], rope_variant: i32) -> usize {
        if rope_variant != self.rope_variant {
            return 0;
        }
        let n_common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let n_reusable = n_common.min(prompt.len().saturating_sub(1));
        if self.rewinds || n_reusable == self.tokens.len() {
            return n_reusable;
        }
        0
    }

    /// Keeps the first `n_tokens` tokens, or fewer if pages force it, and returns how many.
    pub fn keep(&mut self, pool: &mut PagePool, n_tokens: usize, rope_variant: i32) -> usize {
        let mut n_kept = self.table.truncate(pool, n_tokens as u32) as usize;
        if !self.rewinds && n_kept < self.tokens.len() {
            n_kept = self.table.truncate(pool, 0) as usize;
        }
        self.tokens.truncate(n_kept);
        self.rope_variant = rope_variant;
        n_kept
    }

    /// `tokens` have been computed.
    pub fn computed(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_prefix_is_kept() {
        let mut pool = PagePool::new(4);
        let mut slot = CacheSlot::new(64, 2, 0, true);
        slot.table.grow(&mut pool, 4).unwrap();
        slot.computed(&[1, 2, 3, 4]);
        assert_eq!(slot.n_reusable(&[1, 2, 9], 0), 2);
        assert_eq!(slot.n_reusable(&[1, 2, 3, 4, 5], 0), 4);
        assert_eq!(slot.n_reusable(&[1, 2, 3, 4], 0), 3, "the last token's logits are needed");
        assert_eq!(slot.n_reusable(&[9, 1, 2], 0), 0);
        assert_eq!(slot.n_reusable(&[1, 2, 9], 1), 0, "other rope frequencies");
        assert_eq!(slot.keep(&mut pool, 2, 0), 2);
        assert_eq!(slot.n_reusable(&[1, 2, 3, 4], 0), 2);
    }

    #[test]
    fn a_recurrent_state_is_kept_whole_or_not_at_all() {
        let mut pool = PagePool::new(4);
        let mut slot = CacheSlot::new(64, 2, 1, false);
        slot.table.grow(&mut pool, 3).unwrap();
        slot.computed(&[1, 2, 3]);
        assert_eq!(slot.n_reusable(&[1, 2, 3, 4], 0), 3);
        assert_eq!(slot.n_reusable(&[1, 2, 9, 4], 0), 0);
        assert_eq!(slot.n_reusable(&[1, 2, 3], 0), 0, "the last token comes again");
        assert_eq!(slot.keep(&mut pool, 3, 0), 3);
        assert_eq!(slot.keep(&mut pool, 0, 0), 0);
    }
}
