//! Data that flows in and out of a step.

use std::ops::Range;

use zinc_plan::{CacheGroup, Dim, InputKind, Op, Plan, TensorKind};

use crate::DeviceError;

/// Everything that changes from step to step. The vectors are kept and refilled, so a steady decode
/// step allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct StepInputs {
    /// Token id of each row.
    pub token_ids: Vec<i32>,
    /// Position of each row in its sequence.
    pub positions: Vec<i32>,
    /// Which row of `pages` belongs to each row's sequence.
    pub seq_of: Vec<i32>,
    /// Cache row that receives each row's keys and values.
    pub slots: Vec<i32>,
    /// Page tables, `pages_per_seq` entries for each sequence; entries past its length are ignored.
    pub pages: Vec<i32>,
    /// Row of the window group's caches that receives each row's keys and values; empty for plans
    /// without windows.
    pub window_slots: Vec<i32>,
    /// Page tables of the window group, `window_pages_per_seq` entries for each sequence; a ring,
    /// see [`CacheGroup`]. Entries that no position of a row's window uses are ignored.
    pub window_pages: Vec<i32>,
    /// Rows whose logits are wanted, ascending.
    pub out_rows: Vec<i32>,
    /// Entries of `out_rows` whose logits come back whole, ascending indices, in plans that give the
    /// largest logits of every row ([`Op::TopK`]); in other plans all do, and this is ignored.
    pub whole_rows: Vec<i32>,
    /// Row of the rope table that each row uses.
    pub rope_variant: Vec<i32>,
    /// Recurrent state that each sequence goes on from; empty for plans without such states. The
    /// rows of one sequence must be neighbours then, in order of position, the sequences in order
    /// of `seq_of`.
    pub state_from: Vec<i32>,
    /// Recurrent state that each sequence leaves behind; empty for plans without such states.
    pub state_slots: Vec<i32>,
    /// Recurrent state that also receives the state after each row, or -1; empty for plans without
    /// such states.
    pub state_saves: Vec<i32>,
    /// Hidden states, row-major, for plans that read them; else empty.
    pub hidden: Vec<f32>,
}

/// Actual sizes of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StepSizes {
    /// Number of tokens.
    pub tokens: usize,
    /// Number of sequences.
    pub seqs: usize,
    /// Number of rows whose logits are wanted.
    pub out_rows: usize,
}

impl StepSizes {
    /// Actual rows of `dim`; a cache has all its rows.
    pub fn rows(&self, dim: Dim, plan: &Plan) -> usize {
        match dim {
            Dim::Fixed(n) => n as usize,
            Dim::Tokens => self.tokens,
            Dim::Seqs => self.seqs,
            Dim::OutRows => self.out_rows,
            Dim::CacheRows | Dim::WindowRows | Dim::StateSlots => plan.limits.bound(dim) as usize,
        }
    }
}

impl StepInputs {
    /// Empties all inputs, keeping their memory.
    pub fn clear(&mut self) {
        for kind in InputKind::ALL {
            if let Some(values) = self.get_mut(kind) {
                values.clear();
            }
        }
        self.hidden.clear();
        self.whole_rows.clear();
    }

    /// The input `kind`; the hidden states are not among the i32 inputs.
    pub fn get(&self, kind: InputKind) -> &[i32] {
        match kind {
            InputKind::TokenIds => &self.token_ids,
            InputKind::Positions => &self.positions,
            InputKind::SeqOf => &self.seq_of,
            InputKind::Slots => &self.slots,
            InputKind::Pages => &self.pages,
            InputKind::WindowSlots => &self.window_slots,
            InputKind::WindowPages => &self.window_pages,
            InputKind::OutRows => &self.out_rows,
            InputKind::RopeVariant => &self.rope_variant,
            InputKind::StateFrom => &self.state_from,
            InputKind::StateSlots => &self.state_slots,
            InputKind::StateSaves => &self.state_saves,
            InputKind::Hidden => &[],
        }
    }

    fn get_mut(&mut self, kind: InputKind) -> Option<&mut Vec<i32>> {
        Some(match kind {
            InputKind::TokenIds => &mut self.token_ids,
            InputKind::Positions => &mut self.positions,
            InputKind::SeqOf => &mut self.seq_of,
            InputKind::Slots => &mut self.slots,
            InputKind::Pages => &mut self.pages,
            InputKind::WindowSlots => &mut self.window_slots,
            InputKind::WindowPages => &mut self.window_pages,
            InputKind::OutRows => &mut self.out_rows,
            InputKind::RopeVariant => &mut self.rope_variant,
            InputKind::StateFrom => &mut self.state_from,
            InputKind::StateSlots => &mut self.state_slots,
            InputKind::StateSaves => &mut self.state_saves,
            InputKind::Hidden => return None,
        })
    }

    /// Checks the inputs against the plan, so that no backend indexes with a value from outside its
    /// tensors: lengths agree, every index lies inside what it indexes. Also that nothing is written
    /// twice, that no row of a window is overwritten by the step that reads it, and that states
    /// follow each other.
    ///
    /// # Errors
    /// [`DeviceError::Step`] naming the input.
    pub fn check(&self, plan: &Plan) -> Result<StepSizes, DeviceError> {
        let limits = &plan.limits;
        let tokens = self.token_ids.len();
        let per_seq = limits.pages_per_seq.max(1) as usize;
        let seqs = self.pages.len() / per_seq;
        if tokens == 0 || tokens > limits.max_tokens as usize {
            let reason = format!("{tokens} tokens, the plan takes 1 to {}", limits.max_tokens);
            return Err(refused(InputKind::TokenIds, reason));
        }
        let per_token =
            [InputKind::Positions, InputKind::SeqOf, InputKind::Slots, InputKind::RopeVariant];
        for kind in per_token {
            if self.get(kind).len() != tokens {
                let reason = format!("{} entries for {tokens} tokens", self.get(kind).len());
                return Err(refused(kind, reason));
            }
        }
        if self.pages.len() != seqs * per_seq || seqs > limits.max_seqs as usize {
            return Err(refused(InputKind::Pages, format!("{} entries", self.pages.len())));
        }
        let out_rows = self.out_rows.len();
        if out_rows > limits.max_out_rows as usize {
            let reason = format!("{out_rows} rows, the plan gives {}", limits.max_out_rows);
            return Err(refused(InputKind::OutRows, reason));
        }
        self.check_whole_rows()?;
        self.check_hidden(plan, tokens)?;
        let max_positions = u64::from(limits.pages_per_seq) * u64::from(limits.page_size);
        let ranges = [
            (InputKind::Positions, max_positions),
            (InputKind::SeqOf, seqs as u64),
            (InputKind::Slots, limits.bound(Dim::CacheRows)),
            (InputKind::Pages, u64::from(limits.n_pages)),
            (InputKind::OutRows, tokens as u64),
            (InputKind::TokenIds, operand_rows(plan, InputKind::TokenIds, 0)),
            (InputKind::RopeVariant, operand_rows(plan, InputKind::RopeVariant, 2)),
        ];
        ranges.into_iter().try_for_each(|(kind, limit)| self.check_range(kind, 0, limit))?;
        if plan.find(InputKind::Slots.name()).is_some() {
            self.check_slots(InputKind::Slots)?;
        }
        if plan.find(InputKind::WindowSlots.name()).is_some() {
            self.check_window(plan, seqs)?;
        }
        if plan.find(InputKind::StateSlots.name()).is_some() {
            self.check_states(limits.n_state_slots, seqs)?;
        }
        Ok(StepSizes { tokens, seqs, out_rows })
    }
}

impl StepInputs {
    /// Indices into `out_rows`, each greater than the one before.
    fn check_whole_rows(&self) -> Result<(), DeviceError> {
        let n_rows = i32::try_from(self.out_rows.len()).unwrap_or(i32::MAX);
        let mut next = 0;
        for row in &self.whole_rows {
            if !(next..n_rows).contains(row) {
                let reason = format!("whole row {row} is not inside {next}..{n_rows}");
                return Err(refused(InputKind::OutRows, reason));
            }
            next = row + 1;
        }
        Ok(())
    }

    /// The hidden states are there exactly when the plan reads them.
    fn check_hidden(&self, plan: &Plan, tokens: usize) -> Result<(), DeviceError> {
        let kind = InputKind::Hidden;
        let cols = plan.find(kind.name()).map_or(0, |id| plan.tensor(id).shape.cols as usize);
        if self.hidden.len() == tokens * cols {
            return Ok(());
        }
        Err(DeviceError::Step {
            input: kind.name(),
            reason: format!("{} values for {tokens} rows of {cols}", self.hidden.len()),
        })
    }

    /// The values of `kind` lie in `first..limit`.
    fn check_range(&self, kind: InputKind, first: i64, limit: u64) -> Result<(), DeviceError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let outside = |value: &&i32| !(first..limit).contains(&i64::from(**value));
        match self.get(kind).iter().find(outside) {
            None => Ok(()),
            Some(value) => Err(refused(kind, format!("{value} is not inside {first}..{limit}"))),
        }
    }

    fn check_len(&self, kind: InputKind, n: usize, of: &str) -> Result<(), DeviceError> {
        match self.get(kind).len() {
            len if len == n => Ok(()),
            len => Err(refused(kind, format!("{len} entries, {n} for the {of} are needed"))),
        }
    }

    /// No two tokens are written to one cache row: devices write rows side by side.
    fn check_slots(&self, kind: InputKind) -> Result<(), DeviceError> {
        // Decode steps are short, and this way they allocate nothing.
        const SHORT: usize = 64;
        let slots = self.get(kind);
        let twice = if slots.len() <= SHORT {
            let seen_before = |(idx, slot): &(usize, &i32)| slots[..*idx].contains(slot);
            slots.iter().enumerate().find(seen_before).map(|(_, slot)| *slot)
        } else {
            let mut sorted = slots.to_vec();
            sorted.sort_unstable();
            sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
        };
        match twice {
            None => Ok(()),
            Some(slot) => Err(refused(kind, format!("two tokens share cache row {slot}"))),
        }
    }

    /// The window group: all rows are written before attention reads, so the pages from the first
    /// one that a row of the step sees to the last one it writes must be apart in the ring.
    fn check_window(&self, plan: &Plan, seqs: usize) -> Result<(), DeviceError> {
        let limits = &plan.limits;
        let (kind, n_entries) = (InputKind::WindowPages, limits.window_pages_per_seq as usize);
        self.check_len(InputKind::WindowSlots, self.token_ids.len(), "tokens")?;
        self.check_len(kind, seqs * n_entries, "sequences")?;
        self.check_range(InputKind::WindowSlots, 0, limits.bound(Dim::WindowRows))?;
        self.check_range(kind, 0, u64::from(limits.n_window_pages))?;
        self.check_slots(InputKind::WindowSlots)?;
        let window = largest_window(plan);
        for seq in 0..seqs as i32 {
            let rows = self.positions.iter().zip(&self.seq_of).filter(|(_, of)| **of == seq);
            let positions = rows.map(|(position, _)| position.unsigned_abs());
            let Some(first) = positions.clone().min() else { continue };
            let last = positions.max().unwrap_or(first) / limits.page_size;
            let oldest = (first + 1).saturating_sub(window) / limits.page_size;
            if (last - oldest) as usize >= n_entries {
                let reason = format!(
                    "{n_entries} pages of {} rows cannot hold the window of {window} before \
                     position {first} and the rows of the step",
                    limits.page_size
                );
                return Err(refused(kind, reason));
            }
        }
        Ok(())
    }

    /// Recurrent states: rows in order, no slot written twice, and none read that another sequence
    /// writes.
    fn check_states(&self, n_slots: u32, seqs: usize) -> Result<(), DeviceError> {
        let n_slots = u64::from(n_slots);
        self.check_len(InputKind::StateFrom, seqs, "sequences")?;
        self.check_len(InputKind::StateSlots, seqs, "sequences")?;
        self.check_len(InputKind::StateSaves, self.token_ids.len(), "tokens")?;
        self.check_range(InputKind::StateFrom, 0, n_slots)?;
        self.check_range(InputKind::StateSlots, 0, n_slots)?;
        self.check_range(InputKind::StateSaves, -1, n_slots)?;
        for t in 1..self.seq_of.len() {
            let same_seq = self.seq_of[t] == self.seq_of[t - 1];
            let follows = self.positions[t] == self.positions[t - 1].wrapping_add(1);
            if same_seq && !follows || self.seq_of[t] < self.seq_of[t - 1] {
                let reason = format!("row {t} does not follow the row before it");
                return Err(refused(InputKind::StateSlots, reason));
            }
        }
        for (idx, slot) in self.state_slots.iter().enumerate() {
            let from_other = self.state_from.iter().enumerate().any(|(s, f)| s != idx && f == slot);
            if self.state_slots[..idx].contains(slot) || from_other {
                let reason = format!("two sequences share slot {slot}");
                return Err(refused(InputKind::StateSlots, reason));
            }
        }
        // Saves are few; rows without one are passed over.
        for (t, slot) in self.state_saves.iter().enumerate().filter(|(_, slot)| **slot >= 0) {
            let mut others = self.state_from.iter().enumerate();
            let twice = self.state_slots.contains(slot)
                || self.state_saves[..t].contains(slot)
                || others.any(|(seq, from)| seq as i32 != self.seq_of[t] && from == slot);
            if twice {
                let reason = format!("slot {slot} of row {t} is in use");
                return Err(refused(InputKind::StateSaves, reason));
            }
        }
        Ok(())
    }
}

/// Which rows of an output a step returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Returned<'a> {
    /// This many from the first on.
    All(usize),
    /// These.
    Only(&'a [i32]),
}

impl<'a> Returned<'a> {
    /// Those of an output that has `n_rows` in a step. `has_top_k` is what [`Plan::has_top_k`] says of
    /// it, and `whole_rows` are those of the step's inputs.
    pub fn new(has_top_k: bool, n_rows: usize, whole_rows: &'a [i32]) -> Self {
        if has_top_k { Returned::Only(whole_rows) } else { Returned::All(n_rows) }
    }

    /// Neighbouring rows together, in order.
    pub fn spans(self) -> impl Iterator<Item = Range<usize>> + 'a {
        let mut at = 0;
        std::iter::from_fn(move || match self {
            Returned::All(n_rows) => {
                let span = at..n_rows;
                at = n_rows;
                Some(span).filter(|span| !span.is_empty())
            }
            Returned::Only(rows) => {
                let first = *rows.get(at)?;
                let n_rows = (first..).zip(&rows[at..]).take_while(|(a, b)| a == *b).count();
                at += n_rows;
                let first = first.unsigned_abs() as usize;
                Some(first..first + n_rows)
            }
        })
    }
}

fn refused(input: InputKind, reason: String) -> DeviceError {
    DeviceError::Step { input: input.name(), reason }
}

/// The longest window of the layers that keep no more than it.
fn largest_window(plan: &Plan) -> u32 {
    let windows = plan.nodes.iter().filter_map(|node| match node.op {
        Op::Attention(attention) => {
            let rows = plan.tensor(node.reads[1]).shape.rows;
            attention.window.filter(|_| CacheGroup::of(rows) == Some(CacheGroup::Window))
        }
        _ => None,
    });
    windows.max().unwrap_or(1)
}

/// Rows of the smallest table that some node indexes with `kind`; the table is operand `table`.
fn operand_rows(plan: &Plan, kind: InputKind, table: usize) -> u64 {
    let reads_kind = |id: &zinc_plan::TensorId| plan.tensor(*id).kind == TensorKind::Input(kind);
    plan.nodes
        .iter()
        .filter(|node| node.reads.iter().any(reads_kind))
        .map(|node| plan.limits.bound(plan.tensor(node.reads[table]).shape.rows))
        .min()
        .unwrap_or(u64::MAX)
}

/// What a step returns: one row-major f32 buffer for each of the plan's outputs, in their order.
/// Of an output that the plan gives the largest values of, only the rows of
/// [`StepInputs::whole_rows`]. Outputs of another type come as the f32 of their values: an expert
/// id 7 as 7.0. The buffers are kept and refilled.
#[derive(Clone, Debug, Default)]
pub struct StepOutputs {
    /// Values of each output: rows of the step times columns of the tensor.
    pub values: Vec<Vec<f32>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_rows_are_returned_together() {
        let spans = |returned: Returned<'_>| returned.spans().collect::<Vec<_>>();
        assert_eq!(spans(Returned::All(3)), vec![0..3]);
        assert_eq!(spans(Returned::All(0)), []);
        assert_eq!(spans(Returned::Only(&[])), []);
        assert_eq!(spans(Returned::Only(&[0, 1, 3, 6, 7])), [0..2, 3..4, 6..8]);
    }

    #[test]
    fn whole_rows_are_rows_that_are_wanted() {
        let inputs = |whole_rows: &[i32]| StepInputs {
            out_rows: vec![0, 2, 5],
            whole_rows: whole_rows.to_vec(),
            ..StepInputs::default()
        };
        assert!(inputs(&[]).check_whole_rows().is_ok());
        assert!(inputs(&[0, 2]).check_whole_rows().is_ok());
        for refused in [&[3][..], &[-1], &[1, 1], &[2, 0]] {
            assert!(inputs(refused).check_whole_rows().is_err(), "{refused:?}");
        }
    }

    #[test]
    fn two_tokens_never_share_a_cache_row() {
        for n in [1, 2, 64, 65, 500] {
            let mut inputs = StepInputs { slots: (0..n).rev().collect(), ..StepInputs::default() };
            assert!(inputs.check_slots(InputKind::Slots).is_ok());
            if n > 1 {
                inputs.slots[0] = 0;
                let error = inputs
                    .check_slots(InputKind::Slots)
                    .expect_err("row 0 is named twice")
                    .to_string();
                assert!(error.contains("two tokens share cache row 0"), "{error}");
            }
        }
    }
}
