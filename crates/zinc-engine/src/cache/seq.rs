//! The caches of one running sequence.

use super::tree::NodeId;
use crate::kv::{PageId, PagePool, PageTable, WindowTable};

/// What a running sequence holds of the caches; made by [`Cache::open`](super::Cache::open), given
/// back by [`Cache::close`](super::Cache::close).
#[derive(Debug)]
pub(crate) struct SeqCache {
    /// Row of the rope table that the keys were turned by.
    pub rope_variant: i32,
    /// Tokens that are computed.
    pub(super) n_tokens: usize,
    /// Pages that hold the keys and values. Those of whole blocks are the tree's as well, and never
    /// written again.
    pub(super) table: PageTable,
    /// The last whole block that is in the tree.
    pub(super) node: NodeId,
    /// Pages of the layers that keep a window.
    pub(super) window: Option<WindowTable>,
    /// Of recurrent layers.
    pub(super) states: Option<SeqStates>,
    /// Lengths at which the text is worth a checkpoint, rising; whole blocks.
    pub(super) wanted: Vec<usize>,
    /// What the present step saves.
    pub(super) saves: Vec<Save>,
}

/// Rows of the recurrent states that belong to a sequence.
#[derive(Debug)]
pub(super) struct SeqStates {
    /// Holds the state after the computed tokens, unless `from` does.
    pub own: PageId,
    /// What the next step goes on from instead: a checkpoint's row, or one after an accepted draft.
    pub from: Option<PageId>,
    /// The state after the last whole block that a step passed, and its length: what is left for
    /// others when the sequence ends.
    pub rolling: Option<(usize, PageId)>,
}

impl SeqStates {
    /// `row` holds the state after `n_tokens` tokens, a whole block, and the one before may go.
    pub fn roll(&mut self, rows: &mut PagePool, n_tokens: usize, row: PageId) {
        let before = self.rolling.replace((n_tokens, row));
        before.iter().for_each(|(_, row)| rows.release(*row));
    }
}

/// Something that a step saves for later.
#[derive(Debug)]
pub(super) struct Save {
    /// Length of the text.
    pub n_tokens: usize,
    /// Row of the recurrent states, where there are any.
    pub state: Option<PageId>,
    pub purpose: Purpose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A checkpoint in the tree.
    Checkpoint,
    /// [`SeqStates::rolling`].
    Rolling,
    /// Going back to it if the tokens after it are refused.
    Draft,
}

impl SeqCache {
    /// Tokens that are computed.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Pages of the caches that keep everything.
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
        let rows = |states: &SeqStates| [states.from.unwrap_or(states.own), states.own];
        self.states.as_ref().map(|states| rows(states).map(|row| row.0 as i32))
    }

    /// Rows of the recurrent states that the step saves to, with the lengths they belong to.
    pub fn saves(&self) -> impl Iterator<Item = (usize, i32)> {
        self.saves.iter().filter_map(|save| Some((save.n_tokens, save.state?.0 as i32)))
    }

    /// Whether it can go back to its first `n` tokens by itself.
    pub fn can_go_back(&self, n: usize) -> bool {
        let has_state = self.states.is_none() || n == self.n_tokens;
        has_state && self.window.as_ref().is_none_or(|window| window.covers(n as u32))
    }
}
