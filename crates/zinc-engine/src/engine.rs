//! The loop from requests to text.
//!
//! A request becomes a [`Sequence`]; each [`Engine::step`] asks the [scheduler](crate::scheduler)
//! which tokens to compute, runs one plan over all of them, chooses a token for every sequence
//! whose pending tokens are computed, and tells what happened as [`Event`]s. A caller that stops
//! calling has stopped the engine: there are no threads here, and every step ends at a token or at
//! a chunk of a prompt.
//!
//! In steady decoding a step allocates no memory here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use zinc_backend::StepInputs;

use crate::cache_slot::{CacheSlot, Pools};
use crate::generation::Generation;
use crate::options::EngineOptions;
use crate::request::{Event, Request};
use crate::runner::{LoadedModel, Runner, Wanted};
use crate::sampler::SamplerWorkspace;
use crate::scheduler::{self, BatchEntry};
use crate::sequence::{FinishReason, SequenceId, SequenceState};
use crate::stats::Stats;
use crate::step::{Share, push_share};
use crate::{EngineError, Model};

/// Generates text for requests.
pub struct Engine {
    loaded: Arc<LoadedModel>,
    runner: Runner,
    n_ctx: u32,
    /// Most tokens of a step.
    max_tokens: u32,
    max_rows: u32,
    max_waiting: usize,
    pages_per_seq: u32,
    gives_embeddings: bool,
    pools: Pools,
    slots: Vec<CacheSlot>,
    /// Requests in order of arrival.
    generations: VecDeque<Generation>,
    next_id: u64,
    stats: Stats,
    // Scratch space of a step.
    batch: Vec<BatchEntry>,
    inputs: StepInputs,
    workspace: SamplerWorkspace,
}

impl Engine {
    /// Compiles the plans and allocates the cache.
    ///
    /// # Errors
    /// An option outside its range, or what the device lacks.
    pub fn new(loaded: Arc<LoadedModel>, options: &EngineOptions) -> Result<Engine, EngineError> {
        let shape = options.cache_shape(loaded.model())?;
        let runner = Runner::new(&loaded, shape, &Wanted::default())?;
        Ok(Engine {
            loaded,
            runner,
            n_ctx: shape.n_ctx,
            max_tokens: shape.max_tokens,
            max_rows: shape.n_out_rows,
            max_waiting: options.max_waiting as usize,
            pages_per_seq: shape.pages_per_seq(),
            gives_embeddings: shape.embeddings,
            pools: shape.pools(),
            slots: (0..shape.max_seqs).map(|idx| shape.slot(idx)).collect(),
            generations: VecDeque::new(),
            next_id: 0,
            stats: Stats::default(),
            batch: Vec::new(),
            inputs: StepInputs::default(),
            workspace: SamplerWorkspace::new(shape.n_ctx as usize),
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.loaded.model()
    }

    /// Longest sequence, prompt and answer, in tokens.
    pub fn n_ctx(&self) -> u32 {
        self.n_ctx
    }

    /// What the engine holds and has done so far.
    pub fn stats(&self) -> Stats {
        let full = &self.pools.full;
        let n_running = self.slots.iter().filter(|slot| slot.owner.is_some());
        let n_pages_running = n_running.clone().map(|slot| slot.table().pages().len() as u32);
        Stats {
            n_waiting: self.n_waiting(),
            n_running: n_running.count(),
            n_pages: full.n_pages(),
            n_pages_used: full.n_pages() - full.n_free(),
            n_pages_running: n_pages_running.sum(),
            ..self.stats
        }
    }

    fn n_waiting(&self) -> usize {
        let state = |generation: &Generation| generation.sequence.state().clone();
        self.generations.iter().filter(|g| state(g) == SequenceState::Waiting).count()
    }

    /// Whether no request waits or runs.
    pub fn is_idle(&self) -> bool {
        self.generations.is_empty()
    }

    /// Takes a request; [`Engine::step`] works on it.
    ///
    /// # Errors
    /// A prompt that is empty, too long or has unknown ids; sampling parameters or stop strings
    /// that cannot be used; a full queue.
    pub fn submit(&mut self, request: Request) -> Result<SequenceId, EngineError> {
        let config = self.loaded.model().config();
        let n_waiting = self.n_waiting();
        if n_waiting >= self.max_waiting {
            return Err(EngineError::QueueFull { n_waiting });
        }
        if request.pooling.is_some() && !self.gives_embeddings {
            return Err(EngineError::NoEmbeddings);
        }
        check_ids(&request.prompt, config.n_vocab)?;
        let n_prompt = request.prompt.len();
        if n_prompt >= self.n_ctx as usize {
            return Err(EngineError::PromptTooLong {
                n_prompt,
                n_ctx: self.n_ctx,
                n_ctx_train: config.n_ctx_train,
            });
        }
        let id = SequenceId(self.next_id);
        let generation = Generation::new(id, request, self.loaded.model(), self.n_ctx)?;
        self.next_id += 1;
        self.generations.push_back(generation);
        Ok(id)
    }

    /// Ends a sequence at the next step, before anything more is computed for it. False if there is
    /// no such sequence any more.
    pub fn cancel(&mut self, seq: SequenceId) -> bool {
        let generation = self.generations.iter_mut().find(|g| g.sequence.id() == seq);
        let found =
            generation.map(|generation| generation.sequence.finish(FinishReason::Cancelled));
        found.is_some()
    }

    /// Computes one step and reports it to `sink`. Does nothing when idle.
    ///
    /// # Errors
    /// The device failed. No sequence can be continued then; open the device anew.
    pub fn step(&mut self, sink: &mut dyn FnMut(Event<'_>)) -> Result<(), EngineError> {
        self.end_late();
        self.remove_finished(sink);
        self.admit();
        self.restart_outgrown();
        let running =
            self.generations.iter().filter(|g| *g.sequence.state() != SequenceState::Waiting);
        scheduler::schedule(
            running.map(Generation::pending),
            self.max_tokens,
            self.max_rows,
            &mut self.batch,
        );
        for pooled in [false, true] {
            self.compute(pooled, sink)?;
        }
        self.remove_finished(sink);
        Ok(())
    }

    /// Ends requests whose time is over.
    fn end_late(&mut self) {
        let mut late = self.generations.iter_mut().filter(|g| g.has_deadline()).peekable();
        if late.peek().is_some() {
            let now = Instant::now();
            late.for_each(|generation| generation.check_deadline(now));
        }
    }

    /// Computes the shares of the batch that want hidden states, or those that want logits.
    fn compute(
        &mut self,
        pooled: bool,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), EngineError> {
        self.fill_inputs(pooled)?;
        if self.inputs.token_ids.is_empty() {
            return Ok(());
        }
        let model = self.loaded.model();
        let (outputs, n_cols) = match pooled {
            true => (self.runner.run_hidden(&self.inputs)?, model.config().d_model),
            false => (self.runner.run(&self.inputs)?, model.config().n_vocab),
        };
        self.stats.n_steps += 1;
        self.stats.n_computed_tokens += self.inputs.token_ids.len() as u64;
        // The plan returns the rows that were asked for in the order of the shares.
        let mut rows = outputs.values.first().map_or(&[][..], Vec::as_slice);
        for entry in &self.batch {
            let (generation, slot) = find(&mut self.generations, &mut self.slots, entry.seq);
            if generation.is_pooled() != pooled {
                continue;
            }
            let out_rows = generation.out_rows(entry.n_tokens, entry.n_rows);
            let n_values = out_rows.count(entry.n_tokens as usize) * n_cols as usize;
            let (own, others) = rows.split_at(n_values.min(rows.len()));
            rows = others;
            slot.end_step(&mut self.pools, generation.sequence.next_tokens(entry.n_tokens));
            let n_before = generation.sequence.n_generated();
            generation.advance(entry.n_tokens as usize, own, model, &mut self.workspace, sink);
            let n_generated = generation.sequence.n_generated() - n_before;
            self.stats.n_generated_tokens += n_generated as u64;
        }
        Ok(())
    }

    /// Gives free slots to waiting sequences, oldest first: to each the slot that holds most of its
    /// prompt.
    fn admit(&mut self) {
        let graph = self.loaded.model().graph();
        for generation in
            self.generations.iter_mut().filter(|g| *g.sequence.state() == SequenceState::Waiting)
        {
            let prompt = generation.sequence.tokens();
            let rope_variant = graph.rope_variant(prompt.len() as u32);
            let free = self.slots.iter_mut().filter(|slot| slot.owner.is_none());
            let best = free
                .map(|slot| (slot.n_reusable(prompt, rope_variant), slot))
                .max_by_key(|(n, _)| *n);
            let Some((n_reusable, slot)) = best else {
                break;
            };
            let n_reusable = if generation.can_reuse() { n_reusable } else { 0 };
            let n_reused = slot.keep(&mut self.pools, n_reusable, rope_variant);
            self.stats.n_prompt_tokens += prompt.len() as u64;
            self.stats.n_reused_tokens += n_reused as u64;
            slot.want_prompt(prompt.len());
            slot.owner = Some(generation.sequence.id());
            generation.start(n_reused);
        }
    }

    /// Texts that grew past the length at which other rope frequencies apply are computed anew from
    /// their start.
    fn restart_outgrown(&mut self) {
        let graph = self.loaded.model().graph();
        for slot in &mut self.slots {
            let Some(owner) = slot.owner else { continue };
            let Some(generation) = self.generations.iter_mut().find(|g| g.sequence.id() == owner)
            else {
                continue;
            };
            let rope_variant = graph.rope_variant(generation.sequence.tokens().len() as u32);
            if rope_variant != slot.rope_variant {
                slot.keep(&mut self.pools, 0, rope_variant);
                slot.want_prompt(generation.sequence.n_prompt());
                generation.sequence.restart();
            }
        }
    }

    /// Makes room in the cache for the shares that want hidden states, or logits, and writes the
    /// step's inputs.
    fn fill_inputs(&mut self, pooled: bool) -> Result<(), EngineError> {
        self.inputs.clear();
        for entry in &self.batch {
            let (generation, slot) = find(&mut self.generations, &mut self.slots, entry.seq);
            if generation.is_pooled() != pooled {
                continue;
            }
            let tokens = generation.sequence.next_tokens(entry.n_tokens);
            slot.begin_step(&mut self.pools, entry.n_tokens)?;
            let out_rows = generation.out_rows(entry.n_tokens, entry.n_rows);
            let share = Share { tokens, cache: slot, out_rows, hidden: &[] };
            push_share(&mut self.inputs, &share, self.pages_per_seq);
        }
        Ok(())
    }

    /// Reports finished sequences and frees their slots, which keep what they hold.
    fn remove_finished(&mut self, sink: &mut dyn FnMut(Event<'_>)) {
        let mut i = 0;
        while i < self.generations.len() {
            let SequenceState::Finished(reason) = self.generations[i].sequence.state() else {
                i += 1;
                continue;
            };
            let reason = reason.clone();
            let Some(generation) = self.generations.remove(i) else {
                break;
            };
            let seq = generation.sequence.id();
            self.stats.n_finished += 1;
            self.slots
                .iter_mut()
                .filter(|slot| slot.owner == Some(seq))
                .for_each(|slot| slot.owner = None);
            generation.report_end(reason, sink);
        }
    }
}

/// A scheduled sequence with its slot.
fn find<'a>(
    generations: &'a mut VecDeque<Generation>,
    slots: &'a mut [CacheSlot],
    seq: SequenceId,
) -> (&'a mut Generation, &'a mut CacheSlot) {
    let generation = generations.iter_mut().find(|generation| generation.sequence.id() == seq);
    let slot = slots.iter_mut().find(|slot| slot.owner == Some(seq));
    match (generation, slot) {
        (Some(generation), Some(slot)) => (generation, slot),
        _ => unreachable!("only admitted sequences are scheduled"),
    }
}

/// Checks that there are tokens and that the model knows them.
pub(crate) fn check_ids(tokens: &[u32], n_vocab: u32) -> Result<(), EngineError> {
    if tokens.is_empty() {
        return Err(EngineError::EmptyPrompt);
    }
    match tokens.iter().position(|&id| id >= n_vocab) {
        Some(position) => Err(EngineError::TokenId { position, id: tokens[position], n_vocab }),
        None => Ok(()),
    }
}
