//! `zinc serve`: models behind HTTP.

mod source;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use zinc_catalog::{PartName, Url};
use zinc_engine::{EngineOptions, Model};
use zinc_server::{
    Config, KnownModel, Limits, Loaded, Loader, LogFormat, ModelDefaults, ModelSource, ServeOptions,
};

use self::source::CatalogSource;
use crate::args::{CacheArgs, DeviceArgs, ModelArgs, SpeculateArgs, StepArgs, check_ctx};
use crate::model::Chosen;
use crate::output::human_bytes;
use crate::{backends, builtin, input, model, report};

/// Rows of logits in a step for prompts whose tokens are scored, beyond those of running answers.
const SCORED_ROWS: u32 = 31;

/// Flags of `serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model: a name of `zinc model list`, hf:OWNER/REPO[:QUANT], a URL, or a GGUF file; may be given
    /// several times, the first serves requests that name no model. Without it and --models: the active
    /// model or the built-in one, and all others of this machine
    #[arg(short, long, value_name = "MODEL", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    model: Vec<String>,
    /// Download models that are not here without asking
    #[arg(long)]
    yes: bool,
    /// Offer every model file of this folder; a model is loaded when a request names it. Files that
    /// cannot be used are named and left out
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Address to listen on, or localhost; 0.0.0.0 is every interface
    #[arg(long, value_name = "IP", default_value = "127.0.0.1", value_parser = parse_host)]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
    /// Key that clients have to send; may be given several times
    #[arg(long, value_name = "KEY", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    api_key: Vec<String>,
    /// File with such keys, one a line; lines that begin with # are comments
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Answers computed at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    parallel: u32,
    /// Context length of each answer: prompt and answer together. Default: what the model was
    /// trained for, at most 8192
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    ctx: Option<u32>,
    #[command(flatten)]
    step: StepArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    speculate: SpeculateArgs,
    /// The same request gives the same tokens whatever else runs: refuse a device that does not compute
    /// so. The cpu and the reference device always do
    #[arg(long)]
    batch_invariant: bool,
    /// Do without /v1/embeddings and /v1/rerank, which take a little memory
    #[arg(long)]
    no_embeddings: bool,
    /// Defaults for models, in TOML: sampling, context, template, further names
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Models in memory at a time; one that is needed makes the one used least lately give way
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    models_max: u16,
    /// Unload a model that nobody asked for this long
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    idle_unload: Option<u64>,
    /// Let pages of this origin, such as https://example.com, call the server from a browser; may be
    /// given several times, * is all
    #[arg(long, value_name = "ORIGIN", value_parser = parse_origin)]
    cors: Vec<String>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Form of the log on stderr: text, json
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
    /// Least severe records that are written: error, warn, info, debug
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = ["error", "warn", "info", "debug"])]
    log_level: String,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Bounds on what clients may use.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Requests that run or wait; more get 429
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    queue: u32,
    /// Largest request body
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_body: u32,
    /// Open connections; more get 503
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65536))]
    max_connections: u32,
    /// Longest time for one request; its answer is cut off then
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    request_timeout: u64,
    /// Longest time for a request's head, and for a connection without requests
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    header_timeout: u64,
    /// Longest time for a request's body
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    body_timeout: u64,
    /// Longest time that a client may read nothing while there is something to read
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    write_timeout: u64,
    /// Longest time for running answers to finish when the server is told to end
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain_timeout: u64,
}

impl LimitArgs {
    fn limits(&self) -> Limits {
        Limits {
            body_bytes: (self.max_body as usize) << 20,
            header_timeout: Duration::from_secs(self.header_timeout),
            body_timeout: Duration::from_secs(self.body_timeout),
            write_timeout: Duration::from_secs(self.write_timeout),
            request_timeout: Duration::from_secs(self.request_timeout),
            connections: self.max_connections as usize,
            requests: self.queue as usize,
            ..Limits::default()
        }
    }
}

/// Runs the command.
///
/// # Errors
/// A flag or file that cannot be used, an address that is taken, a first model that cannot be loaded.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = match &args.config {
        Some(path) => Config::parse(&input::read_text(path)?)
            .with_context(|| format!("{}", path.display()))?,
        None => Config::default(),
    };
    let source = source::open(args.ctx, args.device.device.as_deref());
    let models = known_models(args, &config, source.as_deref())?;
    let loader = Arc::new(FileLoader::new(args));
    loader.check(&models, args.model.len())?;
    let api_keys = api_keys(args)?;
    if api_keys.is_empty() && !args.host.is_loopback() {
        report::note(
            "warning: everybody who reaches this address may use the server; --api-key asks for a key",
        );
    }
    let format = if args.log_format == "json" { LogFormat::Json } else { LogFormat::Text };
    zinc_server::start_logs(format, args.log_level.parse()?);
    let options = ServeOptions {
        api_keys,
        cors_origins: args.cors.clone(),
        limits: args.limits.limits(),
        models_max: args.models_max.into(),
        idle_unload: args.idle_unload.map(Duration::from_secs),
        drain: Duration::from_secs(args.limits.drain_timeout),
        load_at_start: true,
        source: source.map(|source| source as Arc<dyn ModelSource>),
    };
    let needs_key = !options.api_keys.is_empty();
    let first = models[0].id.clone();
    let told = Arc::clone(&loader);
    zinc_server::run(
        SocketAddr::new(args.host, args.port),
        options,
        models,
        loader,
        |address| report::note(greeting(address, &first, needs_key)),
        move || told.tell(),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// How to reach the server.
fn greeting(address: SocketAddr, model: &str, needs_key: bool) -> String {
    let (key, asks) = match needs_key {
        true => (" -H 'authorization: Bearer KEY'", "; it asks for the key"),
        false => ("", ""),
    };
    // Every interface is no address that this machine's own programs can name.
    let mut reach = address;
    if address.ip().is_unspecified() {
        reach.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    format!(
        "zinc {} listens on http://{address} · model {model}\n\
         \x20 chat in a browser   http://{reach}/{asks}\n\
         \x20 OpenAI clients      base URL http://{reach}/v1\n\
         \x20 Anthropic clients   base URL http://{reach}\n\
         \x20 try it              curl http://{reach}/v1/chat/completions{key} \
         -H 'content-type: application/json' \
         -d '{{\"messages\":[{{\"role\":\"user\",\"content\":\"Hello!\"}}]}}'",
        env!("CARGO_PKG_VERSION"),
    )
}

fn api_keys(args: &Args) -> anyhow::Result<Vec<String>> {
    let mut keys = args.api_key.clone();
    if let Some(path) = &args.api_key_file {
        let text = input::read_text(path)?;
        let is_key = |line: &&str| !line.is_empty() && !line.starts_with('#');
        let lines = text.lines().map(str::trim).filter(is_key);
        let before = keys.len();
        keys.extend(lines.map(str::to_owned));
        if keys.len() == before {
            // An empty file must not leave the server open.
            let what = format!("{} has no key", path.display());
            return Err(report::with_hint(
                what,
                "write one key a line, or leave out --api-key-file",
            ));
        }
    }
    Ok(keys)
}

/// The models that the flags and the configuration name, each under a name of its own; where they name
/// none, the active one and the others of this machine.
fn known_models(
    args: &Args,
    config: &Config,
    source: Option<&CatalogSource>,
) -> anyhow::Result<Vec<KnownModel>> {
    let mut chosen = Vec::new();
    for text in &args.model {
        let flags = ModelArgs { yes: args.yes, ..ModelArgs::named(Some(text.clone())) };
        chosen.push(flags.choose()?.clone());
    }
    let mut files: Vec<(String, Option<PathBuf>)> =
        chosen.iter().map(|chosen| (chosen_id(chosen), chosen.path.clone())).collect();
    if let Some(folder) = &args.models {
        files.extend(usable_models(folder)?.into_iter().map(|path| (id_of(&path), Some(path))));
    }
    for (id, model) in &config.models {
        if let Some(path) = &model.path {
            files.push((id.clone(), Some(path.clone())));
        }
    }
    let names_none = files.is_empty();
    if names_none {
        let flags = ModelArgs { yes: args.yes, ..ModelArgs::default() };
        chosen.push(flags.choose()?.clone());
        files.extend(chosen.iter().map(|chosen| (chosen_id(chosen), chosen.path.clone())));
    }
    let mut models: Vec<KnownModel> = Vec::new();
    for (id, path) in files {
        let aliases = config.models.get(&id).map(|model| model.aliases.clone()).unwrap_or_default();
        let authors = chosen.iter().find(|chosen| chosen_id(chosen) == id);
        let authors = authors.map(|chosen| source::defaults(&chosen.sampling()));
        let defaults = config.for_model(&id).over(authors.unwrap_or_default());
        add(&mut models, KnownModel { defaults, id, aliases, path })?;
    }
    if names_none {
        let builtin = KnownModel {
            id: builtin::ID.to_owned(),
            aliases: Vec::new(),
            path: None,
            defaults: ModelDefaults::default(),
        };
        let others = source.map(CatalogSource::installed).unwrap_or_default();
        for other in others.into_iter().chain([builtin]) {
            if !models.iter().any(|model| model.is_called(&other.id)) {
                let defaults = config.for_model(&other.id).over(other.defaults);
                models.push(KnownModel { defaults, ..other });
            }
        }
    }
    if let Some(name) = config.models.keys().find(|id| !models.iter().any(|m| m.id == **id)) {
        let what = format!(
            "--config has defaults for {}, which is no model here",
            report::printable(name)
        );
        return Err(report::with_hint(
            what,
            "give it a path, or name the file with -m or --models",
        ));
    }
    Ok(models)
}

/// Adds a model whose names are nobody else's.
fn add(models: &mut Vec<KnownModel>, known: KnownModel) -> anyhow::Result<()> {
    const HINT: &str = "rename the file, or give it another name in --config";
    if known.path.is_some() && known.is_called(builtin::ID) {
        let what = format!("only the built-in model is called {}", builtin::ID);
        return Err(report::with_hint(what, HINT));
    }
    let mut names = std::iter::once(&known.id).chain(&known.aliases);
    if let Some(name) = names.find(|name| models.iter().any(|other| other.is_called(name))) {
        let what = format!("two models are called {}", report::printable(name));
        return Err(report::with_hint(what, HINT));
    }
    models.push(known);
    Ok(())
}

/// What requests call a model: its name, of a file what its name says.
fn chosen_id(chosen: &Chosen) -> String {
    match &chosen.path {
        None => builtin::ID.to_owned(),
        Some(path) if Path::new(&chosen.name) == path => id_of(path),
        Some(_) => chosen.name.clone(),
    }
}

/// A file's name without what every file's name has: the ending, and the number of a part.
fn id_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match PartName::parse(&name) {
        Some(part) => part.stem.to_owned(),
        None => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    }
}

/// The models of a folder that zinc can run; a file that was cut off does not keep the others from being
/// served.
fn usable_models(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut refused = Vec::new();
    let mut paths = folder_models(folder)?;
    paths.retain(|path| match check_file(path) {
        Ok(()) => true,
        Err(error) => {
            refused.push(error);
            false
        }
    });
    if paths.is_empty() {
        let what = format!("{} has no model that can be used", folder.display());
        return Err(refused.swap_remove(0).context(what));
    }
    for error in refused {
        report::note(format!("warning: left out: {}", one_line(&error)));
    }
    Ok(paths)
}

/// Whether a file is of a model that zinc can run, without its vocabulary, which takes longest.
fn check_file(path: &Path) -> anyhow::Result<()> {
    let gguf = ModelArgs::of_file(Some(path.to_owned())).open_gguf()?;
    zinc_models::Model::from_gguf(&gguf).with_context(|| format!("{}", path.display()))?;
    Ok(())
}

/// The model files of a folder, in order of their names; later parts of a split model are not models.
fn folder_models(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("{}", folder.display()))?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("{}", folder.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_later_part = PartName::parse(&name).is_some_and(|part| part.number != 1);
        let is_gguf = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
        if is_gguf && !is_later_part {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        let what = format!("{} has no GGUF files", folder.display());
        return Err(report::with_hint(what, "check the path after --models"));
    }
    Ok(paths)
}

fn parse_host(text: &str) -> Result<IpAddr, String> {
    match text {
        "localhost" => Ok(std::net::Ipv4Addr::LOCALHOST.into()),
        _ => text.parse().map_err(|_| "expected an IP address of this machine or localhost".into()),
    }
}

/// An origin as browsers send it: they compare letter by letter, so that any other text allows nothing.
fn parse_origin(text: &str) -> Result<String, String> {
    let wrong = || "expected *, or an origin such as https://example.com:8443".to_owned();
    // null is the origin of pages that are files.
    if ["*", "null"].contains(&text) {
        return Ok(text.into());
    }
    let url = Url::parse(text).map_err(|_| wrong())?;
    let origin = url.origin();
    // Of other schemes, such as those of extensions, the origin is the address as it is.
    let shown = match (origin.is_tuple(), url.host_str()) {
        (true, _) => origin.ascii_serialization(),
        (false, Some(_)) if url.path().is_empty() => url.to_string(),
        _ => return Err(wrong()),
    };
    match shown == text {
        true => Ok(shown),
        false => Err(format!("browsers send {shown} as origin of such pages")),
    }
}

/// Loads models as the flags say.
struct FileLoader {
    device: DeviceArgs,
    options: EngineOptions,
    ctx: Option<u32>,
    batch_invariant: bool,
    /// What was loaded last, for people.
    loaded: std::sync::Mutex<String>,
}

impl FileLoader {
    fn new(args: &Args) -> FileLoader {
        let options = EngineOptions {
            max_seqs: args.parallel,
            embeddings: !args.no_embeddings,
            extra_rows: SCORED_ROWS,
            max_waiting: args.limits.queue,
            speculation: args.speculate.speculate,
            ..args.cache.apply(args.step.options(None))
        };
        FileLoader {
            device: args.device.clone(),
            options,
            ctx: args.ctx,
            batch_invariant: args.batch_invariant,
            loaded: Default::default(),
        }
    }

    /// Tells what was loaded last.
    fn tell(&self) {
        let loaded = self.loaded.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        report::note(&*loaded);
    }

    /// Refuses before the address is told what the first model's loading would: a device that this
    /// machine does not have, a file that is no model, a context that the model was not trained for. Of
    /// the other models that flags name, `n_named` with the first, the files must be readable, and of all
    /// the templates that the configuration gives them.
    fn check(&self, models: &[KnownModel], n_named: usize) -> anyhow::Result<()> {
        self.device.check_name()?;
        let (first, others) = models.split_first().context("there is a first model")?;
        let model = ModelArgs::of_file(first.path.clone()).open()?;
        self.n_ctx(&model, &first.defaults)?;
        for other in others.iter().take(n_named.saturating_sub(1)) {
            ModelArgs::of_file(other.path.clone()).open_gguf()?;
        }
        for known in models.iter().filter(|known| known.defaults.chat_template.is_some()) {
            let model = ModelArgs::of_file(known.path.clone()).open()?;
            known.chat_format(&model).map_err(|reason| {
                let what = format!("--config: the chat template of {}: {reason}", known.id);
                report::with_hint(what, "check the path and the template: zinc template --help")
            })?;
        }
        Ok(())
    }

    fn open(&self, known: &KnownModel) -> anyhow::Result<Loaded> {
        let file = ModelArgs::of_file(known.path.clone());
        let model = file.open()?;
        let device = self.device.open_with(self.batch_invariant)?;
        let options = EngineOptions { n_ctx: self.n_ctx(&model, &known.defaults)?, ..self.options };
        let name = device.info().name.clone();
        if self.batch_invariant {
            backends::check_invariant(device.as_ref())?;
        }
        let (loaded, need) = model::load(model, device, &options)?;
        let memory = format!(
            "weights {} · cache {} ({} × {} tokens) · scratch {}",
            human_bytes(need.weights.total()),
            human_bytes(need.cache.total()),
            options.max_seqs,
            options.n_ctx(loaded.model())?,
            human_bytes(need.scratch),
        );
        let mut told = self.loaded.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *told = format!("ready: {} · device {name} · {memory}", known.id);
        Ok(Loaded { model: loaded, options, device: name, memory })
    }

    /// The context length: the model's own default, or what the flag says.
    fn n_ctx(&self, model: &Model, defaults: &ModelDefaults) -> anyhow::Result<Option<u32>> {
        let ctx = defaults.ctx.or(self.ctx);
        check_ctx(ctx, model)?;
        Ok(ctx)
    }
}

impl Loader for FileLoader {
    fn load(&self, known: &KnownModel) -> Result<Loaded, String> {
        self.open(known).map_err(|error| one_line(&error))
    }
}

/// An error and its hint as a sentence for clients.
fn one_line(error: &anyhow::Error) -> String {
    let text = report::render(error);
    text.strip_prefix("error: ").unwrap_or(&text).replace("\nhint: ", "; hint: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_files() {
        for (path, id) in [
            ("/m/Qwen3-4B-Q4_K_M.gguf", "Qwen3-4B-Q4_K_M"),
            ("big-00001-of-00003.gguf", "big"),
            ("a.b.gguf", "a.b"),
        ] {
            assert_eq!(id_of(Path::new(path)), id);
        }
    }
}
