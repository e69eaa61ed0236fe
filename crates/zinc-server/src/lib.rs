//! An HTTP server that speaks the APIs of people's clients: OpenAI's chat completions, completions,
//! responses, embeddings; Anthropic's messages; reranking; and llama.cpp's own routes.
//!
//! ```text
//! socket ─► http.rs ─► layers.rs ─► api/*.rs ─► conversation.rs ─► run.rs ─► worker.rs ─► Engine
//!           limits     keys, ids    tables      template, guide    channel    one thread
//! ```
//!
//! **Contract.** Every field of a request is in a table ([`schema`]) and does what it says, has no
//! effect on the result, or is refused by name. Whatever a model emits, responses are valid UTF-8 and
//! JSON. A connection that ends cancels its answers; a slow reader holds up nobody; an error of one
//! request ends that request. Everything a client can use is bounded ([`Limits`]). Nothing here knows
//! devices: a [`Loader`] brings models.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod api;
mod app;
mod auth;
mod conversation;
mod error;
mod http;
mod ids;
mod input;
mod layers;
mod logs;
mod metrics;
mod models;
mod openapi;
mod options;
mod reply;
mod routes;
mod run;
mod sampling;
pub mod schema;
mod signals;
mod source;
mod ui;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use app::{App, Phase};
pub use error::{ApiError, Dialect};
pub use logs::{LogFormat, start_logs};
pub use models::{Loaded, Loader};
pub use options::{
    Config, ConfigError, KnownModel, Limits, ModelConfig, ModelDefaults, ServeOptions,
};
pub use source::{FitNote, ModelSource, Offer, Progress, Pulling, Tell};

/// A server that listens and does not serve yet.
pub struct Server {
    listener: TcpListener,
    app: Arc<App>,
}

impl Server {
    /// Listens on `address`; port 0 takes a free one. To be called on the runtime that serves.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn bind(
        address: SocketAddr,
        options: ServeOptions,
        models: Vec<KnownModel>,
        loader: Arc<dyn Loader>,
    ) -> std::io::Result<Server> {
        let listener = TcpListener::bind(address).await?;
        let app = App::new(listener.local_addr()?, options, models, loader);
        Ok(Server { listener, app: Arc::new(app) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Loads the server's first model, as requests for it would.
    ///
    /// # Errors
    /// It cannot be loaded.
    pub fn preload(&self) -> impl Future<Output = Result<(), ApiError>> + Send + use<> {
        let app = Arc::clone(&self.app);
        async move { app.registry.acquire(None).await.map(drop) }
    }

    /// Serves until `end` resolves; then running answers may finish within
    /// [`ServeOptions::drain`], and new requests are refused.
    pub async fn serve(self, end: impl Future<Output = ()>) {
        let Server { listener, app } = self;
        let (stop, stopping) = watch::channel(false);
        let router = routes::router(&app);
        let accepting = tokio::spawn(http::serve(listener, Arc::clone(&app), router, stopping));
        let unloading =
            app.options.idle_unload.map(|idle| tokio::spawn(unload(Arc::clone(&app), idle)));
        end.await;
        tracing::info!(n_open = app.n_open(), "draining");
        app.phase.send_replace(Phase::Draining);
        if tokio::time::timeout(app.options.drain, drained(&app)).await.is_err() {
            tracing::warn!(n_open = app.n_open(), "cutting off what still runs");
            app.phase.send_replace(Phase::Stopping);
            let _ = tokio::time::timeout(Duration::from_secs(2), drained(&app)).await;
        }
        stop.send_replace(true);
        if let Some(unloading) = unloading {
            unloading.abort();
        }
        let _ = accepting.await;
        tracing::info!("stopped");
    }
}

/// Waits until no request is in work.
async fn drained(app: &App) {
    loop {
        let ended = app.ended.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        if app.n_open() == 0 {
            return;
        }
        ended.await;
    }
}

/// Unloads models that nobody uses, for ever.
async fn unload(app: Arc<App>, idle: Duration) {
    loop {
        let next = app.registry.unload_idle(idle);
        tokio::time::sleep(next).await;
    }
}

/// The OpenAPI document of a server.
pub fn openapi() -> serde_json::Value {
    openapi::document()
}

/// Runs a server until the process is told to end (SIGTERM, SIGINT): listens on `address`, tells
/// `on_listening` where, loads the first model if [`ServeOptions::load_at_start`] says so, tells
/// `on_loaded`. A second signal ends the process at once.
///
/// # Errors
/// The address cannot be listened on, or the first model cannot be loaded.
pub fn run(
    address: SocketAddr,
    options: ServeOptions,
    models: Vec<KnownModel>,
    loader: Arc<dyn Loader>,
    on_listening: impl FnOnce(SocketAddr),
    on_loaded: impl FnOnce() + Send + 'static,
) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("http")
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let load_at_start = options.load_at_start;
    let result = runtime.block_on(async {
        let server = Server::bind(address, options, models, loader).await;
        let server = server.map_err(|source| RunError::Listen { address, source })?;
        on_listening(server.address().map_err(RunError::Runtime)?);
        let preload = server.preload();
        let signal = signals::first().map_err(RunError::Runtime)?;
        let (failed, failure) = tokio::sync::oneshot::channel();
        let loading = tokio::spawn(async move {
            if !load_at_start {
                return;
            }
            match preload.await {
                Ok(()) => on_loaded(),
                Err(error) => drop(failed.send(error)),
            }
        });
        let mut outcome = Ok(());
        let end = async {
            tokio::select! {
                () = signal => signals::kill_at_next(),
                Ok(error) = failure => outcome = Err(RunError::Load(error)),
            }
        };
        server.serve(end).await;
        loading.abort();
        outcome
    });
    // Weights and caches go with the threads that own them; nobody waits for a load in work.
    runtime.shutdown_background();
    result
}

/// Why a server could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The system gives no threads or signals.
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; hint: choose another with --host and --port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The first model cannot be loaded.
    #[error("{0}")]
    Load(ApiError),
}
