//! Answers on their way from the engine to a client.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use axum::http::StatusCode;
use tokio::sync::{mpsc, watch};
use zinc_engine::{FinishReason, Pooling, Request, Steer, Usage};

use crate::ApiError;
use crate::app::{App, Phase, Ticket, shutting_down};
use crate::error::client_closed_request;
use crate::input::Caller;
use crate::models::Lease;
use crate::sampling::Sampling;
use crate::worker::{Reply, Update, What};

/// One prompt and what is wanted of it.
#[derive(Default)]
pub struct Order {
    /// The prompt.
    pub ids: Vec<u32>,
    /// Most tokens of an answer.
    pub max_tokens: Option<u32>,
    /// What each of its answers is held to; one for every answer, or none.
    pub guides: Vec<Box<dyn Steer>>,
    /// Control tokens that belong to the text.
    pub shown_special: Vec<u32>,
    /// Log-probabilities of the prompt's tokens.
    pub prompt_logprobs: Option<u32>,
    /// An embedding instead of answers.
    pub pooling: Option<Pooling>,
}

/// A client's request: its place among the others, its model, its name.
pub struct Visit {
    /// The server.
    pub app: Arc<App>,
    /// Who sent it.
    pub caller: Caller,
    /// Its model.
    pub lease: Lease,
    /// When it came.
    pub arrived: Instant,
    /// Held until the answers are over.
    _ticket: Ticket,
}

impl Visit {
    /// Takes a place and the model called `name`, waiting until it is loaded.
    ///
    /// # Errors
    /// There are too many requests, there is no such model, it cannot be loaded, or not in time, or
    /// the client has gone before it was.
    pub async fn begin(
        app: &Arc<App>,
        caller: Caller,
        name: Option<&str>,
    ) -> Result<Visit, ApiError> {
        let arrived = Instant::now();
        let ticket = app.admit()?;
        let mut phase = app.phase.subscribe();
        let limit = app.options.limits.request_timeout;
        let lease = tokio::select! {
            // What can be answered at once is answered, whether the client sends more or not.
            biased;
            lease = tokio::time::timeout(limit, app.registry.acquire(name)) => {
                lease.map_err(|_| timed_out())??
            }
            () = stopping(&mut phase) => return Err(shutting_down()),
            () = caller.gone() => return Err(client_gone()),
        };
        Ok(Visit { app: Arc::clone(app), caller, lease, arrived, _ticket: ticket })
    }

    /// Hands `orders` to the engine: `sampling.n` answers to each, numbered in that order. Returns when
    /// the engine has taken them, so that what it refuses is no matter of a stream.
    ///
    /// # Errors
    /// The engine refuses one, or has ended.
    pub async fn start(self, orders: Vec<Order>, sampling: &Sampling) -> Result<Run, ApiError> {
        let n_choices = orders.len() * sampling.n;
        let limits = &self.app.options.limits;
        let (sender, updates) = mpsc::channel(limits.unread_tokens + 2 * n_choices + 1);
        let deadline = self.arrived + limits.request_timeout;
        let mut choice = 0;
        for mut order in orders {
            let mut guides = std::mem::take(&mut order.guides).into_iter();
            for nth in 0..sampling.n {
                let request = Request {
                    prompt: order.ids.clone(),
                    max_tokens: order.max_tokens,
                    sampling: sampling.of_choice(nth),
                    stop: sampling.stop.clone(),
                    stop_token_ids: sampling.stop_token_ids.clone(),
                    min_tokens: sampling.min_tokens,
                    ignore_eos: sampling.ignore_eos,
                    shown_special: order.shown_special.clone(),
                    steer: guides.next(),
                    // Once is enough: all answers have the same prompt.
                    prompt_logprobs: order.prompt_logprobs,
                    pooling: order.pooling,
                    deadline: Some(deadline),
                    client: self.caller.client,
                };
                let updates = sender.clone();
                self.lease.start(request, Reply { choice, updates, arrived: self.arrived })?;
                choice += 1;
            }
        }
        drop(sender);
        let mut run = Run {
            phase: self.app.phase.subscribe(),
            updates,
            early: VecDeque::new(),
            n_open: n_choices,
            n: sampling.n,
            total: Totals::default(),
            visit: self,
        };
        run.await_taken(n_choices).await?;
        Ok(run)
    }
}

/// Tokens of all answers of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Of the prompts, each counted once.
    pub n_prompt: usize,
    /// Those of the prompts that were in the cache.
    pub n_reused: usize,
    /// Of the answers.
    pub n_generated: usize,
}

/// Answers that are being computed. Dropping it cancels them.
pub struct Run {
    /// The client's request.
    pub visit: Visit,
    updates: mpsc::Receiver<Update>,
    /// Updates that came while others were not taken yet.
    early: VecDeque<Update>,
    phase: watch::Receiver<Phase>,
    n_open: usize,
    /// Answers to each prompt.
    n: usize,
    total: Totals,
}

impl Run {
    async fn await_taken(&mut self, mut n_left: usize) -> Result<(), ApiError> {
        let mut early = VecDeque::new();
        while n_left > 0 {
            match self.next().await {
                Some(Ok(Update { what: What::Taken, .. })) => n_left -= 1,
                Some(Ok(update)) => early.push_back(update),
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        self.early = early;
        Ok(())
    }

    /// The next update; `None` when all answers are finished. Loses nothing when dropped.
    ///
    /// # Errors
    /// An answer failed, took too long, or was read too slowly, the client has gone, or the server stops:
    /// none goes on.
    pub async fn next(&mut self) -> Option<Result<Update, ApiError>> {
        if let Some(update) = self.early.pop_front() {
            return Some(Ok(update));
        }
        if self.n_open == 0 {
            return None;
        }
        let update = tokio::select! {
            biased;
            () = stopping(&mut self.phase) => Err(shutting_down()),
            update = self.updates.recv() => Ok(update),
            () = self.visit.caller.gone() => Err(client_gone()),
        };
        let update = match update {
            Ok(update) => update,
            Err(error) => return Some(Err(self.fail(error))),
        };
        let Some(update) = update else {
            let message = "the client read too slowly, so the answer was cut off";
            let error = ApiError::new(StatusCode::REQUEST_TIMEOUT, "reader_too_slow", message);
            return Some(Err(self.fail(error)));
        };
        match &update.what {
            What::Failed(error) => {
                let error = error.clone();
                return Some(Err(self.fail(error)));
            }
            What::Finished { reason: FinishReason::TimeLimit, .. } => {
                return Some(Err(self.fail(timed_out())));
            }
            What::Finished { reason, usage, .. } => {
                self.n_open -= 1;
                self.record(update.choice, reason, usage);
            }
            _ => {}
        }
        Some(Ok(update))
    }

    /// Tokens of the answers that are finished.
    pub fn total(&self) -> Totals {
        self.total
    }

    fn fail(&mut self, error: ApiError) -> ApiError {
        self.n_open = 0;
        self.updates.close();
        let (id, code, message) = (&self.visit.caller.id, error.code, &error.message);
        match error.status.is_server_error() {
            true => tracing::warn!(id, code, message, "answer failed"),
            false => tracing::debug!(id, code, message, "answer refused"),
        }
        error
    }

    fn record(&mut self, choice: usize, reason: &FinishReason, usage: &Usage) {
        if choice.is_multiple_of(self.n) {
            self.total.n_prompt += usage.n_prompt;
            self.total.n_reused += usage.n_reused;
        }
        self.total.n_generated += usage.n_generated;
        tracing::info!(
            id = self.visit.caller.id,
            model = self.visit.lease.known().id,
            reason = ?reason,
            n_prompt = usage.n_prompt,
            n_reused = usage.n_reused,
            n_generated = usage.n_generated,
            queued_ms = usage.queued.as_secs_f64() * 1e3,
            prefill_ms = usage.prefill.as_secs_f64() * 1e3,
            decode_ms = usage.decode.as_secs_f64() * 1e3,
            "answer",
        );
    }
}

/// Waits until answers are cut off.
async fn stopping(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase == Phase::Stopping).await;
}

/// The client closed its sending side before a whole answer was there. One that has only done that
/// gets to read this; one that has gone misses nothing.
fn client_gone() -> ApiError {
    let message = "the connection's sending side was closed before the answer was there, which is how a \
        client that has gone looks; keep it open, or ask for a stream";
    ApiError::new(client_closed_request(), "client_closed_request", message)
}

fn timed_out() -> ApiError {
    let message = "the request took longer than this server allows";
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "request_timeout", message)
}
