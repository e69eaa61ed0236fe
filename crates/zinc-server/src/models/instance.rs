//! A loaded model with the thread that runs it.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use zinc_chat::{ChatError, ChatFormat, GuideFactory};
use zinc_engine::{DraftSource, EngineOptions, LoadedModel, Model, Request};
use zinc_token::Tokenizer;

use crate::metrics::{Metrics, ModelGauges};
use crate::worker::{Command, Reply, SlotInfo, Watch, Worker};
use crate::{ApiError, KnownModel};

/// Loads models: the part of a server that knows devices.
pub trait Loader: Send + Sync + 'static {
    /// Opens a model's file and gives its weights to a device.
    ///
    /// # Errors
    /// Why it cannot be loaded, for people.
    fn load(&self, known: &KnownModel) -> Result<Loaded, String>;
}

/// A model on a device.
pub struct Loaded {
    /// The model.
    pub model: Arc<LoadedModel>,
    /// What its engine is built for.
    pub options: EngineOptions,
    /// The device's name.
    pub device: String,
    /// What it takes on the device, for people.
    pub memory: String,
}

/// A loaded model, ready for requests.
pub struct Instance {
    known: Arc<KnownModel>,
    loaded: Arc<LoadedModel>,
    options: EngineOptions,
    n_ctx: u32,
    device: String,
    memory: String,
    chat: Result<Option<ChatFormat>, String>,
    guides: OnceLock<Result<GuideFactory, String>>,
    commands: Sender<Command>,
    watch: Arc<Watch>,
}

/// What tells that a model is ready, or why not.
pub type Ready = oneshot::Receiver<Result<Instance, String>>;

/// Starts the thread of a model, which loads it and then works.
///
/// # Errors
/// The system gives no thread.
pub fn start(
    known: Arc<KnownModel>,
    loader: Arc<dyn Loader>,
    metrics: Arc<Metrics>,
) -> io::Result<(JoinHandle<()>, Ready)> {
    let (tell, ready) = oneshot::channel();
    let name = format!("engine {}", known.id);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        match open(known, loader.as_ref(), metrics) {
            Ok((instance, worker)) => {
                if tell.send(Ok(instance)).is_ok() {
                    worker.run();
                }
            }
            Err(why) => drop(tell.send(Err(why))),
        }
    })?;
    Ok((thread, ready))
}

fn open(
    known: Arc<KnownModel>,
    loader: &dyn Loader,
    metrics: Arc<Metrics>,
) -> Result<(Instance, Worker), String> {
    let loaded = loader.load(&known)?;
    metrics.model_loads.fetch_add(1, Ordering::Relaxed);
    let (commands, receiver) = channel();
    let watch = Arc::new(Watch::default());
    let Loaded { model, options, device, memory } = loaded;
    let counted = metrics.of_model(&known.id);
    let worker = Worker::new(Arc::clone(&model), options, receiver, Arc::clone(&watch), counted)
        .map_err(|error| error.to_string())?;
    let instance = Instance {
        chat: known.chat_format(model.model()),
        known,
        n_ctx: worker.engine().n_ctx(),
        loaded: model,
        options,
        device,
        memory,
        guides: OnceLock::new(),
        commands,
        watch,
    };
    Ok((instance, worker))
}

impl KnownModel {
    /// The chat format of `model`, which is this one: of the template that it was given, else of its own.
    ///
    /// # Errors
    /// Why it has a template that cannot be used.
    pub fn chat_format(&self, model: &Model) -> Result<Option<ChatFormat>, String> {
        let Some(path) = &self.defaults.chat_template else {
            return ChatFormat::new(model).map_err(|error| error.to_string());
        };
        let source =
            std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let format = ChatFormat::from_templates(model.tokenizer(), &source, None);
        format.map(Some).map_err(|error| format!("{}: {error}", path.display()))
    }
}

impl Instance {
    /// What the server knows of the model.
    pub fn known(&self) -> &KnownModel {
        &self.known
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.loaded.model()
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        self.model().tokenizer()
    }

    /// What its engine was built for.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Longest sequence in tokens.
    pub fn n_ctx(&self) -> u32 {
        self.n_ctx
    }

    /// The device and what the model takes on it, for people.
    pub fn device(&self) -> (&str, &str) {
        (&self.device, &self.memory)
    }

    /// How it writes conversations.
    ///
    /// # Errors
    /// It has no chat template, or one that cannot be used.
    pub fn chat(&self) -> Result<&ChatFormat, ApiError> {
        let what = match &self.chat {
            Ok(Some(format)) => return Ok(format),
            Ok(None) => "this model has no chat template; use /v1/completions".to_owned(),
            Err(why) => format!("this model's chat template cannot be used: {why}"),
        };
        Err(ApiError::unsupported("messages", what))
    }

    /// What makes guides for its answers; built at the first use.
    ///
    /// # Errors
    /// Its vocabulary cannot be used for that.
    pub fn guides(&self) -> Result<&GuideFactory, ApiError> {
        let build = || GuideFactory::new(self.tokenizer()).map_err(|e: ChatError| e.to_string());
        let made = self.guides.get_or_init(build).as_ref();
        made.map_err(|why| ApiError::internal(format!("answers cannot be constrained: {why}")))
    }

    /// Whether its device failed.
    pub fn is_lost(&self) -> bool {
        self.watch.is_lost.load(Ordering::Relaxed)
    }

    /// Hands a request to the engine.
    ///
    /// # Errors
    /// The engine's thread has ended.
    pub fn start(&self, request: Request, reply: Reply) -> Result<(), ApiError> {
        let command = Command::Start { request: Box::new(request), reply };
        self.commands.send(command).map_err(|_| ended())
    }

    /// The requests in work.
    ///
    /// # Errors
    /// The engine's thread has ended.
    pub async fn slots(&self) -> Result<Vec<SlotInfo>, ApiError> {
        let (reply, slots) = oneshot::channel();
        self.commands.send(Command::Slots(reply)).map_err(|_| ended())?;
        slots.await.map_err(|_| ended())
    }

    /// What drafts tokens ahead in its answers.
    fn draft_source(&self) -> Option<DraftSource> {
        self.options.speculation.source(self.model())
    }

    /// Its numbers.
    pub fn gauges(&self) -> ModelGauges {
        let stats = self.watch.stats();
        let n_pages = stats.n_pages.max(1);
        ModelGauges {
            model: self.known.id.clone(),
            n_running: stats.n_running,
            n_waiting: stats.n_waiting,
            n_waiting_for_load: 0,
            // What running requests hold: the rest is kept for later ones and given up on demand.
            kv_usage: f64::from(stats.n_pages_running) / f64::from(n_pages),
            block_size: zinc_engine::kv::PAGE_SIZE,
            n_blocks: stats.n_pages.into(),
            n_evicted: stats.n_evicted_pages,
            drafts: self.draft_source().map(|it| (it, stats.drafts(it))).into_iter().collect(),
        }
    }
}

fn ended() -> ApiError {
    ApiError::unavailable("model_unloaded", "the model's engine has ended; try again", 1)
}
