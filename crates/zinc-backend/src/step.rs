//! Data that flows in and out of a step.

use zinc_plan::{Dim, InputKind, Plan, TensorKind};

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
    /// Rows whose logits are wanted, ascending.
    pub out_rows: Vec<i32>,
    /// Row of the rope table that each row uses.
    pub rope_variant: Vec<i32>,
    /// Recurrent state of each sequence; empty for plans without such states. The rows of one
    /// sequence must be neighbours then, in order of position, the sequences in order of `seq_of`.
    pub state_slots: Vec<i32>,
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
            Dim::CacheRows | Dim::StateSlots => plan.limits.bound(dim) as usize,
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
    }

    /// The input `kind`; the hidden states are not among the i32 inputs.
    pub fn get(&self, kind: InputKind) -> &[i32] {
        match kind {
            InputKind::TokenIds => &self.token_ids,
            InputKind::Positions => &self.positions,
            InputKind::SeqOf => &self.seq_of,
            InputKind::Slots => &self.slots,
            InputKind::Pages => &self.pages,
            InputKind::OutRows => &self.out_rows,
            InputKind::RopeVariant => &self.rope_variant,
            InputKind::StateSlots => &self.state_slots,
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
            InputKind::OutRows => &mut self.out_rows,
            InputKind::RopeVariant => &mut self.rope_variant,
            InputKind::StateSlots => &mut self.state_slots,
            InputKind::Hidden => return None,
        })
    }

    /// Checks the inputs against the plan, so that no backend indexes with a value from outside its
    /// tensors: lengths agree, every index lies inside what it indexes.
    ///
    /// # Errors
    /// [`DeviceError::Step`] naming the input.
    pub fn check(&self, plan: &Plan) -> Result<StepSizes, DeviceError> {
        let limits = &plan.limits;
        let step =
            |kind: InputKind, reason: String| DeviceError::Step { input: kind.name(), reason };
        let tokens = self.token_ids.len();
        let per_seq = limits.pages_per_seq.max(1) as usize;
        let seqs = self.pages.len() / per_seq;
        if tokens == 0 || tokens > limits.max_tokens as usize {
            let reason = format!("{tokens} tokens, the plan takes 1 to {}", limits.max_tokens);
            return Err(step(InputKind::TokenIds, reason));
        }
        let per_token =
            [InputKind::Positions, InputKind::SeqOf, InputKind::Slots, InputKind::RopeVariant];
        for kind in per_token {
            if self.get(kind).len() != tokens {
                let reason = format!("{} entries for {tokens} tokens", self.get(kind).len());
                return Err(step(kind, reason));
            }
        }
        if self.pages.len() != seqs * per_seq || seqs > limits.max_seqs as usize {
            return Err(step(InputKind::Pages, format!("{} entries", self.pages.len())));
        }
        let out_rows = self.out_rows.len();
        if out_rows > limits.max_out_rows as usize {
            let reason = format!("{out_rows} rows, the plan gives {}", limits.max_out_rows);
            return Err(step(InputKind::OutRows, reason));
        }
        self.check_hidden(plan, tokens)?;
        self.check_states(plan, seqs)?;
        let cache_rows = limits.bound(Dim::CacheRows);
        let ranges = [
            (InputKind::Positions, u64::from(limits.pages_per_seq) * u64::from(limits.page_size)),
            (InputKind::SeqOf, seqs as u64),
            (InputKind::Slots, cache_rows),
            (InputKind::Pages, u64::from(limits.n_pages)),
            (InputKind::StateSlots, u64::from(limits.n_state_slots)),
            (InputKind::OutRows, tokens as u64),
            (InputKind::TokenIds, operand_rows(plan, InputKind::TokenIds, 0)),
            (InputKind::RopeVariant, operand_rows(plan, InputKind::RopeVariant, 2)),
        ];
        for (kind, limit) in ranges {
            let outside = |value: &&i32| u64::try_from(**value).map_or(true, |v| v >= limit);
            if let Some(value) = self.get(kind).iter().find(outside) {
                return Err(step(kind, format!("{value} is not inside 0..{limit}")));
            }
        }
        if plan.find(InputKind::Slots.name()).is_some() {
            self.check_slots()?;
        }
        Ok(StepSizes { tokens, seqs, out_rows })
    }
}

impl StepInputs {
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

    /// No two tokens are written to one cache row: devices write rows side by side.
    fn check_slots(&self) -> Result<(), DeviceError> {
        // Decode steps are short, and this way they allocate nothing.
        const SHORT: usize = 64;
        let slots = &self.slots;
        let twice = if slots.len() <= SHORT {
            let seen_before = |(idx, slot): &(usize, &i32)| slots[..*idx].contains(slot);
            slots.iter().enumerate().find(seen_before).map(|(_, slot)| *slot)
        } else {
            let mut sorted = slots.clone();
            sorted.sort_unstable();
            sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
        };
        match twice {
            None => Ok(()),
            Some(slot) => Err(DeviceError::Step {
                input: InputKind::Slots.name(),
                reason: format!("two tokens share cache row {slot}"),
            }),
        }
    }

    /// Recurrent states: one slot of its own for each sequence, and rows in order.
    fn check_states(&self, plan: &Plan, seqs: usize) -> Result<(), DeviceError> {
        let kind = InputKind::StateSlots;
        if plan.find(kind.name()).is_none() {
            return Ok(());
        }
        let step = |reason: String| DeviceError::Step { input: kind.name(), reason };
        let slots = &self.state_slots;
        if slots.len() != seqs {
            return Err(step(format!("{} entries for {seqs} sequences", slots.len())));
        }
        for (idx, slot) in slots.iter().enumerate() {
            if slots[..idx].contains(slot) {
                return Err(step(format!("two sequences share slot {slot}")));
            }
        }
        for t in 1..self.seq_of.len() {
            let same_seq = self.seq_of[t] == self.seq_of[t - 1];
            let follows = self.positions[t] == self.positions[t - 1].wrapping_add(1);
            if same_seq && !follows || self.seq_of[t] < self.seq_of[t - 1] {
                return Err(step(format!("row {t} does not follow the row before it")));
            }
        }
        Ok(())
    }
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
/// Outputs of another type come as the f32 of their values: an expert id 7 as 7.0. The buffers are
/// kept and refilled.
#[derive(Clone, Debug, Default)]
pub struct StepOutputs {
    /// Values of each output: rows of the step times columns of the tensor.
    pub values: Vec<Vec<f32>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tokens_never_share_a_cache_row() {
        for n in [1, 2, 64, 65, 500] {
            let mut inputs = StepInputs { slots: (0..n).rev().collect(), ..StepInputs::default() };
            assert!(inputs.check_slots().is_ok());
            if n > 1 {
                inputs.slots[0] = 0;
                let error = inputs.check_slots().expect_err("row 0 is named twice").to_string();
                assert!(error.contains("two tokens share cache row 0"), "{error}");
            }
        }
    }
}
