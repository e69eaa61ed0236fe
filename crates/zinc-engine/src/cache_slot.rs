//! The caches of one sequence at a time, and what they still hold of the previous one.
//!
//! When a sequence ends, its keys and values stay. The next one keeps the longest common prefix of
//! tokens, so a conversation's next turn computes what is new only. Reuse is exact: a token's keys
//! and values depend on the tokens before it and on the row of the rope table, and both are
//! compared.
//!
//! Full caches can go back to any length. Windows and recurrent states cannot: what slid out of a
//! window is gone, and a state holds nothing but the end of what it has seen. For those a slot keeps
//! a few [`Checkpoint`]s: lengths of its text with the pages of the window before them, pinned, and
//! a copy of the state. A prefix is then reused up to the last checkpoint inside it.

use crate::kv::{KvError, PagePool, PageTable, WindowTable};
use crate::sequence::SequenceId;

/// Tokens before a prompt's end that the next prompt may have otherwise: what a chat template opens
/// an answer with, which is not in the history when reasoning is dropped from it.
const OPENING: usize = 16;

/// Pages of both groups.
#[derive(Debug)]
pub(crate) struct Pools {
    /// Of caches that keep everything.
    pub full: PagePool,
    /// Of caches that keep a window.
    pub window: PagePool,
}

/// Rows of the recurrent states that belong to a slot.
#[derive(Debug)]
pub(crate) struct StateSlots {
    /// Holds the state after the computed tokens, except right after going back.
    own: i32,
    /// What the next step goes on from.
    from: i32,
    /// Free for checkpoints.
    spare: Vec<i32>,
}

impl StateSlots {
    /// The row `own`, and `n_spare` rows after it.
    pub fn new(own: i32, n_spare: i32) -> StateSlots {
        StateSlots { own, from: own, spare: (own + 1..=own + n_spare).rev().collect() }
    }
}

/// A length of a slot's text that it can go back to.
#[derive(Debug)]
struct Checkpoint {
    n_tokens: usize,
    window: Option<WindowTable>,
    /// Row of the recurrent states.
    state: Option<i32>,
}

/// A sequence slot.
#[derive(Debug)]
pub(crate) struct CacheSlot {
    /// The sequence that uses the slot now.
    pub owner: Option<SequenceId>,
    /// Row of the rope table that the keys were turned by.
    pub rope_variant: i32,
    /// Pages that hold the keys and values.
    table: PageTable,
    /// Pages of the layers that keep a window.
    window: Option<WindowTable>,
    /// Of recurrent layers.
    states: Option<StateSlots>,
    /// Tokens that are computed.
    tokens: Vec<u32>,
    /// By rising length.
    checkpoints: Vec<Checkpoint>,
    n_checkpoints_max: usize,
    /// Lengths at which the text that is being computed is worth a checkpoint, rising.
    wanted: Vec<usize>,
    /// Checkpoints of the present step, by rising length; windows are pinned when it is done.
    saves: Vec<Checkpoint>,
}

impl CacheSlot {
    /// A free slot for up to `n_ctx` tokens in `n_pages` pages.
    pub fn new(
        n_ctx: u32,
        n_pages: u32,
        window: Option<WindowTable>,
        states: Option<StateSlots>,
        n_checkpoints_max: u32,
    ) -> CacheSlot {
        CacheSlot {
            owner: None,
            rope_variant: 0,
            table: PageTable::with_capacity(n_pages),
            window,
            states,
            tokens: Vec::with_capacity(n_ctx as usize),
            checkpoints: Vec::new(),
            n_checkpoints_max: n_checkpoints_max as usize,
            wanted: Vec::new(),
            saves: Vec::new(),
        }
    }

    /// Tokens that are computed.
    pub fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// How many of a prompt's tokens need not be computed; the last one always does, for its
    /// logits.
    pub fn n_reusable(&self, prompt: &[u32], rope_variant: i32) -> usize {
        if rope_variant != self.rope_variant {
            return 0;
        }
        let n_common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        self.restorable(n_common.min(prompt.len().saturating_sub(1)))
    }

    /// The largest length up to `n` that the slot can go back to.
    fn restorable(&self, n: usize) -> usize {
        let has_state = self.states.is_none() || n == self.tokens.len();
        if has_state && self.window.as_ref().is_none_or(|window| window.covers(n as u32)) {
            return n;
        }
        let mut lengths = self.checkpoints.iter().rev().map(|checkpoint| checkpoint.n_tokens);
        lengths.find(|length| *length <= n).unwrap_or(0)
    }

    /// Keeps the first `n_tokens` tokens, or fewer if they cannot be gone back to, and returns how
    /// many.
    pub fn keep(&mut self, pools: &mut Pools, n_tokens: usize, rope_variant: i32) -> usize {
        let n_tokens = if rope_variant == self.rope_variant { n_tokens } else { 0 };
        self.rope_variant = rope_variant;
        let mut n_kept = self.restorable(n_tokens.min(self.tokens.len()));
        // Of a page that others read as well nothing is kept, which may be less than asked for.
        loop {
            let n_possible = self.table.truncate(&mut pools.full, n_kept as u32) as usize;
            if n_possible == n_kept {
                break;
            }
            n_kept = self.restorable(n_possible);
        }
        self.go_back(pools, n_kept);
        n_kept
    }

    /// Makes windows and states those after `n` tokens, which are [`CacheSlot::restorable`].
    fn go_back(&mut self, pools: &mut Pools, n: usize) {
        // Left behind by a step that failed.
        while let Some(save) = self.saves.pop() {
            self.forget(pools, Some(save));
        }
        while self.checkpoints.last().is_some_and(|last| last.n_tokens > n) {
            let last = self.checkpoints.pop();
            self.forget(pools, last);
        }
        let checkpoint = self.checkpoints.last().filter(|last| last.n_tokens == n);
        if let Some(window) = &mut self.window {
            match checkpoint.and_then(|checkpoint| checkpoint.window.as_ref()) {
                _ if n == 0 => window.clear(&mut pools.window),
                Some(pinned) if !window.covers(n as u32) => {
                    window.restore(&mut pools.window, pinned)
                }
                _ => window.truncate(&mut pools.window, n as u32),
            }
        }
        if let Some(states) = self.states.as_mut().filter(|_| n < self.tokens.len()) {
            // The state before the first token is zero, whatever is read.
            states.from = checkpoint.and_then(|it| it.state).unwrap_or(states.own);
        }
        self.tokens.truncate(n);
        self.wanted.clear();
    }

    /// Gives back what a checkpoint holds.
    fn forget(&mut self, pools: &mut Pools, checkpoint: Option<Checkpoint>) {
        let Some(Checkpoint { window, state, .. }) = checkpoint else { return };
        if let Some(mut window) = window {
            window.clear(&mut pools.window);
        }
        if let (Some(states), Some(state)) = (&mut self.states, state) {
            states.spare.push(state);
        }
    }

    /// A prompt of `n_prompt` tokens is about to be computed: the next one may begin with all but
    /// the last token of it, or with all but the opening of the answer.
    pub fn want_prompt(&mut self, n_prompt: usize) {
        let lengths = [OPENING + 1, 1].map(|n_last| n_prompt.saturating_sub(n_last));
        self.want(lengths);
    }

    /// Makes checkpoints at these rising lengths when they are computed, as many as there is room
    /// for.
    pub fn want(&mut self, lengths: impl IntoIterator<Item = usize>) {
        self.wanted.clear();
        let n_tokens = self.tokens.len();
        let lengths = lengths.into_iter().filter(|length| *length > n_tokens);
        self.wanted.extend(lengths.take(self.n_checkpoints_max));
    }

    /// Makes room for the next `n` tokens and decides which states the step saves.
    ///
    /// # Errors
    /// [`KvError::Exhausted`].
    pub fn begin_step(&mut self, pools: &mut Pools, n: u32) -> Result<(), KvError> {
        let end = self.tokens.len() + n as usize;
        self.table.grow(&mut pools.full, end as u32)?;
        if let Some(window) = &mut self.window {
            window.grow(&mut pools.window, end as u32)?;
        }
        let n_saves = self.wanted.iter().take_while(|length| **length <= end).count();
        for _ in 0..n_saves {
            if self.checkpoints.len() + self.saves.len() == self.n_checkpoints_max {
                let oldest = self.checkpoints.remove(0);
                self.forget(pools, Some(oldest));
            }
            let state = self.states.as_mut().and_then(|states| states.spare.pop());
            let n_tokens = self.wanted.remove(0);
            self.saves.push(Checkpoint { n_tokens, window: None, state });
        }
        Ok(())
    }

    /// The step of [`CacheSlot::begin_step`] has computed `tokens`.
    pub fn end_step(&mut self, pools: &mut Pools, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        if let Some(states) = &mut self.states {
            states.from = states.own;
        }
        for mut save in self.saves.drain(..) {
            let window = self.window.as_ref();
            save.window = window.map(|it| it.pin(&mut pools.window, save.n_tokens as u32));
            self.checkpoints.push(save);
        }
    }

    /// Cache row of `position` among those that keep everything.
    pub fn table(&self) -> &PageTable {
        &self.table
    }

    /// Pages of the layers that keep a window.
    pub fn window(&self) -> Option<&WindowTable> {
        self.window.as_ref()
    }

    /// Row of the recurrent states that the step goes on from, and the row it leaves its last one
    /// in.
    pub fn states(&self) -> Option<[i32; 2]> {
        self.states.as_ref().map(|states| [states.from, states.own])
    }

    /// Rows of the recurrent states that the step saves to, with the lengths they belong to.
    pub fn saves(&self) -> impl Iterator<Item = (usize, i32)> {
        self.saves.iter().filter_map(|save| Some((save.n_tokens, save.state?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::PAGE_SIZE;

    fn pools() -> Pools {
        Pools { full: PagePool::new(64), window: PagePool::new(64) }
    }

    fn compute(slot: &mut CacheSlot, pools: &mut Pools, tokens: &[u32]) {
        slot.begin_step(pools, tokens.len() as u32).unwrap();
        slot.end_step(pools, tokens);
    }

    #[test]
    fn a_common_prefix_is_kept() {
        let mut pools = pools();
        let mut slot = CacheSlot::new(64, 2, None, None, 2);
        compute(&mut slot, &mut pools, &[1, 2, 3, 4]);
        assert_eq!(slot.n_reusable(&[1, 2, 9], 0), 2);
        assert_eq!(slot.n_reusable(&[1, 2, 3, 4, 5], 0), 4);
        assert_eq!(slot.n_reusable(&[1, 2, 3, 4], 0), 3, "the last token's logits are needed");
        assert_eq!(slot.n_reusable(&[9, 1, 2], 0), 0);
        assert_eq!(slot.n_reusable(&[1, 2, 9], 1), 0, "other rope frequencies");
        assert_eq!(slot.keep(&mut pools, 2, 0), 2);
        assert_eq!(slot.n_reusable(&[1, 2, 3, 4], 0), 2);
        assert_eq!(slot.keep(&mut pools, 2, 1), 0);
    }

    #[test]
    fn a_state_goes_back_to_checkpoints() {
        let mut pools = pools();
        let mut slot = CacheSlot::new(256, 8, None, Some(StateSlots::new(3, 2)), 2);
        let prompt: Vec<u32> = (0..40).collect();
        slot.want_prompt(prompt.len());
        compute(&mut slot, &mut pools, &prompt[..30]);
        compute(&mut slot, &mut pools, &prompt[30..]);
        compute(&mut slot, &mut pools, &[100]);
        let with = |n: usize, rest: &[u32]| [&prompt[..n], rest].concat();
        // The whole text; the prompt again; all but its end; nothing.
        assert_eq!(slot.n_reusable(&with(40, &[100, 7]), 0), 41);
        assert_eq!(slot.n_reusable(&with(40, &[7]), 0), 39);
        assert_eq!(slot.n_reusable(&prompt, 0), 39);
        assert_eq!(slot.n_reusable(&with(38, &[7, 8]), 0), 23);
        assert_eq!(slot.n_reusable(&with(22, &[7]), 0), 0);
        // Going back keeps earlier checkpoints and makes room for later ones.
        assert_eq!(slot.keep(&mut pools, 39, 0), 39);
        assert_eq!(slot.states(), Some([5, 3]));
        assert_eq!(slot.keep(&mut pools, 39, 0), 39);
        assert_eq!(slot.states(), Some([5, 3]), "nothing was computed in between");
        slot.want_prompt(60);
        compute(&mut slot, &mut pools, &[7; 21]);
        assert_eq!(slot.states(), Some([3, 3]));
        let lengths: Vec<usize> = slot.checkpoints.iter().map(|it| it.n_tokens).collect();
        assert_eq!(lengths, [43, 59]);
        assert_eq!(slot.keep(&mut pools, 50, 0), 43);
        assert_eq!(slot.keep(&mut pools, 42, 0), 0);
        // Nor after a step that failed.
        slot.want([5]);
        slot.begin_step(&mut pools, 9).unwrap();
        assert_eq!(slot.keep(&mut pools, 0, 0), 0);
        assert_eq!(slot.saves().count(), 0);
        let spare = slot.states.map(|states| states.spare.len());
        assert_eq!(spare, Some(2), "no row is lost");
    }

    #[test]
    fn a_window_goes_back_as_far_as_it_reaches_or_to_checkpoints() {
        let mut pools = pools();
        let window = WindowTable::new(4, PAGE_SIZE);
        let mut slot = CacheSlot::new(4096, 128, Some(window), None, 2);
        let n = 5 * PAGE_SIZE as usize;
        slot.want_prompt(n);
        (0..5).for_each(|_| compute(&mut slot, &mut pools, &[1; PAGE_SIZE as usize]));
        assert_eq!(slot.restorable(n - 40), n - 40, "the ring has room for more than the window");
        (0..200).for_each(|_| compute(&mut slot, &mut pools, &[2]));
        assert_eq!(slot.restorable(n + 199), n + 199);
        assert_eq!(slot.restorable(n), n - 1);
        assert_eq!(slot.restorable(n - 2), n - 1 - OPENING);
        assert_eq!(slot.restorable(n - 2 - OPENING), 0);
        assert_eq!(slot.keep(&mut pools, n, 0), n - 1);
        compute(&mut slot, &mut pools, &[3]);
        assert_eq!(slot.keep(&mut pools, n - 5, 0), n - 1 - OPENING);
        assert_eq!(slot.keep(&mut pools, 0, 1), 0);
        assert_eq!((pools.window.n_free(), pools.full.n_free()), (64, 64), "no page is lost");
    }
}
