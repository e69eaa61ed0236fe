//! Turning sequences' shares of a step into the plan's inputs.

use zinc_backend::StepInputs;

use crate::cache_slot::CacheSlot;

/// Which of a share's rows give logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutRows {
    Last,
    /// From this row of the share on.
    From(usize),
}

impl OutRows {
    /// Rows of a share of `n_tokens` tokens.
    pub fn count(self, n_tokens: usize) -> usize {
        match self {
            OutRows::Last => 1,
            OutRows::From(row) => n_tokens.saturating_sub(row),
        }
    }
}

/// One sequence's share of a step.
pub(crate) struct Share<'a> {
    /// The tokens to compute.
    pub tokens: &'a [u32],
    /// The sequence's caches, with room for the tokens.
    pub cache: &'a CacheSlot,
    /// Rows that give logits.
    pub out_rows: OutRows,
    /// Hidden states of the tokens, for plans that read them; else empty.
    pub hidden: &'a [f32],
}

/// Adds a share to a step; `pages_per_seq` is the length of a row of the page tables.
pub(crate) fn push_share(inputs: &mut StepInputs, share: &Share<'_>, pages_per_seq: u32) {
    let seq = (inputs.pages.len() / pages_per_seq as usize) as i32;
    let first_row = inputs.token_ids.len() as i32;
    let (cache, table) = (share.cache, share.cache.table());
    for (position, &id) in (cache.n_tokens() as u32..).zip(share.tokens) {
        inputs.token_ids.push(id as i32);
        inputs.positions.push(position as i32);
        inputs.seq_of.push(seq);
        inputs.slots.push(table.slot(position) as i32);
        inputs.window_slots.extend(cache.window().map(|window| window.slot(position) as i32));
        inputs.rope_variant.push(cache.rope_variant);
    }
    inputs.hidden.extend_from_slice(share.hidden);
    if let Some(window) = cache.window() {
        window.push_ring(&mut inputs.window_pages);
    }
    if let Some([from, own]) = cache.states() {
        inputs.state_from.push(from);
        inputs.state_slots.push(own);
        inputs.state_saves.resize(inputs.token_ids.len(), -1);
        for (n_tokens, state) in cache.saves() {
            let row = n_tokens - cache.n_tokens() - 1;
            inputs.state_saves[first_row as usize + row] = state;
        }
    }
    inputs.pages.extend(table.pages().iter().map(|page| page.0 as i32));
    // Entries past a sequence's length are never read, but must be there.
    inputs.pages.resize((seq as usize + 1) * pages_per_seq as usize, 0);
    let end = inputs.token_ids.len() as i32;
    match share.out_rows {
        OutRows::Last => inputs.out_rows.push(end - 1),
        OutRows::From(row) => inputs.out_rows.extend(first_row + row as i32..end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache_slot::{Pools, StateSlots};
    use crate::kv::{PAGE_SIZE, PagePool, WindowTable};

    fn pools() -> Pools {
        Pools { full: PagePool::new(8), window: PagePool::new(8) }
    }

    /// A slot in which `n` tokens are computed, about to compute `n_more`.
    fn slot(pools: &mut Pools, n: u32, n_more: u32, rope_variant: i32) -> CacheSlot {
        let mut slot = CacheSlot::new(256, 4, None, None, 0);
        slot.keep(pools, 0, rope_variant);
        slot.begin_step(pools, n).unwrap();
        slot.end_step(pools, &vec![1; n as usize]);
        slot.begin_step(pools, n_more).unwrap();
        slot
    }

    #[test]
    fn two_sequences_in_one_step() {
        let mut pools = pools();
        let caches = [slot(&mut pools, 1, 2, 0), slot(&mut pools, PAGE_SIZE - 1, 2, 1)];
        let mut inputs = StepInputs::default();
        let share = |tokens, cache, out_rows| Share { tokens, cache, out_rows, hidden: &[] };
        push_share(&mut inputs, &share(&[7, 8][..], &caches[0], OutRows::From(2)), 4);
        push_share(&mut inputs, &share(&[9, 10][..], &caches[1], OutRows::Last), 4);
        assert_eq!(inputs.token_ids, [7, 8, 9, 10]);
        assert_eq!(inputs.positions, [1, 2, PAGE_SIZE as i32 - 1, PAGE_SIZE as i32]);
        assert_eq!(inputs.seq_of, [0, 0, 1, 1]);
        assert_eq!(inputs.slots, [1, 2, 2 * PAGE_SIZE as i32 - 1, 2 * PAGE_SIZE as i32]);
        assert_eq!(inputs.pages, [0, 0, 0, 0, 1, 2, 0, 0]);
        assert_eq!(inputs.rope_variant, [0, 0, 1, 1]);
        assert_eq!(inputs.out_rows, [3]);
        assert!(inputs.window_slots.is_empty() && inputs.state_saves.is_empty());

        inputs.clear();
        push_share(&mut inputs, &share(&[7, 8][..], &caches[0], OutRows::From(0)), 4);
        push_share(&mut inputs, &share(&[9, 10][..], &caches[1], OutRows::From(1)), 4);
        assert_eq!(inputs.out_rows, [0, 1, 3]);
    }

    #[test]
    fn windows_and_states() {
        let mut pools = pools();
        let window = WindowTable::new(3, PAGE_SIZE);
        let mut slot = CacheSlot::new(256, 8, Some(window), Some(StateSlots::new(4, 2)), 2);
        slot.want([3, PAGE_SIZE as usize]);
        let mut inputs = StepInputs::default();
        let tokens = vec![1; 2 * PAGE_SIZE as usize];
        slot.begin_step(&mut pools, tokens.len() as u32).unwrap();
        fn share<'a>(tokens: &'a [u32], cache: &'a CacheSlot) -> Share<'a> {
            Share { tokens, cache, out_rows: OutRows::Last, hidden: &[] }
        }
        push_share(&mut inputs, &share(&tokens, &slot), 8);
        assert_eq!(inputs.window_pages, [0, 1, 0]);
        assert_eq!((&inputs.state_from[..], &inputs.state_slots[..]), (&[4][..], &[4][..]));
        let saves = inputs.state_saves.iter().enumerate().filter(|(_, slot)| **slot >= 0);
        assert_eq!(saves.collect::<Vec<_>>(), [(2, &5), (PAGE_SIZE as usize - 1, &6)]);

        slot.end_step(&mut pools, &tokens);
        assert_eq!(slot.keep(&mut pools, 40, 0), PAGE_SIZE as usize);
        slot.begin_step(&mut pools, PAGE_SIZE).unwrap();
        inputs.clear();
        push_share(&mut inputs, &share(&tokens[..PAGE_SIZE as usize], &slot), 8);
        assert_eq!((&inputs.state_from[..], &inputs.state_slots[..]), (&[6][..], &[4][..]));
        assert!(inputs.state_saves.iter().all(|slot| *slot == -1));
    }
}
