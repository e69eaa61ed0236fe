//! The models of a server: which are loaded, who uses them, who waits for them.
//!
//! A request takes a [`Lease`] on its model. If the model is not loaded, it is loaded, and where there
//! is no room for one more, the one that was used least lately gives way when its last lease ends.
//! From the moment that a model is to give way, new requests for it stand in line behind those that
//! wait for another, so nobody waits for ever and no request is lost.

mod instance;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::metrics::{Metrics, ModelGauges};
use crate::{ApiError, KnownModel};

pub use instance::{Instance, Loaded, Loader};

/// Where a model stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Not in memory.
    Unloaded,
    /// Being loaded.
    Loading,
    /// Ready for requests.
    Loaded,
    /// Its device failed.
    Lost,
    /// Being unloaded.
    Unloading,
    /// The last load failed, for this reason; the next request tries again.
    Failed(String),
}

impl Status {
    /// A word for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Status::Unloaded => "unloaded",
            Status::Loading => "loading",
            Status::Loaded => "loaded",
            Status::Lost => "lost",
            Status::Unloading => "unloading",
            Status::Failed(_) => "failed",
        }
    }
}

enum State {
    Unloaded,
    Failed(String),
    Loading,
    Ready { instance: Arc<Instance>, thread: JoinHandle<()> },
    Unloading,
}

struct Slot {
    known: Arc<KnownModel>,
    state: State,
    n_leases: usize,
    last_used: Instant,
    /// Gives way when its last lease ends.
    gives_way: bool,
    /// Who wants to know when it is unloaded.
    on_unloaded: Vec<oneshot::Sender<()>>,
    /// Nobody can ask for it any more; its place stays, because places are numbers.
    is_removed: bool,
}

struct Waiter {
    slot: usize,
    reply: oneshot::Sender<Result<Lease, ApiError>>,
}

struct Inner {
    slots: Vec<Slot>,
    line: VecDeque<Waiter>,
    /// The place of the model that serves requests which name none.
    active: usize,
}

impl Inner {
    /// The models that can be asked for, and their places.
    fn present(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.slots.iter().enumerate().filter(|(_, slot)| !slot.is_removed)
    }

    /// The place of the model called `name`; without a name, of the active one.
    ///
    /// # Errors
    /// 404 if there is none.
    fn find(&self, name: Option<&str>) -> Result<usize, ApiError> {
        let Some(name) = name else {
            return Ok(self.active);
        };
        let found = self.present().find(|(_, slot)| slot.known.is_called(name));
        found.map(|(at, _)| at).ok_or_else(|| {
            let known: Vec<_> = self.present().map(|(_, slot)| slot.known.id.as_str()).collect();
            let message = format!("there is no model called {name:?}; known: {}", known.join(", "));
            let error = ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message);
            ApiError { param: Some("model".into()), ..error }
        })
    }
}

/// All models of a server.
pub struct Registry {
    loader: Arc<dyn Loader>,
    metrics: Arc<Metrics>,
    models_max: usize,
    /// Leases may end on threads that are not the runtime's.
    runtime: Handle,
    inner: Mutex<Inner>,
}

/// The use of a loaded model; while it lives, the model stays.
pub struct Lease {
    registry: Arc<Registry>,
    slot: usize,
    instance: Arc<Instance>,
}

impl std::ops::Deref for Lease {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.registry.release(self.slot);
    }
}

impl Registry {
    /// A registry of models none of which is loaded; the first one is active: it serves requests that
    /// name none.
    /// To be called on the runtime that serves.
    pub fn new(
        models: Vec<KnownModel>,
        models_max: usize,
        loader: Arc<dyn Loader>,
        metrics: Arc<Metrics>,
    ) -> Registry {
        let slots = models.into_iter().map(Slot::new).collect();
        let inner = Inner { slots, line: VecDeque::new(), active: 0 };
        let (models_max, runtime) = (models_max.max(1), Handle::current());
        Registry { loader, metrics, models_max, runtime, inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All models and where they stand.
    pub fn list(&self) -> Vec<(Arc<KnownModel>, Status)> {
        let inner = self.lock();
        inner.present().map(|(_, slot)| (Arc::clone(&slot.known), slot.status())).collect()
    }

    /// The model that serves requests which name none; `None` in a server without models.
    pub fn active(&self) -> Option<(Arc<KnownModel>, Status)> {
        let inner = self.lock();
        inner.slots.get(inner.active).map(|slot| (Arc::clone(&slot.known), slot.status()))
    }

    /// The model called `name`; without a name, the active one.
    ///
    /// # Errors
    /// 404 if there is none.
    pub fn named(&self, name: Option<&str>) -> Result<(Arc<KnownModel>, Status), ApiError> {
        let inner = self.lock();
        let slot = inner.slots.get(inner.find(name)?).ok_or_else(|| {
            ApiError::new(StatusCode::NOT_FOUND, "model_not_found", "there is no model")
        })?;
        Ok((Arc::clone(&slot.known), slot.status()))
    }

    /// Adds a model that came while the server runs, unless its name is taken, and gives its id.
    pub fn add(&self, known: KnownModel) -> String {
        let mut inner = self.lock();
        let id = known.id.clone();
        if !inner.present().any(|(_, slot)| slot.known.is_called(&id)) {
            inner.slots.push(Slot::new(known));
        }
        id
    }

    /// The loaded instance of a model, without loading it.
    pub fn instance(&self, id: &str) -> Option<Arc<Instance>> {
        let inner = self.lock();
        let (_, slot) = inner.present().find(|(_, slot)| slot.known.is_called(id))?;
        slot.instance().map(Arc::clone)
    }

    /// The numbers of the models, those of loaded ones first: a reader that looks at one value alone
    /// takes the first.
    pub fn gauges(&self) -> Vec<ModelGauges> {
        let inner = self.lock();
        let gauges = |(at, slot): (usize, &Slot)| {
            let none = || ModelGauges { model: slot.known.id.clone(), ..ModelGauges::default() };
            let waits = |waiter: &&Waiter| waiter.slot == at && !waiter.reply.is_closed();
            let n_waiting_for_load = inner.line.iter().filter(waits).count();
            let gauges = slot.instance().map_or_else(none, |instance| instance.gauges());
            ModelGauges { n_waiting_for_load, ..gauges }
        };
        let mut all: Vec<_> = inner.present().map(gauges).collect();
        all.sort_by_key(|model| model.n_blocks == 0);
        all
    }

    /// Takes a lease on the model called `name`, loading it if need be. Dropping the future leaves the
    /// line.
    ///
    /// # Errors
    /// There is no such model, or it cannot be loaded.
    pub async fn acquire(self: &Arc<Self>, name: Option<&str>) -> Result<Lease, ApiError> {
        let (reply, granted) = oneshot::channel();
        {
            let mut inner = self.lock();
            let slot = inner.find(name)?;
            inner.line.push_back(Waiter { slot, reply });
        }
        self.advance();
        granted.await.unwrap_or_else(|_| Err(ApiError::internal("the request lost its place")))
    }

    /// Loads a model and lets it serve requests that name none, until the server ends.
    ///
    /// # Errors
    /// There is no such model, or it cannot be loaded; the active one stays then.
    pub async fn activate(self: &Arc<Self>, name: Option<&str>) -> Result<Lease, ApiError> {
        let lease = self.acquire(name).await?;
        self.lock().active = lease.slot;
        Ok(lease)
    }

    /// Takes a model out of the list for as long as `remove` says whether it is gone for good, which is
    /// what this returns too.
    ///
    /// # Errors
    /// There is no such model, it is in use or active, or `remove` failed.
    pub fn remove<T>(
        &self,
        name: &str,
        remove: impl FnOnce(&KnownModel) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let (at, known) = {
            let mut inner = self.lock();
            let at = inner.find(Some(name))?;
            let slot = &inner.slots[at];
            let in_use = |what: &str| {
                let message = format!("{} {what}", slot.known.id);
                ApiError::new(StatusCode::CONFLICT, "model_in_use", message)
            };
            if at == inner.active {
                return Err(in_use("serves requests that name no model; activate another first"));
            }
            let is_wanted = inner.line.iter().any(|waiter| waiter.slot == at);
            if is_wanted || !matches!(slot.state, State::Unloaded | State::Failed(_)) {
                return Err(in_use("is loaded or being loaded; unload it first"));
            }
            let slot = &mut inner.slots[at];
            slot.is_removed = true;
            (at, Arc::clone(&slot.known))
        };
        let removed = remove(&known);
        self.lock().slots[at].is_removed = removed.is_ok();
        removed
    }

    /// Unloads a model when its running requests are done, and waits for that.
    ///
    /// # Errors
    /// There is no such model.
    pub async fn unload(self: &Arc<Self>, name: &str) -> Result<(), ApiError> {
        let unloaded = {
            let mut inner = self.lock();
            let at = inner.find(Some(name))?;
            let slot = &mut inner.slots[at];
            match slot.state {
                State::Unloaded | State::Failed(_) => return Ok(()),
                State::Ready { .. } => slot.gives_way = true,
                State::Loading | State::Unloading => slot.gives_way = true,
            }
            let (send, unloaded) = oneshot::channel();
            slot.on_unloaded.push(send);
            unloaded
        };
        self.advance();
        let _ = unloaded.await;
        Ok(())
    }

    /// Unloads models that nobody has used for `idle`; returns when to look again.
    pub fn unload_idle(self: &Arc<Self>, idle: Duration) -> Duration {
        let mut next = idle;
        let mut inner = self.lock();
        for slot in &mut inner.slots {
            if matches!(slot.state, State::Ready { .. }) && slot.n_leases == 0 {
                match idle.checked_sub(slot.last_used.elapsed()) {
                    Some(left) if !left.is_zero() => next = next.min(left),
                    _ => slot.gives_way = true,
                }
            }
        }
        drop(inner);
        self.advance();
        next.max(Duration::from_millis(10))
    }

    /// Grants what can be granted, and begins the loads and unloads that are due.
    fn advance(self: &Arc<Self>) {
        let mut inner = self.lock();
        let line = std::mem::take(&mut inner.line);
        let mut granted = Vec::new();
        for waiter in line {
            let slot = &mut inner.slots[waiter.slot];
            match &slot.state {
                _ if waiter.reply.is_closed() => {}
                State::Ready { instance, .. } if !slot.gives_way => {
                    let instance = Arc::clone(instance);
                    slot.n_leases += 1;
                    slot.last_used = Instant::now();
                    let lease = Lease { registry: Arc::clone(self), slot: waiter.slot, instance };
                    granted.push((waiter.reply, lease));
                }
                _ => inner.line.push_back(waiter),
            }
        }
        self.unload_due(&mut inner);
        self.load_due(&mut inner);
        drop(inner);
        // Outside the lock: a client that went away drops its lease here, which takes the lock.
        for (reply, lease) in granted {
            let _ = reply.send(Ok(lease));
        }
    }

    fn unload_due(self: &Arc<Self>, inner: &mut Inner) {
        for at in 0..inner.slots.len() {
            let slot = &mut inner.slots[at];
            let is_due =
                slot.gives_way && slot.n_leases == 0 && matches!(slot.state, State::Ready { .. });
            if !is_due {
                continue;
            }
            if let State::Ready { instance, thread } =
                std::mem::replace(&mut slot.state, State::Unloading)
            {
                let registry = Arc::clone(self);
                self.runtime.spawn_blocking(move || {
                    // Without senders the worker ends, and with it the weights and caches.
                    drop(instance);
                    let _ = thread.join();
                    registry.unloaded(at);
                });
            }
        }
    }

    fn unloaded(self: &Arc<Self>, at: usize) {
        let mut inner = self.lock();
        let slot = &mut inner.slots[at];
        slot.state = State::Unloaded;
        slot.gives_way = false;
        tracing::info!(model = slot.known.id, "unloaded");
        for waiting in slot.on_unloaded.drain(..) {
            let _ = waiting.send(());
        }
        drop(inner);
        self.advance();
    }

    /// Begins the load that the head of the line waits for, or makes room for it.
    fn load_due(self: &Arc<Self>, inner: &mut Inner) {
        let in_memory = |slot: &Slot| !matches!(slot.state, State::Unloaded | State::Failed(_));
        let wanted: Vec<usize> = inner.line.iter().map(|waiter| waiter.slot).collect();
        for at in wanted {
            if in_memory(&inner.slots[at]) {
                continue;
            }
            if inner.slots.iter().filter(|slot| in_memory(slot)).count() < self.models_max {
                self.load(&mut inner.slots[at], at);
                continue;
            }
            let is_moving = |slot: &Slot| {
                slot.gives_way || matches!(slot.state, State::Loading | State::Unloading)
            };
            if !inner.slots.iter().any(is_moving) {
                let ready = inner.slots.iter_mut().filter(|slot| slot.instance().is_some());
                if let Some(victim) = ready.min_by_key(|slot| (slot.n_leases > 0, slot.last_used)) {
                    victim.gives_way = true;
                }
                self.unload_due(inner);
            }
            return;
        }
    }

    fn load(self: &Arc<Self>, slot: &mut Slot, at: usize) {
        slot.state = State::Loading;
        let (registry, known) = (Arc::clone(self), Arc::clone(&slot.known));
        tracing::info!(model = known.id, "loading");
        let started = instance::start(known, Arc::clone(&self.loader), Arc::clone(&self.metrics));
        self.runtime.spawn(async move {
            let loaded = match started {
                Ok((thread, ready)) => match ready.await {
                    Ok(Ok(instance)) => Ok((Arc::new(instance), thread)),
                    Ok(Err(why)) => Err(why),
                    Err(_) => Err("loading stopped at an error of its own".to_owned()),
                },
                Err(error) => Err(format!("no thread could be started: {error}")),
            };
            registry.loaded(at, loaded);
        });
    }

    fn loaded(
        self: &Arc<Self>,
        at: usize,
        loaded: Result<(Arc<Instance>, JoinHandle<()>), String>,
    ) {
        let mut failed = Vec::new();
        let mut inner = self.lock();
        match loaded {
            Ok((instance, thread)) => {
                let slot = &mut inner.slots[at];
                tracing::info!(model = slot.known.id, "loaded");
                slot.last_used = Instant::now();
                slot.state = State::Ready { instance, thread };
            }
            Err(why) => {
                tracing::error!(model = inner.slots[at].known.id, why, "cannot be loaded");
                let line = std::mem::take(&mut inner.line);
                for waiter in line {
                    if waiter.slot == at {
                        failed.push(waiter.reply);
                    } else {
                        inner.line.push_back(waiter);
                    }
                }
                let slot = &mut inner.slots[at];
                slot.gives_way = false;
                for waiting in slot.on_unloaded.drain(..) {
                    let _ = waiting.send(());
                }
                slot.state = State::Failed(why);
            }
        }
        let error = match inner.slots[at].status() {
            Status::Failed(why) => {
                let message = format!("{} cannot be loaded: {why}", inner.slots[at].known.id);
                ApiError::lasting("model_load_failed", message)
            }
            _ => ApiError::internal("the model is loaded"),
        };
        drop(inner);
        failed.into_iter().for_each(|reply| drop(reply.send(Err(error.clone()))));
        self.advance();
    }

    fn release(self: &Arc<Self>, at: usize) {
        let mut inner = self.lock();
        let slot = &mut inner.slots[at];
        slot.n_leases -= 1;
        slot.last_used = Instant::now();
        drop(inner);
        self.advance();
    }
}

impl Slot {
    fn new(known: KnownModel) -> Slot {
        Slot {
            known: Arc::new(known),
            state: State::Unloaded,
            n_leases: 0,
            last_used: Instant::now(),
            gives_way: false,
            on_unloaded: Vec::new(),
            is_removed: false,
        }
    }

    fn instance(&self) -> Option<&Arc<Instance>> {
        match &self.state {
            State::Ready { instance, .. } => Some(instance),
            _ => None,
        }
    }

    fn status(&self) -> Status {
        match &self.state {
            State::Unloaded => Status::Unloaded,
            State::Failed(why) => Status::Failed(why.clone()),
            State::Loading => Status::Loading,
            State::Ready { instance, .. } if instance.is_lost() => Status::Lost,
            State::Ready { .. } => Status::Loaded,
            State::Unloading => Status::Unloading,
        }
    }
}
