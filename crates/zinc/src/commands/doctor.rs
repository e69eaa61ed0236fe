//! `zinc doctor`: is this machine, are its devices, is a model file all right?

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;
use zinc_backend::DeviceInfo;
use zinc_engine::{EngineOptions, Evaluator, Taps};

use crate::advice::{self, Advice, ModelsReport};
use crate::args::{DeviceArgs, ModelArgs, ThreadArgs};
use crate::machine::Machine;
use crate::need::Need;
use crate::output::{self, fields, human_bytes};
use crate::report::{self, printable};
use crate::{backends, builtin, model, selftest, tokens};

/// Flags of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Everything the command prints.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    machine: Machine,
    devices: Vec<DeviceReport>,
    /// Kinds of devices that are not there, each with the reason.
    absent: Vec<(&'static str, String)>,
    models: ModelsReport,
    model: Option<ModelReport>,
    healthy: bool,
    /// What could be better, and how.
    advice: Vec<Advice>,
}

#[derive(Serialize)]
struct DeviceReport {
    name: String,
    description: String,
    memory_total: u64,
    memory_free: u64,
    facts: serde_json::Map<String, serde_json::Value>,
    passed: bool,
    /// Distance from the reference, normalised.
    nmse: Option<f64>,
    max_abs: Option<f32>,
    types: Vec<&'static str>,
    seconds: f64,
    error: Option<String>,
}

#[derive(Serialize)]
struct ModelReport {
    name: String,
    passed: bool,
    /// Device it was tried on.
    device: Option<String>,
    /// What it takes there with the context that `run` gives it.
    memory: Option<Need>,
    seconds: f64,
    error: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// Stdout cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let threads = args.threads.threads;
    // Looking at a card disturbs nobody who computes on it.
    let choice = backends::Choice { threads, share: true, ..Default::default() };
    let devices: Vec<_> =
        backends::devices(choice).into_iter().map(|info| test(info, choice)).collect();
    let model = (args.model.path().map_or(true, |path| path.is_some())
        || builtin::file().is_some())
    .then(|| check_model(&args.model, threads));
    let healthy = devices.iter().all(|device| device.passed)
        && model.as_ref().is_none_or(|model| model.passed);
    let version = env!("CARGO_PKG_VERSION");
    let machine = Machine::look();
    let (models, of_models) = ModelsReport::look();
    let absent = backends::absent();
    let no_cuda = absent.iter().find(|(kind, _)| *kind == "cuda").map(|(_, why)| why.as_str());
    let mut advice = advice::of_machine(no_cuda, &machine.isa);
    advice.extend(of_models);
    let report = Report { version, machine, devices, absent, models, model, healthy, advice };
    if args.json {
        output::json(&report)?;
    } else {
        output::text(&people(&report))?;
    }
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn test(info: DeviceInfo, choice: backends::Choice) -> DeviceReport {
    let begin = Instant::now();
    let outcome = backends::open(&info.name, choice).and_then(selftest::check);
    let passed = outcome.as_ref().ok();
    DeviceReport {
        passed: passed.is_some(),
        nmse: passed.map(|passed| passed.difference.nmse),
        max_abs: passed.map(|passed| passed.difference.max_abs),
        types: passed
            .map(|passed| passed.types.iter().map(|ty| ty.name()).collect())
            .unwrap_or_default(),
        seconds: begin.elapsed().as_secs_f64(),
        error: outcome.as_ref().err().map(|error| format!("{error:#}")),
        name: info.name,
        description: info.description,
        memory_total: info.memory_total,
        memory_free: info.memory_free,
        facts: info.facts.into_iter().map(|(name, value)| (name, value.into())).collect(),
    }
}

/// Tokens that a model is tried with.
const N_TOKENS: usize = 8;

/// Loads the model as `run` would and computes a few tokens.
fn check_model(args: &ModelArgs, threads: Option<u32>) -> ModelReport {
    let begin = Instant::now();
    let mut memory = None;
    let outcome = compute(args, threads, &mut memory);
    ModelReport {
        name: args.name(),
        passed: outcome.is_ok(),
        device: outcome.as_ref().ok().cloned(),
        memory,
        seconds: begin.elapsed().as_secs_f64(),
        error: outcome.as_ref().err().map(report::render),
    }
}

/// Returns the device's name, and in `memory` what a usual context takes there.
fn compute(
    args: &ModelArgs,
    threads: Option<u32>,
    memory: &mut Option<Need>,
) -> anyhow::Result<String> {
    let model = args.open()?;
    let device =
        DeviceArgs { device: None, share: true, threads: ThreadArgs { threads } }.open()?;
    let name = device.info().name.clone();
    *memory = Some(Need::of(&model, device.as_ref(), &EngineOptions::default())?);
    let options = EngineOptions { n_ctx: Some(N_TOKENS as u32), ..EngineOptions::default() };
    let tokens = tokens::pseudo_random(N_TOKENS, model.config().n_vocab);
    let (loaded, _) = model::load(model, device, &options)?;
    let logits = Evaluator::new(loaded, &options, &Taps::default())?.eval(&tokens)?.swap_remove(0);
    match logits.values.iter().all(|value| value.is_finite()) {
        true => Ok(name),
        false => Err(report::with_hint(
            "its logits are not finite",
            "the file may be damaged: download it again",
        )),
    }
}

fn people(report: &Report) -> String {
    let mut text = format!("zinc {}\n\nmachine\n", report.version);
    text += &indent(&fields(&report.machine.rows()));
    for device in &report.devices {
        text += &format!("\ndevice {}\n", device.name);
        text += &indent(&device_rows(device));
    }
    for (kind, why) in &report.absent {
        text += &format!("\nno {kind} device\n{}", indent(&printable(why)));
    }
    text += &format!("\nmodels\n{}", indent(&fields(&report.models.rows())));
    if let Some(model) = &report.model {
        text += &format!("\nmodel {}\n", printable(&model.name));
        let verdict = match &model.error {
            None => format!(
                "computes on {} ({:.1} s)",
                model.device.as_deref().unwrap_or_default(),
                model.seconds
            ),
            Some(error) => format!("FAILED\n{error}"),
        };
        text += &indent(&verdict);
        if let Some(memory) = &model.memory {
            text += &indent(&fields(&memory.rows()));
        }
    }
    text += match report.healthy {
        true => "\nEverything is all right.\n",
        false => "\nSomething is wrong; see FAILED above.\n",
    };
    if !report.advice.is_empty() {
        let lines = report.advice.iter().map(Advice::lines);
        text += &format!("\nnext\n{}", lines.collect::<String>());
    }
    text
}

fn device_rows(device: &DeviceReport) -> String {
    let mut rows = vec![("what", printable(&device.description))];
    if device.memory_total > 0 {
        let (total, free) = (human_bytes(device.memory_total), human_bytes(device.memory_free));
        rows.push(("memory", format!("{total}, {free} free")));
    }
    let facts: Vec<_> = device.facts.iter().map(|(name, value)| (name.as_str(), value)).collect();
    rows.extend(
        facts.iter().map(|(name, value)| (*name, value.as_str().unwrap_or_default().to_owned())),
    );
    rows.push(("self-test", verdict(device)));
    if !device.types.is_empty() {
        rows.push(("tested types", device.types.join(" ")));
    }
    fields(&rows)
}

fn verdict(device: &DeviceReport) -> String {
    let time = Duration::from_secs_f64(device.seconds).as_millis();
    match (&device.error, device.nmse, device.max_abs) {
        (Some(error), ..) => format!("FAILED: {}", printable(error)),
        (None, Some(nmse), Some(max_abs)) if max_abs > 0.0 => {
            format!("passed in {time} ms: largest error {max_abs:.1e}, normalised {nmse:.1e}")
        }
        _ => format!("passed in {time} ms: no difference from the reference"),
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
