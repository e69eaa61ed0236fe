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

use zinc_backend::StepInputs;

use crate::cache_slot::{CacheSlot, Pools};
use crate::generation::Generation;
use crate::options::EngineOptions;
use crate::request::{Event, Request};
use crate::runner::{LoadedModel, Runner, Wanted};
use crate::sampler::SamplerWorkspace;
use crate::scheduler::{self, BatchEntry, Pending};
use crate::sequence::{FinishReason, SequenceId, SequenceState};
use crate::step::{OutRows, Share, push_share};
use crate::{EngineError, Model};

/// Most requests that wait or run.
pub const N_REQUESTS_MAX: usize = 1024;

/// Generates text for requests.
pub struct Engine {
    loaded: Arc<LoadedModel>,
    runner: Runner,
    n_ctx: u32,
    /// Most tokens of a step.
    max_tokens: u32,
    pages_per_seq: u32,
    pools: Pools,
    slots: Vec<CacheSlot>,
    /// Requests in order of arrival.
    generations: VecDeque<Generation>,
    next_id: u64,
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
            pages_per_seq: shape.pages_per_seq(),
            pools: shape.pools(),
            slots: (0..shape.max_seqs).map(|idx| shape.slot(idx)).collect(),
            generations: VecDeque::new(),
            next_id: 0,
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
        if self.generations.len() >= N_REQUESTS_MAX {
            return Err(EngineError::QueueFull { n_waiting: self.generations.len() });
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
        self.remove_finished(sink);
        self.admit();
        self.restart_outgrown();
        let running =
            self.generations.iter().filter(|g| *g.sequence.state() != SequenceState::Waiting);
        scheduler::schedule(
            running.map(|g| Pending::of(&g.sequence)),
            self.max_tokens,
            &mut self.batch,
        );
        if self.batch.is_empty() {
            return Ok(());
        }
        self.fill_inputs()?;
        let outputs = self.runner.run(&self.inputs)?;
        let n_vocab = self.loaded.model().config().n_vocab as usize;
        // The plan returns one row for every share that wants logits, in the order of the shares.
        let mut rows = outputs.values.first().map_or(&[][..], Vec::as_slice).chunks_exact(n_vocab);
        for entry in &self.batch {
            let (generation, slot) = find(&mut self.generations, &mut self.slots, entry.seq);
            slot.end_step(&mut self.pools, generation.sequence.next_tokens(entry.n_tokens));
            let is_complete = generation.advance(entry.n_tokens as usize, sink);
            let logits = if entry.wants_logits { rows.next().unwrap_or(&[]) } else { &[] };
            if is_complete {
                generation.choose(logits, self.loaded.model(), &mut self.workspace, sink);
            }
        }
        self.remove_finished(sink);
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
            let n_reused = slot.keep(&mut self.pools, n_reusable, rope_variant);
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

    /// Makes room in the cache for the batch and writes the step's inputs.
    fn fill_inputs(&mut self) -> Result<(), EngineError> {
        self.inputs.clear();
        for entry in &self.batch {
            let (generation, slot) = find(&mut self.generations, &mut self.slots, entry.seq);
            let tokens = generation.sequence.next_tokens(entry.n_tokens);
            slot.begin_step(&mut self.pools, entry.n_tokens)?;
            let out_rows = if entry.wants_logits { OutRows::Last } else { OutRows::None };
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
