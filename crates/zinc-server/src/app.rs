//! What every request of a server shares.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use crate::auth::{Hosts, Keys};
use crate::error::too_busy;
use crate::metrics::Metrics;
use crate::models::{Loader, Registry};
use crate::{ApiError, KnownModel, ServeOptions};

/// Whether a server takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It does.
    Serving,
    /// Running answers finish, new requests are refused.
    Draining,
    /// Running answers are cut off.
    Stopping,
}

/// What every request of a server shares.
pub struct App {
    /// What it was started with.
    pub options: ServeOptions,
    /// Who may use it.
    pub keys: Keys,
    /// Under which names.
    pub hosts: Hosts,
    /// Its models.
    pub registry: Arc<Registry>,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// Whether it takes requests.
    pub phase: watch::Sender<Phase>,
    n_open: Arc<AtomicUsize>,
    /// Woken whenever a request ends.
    pub ended: Arc<tokio::sync::Notify>,
}

/// A place among the requests that a server works on at a time.
pub struct Ticket {
    n_open: Arc<AtomicUsize>,
    ended: Arc<tokio::sync::Notify>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.n_open.fetch_sub(1, Ordering::AcqRel);
        self.ended.notify_waiters();
    }
}

impl App {
    /// The state of a server that listens on `address`. To be called on the runtime that serves.
    pub fn new(
        address: SocketAddr,
        options: ServeOptions,
        models: Vec<KnownModel>,
        loader: Arc<dyn Loader>,
    ) -> App {
        let metrics = Arc::new(Metrics::default());
        let registry = Registry::new(models, options.models_max, loader, Arc::clone(&metrics));
        App {
            keys: Keys::new(options.api_keys.clone()),
            hosts: Hosts::new(address, &options),
            options,
            registry: Arc::new(registry),
            metrics,
            phase: watch::Sender::new(Phase::Serving),
            n_open: Arc::default(),
            ended: Arc::default(),
        }
    }

    /// Where the server stands.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Requests in work.
    pub fn n_open(&self) -> usize {
        self.n_open.load(Ordering::Acquire)
    }

    /// Takes a place for one request that is to be computed.
    ///
    /// # Errors
    /// All are taken, or the server ends.
    pub fn admit(&self) -> Result<Ticket, ApiError> {
        let max = self.options.limits.requests;
        let ticket = Ticket { n_open: Arc::clone(&self.n_open), ended: Arc::clone(&self.ended) };
        if self.n_open.fetch_add(1, Ordering::AcqRel) >= max {
            return Err(too_busy(format!("{max} requests run or wait already; try again later")));
        }
        // Looked at after counting: whoever drains sees this ticket, or this sees the draining.
        if self.phase() != Phase::Serving {
            return Err(shutting_down());
        }
        Ok(ticket)
    }
}

/// The server takes no more requests.
pub fn shutting_down() -> ApiError {
    ApiError::unavailable("shutting_down", "the server is shutting down", 5)
}
