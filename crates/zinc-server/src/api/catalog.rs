//! `/v1/catalog` and `/v1/models/pull`: models that are not here yet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use super::models;
use crate::app::{App, Phase, Ticket, shutting_down};
use crate::conversation::away;
use crate::input::Input;
use crate::reply::{self, Script, push_event};
use crate::source::{ModelSource, Progress};
use crate::{ApiError, Dialect, KnownModel};

/// Between two events about one download.
const PACE: Duration = Duration::from_millis(150);
/// The time over which a rate is measured.
const RATE_WINDOW: Duration = Duration::from_secs(3);

/// What can be fetched.
///
/// # Errors
/// The server has no catalog, or it cannot be read.
pub async fn list(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let source = source(&app)?;
    let offers = away(move || source.offers()).await?.map_err(ApiError::internal)?;
    let data: Vec<_> = offers.iter().map(crate::source::Offer::to_json).collect();
    Ok(reply::json(&json!({"object": "list", "data": data})))
}

/// Fetches a model: events `progress` (`{phase, done, total, rate}`: bytes, and bytes per second),
/// then one `done` (`{id}`) or one `error`. A client that goes away pauses the download.
///
/// # Errors
/// The server has no catalog, or no place for another request.
pub async fn pull(State(app): State<Arc<App>>, input: Input) -> Result<Response, ApiError> {
    let body = models::BODY.check(&input.json)?;
    let source = source(&app)?;
    let ticket = app.admit()?;
    let (sender, progress) = watch::channel(Progress { phase: "resolve", done: 0, total: None });
    let tell = Arc::new(move |progress| {
        let _ = sender.send_replace(progress);
    });
    let pulling = source.pull(body.text("model").unwrap_or_default().to_owned(), tell);
    let task = Some(tokio::spawn(pulling));
    let phase = app.phase.subscribe();
    let rate = Rate::default();
    Ok(reply::events(Pull { app, task, progress, phase, rate, told_at: None, _ticket: ticket }))
}

fn source(app: &App) -> Result<Arc<dyn ModelSource>, ApiError> {
    app.options.source.clone().ok_or_else(|| {
        let message = "this server has no catalog; get models with zinc model pull";
        ApiError::new(StatusCode::NOT_FOUND, "no_catalog", message)
    })
}

/// A download as a stream of events.
struct Pull {
    app: Arc<App>,
    /// `None` when it has ended.
    task: Option<JoinHandle<Result<KnownModel, String>>>,
    progress: watch::Receiver<Progress>,
    phase: watch::Receiver<Phase>,
    rate: Rate,
    told_at: Option<Instant>,
    _ticket: Ticket,
}

impl Pull {
    /// Appends how far it is.
    fn tell(&mut self, out: &mut String) {
        let progress = *self.progress.borrow_and_update();
        let now = Instant::now();
        let rate = self.rate.at(now, progress.done);
        self.told_at = Some(now);
        let (phase, done, total) = (progress.phase, progress.done, progress.total);
        let event = json!({"phase": phase, "done": done, "total": total, "rate": rate});
        push_event(out, "progress", &event);
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Script for Pull {
    async fn next(&mut self) -> Option<String> {
        let mut out = String::new();
        match self.told_at {
            Some(told_at) => tokio::time::sleep_until(told_at + PACE).await,
            // Whoever asked hears something at once.
            None => {
                self.tell(&mut out);
                return Some(out);
            }
        }
        let task = self.task.as_mut()?;
        let next = tokio::select! {
            result = task => Next::End(result),
            Ok(()) = self.progress.changed() => Next::Progress,
            Ok(_) = self.phase.wait_for(|phase| *phase != Phase::Serving) => Next::ShuttingDown,
        };
        // What was told last is said also where the end came at the same time.
        if !matches!(next, Next::ShuttingDown) {
            self.tell(&mut out);
        }
        match next {
            Next::Progress => return Some(out),
            Next::ShuttingDown => fail(&mut out, shutting_down()),
            Next::End(Ok(Ok(known))) => {
                push_event(&mut out, "done", &json!({"id": self.app.registry.add(known)}));
            }
            Next::End(Ok(Err(message))) => {
                fail(&mut out, ApiError::bad_request("pull_failed", message));
            }
            Next::End(Err(_)) => {
                let message = "the download stopped at an error of the server's own";
                fail(&mut out, ApiError::bad_request("pull_failed", message));
            }
        }
        if let Some(task) = self.task.take() {
            task.abort();
        }
        Some(out)
    }
}

/// What a pull waits for.
enum Next {
    Progress,
    End(Result<Result<KnownModel, String>, JoinError>),
    ShuttingDown,
}

fn fail(out: &mut String, error: ApiError) {
    push_event(out, "error", &error.envelope(Dialect::OpenAi));
}

/// Bytes per second over the last seconds.
#[derive(Default)]
struct Rate {
    seen: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// The rate when `done` bytes are there at `now`; `None` while it cannot be said. Bytes that were
    /// there before, and a file that begins anew, do not count.
    fn at(&mut self, now: Instant, done: u64) -> Option<u64> {
        if self.seen.back().is_some_and(|(_, before)| *before > done || *before == 0) {
            self.seen.clear();
        }
        self.seen.push_back((now, done));
        while self.seen.len() > 2 && now.duration_since(self.seen[0].0) > RATE_WINDOW {
            self.seen.pop_front();
        }
        let (begin, before) = self.seen[0];
        let seconds = now.duration_since(begin).as_secs_f64();
        (seconds > 0.0).then(|| ((done - before) as f64 / seconds) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_seconds() {
        let mut rate = Rate::default();
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        assert_eq!(rate.at(at(0), 0), None);
        assert_eq!(rate.at(at(1), 5000), None, "what was there before is no speed");
        assert_eq!(rate.at(at(2), 6000), Some(1000));
        assert_eq!(rate.at(at(3), 7000), Some(1000));
        assert_eq!(rate.at(at(6), 16000), Some(3000));
        assert_eq!(rate.at(at(7), 100), None, "another file begins");
    }
}
