//! `zinc model`: get models, list them, choose one.

pub mod find;
mod get;
mod keep;
mod list;
mod server;
mod show;

pub use list::params;

use std::path::PathBuf;
use std::process::ExitCode;

/// Flags of `model`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

const PULL_EXAMPLES: &str = "\
Examples:
  zinc model pull qwen3-4b                            a model of the catalog
  zinc model pull qwen3-4b:Q8_0                       in another quantisation
  zinc model pull hf:bartowski/phi-4-GGUF:Q4_K_M      any repository of the Hub
  zinc model pull https://example.org/m.gguf          any address

HF_TOKEN (or the token of the Hub's own programs) opens gated and private repositories, HF_ENDPOINT
names another Hub, HTTPS_PROXY a proxy. Models lie under ZINC_HOME, else ~/.local/share/zinc.";

/// What to do.
#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show the models of this machine; with --all the catalog too
    List(ListArgs),
    /// Look for models in the catalog
    Search(SearchArgs),
    /// Download a model; what was begun goes on
    #[command(after_help = PULL_EXAMPLES)]
    Pull(PullArgs),
    /// Give a model file of this machine a name
    Import(ImportArgs),
    /// Show what is known of a model, and whether it fits here
    Show(ShowArgs),
    /// Make a model the one that is used without -m
    Use(UseArgs),
    /// Print the name of that model
    Active(JsonArgs),
    /// Remove a model and its files
    Rm(RmArgs),
    /// Read models and compare their SHA-256
    Verify(VerifyArgs),
    /// Remove unfinished downloads and files of no model
    Prune(PruneArgs),
    /// Print where a model's file is
    Path(NameArgs),
    /// Put another catalog in place of the one in the program
    Update(UpdateArgs),
    /// List the models of a running server and whether they are loaded
    Loaded(server::ServerArgs),
    /// Have a running server load a model; others give way if there is no room
    Load(server::NamedArgs),
    /// Have a running server unload a model when its running answers are done
    Unload(server::NamedArgs),
}

/// Flags of `list`.
#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Also the models of the catalog that are not here
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    fit: FitArgs,
}

/// Flags of `search`.
#[derive(Debug, clap::Args)]
struct SearchArgs {
    /// Words that a model's name or description must have
    #[arg(required = true)]
    words: Vec<String>,
    #[command(flatten)]
    fit: FitArgs,
}

/// What fit is computed for.
#[derive(Debug, clap::Args)]
pub struct FitArgs {
    /// Context length that must fit
    #[arg(long, value_name = "TOKENS", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..))]
    ctx: u32,
    /// Device that it must fit on. Default: the first that it fits on
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Flags of `pull`.
#[derive(Debug, clap::Args)]
struct PullArgs {
    /// A name of the catalog, hf:OWNER/REPO[@REVISION][:QUANT], hf:OWNER/REPO/FILE.gguf, or a URL
    model: String,
    /// Also where it does not fit on this machine
    #[arg(long)]
    yes: bool,
    /// Fetch it again, although it is here
    #[arg(long)]
    force: bool,
    /// Take the file although its hash is not the one it had when it was first pulled
    #[arg(long)]
    repin: bool,
    /// Make it the active model
    #[arg(long = "use")]
    activate: bool,
    /// Print the record of the model as JSON
    #[arg(long)]
    json: bool,
}

/// Flags of `import`.
#[derive(Debug, clap::Args)]
struct ImportArgs {
    /// The file; of a split model the first part. Or ollama:NAME[:TAG]
    file: String,
    /// Its name from now on. Default: the file's
    #[arg(long)]
    name: Option<String>,
    /// Give it a second place in zinc's directory by a link, which takes no room
    #[arg(long, conflicts_with = "copy")]
    link: bool,
    /// Copy it into zinc's directory. Without --link and --copy it stays where it is
    #[arg(long)]
    copy: bool,
    /// Print the record of the model as JSON
    #[arg(long)]
    json: bool,
}

/// Flags of `show`.
#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// A name, or whatever else -m takes
    model: String,
    /// Do not ask the Hub about a model that is not here
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    fit: FitArgs,
}

/// Flags of `use`.
#[derive(Debug, clap::Args)]
struct UseArgs {
    /// A name, or whatever else -m takes
    #[arg(required_unless_present = "builtin")]
    model: Option<String>,
    /// Go back to the built-in model
    #[arg(long, conflicts_with = "model")]
    builtin: bool,
    /// Download it without asking if it is not here
    #[arg(long)]
    yes: bool,
}

/// Flags of `rm`.
#[derive(Debug, clap::Args)]
struct RmArgs {
    /// Names of models
    #[arg(required = true)]
    models: Vec<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Flags of `verify`.
#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// Names of models. Default: all of this machine
    models: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Flags of `prune`.
#[derive(Debug, clap::Args)]
struct PruneArgs {
    /// Only show what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Flags of commands that take a name alone.
#[derive(Debug, clap::Args)]
struct NameArgs {
    /// A name
    model: String,
}

/// Flags of `active`.
#[derive(Debug, clap::Args)]
struct JsonArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Flags of `update`.
#[derive(Debug, clap::Args)]
struct UpdateArgs {
    /// File or URL of the catalog
    #[arg(required_unless_present = "reset")]
    from: Option<String>,
    /// Go back to the catalog in the program
    #[arg(long, conflicts_with = "from")]
    reset: bool,
}

/// Runs the command.
///
/// # Errors
/// As the action's own.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.action {
        Action::List(args) => list::list(args),
        Action::Search(args) => list::search(args),
        Action::Pull(args) => get::pull(args),
        Action::Import(args) => get::import(args),
        Action::Show(args) => show::run(args),
        Action::Use(args) => keep::use_model(args),
        Action::Active(args) => keep::active(args),
        Action::Rm(args) => keep::rm(args),
        Action::Verify(args) => keep::verify(args),
        Action::Prune(args) => keep::prune(args),
        Action::Path(args) => keep::path(args),
        Action::Update(args) => get::update(args),
        Action::Loaded(args) => server::loaded(args),
        Action::Load(args) => server::load(args),
        Action::Unload(args) => server::unload(args),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Paths as text, for JSON.
fn path_texts(paths: Vec<PathBuf>) -> Vec<String> {
    paths.into_iter().map(|path| path.display().to_string()).collect()
}
