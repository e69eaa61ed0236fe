//! Turning sequences' shares of a step into the plan's inputs.

use zinc_backend::StepInputs;

use crate::cache::SeqCache;

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
    pub cache: &'a SeqCache,
    /// Rows that give logits.
    pub out_rows: OutRows,
    /// Hidden states of the tokens, for plans that read them; else empty.
    pub hidden: &'a [f32],
}

/// Adds a share to a step; `pages_per_seq` is the length of a row of the page tables.
pub(crate) fn push_share(inputs: &mut StepInputs, share: &Share<'_>, pages_per_seq: u32) {
    let first_row = inputs.token_ids.len();
    let cache = share.cache;
    push_rows(inputs, share, cache.n_tokens(), pages_per_seq);
    if let Some(window) = cache.window() {
        let positions = cache.n_tokens() as u32..(cache.n_tokens() + share.tokens.len()) as u32;
        inputs.window_slots.extend(positions.map(|position| window.slot(position) as i32));
        window.push_ring(&mut inputs.window_pages);
    }
    if let Some([from, own]) = cache.states() {
        inputs.state_from.push(from);
        inputs.state_slots.push(own);
        inputs.state_saves.resize(inputs.token_ids.len(), -1);
        for (n_tokens, state) in cache.saves() {
            let row = n_tokens - cache.n_tokens() - 1;
            inputs.state_saves[first_row + row] = state;
        }
    }
}

/// Adds to a step of a block whose layers all keep everything, at the positions from `first` on.
pub(crate) fn push_rows(
    inputs: &mut StepInputs,
    share: &Share<'_>,
    first: usize,
    pages_per_seq: u32,
) {
    let seq = (inputs.pages.len() / pages_per_seq as usize) as i32;
    let first_row = inputs.token_ids.len() as i32;
    let table = share.cache.table();
    for (position, &id) in (first as u32..).zip(share.tokens) {
        inputs.token_ids.push(id as i32);
        inputs.positions.push(position as i32);
        inputs.seq_of.push(seq);
        inputs.slots.push(table.slot(position) as i32);
        inputs.rope_variant.push(share.cache.rope_variant);
    }
    inputs.hidden.extend_from_slice(share.hidden);
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
    use crate::cache::Cache;
    use crate::cache_shape::CacheShape;
    use crate::kv::PAGE_SIZE;

    /// A sequence in which `n` tokens are computed, about to compute `n_more`.
    fn sequence(cache: &mut Cache, n: u32, n_more: u32, rope_variant: i32) -> SeqCache {
        let mut seq = cache.open(&[], 0, rope_variant).unwrap();
        cache.begin_step(&mut seq, n, 0).unwrap();
        cache.end_step(&mut seq, &vec![1; n as usize], n);
        cache.begin_step(&mut seq, n_more, 0).unwrap();
        seq
    }

    #[test]
    fn two_sequences_in_one_step() {
        let mut cache = Cache::new(CacheShape::for_tests(128, 2, 8), None);
        let seqs = [sequence(&mut cache, 1, 2, 0), sequence(&mut cache, PAGE_SIZE - 1, 2, 1)];
        let mut inputs = StepInputs::default();
        let share = |tokens, cache, out_rows| Share { tokens, cache, out_rows, hidden: &[] };
        push_share(&mut inputs, &share(&[7, 8][..], &seqs[0], OutRows::From(2)), 4);
        push_share(&mut inputs, &share(&[9, 10][..], &seqs[1], OutRows::Last), 4);
        assert_eq!(inputs.token_ids, [7, 8, 9, 10]);
        assert_eq!(inputs.positions, [1, 2, PAGE_SIZE as i32 - 1, PAGE_SIZE as i32]);
        assert_eq!(inputs.seq_of, [0, 0, 1, 1]);
        assert_eq!(inputs.slots, [1, 2, 2 * PAGE_SIZE as i32 - 1, 2 * PAGE_SIZE as i32]);
        assert_eq!(inputs.pages, [0, 0, 0, 0, 1, 2, 0, 0]);
        assert_eq!(inputs.rope_variant, [0, 0, 1, 1]);
        assert_eq!(inputs.out_rows, [3]);
        assert!(inputs.window_slots.is_empty() && inputs.state_saves.is_empty());

        inputs.clear();
        push_share(&mut inputs, &share(&[7, 8][..], &seqs[0], OutRows::From(0)), 4);
        push_share(&mut inputs, &share(&[9, 10][..], &seqs[1], OutRows::From(1)), 4);
        assert_eq!(inputs.out_rows, [0, 1, 3]);
    }

    #[test]
    fn windows_and_states() {
        let shape = CacheShape::for_tests(256, 1, 8).with(Some(PAGE_SIZE), true, 3);
        let mut cache = Cache::new(shape, None);
        let mut seq = cache.open(&[], 0, 0).unwrap();
        cache.want(&mut seq, &[3, PAGE_SIZE as usize]);
        let mut inputs = StepInputs::default();
        let tokens = vec![1; PAGE_SIZE as usize + 4];
        cache.begin_step(&mut seq, tokens.len() as u32, 0).unwrap();
        fn share<'a>(tokens: &'a [u32], cache: &'a SeqCache) -> Share<'a> {
            Share { tokens, cache, out_rows: OutRows::Last, hidden: &[] }
        }
        push_share(&mut inputs, &share(&tokens, &seq), 8);
        assert_eq!(inputs.window_pages[..2], [0, 1]);
        assert_eq!((&inputs.state_from[..], &inputs.state_slots[..]), (&[0][..], &[0][..]));
        let saves = inputs.state_saves.iter().enumerate().filter(|(_, slot)| **slot >= 0);
        assert_eq!(saves.collect::<Vec<_>>(), [(PAGE_SIZE as usize - 1, &1)]);

        cache.end_step(&mut seq, &tokens, tokens.len() as u32);
        cache.close(seq);
        let mut seq = cache.open(&tokens, tokens.len() - 1, 0).unwrap();
        assert_eq!(seq.n_tokens(), PAGE_SIZE as usize);
        cache.begin_step(&mut seq, 4, 0).unwrap();
        inputs.clear();
        push_share(&mut inputs, &share(&tokens[..4], &seq), 8);
        assert_eq!((&inputs.state_from[..], &inputs.state_slots[..]), (&[1][..], &[0][..]));
        assert!(inputs.state_saves.iter().all(|slot| *slot == -1));
    }
}
