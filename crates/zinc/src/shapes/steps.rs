//! Steps of given sizes, without a model's tokens.

use std::ops::Range;

use zinc_backend::StepInputs;
use zinc_engine::kv::{PAGE_SIZE, n_pages_for};
use zinc_plan::{Bound, InputKind, Limits, Plan};

use super::Sizes;

/// Rows of the tables that operands come from. Prime to what rows of a batch have in common, and enough that a
/// prompt's tokens choose many experts.
pub const TABLE_ROWS: u32 = 61;

/// Rows of a step: neighbouring positions of some sequences.
#[derive(Clone, Debug)]
pub struct Rows {
    parts: Vec<(u32, Range<u32>)>,
    /// Added to the rows of the tables.
    shift: u32,
    /// Whether later steps go on from the states that this one leaves; else it may run again and again.
    is_kept: bool,
}

impl Sizes {
    /// Tokens that a sequence has in the end.
    fn n_ctx(&self) -> u32 {
        self.depth + self.tokens
    }

    /// Limits of plans for such steps, in models whose longest window is this.
    pub fn limits(&self, window: Option<u32>) -> Limits {
        let max_tokens = (self.tokens * self.seqs).max(self.chunk.min(self.depth));
        let pages_per_seq = n_pages_for(self.n_ctx());
        let ring = |window| Limits::ring_pages(PAGE_SIZE, window, max_tokens).min(pages_per_seq);
        let window_pages_per_seq = window.map_or(0, ring);
        Limits {
            max_tokens,
            max_seqs: self.seqs,
            max_out_rows: self.seqs,
            page_size: PAGE_SIZE,
            pages_per_seq,
            n_pages: pages_per_seq * self.seqs,
            window_pages_per_seq,
            n_window_pages: window_pages_per_seq * self.seqs,
            n_state_slots: 2 * self.seqs,
        }
    }

    /// The same for costs.
    pub fn bound(&self) -> Bound {
        Bound {
            tokens: u64::from(self.tokens) * u64::from(self.seqs),
            seqs: self.seqs.into(),
            out_rows: self.seqs.into(),
            mean_keys: u64::from(self.depth) + u64::from(self.tokens).div_ceil(2),
        }
    }

    /// The rows that are measured.
    pub fn rows(&self) -> Rows {
        let parts = (0..self.seqs).map(|seq| (seq, self.depth..self.n_ctx())).collect();
        Rows { parts, shift: 0, is_kept: false }
    }

    /// Steps that compute what comes before `rows`.
    pub fn before<'a>(&'a self, rows: &'a Rows) -> impl Iterator<Item = Rows> + 'a {
        let starts = (0..self.depth).step_by(self.chunk.max(1) as usize);
        starts.flat_map(move |start| {
            let part = start..self.depth.min(start + self.chunk.max(1));
            let parts = rows.parts.iter();
            parts.map(move |(seq, _)| Rows {
                parts: vec![(*seq, part.clone())],
                shift: 0,
                is_kept: true,
            })
        })
    }
}

impl Rows {
    /// The first `n` of them.
    pub fn first(&self, n: u32) -> Rows {
        let mut left = n;
        let mut first = Vec::new();
        for (seq, positions) in &self.parts {
            let n_taken = left.min(positions.end - positions.start);
            left -= n_taken;
            if n_taken > 0 {
                first.push((*seq, positions.start..positions.start + n_taken));
            }
        }
        Rows { parts: first, ..*self }
    }

    /// The same positions with other values in the step `step`.
    pub fn with_other_values(&self, step: usize) -> Rows {
        Rows { shift: (step % TABLE_ROWS as usize) as u32, ..self.clone() }
    }

    /// Inputs of a step with these rows; the first row of each sequence is wanted. Every sequence has pages of its own, and
    /// two states: one to go on from, one for what is not kept.
    pub fn inputs(&self, plan: &Plan) -> StepInputs {
        let limits = &plan.limits;
        let has = |kind: InputKind| plan.find(kind.name()).is_some();
        let mut inputs = StepInputs::default();
        for (idx, (seq, positions)) in self.parts.iter().enumerate() {
            inputs.out_rows.push(inputs.token_ids.len() as i32);
            let first_page = seq * limits.pages_per_seq;
            inputs.pages.extend((first_page..first_page + limits.pages_per_seq).map(|p| p as i32));
            let ring = limits.window_pages_per_seq;
            if has(InputKind::WindowPages) {
                inputs.window_pages.extend((seq * ring..(seq + 1) * ring).map(|p| p as i32));
            }
            if has(InputKind::StateFrom) {
                inputs.state_from.push(*seq as i32);
                let n_before = if self.is_kept { 0 } else { limits.n_state_slots / 2 };
                inputs.state_slots.push((n_before + seq) as i32);
            }
            for position in positions.clone() {
                inputs.token_ids.push(((position * 7 + seq * 13 + self.shift) % TABLE_ROWS) as i32);
                inputs.positions.push(position as i32);
                inputs.seq_of.push(idx as i32);
                inputs.slots.push((first_page * PAGE_SIZE + position) as i32);
                inputs.rope_variant.push(0);
                if has(InputKind::WindowSlots) {
                    let page = seq * ring + position / PAGE_SIZE % ring.max(1);
                    inputs.window_slots.push((page * PAGE_SIZE + position % PAGE_SIZE) as i32);
                }
                if has(InputKind::StateSaves) {
                    inputs.state_saves.push(-1);
                }
            }
        }
        inputs
    }
}

#[cfg(test)]
mod tests {
    use zinc_quant::GgmlType;

    use super::*;

    #[test]
    fn rows_of_sequences() {
        let kv_type = GgmlType::F16;
        let sizes = Sizes { seqs: 2, tokens: 3, depth: 5, chunk: 4, kv_type };
        let rows = sizes.rows();
        assert_eq!(rows.parts, [(0, 5..8), (1, 5..8)]);
        assert_eq!(rows.first(4).parts, [(0, 5..8), (1, 5..6)]);
        assert_eq!(rows.first(2).parts, [(0, 5..7)]);
        let before: Vec<_> = sizes.before(&rows).map(|rows| rows.parts).collect();
        assert_eq!(before, [[(0, 0..4)], [(1, 0..4)], [(0, 4..5)], [(1, 4..5)]]);
        let limits = sizes.limits(Some(2));
        assert_eq!((limits.max_tokens, limits.pages_per_seq, limits.n_pages), (6, 1, 2));
        assert_eq!(limits.window_pages_per_seq, 1);
    }
}
