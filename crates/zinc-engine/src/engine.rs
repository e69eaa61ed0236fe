//! The loop from requests to text.
//!
//! A request becomes a [`Sequence`](crate::sequence); each [`Engine::step`] asks the
//! [scheduler](crate::scheduler) which requests begin and which tokens to compute, runs one plan over
//! all of them, chooses a token for every sequence whose pending tokens are computed, and tells what
//! happened as [`Event`]s. A caller that stops calling has stopped the engine: there are no threads
//! here, and every step ends at a token or at a chunk of a prompt.
//!
//! In steady decoding a step allocates no memory here.

mod speculate;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use zinc_backend::{Device, StepInputs};
use zinc_plan::Dim;

use crate::cache::{Cache, HostTier, SeqCache};
use crate::draft::{DraftSource, Speculation};
use crate::generation::Generation;
use crate::kv::{KvError, PAGE_SIZE};
use crate::options::EngineOptions;
use crate::profile::{Phase, PlanProfile};
use crate::request::{Event, Request};
use crate::runner::{LoadedModel, Runner, Wanted};
use crate::sampler::{SamplerWorkspace, StepRows};
use crate::scheduler::{self, BatchEntry, Limits, Pending};
use crate::sequence::{FinishReason, SequenceId, SequenceState};
use crate::stats::Stats;
use crate::step::{Share, push_share};
use crate::{EngineError, Model};
use speculate::{Done, Speculator};

/// Generates text for requests.
pub struct Engine {
    loaded: Arc<LoadedModel>,
    runner: Runner,
    n_ctx: u32,
    max_seqs: usize,
    max_waiting: usize,
    limits: Limits,
    pages_per_seq: u32,
    gives_embeddings: bool,
    speculator: Speculator,
    /// Whether a prompt can go on after what another one computes.
    shares_prompts: bool,
    cache: Cache,
    /// Requests without a cache, in order of arrival.
    waiting: VecDeque<Generation>,
    /// Requests with a cache, in order of arrival.
    running: Vec<Running>,
    next_id: u64,
    stats: Stats,
    // Scratch space of a step.
    pending: Vec<Pending>,
    batch: Vec<BatchEntry>,
    done: Vec<Done>,
    inputs: StepInputs,
    /// Tokens of a share with the drafted ones behind them.
    drafted: Vec<u32>,
    workspace: SamplerWorkspace,
}

/// A request with its cache.
struct Running {
    generation: Generation,
    cache: SeqCache,
    /// An older request that is computing what both begin with, and the length of that.
    waits_for: Option<(SequenceId, usize)>,
}

impl Running {
    fn id(&self) -> SequenceId {
        self.generation.sequence.id()
    }

    fn is_prefilling(&self) -> bool {
        *self.generation.sequence.state() == SequenceState::Prefilling
    }
}

impl Engine {
    /// Compiles the plans and allocates the cache.
    ///
    /// # Errors
    /// An option outside its range, or what the device lacks.
    pub fn new(loaded: Arc<LoadedModel>, options: &EngineOptions) -> Result<Engine, EngineError> {
        let source = options.speculation.source(loaded.model());
        let options = match options.speculation {
            // Whoever loaded the model decided that the head is not worth its memory.
            Speculation::Auto if source == Some(DraftSource::Mtp) && !loaded.has_mtp() => {
                &EngineOptions { speculation: Speculation::Lookup, ..*options }
            }
            _ => options,
        };
        let shape = options.cache_shape(loaded.model())?;
        let runner = Runner::new(&loaded, shape, &Wanted::of_engine(shape))?;
        let speculator = Speculator::new(&loaded, options, shape)?;
        let host = match options.host_cache_bytes {
            0 => None,
            budget => Some(host_tier(&loaded, &runner, &speculator, budget)?),
        };
        Ok(Engine {
            runner,
            n_ctx: shape.n_ctx,
            max_seqs: shape.max_seqs as usize,
            max_waiting: options.max_waiting as usize,
            limits: Limits {
                max_tokens: shape.max_tokens,
                busy_prompt: options.busy_chunk,
                max_rows: shape.n_out_rows,
            },
            pages_per_seq: shape.pages_per_seq(),
            gives_embeddings: shape.embeddings,
            shares_prompts: !shape.needs_checkpoints() || shape.has_checkpoints(),
            cache: Cache::new(shape, host),
            waiting: VecDeque::new(),
            running: Vec::with_capacity(shape.max_seqs as usize),
            next_id: 0,
            stats: Stats::default(),
            pending: Vec::with_capacity(shape.max_seqs as usize),
            batch: Vec::with_capacity(shape.max_seqs as usize),
            done: Vec::with_capacity(shape.max_seqs as usize),
            inputs: StepInputs::default(),
            drafted: Vec::with_capacity(1 + shape.n_draft as usize),
            workspace: SamplerWorkspace::new(shape.n_ctx as usize),
            speculator,
            loaded,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.loaded.model()
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        self.loaded.device()
    }

    /// Longest sequence, prompt and answer, in tokens.
    pub fn n_ctx(&self) -> u32 {
        self.n_ctx
    }

    /// What the engine holds and has done so far.
    pub fn stats(&self) -> Stats {
        let (counters, n_pages) = (self.cache.counters(), self.cache.n_pages());
        Stats {
            n_waiting: self.waiting.len(),
            n_running: self.running.len(),
            n_pages,
            n_pages_used: n_pages - self.cache.n_free(),
            n_pages_running: n_pages - self.cache.n_available(),
            n_evicted_pages: counters.n_evicted_pages,
            n_evicted_checkpoints: counters.n_evicted_checkpoints,
            n_restored_pages: counters.n_restored_pages,
            n_host_bytes: self.cache.host_bytes(),
            ..self.stats
        }
    }

    /// Begins to measure steps, or goes on, or pauses. While profiling is on, every other step runs with
    /// its operations timed, and slower.
    pub fn set_profiling(&mut self, on: bool) {
        self.runner.set_profiling(on);
    }

    /// What was measured of each plan that ran a step while profiling was on, since this was last asked
    /// for; ends profiling.
    pub fn take_profile(&mut self) -> Vec<PlanProfile> {
        self.runner.take_profile()
    }

    /// Whether no request waits or runs.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Takes a request; [`Engine::step`] works on it.
    ///
    /// # Errors
    /// A prompt that is empty, too long or has unknown ids; sampling parameters or stop strings
    /// that cannot be used; a full queue.
    pub fn submit(&mut self, request: Request) -> Result<SequenceId, EngineError> {
        let config = self.loaded.model().config();
        let n_waiting = self.waiting.len();
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
        let mut generation = Generation::new(id, request, self.loaded.model(), self.n_ctx)?;
        if let Some(source) = self.speculator.source().filter(|_| !generation.is_pooled()) {
            generation.speculate(source);
        }
        self.next_id += 1;
        self.waiting.push_back(generation);
        Ok(id)
    }

    /// Ends a sequence at the next step, before anything more is computed for it. False if there is
    /// no such sequence any more.
    pub fn cancel(&mut self, seq: SequenceId) -> bool {
        let found = self.generations().find(|generation| generation.sequence.id() == seq);
        found.map(|generation| generation.sequence.finish(FinishReason::Cancelled)).is_some()
    }

    fn generations(&mut self) -> impl Iterator<Item = &mut Generation> {
        let running = self.running.iter_mut().map(|running| &mut running.generation);
        running.chain(&mut self.waiting)
    }

    /// Computes one step and reports it to `sink`. Does nothing when idle.
    ///
    /// # Errors
    /// The device failed. No sequence can be continued then; open the device anew.
    pub fn step(&mut self, sink: &mut dyn FnMut(Event<'_>)) -> Result<(), EngineError> {
        if let Some(profiler) = self.runner.profiler() {
            profiler.begin();
        }
        self.end_late();
        self.remove_finished(sink);
        self.admit()?;
        self.open_anew()?;
        self.speculator.check(&mut self.running);
        self.schedule()?;
        if let Some(profiler) = self.runner.profiler() {
            profiler.lap(Phase::Schedule);
        }
        for pooled in [false, true] {
            self.compute(pooled, sink)?;
        }
        self.remove_finished(sink);
        Ok(())
    }

    /// Ends requests whose time is over.
    fn end_late(&mut self) {
        if self.generations().any(|generation| generation.has_deadline()) {
            let now = Instant::now();
            self.generations().for_each(|generation| generation.check_deadline(now));
        }
    }

    /// Begins waiting requests while there are places and pages.
    fn admit(&mut self) -> Result<(), EngineError> {
        while let Some(at) = scheduler::next_waiting(
            self.waiting.iter().map(|generation| generation.client),
            self.running.iter().map(|running| running.generation.client),
            self.max_seqs,
        ) {
            let generation = &self.waiting[at];
            let tokens = generation.sequence.tokens();
            let rope_variant = self.loaded.model().graph().rope_variant(tokens.len() as u32);
            // Those that run may each want a page soon.
            let n_pages = self.cache.n_missing(tokens, rope_variant) + self.running.len() as u32;
            if n_pages > self.cache.n_available() && !self.running.is_empty() {
                break;
            }
            let n_max = generation.n_reusable_max();
            let mut cache = match self.cache.open(tokens, n_max, rope_variant) {
                Err(EngineError::Cache(_)) if !self.running.is_empty() => break,
                opened => opened?,
            };
            self.cache.want_prompt(&mut cache, tokens.len());
            let Some(mut generation) = self.waiting.remove(at) else { break };
            let n_reused = cache.n_tokens();
            if generation.start(n_reused) {
                self.stats.n_prompt_tokens += generation.sequence.n_prompt() as u64;
                self.stats.n_reused_tokens += n_reused as u64;
            }
            let waits_for = self.find_older(&generation, &cache);
            let id = generation.sequence.id();
            let place = self.running.partition_point(|other| other.id() < id);
            self.running.insert(place, Running { generation, cache, waits_for });
        }
        Ok(())
    }

    /// The older sequence that computes most of what this one begins with, and how much that is: in
    /// whole blocks, at the end of which it will be possible to go on.
    fn find_older(
        &mut self,
        generation: &Generation,
        cache: &SeqCache,
    ) -> Option<(SequenceId, usize)> {
        if !self.shares_prompts {
            return None;
        }
        let (tokens, n_max) = (generation.sequence.tokens(), generation.n_reusable_max());
        let id = generation.sequence.id();
        let n_common = |older: &Running| {
            let both = tokens[..n_max].iter().zip(older.generation.sequence.tokens());
            let n_common = both.take_while(|(a, b)| a == b).count();
            n_common / PAGE_SIZE as usize * PAGE_SIZE as usize
        };
        let older = self.running.iter_mut().filter(|older| {
            older.id() < id
                && older.is_prefilling()
                && older.cache.rope_variant == cache.rope_variant
        });
        let (n, older) = older
            .map(|older| (n_common(older), older))
            .filter(|(n, older)| *n > cache.n_tokens().max(older.cache.n_tokens()))
            .max_by_key(|(n, _)| *n)?;
        self.cache.want(&mut older.cache, &[n]);
        Some((older.id(), n))
    }

    /// Opens caches anew: of texts that grew past the length at which other rope frequencies apply,
    /// from their start; of prompts that another request has computed more of by now, from there.
    fn open_anew(&mut self) -> Result<(), EngineError> {
        let graph = self.loaded.model().graph();
        for Running { generation, cache, .. } in &mut self.running {
            let tokens = generation.sequence.tokens();
            let n_max = generation.n_reusable_max();
            let rope_variant = graph.rope_variant(tokens.len() as u32);
            let is_outgrown = rope_variant != cache.rope_variant;
            let is_prefilling = *generation.sequence.state() == SequenceState::Prefilling;
            let is_known = is_prefilling
                && self.cache.n_reusable(tokens, n_max, rope_variant) > cache.n_tokens();
            if !is_outgrown && !is_known {
                continue;
            }
            // What it holds stays in the tree until others need it, and nobody comes in between.
            self.cache.reopen(cache, tokens, n_max, rope_variant)?;
            self.cache.want_prompt(cache, generation.sequence.n_prompt());
            let n_tokens = cache.n_tokens();
            if is_outgrown {
                generation.sequence.restart(n_tokens);
            } else {
                let n_found = n_tokens.saturating_sub(generation.sequence.n_computed());
                self.stats.n_reused_tokens += n_found as u64;
                generation.skip_to(n_tokens);
            }
        }
        Ok(())
    }

    /// Decides what the step computes; where pages are short, the youngest sequence waits again.
    fn schedule(&mut self) -> Result<(), EngineError> {
        loop {
            self.pending.clear();
            for idx in 0..self.running.len() {
                let is_held = self.is_held(idx);
                self.pending.push(self.running[idx].generation.pending(is_held));
            }
            let n_pages = self.cache.n_available();
            if scheduler::schedule(&self.pending, &self.limits, n_pages, &mut self.batch) {
                return Ok(());
            }
            if self.running.len() < 2 {
                let (n_free, n_pages) = (self.cache.n_free(), self.cache.n_pages());
                return Err(KvError::Exhausted { n_needed: 1, n_free, n_pages }.into());
            }
            let Some(Running { mut generation, cache, .. }) = self.running.pop() else {
                return Ok(());
            };
            self.cache.close(cache);
            generation.sequence.give_way();
            self.stats.n_preempted += 1;
            let id = generation.sequence.id();
            let place = self.waiting.partition_point(|other| other.sequence.id() < id);
            self.waiting.insert(place, generation);
        }
    }

    /// Whether an older sequence is still computing what this one begins with.
    fn is_held(&self, idx: usize) -> bool {
        let Some((id, n)) = self.running[idx].waits_for else { return false };
        self.running[..idx]
            .iter()
            .any(|older| older.id() == id && older.is_prefilling() && older.cache.n_tokens() < n)
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
        let begin = self.speculator.clock(&self.running);
        let n_rows = self.inputs.out_rows.len();
        let (n_cols, (outputs, mut profiler)) = match pooled {
            true => (model.config().d_model, self.runner.run_hidden(&self.inputs)?),
            false => (model.config().n_vocab, self.runner.run(&self.inputs)?),
        };
        self.speculator.measure(begin, &self.batch);
        let mut sink = |event: Event<'_>| match &mut profiler {
            None => sink(event),
            Some(profiler) => {
                profiler.lap(Phase::Sample);
                sink(event);
                profiler.lap(Phase::Events);
            }
        };
        self.stats.n_steps += 1;
        self.stats.n_computed_tokens += self.inputs.token_ids.len() as u64;
        // The plan returns the rows that were asked for in the order of the shares.
        let mut rows = StepRows::new(&outputs.values, n_cols, n_rows);
        self.done.clear();
        for entry in &self.batch {
            let Running { generation, .. } = &mut self.running[entry.idx];
            if generation.is_pooled() != pooled {
                continue;
            }
            let out_rows = generation.out_rows(entry.n_tokens, entry.n_rows);
            let n_tokens = (entry.n_tokens + entry.n_draft) as usize;
            let own = rows.take(out_rows.count(n_tokens), generation.reads_whole_rows());
            let n_before = generation.sequence.n_generated();
            let (n, n_draft) = (entry.n_tokens as usize, entry.n_draft as usize);
            let n_accepted =
                generation.advance(n, n_draft, own, model, &mut self.workspace, &mut sink);
            self.done.push(Done { idx: entry.idx, n_rows: n_tokens, n_kept: n + n_accepted });
            if let Some(source) = self.speculator.source() {
                self.stats.drafts_by(source).add(n_draft, n_accepted);
            }
            let n_generated = generation.sequence.n_generated() - n_before;
            self.stats.n_generated_tokens += n_generated as u64;
        }
        if let Some(profiler) = &mut profiler {
            profiler.lap(Phase::Sample);
        }
        if !pooled {
            let hidden = outputs.values.get(3).map_or(&[][..], Vec::as_slice);
            self.speculator.begin(&mut self.running, model, self.n_ctx);
            self.speculator.feed(&mut self.running, &self.done, hidden)?;
        }
        for done in &self.done {
            let Running { generation, cache, .. } = &mut self.running[done.idx];
            self.cache.end_step(cache, generation.sequence.tokens(), done.n_kept as u32);
        }
        if !pooled {
            self.speculator.draft(&mut self.running, &mut self.cache)?;
        }
        if let Some(profiler) = profiler {
            profiler.lap(Phase::Draft);
            profiler.end();
        }
        Ok(())
    }

    /// Makes room in the cache for the shares that want hidden states, or logits, and writes the
    /// step's inputs.
    fn fill_inputs(&mut self, pooled: bool) -> Result<(), EngineError> {
        self.inputs.clear();
        for entry in &self.batch {
            let Running { generation, cache, .. } = &mut self.running[entry.idx];
            if generation.is_pooled() != pooled {
                continue;
            }
            let mut tokens = generation.sequence.next_tokens(entry.n_tokens);
            if entry.n_draft > 0 {
                self.drafted.clear();
                self.drafted.extend_from_slice(tokens);
                let draft = &generation.drafted()[..entry.n_draft as usize];
                self.drafted.extend_from_slice(draft);
                tokens = &self.drafted;
            }
            self.cache.begin_step(cache, entry.n_tokens + entry.n_draft, entry.n_draft)?;
            let out_rows = generation.out_rows(entry.n_tokens, entry.n_rows);
            let share = Share { tokens, cache, out_rows, hidden: &[] };
            let first_row = self.inputs.out_rows.len() as i32;
            push_share(&mut self.inputs, &share, self.pages_per_seq);
            if generation.reads_whole_rows() {
                let end = self.inputs.out_rows.len() as i32;
                self.inputs.whole_rows.extend(first_row..end);
            }
        }
        Ok(())
    }

    /// Reports finished sequences and gives their caches back.
    fn remove_finished(&mut self, sink: &mut dyn FnMut(Event<'_>)) {
        let mut i = 0;
        while i < self.running.len() {
            let SequenceState::Finished(reason) = self.running[i].generation.sequence.state()
            else {
                i += 1;
                continue;
            };
            let reason = reason.clone();
            let Running { generation, cache, .. } = self.running.remove(i);
            self.cache.close(cache);
            self.stats.n_finished += 1;
            generation.report_end(reason, sink);
        }
        let mut i = 0;
        while i < self.waiting.len() {
            let SequenceState::Finished(reason) = self.waiting[i].sequence.state() else {
                i += 1;
                continue;
            };
            let reason = reason.clone();
            let Some(generation) = self.waiting.remove(i) else { break };
            self.stats.n_finished += 1;
            generation.report_end(reason, sink);
        }
    }
}

/// The part of the cache in the host's memory.
fn host_tier(
    loaded: &LoadedModel,
    runner: &Runner,
    speculator: &Speculator,
    budget: u64,
) -> Result<HostTier, EngineError> {
    let device = loaded.device();
    let tier = HostTier::new(Arc::clone(device), runner.states().clone(), budget);
    let tier = tier.ok_or_else(|| EngineError::HostCache { device: device.info().name.clone() })?;
    Ok(match speculator.head().map(|head| head.runner()) {
        Some(head) => {
            let row_bytes = head.largest_plan().state_row_bytes(Dim::CacheRows);
            tier.beside(head.states().clone(), row_bytes)
        }
        None => tier,
    })
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
