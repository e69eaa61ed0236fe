//! Turning sequences' shares of a step into the plan's inputs.

use zinc_backend::StepInputs;

use crate::kv::PageTable;

/// Which of a share's rows give logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutRows {
    None,
    Last,
    /// From this row of the share on.
    From(usize),
}

/// One sequence's share of a step.
pub(crate) struct Share<'a> {
    /// The tokens to compute.
    pub tokens: &'a [u32],
    /// Position of the first of them.
    pub position: u32,
    /// The sequence's pages; there is one for every position.
    pub table: &'a PageTable,
    /// Row of the rope table.
    pub rope_variant: i32,
    /// Row of the recurrent states.
    pub state_slot: i32,
    /// Rows that give logits.
    pub out_rows: OutRows,
    /// Hidden states of the tokens, for plans that read them; else empty.
    pub hidden: &'a [f32],
}

/// Adds a share to a step; `pages_per_seq` is the length of a row of the page tables.
pub(crate) fn push_share(inputs: &mut StepInputs, share: &Share<'_>, pages_per_seq: u32) {
    let seq = (inputs.pages.len() / pages_per_seq as usize) as i32;
    let first_row = inputs.token_ids.len() as i32;
    for (position, &id) in (share.position..).zip(share.tokens) {
        inputs.token_ids.push(id as i32);
        inputs.positions.push(position as i32);
        inputs.seq_of.push(seq);
        inputs.slots.push(share.table.slot(position) as i32);
        inputs.rope_variant.push(share.rope_variant);
    }
    inputs.hidden.extend_from_slice(share.hidden);
    inputs.state_from.push(share.state_slot);
    inputs.state_slots.push(share.state_slot);
    inputs.state_saves.resize(inputs.token_ids.len(), -1);
    inputs.pages.extend(share.table.pages().iter().map(|page| page.0 as i32));
    // Entries past a sequence's length are never read, but must be there.
    inputs.pages.resize((seq as usize + 1) * pages_per_seq as usize, 0);
    inputs.window_slots.clone_from(&inputs.slots);
    inputs.window_pages.clone_from(&inputs.pages);
    let end = inputs.token_ids.len() as i32;
    match share.out_rows {
        OutRows::None => {}
        OutRows::Last => inputs.out_rows.push(end - 1),
        OutRows::From(row) => inputs.out_rows.extend(first_row + row as i32..end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{PAGE_SIZE, PagePool};

    #[test]
    fn two_sequences_in_one_step() {
        let mut pool = PagePool::new(8);
        let mut tables = [PageTable::default(), PageTable::default()];
        tables[0].grow(&mut pool, 3).unwrap();
        tables[1].grow(&mut pool, PAGE_SIZE + 1).unwrap();
        let mut inputs = StepInputs::default();
        let share = |tokens, position, table, rope_variant, out_rows| Share {
            tokens,
            position,
            table,
            rope_variant,
            state_slot: 0,
            out_rows,
            hidden: &[],
        };
        push_share(&mut inputs, &share(&[7, 8][..], 1, &tables[0], 0, OutRows::None), 4);
        push_share(
            &mut inputs,
            &share(&[9, 10][..], PAGE_SIZE - 1, &tables[1], 1, OutRows::Last),
            4,
        );
        assert_eq!(inputs.token_ids, [7, 8, 9, 10]);
        assert_eq!(inputs.positions, [1, 2, PAGE_SIZE as i32 - 1, PAGE_SIZE as i32]);
        assert_eq!(inputs.seq_of, [0, 0, 1, 1]);
        assert_eq!(inputs.slots, [1, 2, 2 * PAGE_SIZE as i32 - 1, 2 * PAGE_SIZE as i32]);
        assert_eq!(inputs.pages, [0, 0, 0, 0, 1, 2, 0, 0]);
        assert_eq!(inputs.rope_variant, [0, 0, 1, 1]);
        assert_eq!(inputs.out_rows, [3]);

        inputs.clear();
        push_share(&mut inputs, &share(&[7, 8][..], 0, &tables[0], 0, OutRows::From(0)), 4);
        push_share(&mut inputs, &share(&[9, 9, 9][..], 0, &tables[1], 0, OutRows::From(1)), 4);
        assert_eq!(inputs.out_rows, [0, 1, 3, 4]);
    }
}
