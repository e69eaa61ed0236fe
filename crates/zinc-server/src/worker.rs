//! The thread that owns a model's engine.
//!
//! Requests come in through a channel, updates go out through one bounded channel per request. The
//! thread never waits for a reader: a request whose reader is gone is cancelled at the next step, and
//! so is one whose reader leaves more unread than its channel holds. A panic fails the requests that
//! were in work and the engine is built anew; a device that failed fails them and all later ones.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use zinc_engine::sampler::TokenLogprobs;
use zinc_engine::{
    Allowed, Engine, EngineError, EngineOptions, Event, FinishReason, LoadedModel, Request,
    SequenceId, Stats, Steer, SteerError, Usage,
};

use crate::ApiError;
use crate::metrics::ModelMetrics;

/// What a worker is told.
pub enum Command {
    /// Work on a request.
    Start {
        /// The request.
        request: Box<Request>,
        /// Where its updates go.
        reply: Reply,
    },
    /// Tell what runs.
    Slots(oneshot::Sender<Vec<SlotInfo>>),
}

/// Where the updates of a request go.
pub struct Reply {
    /// Which of the channel's requests it is.
    pub choice: usize,
    /// The channel; requests may share it. Dropping its receiver cancels them.
    pub updates: mpsc::Sender<Update>,
    /// When its client asked.
    pub arrived: Instant,
}

/// What a worker tells of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Which of the channel's requests.
    pub choice: usize,
    /// What happened.
    pub what: What,
}

/// What happened to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// The first update: the engine has taken it.
    Taken,
    /// A token of the prompt and how probable it was.
    PromptToken {
        /// Its id.
        id: u32,
        /// Its log-probabilities; the first token has none.
        logprobs: Option<TokenLogprobs>,
    },
    /// The prompt's embedding.
    Embedding(Vec<f32>),
    /// A token joined the answer.
    Token {
        /// Its id.
        id: u32,
        /// Text that is now certain.
        text: String,
        /// Log-probabilities, if asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// The last update: it is over.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Text that was held back.
        text: String,
        /// What it took.
        usage: Usage,
    },
    /// The last update: it could not go on.
    Failed(ApiError),
}

/// A request in work, for `/slots`.
#[derive(Debug, Clone, Serialize)]
pub struct SlotInfo {
    /// A number that no other request of this model has.
    pub id: u64,
    /// Whether its tokens are computed or it waits.
    pub is_processing: bool,
    /// Tokens of its prompt.
    pub n_prompt_tokens: usize,
    /// Tokens generated so far.
    pub n_decoded: usize,
}

/// What others may look at while a worker works.
#[derive(Debug, Default)]
pub struct Watch {
    /// The device failed; nothing can be computed any more.
    pub is_lost: AtomicBool,
    stats: Mutex<Stats>,
}

impl Watch {
    /// The engine's numbers after its last step.
    pub fn stats(&self) -> Stats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, stats: Stats) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }
}

/// A request in work.
struct Live {
    reply: Reply,
    n_prompt: usize,
    n_decoded: usize,
    /// When its last token came.
    last_token: Option<Instant>,
    /// Nobody takes its updates any more.
    is_gone: bool,
}

/// The owner of an engine.
pub struct Worker {
    loaded: Arc<LoadedModel>,
    options: EngineOptions,
    engine: Engine,
    commands: Receiver<Command>,
    live: HashMap<SequenceId, Live>,
    watch: Arc<Watch>,
    metrics: Arc<ModelMetrics>,
}

impl Worker {
    /// Builds the engine.
    ///
    /// # Errors
    /// The device lacks something, or has not enough memory.
    pub fn new(
        loaded: Arc<LoadedModel>,
        options: EngineOptions,
        commands: Receiver<Command>,
        watch: Arc<Watch>,
        metrics: Arc<ModelMetrics>,
    ) -> Result<Worker, EngineError> {
        let engine = Engine::new(Arc::clone(&loaded), &options)?;
        watch.publish(engine.stats());
        Ok(Worker { loaded, options, engine, commands, live: HashMap::new(), watch, metrics })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Works until nobody can send commands any more and everything is done.
    pub fn run(mut self) {
        loop {
            if self.engine.is_idle() {
                // Sleeps until there is something to do.
                match self.commands.recv() {
                    Ok(command) => self.take(command),
                    Err(_) => return,
                }
            }
            while let Ok(command) = self.commands.try_recv() {
                self.take(command);
            }
            self.cancel_gone();
            self.step();
            self.watch.publish(self.engine.stats());
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Start { request, reply } => self.start(*request, reply),
            Command::Slots(reply) => drop(reply.send(self.slots())),
        }
    }

    fn start(&mut self, mut request: Request, reply: Reply) {
        if self.watch.is_lost.load(Ordering::Relaxed) {
            return reply.send_last(What::Failed(lost("it failed earlier")));
        }
        request.steer = request.steer.map(|steer| Box::new(Contained(steer)) as Box<dyn Steer>);
        let n_prompt = request.prompt.len();
        let engine = &mut self.engine;
        match catch_unwind(AssertUnwindSafe(|| engine.submit(request))) {
            Ok(Ok(seq)) => {
                let mut live =
                    Live { reply, n_prompt, n_decoded: 0, last_token: None, is_gone: false };
                live.send(What::Taken, &self.metrics);
                self.live.insert(seq, live);
            }
            Ok(Err(error)) => reply.send_last(What::Failed(error.into())),
            Err(_) => {
                reply.send_last(What::Failed(panicked()));
                self.rebuild();
            }
        }
    }

    fn cancel_gone(&mut self) {
        for (seq, live) in &self.live {
            if live.is_gone || live.reply.updates.is_closed() {
                self.engine.cancel(*seq);
            }
        }
    }

    fn step(&mut self) {
        let Worker { engine, live, metrics, .. } = self;
        let mut sink = |event: Event<'_>| pass_on(event, live, metrics);
        match catch_unwind(AssertUnwindSafe(|| engine.step(&mut sink))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "the device failed");
                self.watch.is_lost.store(true, Ordering::Relaxed);
                self.fail_all(&lost(&error.to_string()));
                self.rebuild();
            }
            Err(_) => {
                tracing::error!("the engine panicked; it is built anew");
                self.fail_all(&panicked());
                self.rebuild();
            }
        }
    }

    fn fail_all(&mut self, error: &ApiError) {
        for (_, live) in self.live.drain() {
            live.reply.send_last(What::Failed(error.clone()));
        }
    }

    /// Replaces an engine whose state cannot be trusted. If that fails too, the device is lost.
    fn rebuild(&mut self) {
        self.fail_all(&panicked());
        match Engine::new(Arc::clone(&self.loaded), &self.options) {
            Ok(engine) => self.engine = engine,
            Err(error) => {
                tracing::error!(%error, "the engine cannot be built anew");
                self.watch.is_lost.store(true, Ordering::Relaxed);
            }
        }
    }

    fn slots(&self) -> Vec<SlotInfo> {
        let mut slots: Vec<_> = self
            .live
            .iter()
            .map(|(seq, live)| SlotInfo {
                id: seq.0,
                is_processing: live.last_token.is_some(),
                n_prompt_tokens: live.n_prompt,
                n_decoded: live.n_decoded,
            })
            .collect();
        slots.sort_unstable_by_key(|slot| slot.id);
        slots
    }
}

/// Hands an engine's event to whom it concerns.
fn pass_on(event: Event<'_>, live: &mut HashMap<SequenceId, Live>, metrics: &ModelMetrics) {
    let (seq, what) = match event {
        Event::Prefill { .. } => return,
        Event::PromptToken { seq, id, logprobs, .. } => {
            (seq, What::PromptToken { id, logprobs: logprobs.cloned() })
        }
        Event::Embedding { seq, values } => (seq, What::Embedding(values.to_vec())),
        Event::Token { seq, id, text, logprobs, .. } => {
            if let Some(live) = live.get_mut(&seq) {
                live.count_token(metrics);
            }
            (seq, What::Token { id, text: text.to_owned(), logprobs: logprobs.cloned() })
        }
        Event::Finished { seq, reason, text, usage } => {
            if let Some(live) = live.remove(&seq) {
                finish(live, reason, text, usage, metrics);
            }
            return;
        }
        Event::Failed { seq, error } => {
            if let Some(live) = live.remove(&seq) {
                metrics.count_finished("error");
                live.reply.send_last(What::Failed(error.into()));
            }
            return;
        }
    };
    if let Some(live) = live.get_mut(&seq) {
        live.send(what, metrics);
    }
}

fn finish(live: Live, reason: FinishReason, text: &str, usage: Usage, metrics: &ModelMetrics) {
    metrics.queue_time.observe(usage.queued);
    metrics.request_time.observe(live.reply.arrived.elapsed());
    metrics.prompt_length.observe_tokens(usage.n_prompt);
    metrics.answer_length.observe_tokens(usage.n_generated);
    if let Some(n_gaps @ 1..) = u32::try_from(usage.n_generated).ok().map(|n| n.saturating_sub(1)) {
        metrics.time_per_token.observe(usage.decode / n_gaps);
    }
    let counters = [
        (&metrics.prompt_tokens, usage.n_prompt),
        (&metrics.prefix_hit_tokens, usage.n_reused),
        (&metrics.generation_tokens, usage.n_generated),
    ];
    for (counter, n) in counters {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }
    metrics.count_finished(match reason {
        FinishReason::Length => "length",
        FinishReason::Cancelled => "abort",
        FinishReason::TimeLimit => "timeout",
        _ => "stop",
    });
    if reason == FinishReason::Cancelled {
        metrics.cancelled.fetch_add(1, Ordering::Relaxed);
    }
    if live.is_gone {
        // The channel ends without a last update: what was not taken cannot be told apart from it.
        return;
    }
    live.reply.send_last(What::Finished { reason, text: text.to_owned(), usage });
}

impl Live {
    fn count_token(&mut self, metrics: &ModelMetrics) {
        let now = Instant::now();
        match self.last_token.replace(now) {
            Some(last) => metrics.inter_token.observe(now - last),
            None => metrics.time_to_first_token.observe(now - self.reply.arrived),
        }
        self.n_decoded += 1;
    }

    fn send(&mut self, what: What, metrics: &ModelMetrics) {
        if self.is_gone {
            return;
        }
        // The last place is kept for the last update, which says why there are no more.
        if self.reply.updates.capacity() <= 1 && !self.reply.updates.is_closed() {
            metrics.too_slow.fetch_add(1, Ordering::Relaxed);
            self.is_gone = true;
            return;
        }
        let update = Update { choice: self.reply.choice, what };
        self.is_gone = self.reply.updates.try_send(update).is_err();
    }
}

impl Reply {
    /// Sends the last update. A reader that is gone misses nothing; one whose channel is full finds
    /// the channel closed without a last update, which says the same.
    fn send_last(self, what: What) {
        match self.updates.try_send(Update { choice: self.choice, what }) {
            Ok(()) | Err(TrySendError::Closed(_) | TrySendError::Full(_)) => {}
        }
    }
}

fn lost(why: &str) -> ApiError {
    let message = format!("the device failed: {why}; unload and load the model to start it anew");
    ApiError::unavailable("device_lost", message, 30)
}

fn panicked() -> ApiError {
    ApiError::internal("the engine stopped at an error of its own; its log says more")
}

/// A steer whose panics end its own request only.
struct Contained(Box<dyn Steer>);

fn contain<T>(call: impl FnOnce() -> Result<T, SteerError>) -> Result<T, SteerError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        Err(SteerError::Other("the constraint on the answer stopped at an error of its own".into()))
    })
}

impl Steer for Contained {
    fn next(&mut self) -> Result<Allowed<'_>, SteerError> {
        contain(|| self.0.next())
    }

    fn accept(&mut self, id: u32) -> Result<(), SteerError> {
        contain(|| self.0.accept(id))
    }
}
