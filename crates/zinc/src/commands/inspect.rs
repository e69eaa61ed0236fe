//! `zinc inspect`: what is in a model file, and what it needs to run.

use std::process::ExitCode;

use serde::Serialize;
use zinc_engine::{EngineOptions, Speculation};
use zinc_gguf::Gguf;
use zinc_models::{ModelConfig, RopeScaling};

use crate::args::{DeviceArgs, EngineArgs, ModelArgs};
use crate::need::Need;
use crate::output::{self, fields, human_bytes, human_count, table};
use crate::report::printable;
use crate::values;

/// Flags of `inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Answers computed at the same time, for the memory that they take
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    parallel: u32,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Everything the command prints.
#[derive(Serialize)]
struct Report {
    file: FileReport,
    model: Option<ModelReport>,
    memory: Option<Need>,
    metadata: serde_json::Map<String, serde_json::Value>,
    types: Vec<TypeReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<TensorReport>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct FileReport {
    name: String,
    n_files: usize,
    n_bytes: u64,
    version: u32,
    alignment: u64,
    n_tensors: usize,
    n_parameters: u64,
}

#[derive(Serialize)]
struct ModelReport {
    arch: String,
    n_vocab: u32,
    n_ctx_train: u32,
    n_layers: u32,
    d_model: u32,
    d_ff: u32,
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,
    v_head_dim: u32,
    rms_eps: f32,
    window: Option<u32>,
    rope_mode: String,
    rope_dims: u32,
    rope_theta: f32,
    rope_scaling: String,
}

#[derive(Serialize)]
struct TypeReport {
    #[serde(rename = "type")]
    ty: &'static str,
    n_tensors: u64,
    n_parameters: u64,
    n_bytes: u64,
}

#[derive(Serialize)]
struct TensorReport {
    name: String,
    #[serde(rename = "type")]
    ty: &'static str,
    dims: Vec<u64>,
    n_bytes: u64,
    offset: u64,
    file: usize,
}

/// Runs the command.
///
/// # Errors
/// The file cannot be read. A file that can be read but not be run is shown first.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let gguf = args.model.open_gguf()?;
    let runnable = understand(args);
    let report = report(args, &gguf, &runnable);
    if args.json {
        output::json(&report)?;
    } else {
        output::text(&people(&report))?;
    }
    runnable?;
    Ok(ExitCode::SUCCESS)
}

/// What zinc makes of the file, beyond its format.
fn understand(args: &Args) -> anyhow::Result<(ModelConfig, Need)> {
    let model = args.model.open()?;
    let device = args.device.open()?;
    let options = args.engine.options(&model)?;
    // As `run` and `serve` do it where nothing else is said.
    let speculation = Speculation::Auto;
    let options = EngineOptions { max_seqs: args.parallel, speculation, ..options };
    let need = Need::of(&model, device.as_ref(), &options)?;
    Ok((model.config().clone(), need))
}

fn report(args: &Args, gguf: &Gguf, runnable: &anyhow::Result<(ModelConfig, Need)>) -> Report {
    let understood = runnable.as_ref().ok();
    let tensors = args.tensors.then(|| tensor_reports(gguf));
    Report {
        file: FileReport {
            name: args.model.name(),
            n_files: gguf.shards().len(),
            n_bytes: gguf.n_bytes(),
            version: gguf.version(),
            alignment: gguf.alignment(),
            n_tensors: gguf.tensors().len(),
            n_parameters: gguf.tensors().iter().map(|tensor| tensor.n_elems()).sum(),
        },
        model: understood.map(|(config, _)| model_report(config)),
        memory: understood.map(|(_, need)| need.clone()),
        metadata: gguf
            .metadata()
            .iter()
            .map(|(key, value)| (key.to_owned(), values::json(value)))
            .collect(),
        types: type_reports(gguf),
        tensors,
        error: runnable.as_ref().err().map(|error| format!("{error:#}")),
    }
}

fn model_report(config: &ModelConfig) -> ModelReport {
    ModelReport {
        arch: config.arch.clone(),
        n_vocab: config.n_vocab,
        n_ctx_train: config.n_ctx_train,
        n_layers: config.n_layers,
        d_model: config.d_model,
        d_ff: config.d_ff,
        n_heads: config.n_heads,
        n_kv_heads: config.n_kv_heads,
        head_dim: config.head_dim,
        v_head_dim: config.v_head_dim,
        rms_eps: config.rms_eps,
        window: config.window,
        rope_mode: format!("{:?}", config.rope_mode).to_lowercase(),
        rope_dims: config.rope_dims,
        rope_theta: config.rope_theta,
        rope_scaling: scaling_words(&config.rope_scaling),
    }
}

fn scaling_words(scaling: &RopeScaling) -> String {
    match scaling {
        RopeScaling::None => "none".into(),
        RopeScaling::Linear { factor } => format!("linear, factor {factor}"),
        RopeScaling::Yarn { factor, n_ctx_orig, .. } => {
            format!("yarn, factor {factor} from {n_ctx_orig} tokens")
        }
        RopeScaling::LongRope { n_ctx_orig, .. } => format!("longrope, from {n_ctx_orig} tokens"),
    }
}

fn type_reports(gguf: &Gguf) -> Vec<TypeReport> {
    let mut types: Vec<TypeReport> = Vec::new();
    for tensor in gguf.tensors() {
        let ty = tensor.ty.name();
        let known = types.iter().position(|known| known.ty == ty);
        let idx = known.unwrap_or_else(|| {
            types.push(TypeReport { ty, n_tensors: 0, n_parameters: 0, n_bytes: 0 });
            types.len() - 1
        });
        types[idx].n_tensors += 1;
        types[idx].n_parameters += tensor.n_elems();
        types[idx].n_bytes += tensor.n_bytes;
    }
    types.sort_by_key(|ty| std::cmp::Reverse(ty.n_bytes));
    types
}

fn tensor_reports(gguf: &Gguf) -> Vec<TensorReport> {
    let report = |tensor: &zinc_gguf::TensorEntry| TensorReport {
        name: tensor.name.clone(),
        ty: tensor.ty.name(),
        dims: tensor.dims.clone(),
        n_bytes: tensor.n_bytes,
        offset: tensor.offset,
        file: tensor.shard,
    };
    gguf.tensors().iter().map(report).collect()
}

/// The report as text.
fn people(report: &Report) -> String {
    let file = &report.file;
    let mut text = fields(&[
        ("file", printable(&file.name)),
        (
            "size",
            match file.n_files {
                1 => human_bytes(file.n_bytes),
                n => format!("{} in {n} files", human_bytes(file.n_bytes)),
            },
        ),
        (
            "format",
            format!(
                "GGUF v{}, {} tensors aligned to {} bytes",
                file.version, file.n_tensors, file.alignment
            ),
        ),
        ("parameters", human_count(file.n_parameters)),
    ]);
    if let Some(model) = &report.model {
        text += "\nmodel\n";
        text += &indent(&fields(&model_rows(model)));
    }
    if let Some(need) = &report.memory {
        text += "\nmemory\n";
        text += &indent(&fields(&need.rows()));
    }
    text += "\nmetadata\n";
    let rows: Vec<_> =
        report.metadata.iter().map(|(key, value)| (printable(key), values::short(value))).collect();
    let rows: Vec<_> = rows.iter().map(|(key, value)| (key.as_str(), printable(value))).collect();
    text += &indent(&fields(&rows));
    text += "\ntensors by type\n";
    text += &indent(&table(&type_rows(&report.types)));
    if let Some(tensors) = &report.tensors {
        text += "\ntensors\n";
        text += &indent(&table(&tensor_rows(tensors)));
    }
    text
}

fn model_rows(model: &ModelReport) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("architecture", model.arch.clone()),
        ("n_vocab", model.n_vocab.to_string()),
        ("n_ctx_train", model.n_ctx_train.to_string()),
        ("n_layers", model.n_layers.to_string()),
        ("d_model", model.d_model.to_string()),
        ("d_ff", model.d_ff.to_string()),
        ("n_heads", model.n_heads.to_string()),
        ("n_kv_heads", model.n_kv_heads.to_string()),
        ("head_dim", model.head_dim.to_string()),
    ];
    if model.v_head_dim != model.head_dim {
        rows.push(("v_head_dim", model.v_head_dim.to_string()));
    }
    if let Some(window) = model.window {
        rows.push(("window", window.to_string()));
    }
    rows.push(("rms_eps", format!("{:e}", model.rms_eps)));
    let rope = format!("{}, {} dims, theta {}", model.rope_mode, model.rope_dims, model.rope_theta);
    rows.push(("rope", rope));
    rows.push(("rope_scaling", model.rope_scaling.clone()));
    rows
}

fn type_rows(types: &[TypeReport]) -> Vec<Vec<String>> {
    let header = ["type", "tensors", "parameters", "size"].map(str::to_owned).to_vec();
    let row = |ty: &TypeReport| {
        vec![
            ty.ty.to_owned(),
            ty.n_tensors.to_string(),
            human_count(ty.n_parameters),
            human_bytes(ty.n_bytes),
        ]
    };
    std::iter::once(header).chain(types.iter().map(row)).collect()
}

fn tensor_rows(tensors: &[TensorReport]) -> Vec<Vec<String>> {
    let header = ["name", "type", "dimensions", "size", "offset"].map(str::to_owned).to_vec();
    let row = |tensor: &TensorReport| {
        let dims: Vec<_> = tensor.dims.iter().map(u64::to_string).collect();
        let (size, offset) = (human_bytes(tensor.n_bytes), tensor.offset.to_string());
        vec![printable(&tensor.name), tensor.ty.to_owned(), dims.join(" x "), size, offset]
    };
    std::iter::once(header).chain(tensors.iter().map(row)).collect()
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
