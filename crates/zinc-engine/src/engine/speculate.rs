//! Drafting between steps: what the next step verifies behind the newest tokens.

use std::time::{Duration, Instant};

use super::Running;
use crate::cache::Cache;
use crate::cache_shape::CacheShape;
use crate::draft::{Cost, DraftSource, Head, N_SEQS_MAX, Speculation};
use crate::options::EngineOptions;
use crate::runner::LoadedModel;
use crate::scheduler::BatchEntry;
use crate::sequence::SequenceState;
use crate::step::{OutRows, Share};
use crate::{EngineError, Model};

/// Drafts for the sequences of an engine.
pub(super) struct Speculator {
    source: Option<DraftSource>,
    /// Where the source is the head.
    head: Option<Head>,
    /// Where drafts have to be worth their time.
    cost: Option<Cost>,
    /// Most tokens drafted ahead of a sequence.
    n_draft: u32,
    /// What drafting took since the last step.
    time: Duration,
}

/// What a step did for one sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    /// Index among the running sequences.
    pub idx: usize,
    /// Rows that it computed for it.
    pub n_rows: usize,
    /// Those that stay: all but the ones of refused drafts.
    pub n_kept: usize,
}

impl Speculator {
    /// What `options` ask for.
    ///
    /// # Errors
    /// The model was loaded without the head, or the device lacks something.
    pub fn new(
        loaded: &LoadedModel,
        options: &EngineOptions,
        shape: CacheShape,
    ) -> Result<Speculator, EngineError> {
        let source = options.speculation.source(loaded.model());
        let head = match shape.has_head {
            true => Some(Head::new(loaded, shape)?),
            false => None,
        };
        let cost = (options.speculation == Speculation::Auto).then(Cost::default);
        Ok(Speculator { source, head, cost, n_draft: shape.n_draft, time: Duration::ZERO })
    }

    /// Where drafts come from.
    pub fn source(&self) -> Option<DraftSource> {
        self.source
    }

    /// The head, if it drafts.
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// The time before a step, if it tells what drafts cost.
    pub fn clock(&self, running: &[Running]) -> Option<Instant> {
        (self.cost.is_some() && is_calm(running)).then(Instant::now)
    }

    /// The step that began at `begin` computed `batch`.
    pub fn measure(&mut self, begin: Option<Instant>, batch: &[BatchEntry]) {
        if let (Some(begin), Some(cost)) = (begin, &mut self.cost) {
            let n_draft = batch.iter().map(|entry| entry.n_draft as usize).sum();
            cost.add(batch.len(), n_draft, begin.elapsed() + self.time);
        }
        self.time = Duration::ZERO;
    }

    /// Forgets drafts where more runs by now than sequences that decode.
    pub fn check(&self, running: &mut [Running]) {
        if self.source.is_some() && !is_calm(running) {
            running.iter_mut().for_each(|it| it.generation.draft_nothing());
        }
    }

    /// Decides how many tokens to draft for each sequence: some where few sequences run and no
    /// prompt is read.
    pub fn begin(&mut self, running: &mut [Running], model: &Model, n_ctx: u32) {
        if self.source.is_none() {
            return;
        }
        let n_seqs = running.iter().filter(|it| !it.generation.sequence.is_finished()).count();
        let is_measured = self.cost.as_ref().is_none_or(|cost| !cost.wants_plain(n_seqs));
        let pays = self.cost.as_ref().map_or(Cost::UNKNOWN, Cost::pays);
        let is_time = is_measured && is_calm(running);
        for Running { generation, cache, .. } in running {
            // A draft must not reach into the length at which other rope frequencies apply.
            let n_tokens = generation.sequence.tokens().len() as u32 + self.n_draft;
            let is_same_rope = model.graph().rope_variant(n_tokens) == cache.rope_variant;
            match is_time && is_same_rope {
                true => generation.begin_draft(n_ctx as usize, pays),
                false => generation.draft_nothing(),
            }
        }
    }

    /// Computes the head's rows of what a step `done` computed of the trunk's, whose hidden states
    /// are these, and the first token of each draft.
    ///
    /// # Errors
    /// The device failed.
    pub fn feed(
        &mut self,
        running: &mut [Running],
        done: &[Done],
        hidden: &[f32],
    ) -> Result<(), EngineError> {
        let Some(head) = &mut self.head else { return Ok(()) };
        let begin = Instant::now();
        let n_rows: usize = done.iter().map(|done| done.n_rows).sum();
        let d_model = hidden.len() / n_rows.max(1);
        let mut first_row = 0;
        for done in done {
            let Running { generation, cache, .. } = &running[done.idx];
            let hidden = &hidden[first_row * d_model..];
            first_row += done.n_rows;
            // The row of a token wants the one after it, which an answer's end does not have.
            let (from, tokens) = (cache.n_tokens(), generation.sequence.tokens());
            let n = done.n_kept.min(tokens.len() - 1 - from);
            if n == 0 {
                continue;
            }
            let is_wanted = usize::from(generation.n_missing() > 0);
            let share = Share {
                tokens: &tokens[from + 1..from + 1 + n],
                cache,
                out_rows: OutRows::From(n - is_wanted),
                hidden: &hidden[..n * d_model],
            };
            head.push(&share, from);
        }
        let predicted = head.run()?;
        let mut n_drafts = 0;
        for done in done {
            let generation = &mut running[done.idx].generation;
            if let Some(drafter) = generation.drafter().filter(|it| it.n_missing() > 0) {
                let (id, hidden) = predicted.row(n_drafts);
                drafter.push(id, hidden);
                n_drafts += 1;
            }
        }
        if n_drafts > 0 {
            self.time += begin.elapsed();
        }
        Ok(())
    }

    /// Completes the drafts that were begun.
    ///
    /// # Errors
    /// The device failed.
    pub fn draft(&mut self, running: &mut [Running], cache: &mut Cache) -> Result<(), EngineError> {
        match &mut self.head {
            Some(head) => {
                let begin = Instant::now();
                go_on(head, running, cache)?;
                self.time += begin.elapsed();
            }
            None => running.iter_mut().for_each(|it| it.generation.look_up()),
        }
        Ok(())
    }
}

/// Drafts on with the head, from its own hidden states: a token for every sequence in each step of it.
/// Its rows there are guesses, which the verified ones replace, so their pages are only lent.
fn go_on(head: &mut Head, running: &mut [Running], cache: &mut Cache) -> Result<(), EngineError> {
    let n_missing = |it: &Running| it.generation.n_missing();
    let n_links = running.iter().map(n_missing).max().unwrap_or(0);
    if n_links == 0 {
        return Ok(());
    }
    for it in running.iter_mut() {
        let Some(drafter) = it.generation.drafter().filter(|it| it.n_missing() > 0) else {
            continue;
        };
        if drafter.ids().is_empty() || !cache.lend(&mut it.cache, drafter.n_missing())? {
            drafter.end();
        }
    }
    for _ in 0..n_links {
        for it in running.iter_mut().filter(|it| n_missing(it) > 0) {
            let first = it.cache.n_tokens();
            let Some(drafter) = it.generation.drafter() else { continue };
            let Some((last, before)) = drafter.ids().split_last() else { continue };
            let share = Share {
                tokens: &[*last],
                cache: &it.cache,
                out_rows: OutRows::Last,
                hidden: drafter.hidden(),
            };
            head.push(&share, first + before.len());
        }
        let predicted = head.run()?;
        for (at, it) in running.iter_mut().filter(|it| n_missing(it) > 0).enumerate() {
            let (id, hidden) = predicted.row(at);
            it.generation.drafter().into_iter().for_each(|drafter| drafter.push(id, hidden));
        }
    }
    running.iter_mut().for_each(|it| cache.take_back(&mut it.cache));
    Ok(())
}

/// Whether all that runs are sequences that decode, and few.
fn is_calm(running: &[Running]) -> bool {
    let mut n_seqs = 0;
    let mut states = running.iter().map(|it| it.generation.sequence.state());
    let all_decode = states.all(|state| {
        n_seqs += usize::from(*state == SequenceState::Decoding);
        matches!(state, SequenceState::Decoding | SequenceState::Finished(_))
    });
    all_decode && n_seqs <= N_SEQS_MAX
}

#[cfg(test)]
mod tests;
