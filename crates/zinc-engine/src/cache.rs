//! The caches of all sequences, and what they keep of those that are over.
//!
//! What a sequence computes goes into a [tree] of blocks as soon as a block is whole, so a prompt
//! finds every earlier text that begins like it, running ones included, and reads their pages. Reuse
//! is exact: a token's keys and values depend on the tokens before it and on the row of the rope
//! table, and both are compared. A page in the tree is never written again; a sequence writes only
//! pages that it alone owns.
//!
//! Full caches can go on after any block. Windows and recurrent states cannot: what slid out of a
//! window is gone, and a state holds nothing but the end of what it has seen. For those a node may
//! have a checkpoint: pinned pages of the window before its end, and a copy of the state. They are
//! placed where texts are seen to part, not at regular distances, as each may take as much as
//! thousands of tokens:
//!
//! - where a prompt leaves what is known: it shares a system prompt or a document with another text,
//!   so a third may;
//! - at the end of a prompt: it may be asked again;
//! - a little before it: the next turn's history may open the answer otherwise than the prompt did;
//! - at the last whole block when a sequence ends, is cancelled or has to wait: the next turn goes on
//!   there.
//!
//! When room is short, what was used longest ago goes first, block by block from the ends of texts:
//! to the host's memory if that has a budget, else it is forgotten.

mod host;
mod seq;
mod tree;

#[cfg(test)]
mod tests;

use crate::EngineError;
use crate::cache_shape::CacheShape;
use crate::kv::{KvError, PageId, PagePool, PageTable, n_pages_for};
pub(crate) use host::HostTier;
pub(crate) use seq::SeqCache;
use seq::{Purpose, Save, SeqStates};
use tree::{BLOCK, Checkpoint, NodeId, Place, Tree};

/// Tokens before a prompt's end that the next prompt may have otherwise: what a chat template opens
/// an answer with, which is not in the history when reasoning is dropped from it.
const OPENING: usize = 16;

/// Pages of both groups, and rows of the recurrent states.
#[derive(Debug)]
struct Pools {
    /// Of caches that keep everything.
    full: PagePool,
    /// Of caches that keep a window.
    window: PagePool,
    /// Each is one row.
    states: PagePool,
}

/// What the cache has given up and moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CacheCounters {
    /// Pages on the device given up for others.
    pub n_evicted_pages: u64,
    /// Checkpoints on the device given up for others.
    pub n_evicted_checkpoints: u64,
    /// Pages brought back from the host's memory.
    pub n_restored_pages: u64,
}

/// All caches.
pub(crate) struct Cache {
    shape: CacheShape,
    pools: Pools,
    tree: Tree,
    host: Option<HostTier>,
    /// Whether whole blocks go into the tree.
    keeps: bool,
    counters: CacheCounters,
    /// Blocks of a text that are known.
    path: Vec<NodeId>,
}

impl Cache {
    /// Empty caches.
    pub fn new(shape: CacheShape, host: Option<HostTier>) -> Cache {
        Cache {
            shape,
            pools: Pools {
                full: PagePool::new(shape.n_pages()),
                window: PagePool::new(shape.n_window_pages()),
                states: PagePool::new(shape.n_state_rows()),
            },
            tree: Tree::new(shape.n_pages()),
            host,
            keeps: true,
            counters: CacheCounters::default(),
            path: Vec::new(),
        }
    }

    /// Empty caches that keep nothing of what is over, so that a sequence can go back to any length
    /// where its caches can.
    pub fn forgetful(shape: CacheShape) -> Cache {
        Cache { keeps: false, ..Cache::new(shape, None) }
    }

    /// What was given up and moved so far.
    pub fn counters(&self) -> CacheCounters {
        self.counters
    }

    /// Pages of the caches that keep everything.
    pub fn n_pages(&self) -> u32 {
        self.pools.full.n_pages()
    }

    /// Pages that are free or can be given up.
    pub fn n_available(&self) -> u32 {
        self.pools.full.n_free() + self.tree.n_unlocked()
    }

    /// Pages that hold nothing.
    pub fn n_free(&self) -> u32 {
        self.pools.full.n_free()
    }

    /// Bytes in the host's memory.
    pub fn host_bytes(&self) -> u64 {
        self.host.as_ref().map_or(0, HostTier::used)
    }

    fn needs_checkpoints(&self) -> bool {
        self.shape.needs_checkpoints()
    }

    /// Whether sequences leave the state after their last whole block.
    fn leaves_states(&self) -> bool {
        self.keeps && self.shape.has_checkpoints()
    }

    /// Fills `path` with the known blocks of the first `n_max` tokens, and returns how many of them a
    /// sequence can go on after.
    fn walk(&mut self, tokens: &[u32], n_max: usize, rope_variant: i32) -> usize {
        self.path.clear();
        let mut node = NodeId::root(rope_variant);
        for block in tokens[..n_max].chunks_exact(BLOCK) {
            let Some(child) = self.tree.child(node, block) else { break };
            self.path.push(child);
            node = child;
        }
        self.n_usable(self.path.len())
    }

    /// How many of the first `n` blocks of `path` a sequence can go on after.
    fn n_usable(&self, n: usize) -> usize {
        if !self.needs_checkpoints() {
            return n;
        }
        let has_checkpoint = |node: &NodeId| self.tree.checkpoint(*node).is_some();
        self.path[..n].iter().rposition(has_checkpoint).map_or(0, |at| at + 1)
    }

    /// How many of the first `n_max` tokens of a text need not be computed; no more than what is on
    /// the device.
    pub fn n_reusable(&mut self, tokens: &[u32], n_max: usize, rope_variant: i32) -> usize {
        self.walk(tokens, n_max, rope_variant);
        let is_there = |node: &&NodeId| matches!(self.tree.place(**node), Some(Place::Device(_)));
        let n_there = self.path.iter().take_while(is_there).count();
        self.n_usable(n_there) * BLOCK
    }

    /// Pages that a text takes away from others, with room for one token more.
    pub fn n_missing(&mut self, tokens: &[u32], rope_variant: i32) -> u32 {
        let n_usable = self.walk(tokens, tokens.len().saturating_sub(1), rope_variant);
        let used = self.path[..n_usable].iter().filter(|node| self.tree.is_locked(**node));
        n_pages_for(tokens.len() as u32 + 1) - used.count() as u32
    }

    /// The caches of a sequence with the text `tokens`, in which as many as possible of the first
    /// `n_max` tokens are computed: [`SeqCache::n_tokens`].
    ///
    /// # Errors
    /// [`KvError::Exhausted`] if other sequences hold what every sequence needs; the device failed.
    pub fn open(
        &mut self,
        tokens: &[u32],
        n_max: usize,
        rope_variant: i32,
    ) -> Result<SeqCache, EngineError> {
        let n_usable = self.walk(tokens, n_max, rope_variant);
        let n_known = self.path.len();
        let n_usable = self.bring_in(n_usable)?;
        let mut seq = self.hollow(rope_variant);
        seq.n_tokens = n_usable * BLOCK;
        for node in &self.path[..n_usable] {
            if let Some(Place::Device(page)) = self.tree.place(*node) {
                seq.table.push_shared(&mut self.pools.full, *page);
            }
            seq.node = *node;
        }
        if let Err(error) = self.restore(&mut seq) {
            self.close(seq);
            return Err(error);
        }
        if n_known > n_usable {
            self.want(&mut seq, &[n_known * BLOCK]);
        }
        Ok(seq)
    }

    /// As [`Cache::open`], in the place of what a sequence holds now.
    ///
    /// # Errors
    /// As there; the sequence holds nothing then.
    pub fn reopen(
        &mut self,
        seq: &mut SeqCache,
        tokens: &[u32],
        n_max: usize,
        rope_variant: i32,
    ) -> Result<(), EngineError> {
        let hollow = self.hollow(rope_variant);
        self.close(std::mem::replace(seq, hollow));
        *seq = self.open(tokens, n_max, rope_variant)?;
        Ok(())
    }

    /// A sequence that holds nothing, not even what every sequence needs.
    fn hollow(&self, rope_variant: i32) -> SeqCache {
        SeqCache {
            rope_variant,
            n_tokens: 0,
            table: PageTable::with_capacity(self.shape.pages_per_seq()),
            node: NodeId::root(rope_variant),
            window: self.shape.window_table(),
            states: None,
            wanted: Vec::new(),
            saves: Vec::new(),
        }
    }

    /// Locks the first `n` blocks of `path` and brings them to the device, or fewer where there is
    /// no room; how many.
    fn bring_in(&mut self, n: usize) -> Result<usize, EngineError> {
        let path = std::mem::take(&mut self.path);
        path[..n].iter().for_each(|node| self.tree.lock(*node));
        let mut n_there = 0;
        let result = loop {
            let Some(node) = path[..n].get(n_there) else { break Ok(()) };
            match self.bring_in_page(*node) {
                Ok(true) => n_there += 1,
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.path = path;
        let n_kept = if result.is_ok() { self.n_usable(n_there) } else { 0 };
        (n_kept..n).for_each(|at| self.tree.unlock(self.path[at]));
        result.map(|()| n_kept)
    }

    /// Brings the page of a locked node to the device; false if there is no room.
    fn bring_in_page(&mut self, node: NodeId) -> Result<bool, EngineError> {
        let (Some(Place::Host(_)), Some(_)) = (self.tree.place(node), &self.host) else {
            return Ok(true);
        };
        if self.make_room(1).is_err() {
            return Ok(false);
        }
        let Some(page) = self.pools.full.take_one() else { return Ok(false) };
        let old = self.tree.replace(node, Place::Device(page));
        if let (Some(Place::Host(bytes)), Some(host)) = (old, &mut self.host) {
            host.drop(bytes.len());
            host.write_page(page, &bytes)?;
            self.counters.n_restored_pages += 1;
        }
        Ok(true)
    }

    /// Gives windows and states of a new sequence what its checkpoint holds.
    fn restore(&mut self, seq: &mut SeqCache) -> Result<(), EngineError> {
        let has_states = self.shape.has_states();
        let (n_tokens, node) = (seq.n_tokens as u32, seq.node);
        let mut from = None;
        // First what the checkpoint has, which may have to go for the rows below.
        if let Some(Checkpoint::Device { window, state }) = self.tree.checkpoint(node) {
            if let (Some(table), Some(pinned)) = (&mut seq.window, window) {
                table.restore(&mut self.pools.window, pinned);
            }
            from = *state;
            from.iter().for_each(|state| self.pools.states.share(*state));
            self.tree.tick();
            self.tree.touch_checkpoint(node);
        }
        if has_states {
            let own = self.take_state();
            if own.is_none() {
                from.iter().for_each(|state| self.pools.states.release(*state));
            }
            let n_pages = self.pools.states.n_pages();
            let own = own.ok_or(KvError::Exhausted { n_needed: 1, n_free: 0, n_pages })?;
            seq.states = Some(SeqStates { own, from, rolling: None });
        }
        if matches!(self.tree.checkpoint(node), Some(Checkpoint::Host(_))) {
            if let Some(table) = &mut seq.window {
                self.make_window_room(table.n_pages_before(n_tokens))?;
                table.take_before(&mut self.pools.window, n_tokens)?;
            }
            let own = seq.states.as_ref().map(|states| states.own);
            let checkpoint = self.tree.checkpoint(node);
            if let (Some(Checkpoint::Host(bytes)), Some(host)) = (checkpoint, &self.host) {
                host.write_checkpoint(seq.window.as_ref(), own, bytes)?;
            }
        }
        Ok(())
    }

    /// Gives back what a sequence holds. Its whole blocks stay in the tree, with a checkpoint after
    /// the last one where that is possible.
    pub fn close(&mut self, mut seq: SeqCache) {
        self.tree.tick();
        if self.needs_checkpoints() && self.keeps && self.shape.has_checkpoints() {
            self.leave_checkpoint(&mut seq);
        }
        for save in seq.saves.drain(..) {
            save.state.iter().for_each(|row| self.pools.states.release(*row));
        }
        if let Some(SeqStates { own, from, rolling }) = seq.states.take() {
            let rows = [Some(own), from, rolling.map(|(_, row)| row)];
            rows.iter().flatten().for_each(|row| self.pools.states.release(*row));
        }
        if let Some(mut window) = seq.window.take() {
            window.clear(&mut self.pools.window);
        }
        seq.table.truncate(&mut self.pools.full, 0);
        self.unlock_to(&mut seq, 0);
    }

    /// Unlocks the blocks of a sequence after the first `depth`.
    fn unlock_to(&mut self, seq: &mut SeqCache, depth: usize) {
        while self.tree.depth(seq.node) > depth {
            self.tree.unlock(seq.node);
            seq.node = self.tree.parent(seq.node);
        }
    }

    /// A checkpoint after the last whole block that windows and states know.
    fn leave_checkpoint(&mut self, seq: &mut SeqCache) {
        let mut state = None;
        let mut n_tokens = seq.n_tokens / BLOCK * BLOCK;
        if self.shape.has_states() && seq.states.is_none() {
            return;
        }
        if let Some(states) = &mut seq.states {
            let is_own = states.from.is_none() && n_tokens == seq.n_tokens;
            match states.rolling {
                _ if is_own => {
                    self.pools.states.share(states.own);
                    state = Some(states.own);
                }
                Some((rolling_at, row)) => {
                    (n_tokens, state) = (rolling_at, Some(row));
                    states.rolling = None;
                }
                None => return,
            }
        }
        self.attach(seq, n_tokens, state);
    }

    /// Gives the block that ends after `n_tokens` of a sequence's tokens a checkpoint with this
    /// state, which the tree owns from now on, unless it has one or is not in the tree.
    fn attach(&mut self, seq: &SeqCache, n_tokens: usize, state: Option<PageId>) {
        let mut node = seq.node;
        while self.tree.depth(node) * BLOCK > n_tokens {
            node = self.tree.parent(node);
        }
        let is_there = n_tokens > 0 && self.tree.depth(node) * BLOCK == n_tokens;
        let covers = seq.window.as_ref().is_none_or(|window| window.covers(n_tokens as u32));
        if !is_there || !covers || self.tree.checkpoint(node).is_some() {
            state.iter().for_each(|row| self.pools.states.release(*row));
            if is_there {
                self.tree.touch_checkpoint(node);
            }
            return;
        }
        let window = seq.window.as_ref();
        let window = window.map(|table| table.pin(&mut self.pools.window, n_tokens as u32));
        self.tree.set_checkpoint(node, Some(Checkpoint::Device { window, state }));
    }

    /// A prompt of `n_prompt` tokens is about to be computed: the next one may begin with all but
    /// the last token of it, or with all but the opening of the answer.
    pub fn want_prompt(&self, seq: &mut SeqCache, n_prompt: usize) {
        let lengths = [OPENING + 1, 1].map(|n_last| n_prompt.saturating_sub(n_last));
        self.want(seq, &lengths);
    }

    /// Makes checkpoints at these lengths, in whole blocks, when they are computed.
    pub fn want(&self, seq: &mut SeqCache, lengths: &[usize]) {
        if !self.shape.has_checkpoints() {
            return;
        }
        let whole = lengths.iter().map(|length| length / BLOCK * BLOCK);
        seq.wanted.extend(whole.filter(|length| *length > seq.n_tokens));
        seq.wanted.sort_unstable();
        seq.wanted.dedup();
    }

    /// Makes room for the next `n` tokens, the last `n_draft` of which may be refused, and decides
    /// which states the step saves.
    ///
    /// # Errors
    /// [`KvError::Exhausted`] if running sequences hold all there is; the device failed.
    pub fn begin_step(
        &mut self,
        seq: &mut SeqCache,
        n: u32,
        n_draft: u32,
    ) -> Result<(), EngineError> {
        let end = seq.n_tokens + n as usize;
        let n_new = n_pages_for(end as u32).saturating_sub(seq.table.pages().len() as u32);
        self.make_room(n_new)?;
        seq.table.grow(&mut self.pools.full, end as u32)?;
        if let Some(window) = &mut seq.window {
            let n_new = window.slide(&mut self.pools.window, end as u32);
            self.make_window_room(n_new)?;
            window.grow(&mut self.pools.window, end as u32)?;
        }
        if seq.states.is_some() {
            for n_tokens in end - n_draft as usize..end {
                let state = self.take_state().ok_or(KvError::Exhausted {
                    n_needed: n_draft,
                    n_free: 0,
                    n_pages: self.pools.states.n_pages(),
                })?;
                seq.saves.push(Save { n_tokens, state: Some(state), purpose: Purpose::Draft });
            }
        }
        self.begin_checkpoints(seq, end, n_draft as usize);
        Ok(())
    }

    /// Takes pages for `n` rows behind the computed tokens that nobody will go on from, until
    /// [`Cache::take_back`]; false if there is no room.
    ///
    /// # Errors
    /// The device failed.
    pub fn lend(&mut self, seq: &mut SeqCache, n: usize) -> Result<bool, EngineError> {
        let end = (seq.n_tokens + n) as u32;
        let n_new = n_pages_for(end).saturating_sub(seq.table.pages().len() as u32);
        match self.make_room(n_new) {
            Ok(()) => {
                seq.table.grow(&mut self.pools.full, end)?;
                Ok(true)
            }
            Err(EngineError::Cache(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the pages of [`Cache::lend`] back.
    pub fn take_back(&mut self, seq: &mut SeqCache) {
        seq.table.truncate(&mut self.pools.full, seq.n_tokens as u32);
    }

    /// The checkpoints of a step that ends after `end` tokens, the last `n_draft` of which may be
    /// refused.
    fn begin_checkpoints(&mut self, seq: &mut SeqCache, end: usize, n_draft: usize) {
        let is_saved = |seq: &SeqCache, at| seq.saves.iter().any(|save| save.n_tokens == at);
        while seq.wanted.first().is_some_and(|length| *length <= end) {
            let n_tokens = seq.wanted.remove(0);
            let has_states = seq.states.is_some();
            let state = if has_states { self.take_state() } else { None };
            if is_saved(seq, n_tokens) || has_states && state.is_none() {
                state.iter().for_each(|row| self.pools.states.release(*row));
                continue;
            }
            seq.saves.push(Save { n_tokens, state, purpose: Purpose::Checkpoint });
        }
        let last_block = end / BLOCK * BLOCK;
        let is_new = last_block > seq.n_tokens && self.leaves_states();
        if !is_new || seq.states.is_none() || is_saved(seq, last_block) {
            return;
        }
        // What is left of the block before may go only for one that is certain to come.
        let is_certain = last_block + n_draft <= end;
        let states = seq.states.as_mut().filter(|_| is_certain);
        let rolling = states.and_then(|states| states.rolling.take());
        let row = rolling.map(|(_, row)| row).or_else(|| self.take_state());
        if let Some(row) = row {
            let (n_tokens, state) = (last_block, Some(row));
            seq.saves.push(Save { n_tokens, state, purpose: Purpose::Rolling });
        }
    }

    /// The step of [`Cache::begin_step`] is done. Of the text `tokens` all are computed now that the
    /// step was for, of which the first `n_kept` stay; those after them are as if they had never
    /// been.
    pub fn end_step(&mut self, seq: &mut SeqCache, tokens: &[u32], n_kept: u32) {
        seq.n_tokens += n_kept as usize;
        let n_tokens = seq.n_tokens;
        // What a refused draft took goes back before anybody sees it.
        seq.table.truncate(&mut self.pools.full, n_tokens as u32);
        if let Some(window) = &mut seq.window {
            window.truncate(&mut self.pools.window, n_tokens as u32);
        }
        if let Some(from) = seq.states.as_mut().and_then(|states| states.from.take()) {
            self.pools.states.release(from);
        }
        if self.keeps {
            self.insert_blocks(seq, tokens);
        }
        let leaves_states = self.leaves_states();
        let mut saves = std::mem::take(&mut seq.saves);
        for Save { n_tokens: at, state, purpose } in saves.drain(..) {
            match (purpose, state, &mut seq.states) {
                (Purpose::Draft, Some(row), Some(states)) if at == n_tokens => {
                    if leaves_states && at.is_multiple_of(BLOCK) {
                        self.pools.states.share(row);
                        states.roll(&mut self.pools.states, at, row);
                    }
                    states.from = Some(row);
                }
                (Purpose::Draft, Some(row), Some(states))
                    if at < n_tokens && leaves_states && at.is_multiple_of(BLOCK) =>
                {
                    states.roll(&mut self.pools.states, at, row);
                }
                (Purpose::Rolling, Some(row), Some(states)) if at <= n_tokens => {
                    states.roll(&mut self.pools.states, at, row);
                }
                (Purpose::Checkpoint, ..) if at <= n_tokens => self.attach(seq, at, state),
                _ => state.iter().for_each(|row| self.pools.states.release(*row)),
            }
        }
        seq.saves = saves;
    }

    /// Puts the blocks that became whole into the tree. Where it has one already, its page takes the
    /// place of the sequence's own, which holds the same.
    fn insert_blocks(&mut self, seq: &mut SeqCache, tokens: &[u32]) {
        loop {
            let begin = self.tree.depth(seq.node) * BLOCK;
            if begin + BLOCK > seq.n_tokens {
                return;
            }
            let (at, block) = (begin / BLOCK, &tokens[begin..begin + BLOCK]);
            let own = seq.table.pages()[at];
            let full = &mut self.pools.full;
            let Some(node) = self.tree.child(seq.node, block) else {
                let Some(node) = self.tree.insert(seq.node, block, own) else { return };
                full.share(own);
                seq.node = node;
                continue;
            };
            match self.tree.place(node) {
                Some(Place::Device(page)) => seq.table.replace(full, at, *page),
                _ => {
                    full.share(own);
                    let old = self.tree.replace(node, Place::Device(own));
                    if let (Some(Place::Host(bytes)), Some(host)) = (old, &mut self.host) {
                        host.drop(bytes.len());
                    }
                }
            }
            self.tree.lock(node);
            seq.node = node;
        }
    }

    /// Goes back to the first `n` tokens of a sequence that [can](SeqCache::can_go_back), or fewer
    /// where a page is not its own, and returns how many.
    pub fn go_back(&mut self, seq: &mut SeqCache, n: usize) -> usize {
        let n_kept = seq.table.truncate(&mut self.pools.full, n as u32) as usize;
        if let Some(window) = &mut seq.window {
            window.truncate(&mut self.pools.window, n_kept as u32);
        }
        self.unlock_to(seq, n_kept / BLOCK);
        seq.n_tokens = n_kept;
        seq.wanted.clear();
        n_kept
    }

    /// Gives pages up until `n` are free.
    fn make_room(&mut self, n: u32) -> Result<(), EngineError> {
        while self.pools.full.n_free() < n {
            if !self.evict_page()? {
                let (n_free, n_pages) = (self.pools.full.n_free(), self.pools.full.n_pages());
                return Err(KvError::Exhausted { n_needed: n, n_free, n_pages }.into());
            }
        }
        Ok(())
    }

    /// Gives checkpoints up until `n` pages of windows are free.
    fn make_window_room(&mut self, n: u32) -> Result<(), EngineError> {
        while self.pools.window.n_free() < n {
            if !self.evict_checkpoint()? {
                let (n_free, n_pages) = (self.pools.window.n_free(), self.pools.window.n_pages());
                return Err(KvError::Exhausted { n_needed: n, n_free, n_pages }.into());
            }
        }
        Ok(())
    }

    /// A row of the recurrent states, if need be a checkpoint's.
    fn take_state(&mut self) -> Option<PageId> {
        while self.pools.states.n_free() == 0 {
            // A device that cannot copy a row will say so at the next step.
            if !self.evict_checkpoint().ok()? {
                return None;
            }
        }
        self.pools.states.take_one()
    }

    /// Gives up the page on the device that was used longest ago; false if there is none.
    fn evict_page(&mut self) -> Result<bool, EngineError> {
        let Some(node) = self.tree.oldest_page() else { return Ok(false) };
        let Some(Place::Device(page)) = self.tree.place(node) else { return Ok(false) };
        let page = *page;
        self.counters.n_evicted_pages += 1;
        if let Some(host) = &self.host {
            let bytes = host.read_page(page)?;
            if self.make_host_room(bytes.len()) {
                self.move_checkpoint(node)?;
                self.pools.full.release(page);
                self.tree.replace(node, Place::Host(bytes));
                return Ok(true);
            }
        }
        self.forget(node);
        Ok(true)
    }

    /// Removes a node without children.
    fn forget(&mut self, node: NodeId) {
        let (place, checkpoint) = self.tree.remove(node);
        match (place, &mut self.host) {
            (Some(Place::Device(page)), _) => self.pools.full.release(page),
            (Some(Place::Host(bytes)), Some(host)) => host.drop(bytes.len()),
            _ => {}
        }
        self.release_checkpoint(checkpoint);
    }

    fn release_checkpoint(&mut self, checkpoint: Option<Checkpoint>) {
        match (checkpoint, &mut self.host) {
            (Some(Checkpoint::Device { window, state }), _) => {
                if let Some(mut window) = window {
                    window.clear(&mut self.pools.window);
                }
                state.iter().for_each(|row| self.pools.states.release(*row));
            }
            (Some(Checkpoint::Host(bytes)), Some(host)) => host.drop(bytes.len()),
            _ => {}
        }
    }

    /// Gives up the checkpoint on the device that was used longest ago; false if there is none.
    fn evict_checkpoint(&mut self) -> Result<bool, EngineError> {
        let Some(node) = self.tree.oldest_checkpoint() else { return Ok(false) };
        self.counters.n_evicted_checkpoints += 1;
        self.move_checkpoint(node)?;
        Ok(true)
    }

    /// Moves a node's checkpoint on the device to the host's memory, or drops it.
    fn move_checkpoint(&mut self, node: NodeId) -> Result<(), EngineError> {
        let Some(Checkpoint::Device { window, state }) = self.tree.checkpoint(node) else {
            return Ok(());
        };
        let bytes = match &self.host {
            Some(host) => Some(host.read_checkpoint(window.as_ref(), *state)?),
            None => None,
        };
        let bytes = bytes.filter(|bytes| self.make_host_room(bytes.len()));
        let old = self.tree.set_checkpoint(node, bytes.map(Checkpoint::Host));
        self.release_checkpoint(old);
        Ok(())
    }

    /// Forgets what the host holds until `n_bytes` more fit, and counts them; false if they never
    /// will.
    fn make_host_room(&mut self, n_bytes: usize) -> bool {
        loop {
            let Some(host) = &mut self.host else { return false };
            if host.n_free() >= n_bytes as u64 {
                host.keep(n_bytes);
                return true;
            }
            if host.budget() < n_bytes as u64 {
                return false;
            }
            let Some(node) = self.tree.oldest_on_host() else { return false };
            self.forget(node);
        }
    }
}
