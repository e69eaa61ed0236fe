//! `zinc quantize`: a smaller file of the same model.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use serde::Serialize;
use zinc_gguf::writer::Header;
use zinc_gguf::{Gguf, TensorEntry, Value};
use zinc_quant::GgmlType;

use crate::args::{ModelArgs, ThreadArgs};
use crate::interrupt;
use crate::new_file::NewFile;
use crate::output::{self, human_bytes, table};
use crate::progress::{Progress, Unit};
use crate::quantize::convert::Job;
use crate::quantize::file_type::{FileType, parse_tensor_type};
use crate::quantize::importance::Importance;
use crate::quantize::policy::{Decision, Pattern, Policy};
use crate::report::{self, note, printable};

/// Version of the block formats, which every file with blocks records.
const QUANTIZATION_VERSION: u32 = 2;

/// Flags of `quantize`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// What to make: q8_0, q6_k, q5_k_m, q4_k_m, q4_0, iq4_xs, mxfp4; f32, f16 or bf16
    #[arg(long = "type", value_name = "TYPE")]
    file_type: FileType,
    /// File to write
    #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
    out: Option<PathBuf>,
    /// Importance matrix: weights that the text it was made from uses most become the most exact
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Quantise tensors that the importance matrix lacks without it
    #[arg(long, requires = "imatrix")]
    imatrix_incomplete: bool,
    /// Quantise what is quantised already, which adds up the errors
    #[arg(long)]
    allow_requantize: bool,
    /// Type of the output matrix
    #[arg(long, value_name = "TYPE", value_parser = parse_tensor_type)]
    output_tensor_type: Option<GgmlType>,
    /// Type of the token embeddings
    #[arg(long, value_name = "TYPE", value_parser = parse_tensor_type)]
    token_embedding_type: Option<GgmlType>,
    /// Type of the tensors whose name contains NAME; * in it stands for anything. May be given several
    /// times; the first that matches counts
    #[arg(long, value_name = "NAME=TYPE", value_parser = parse_override)]
    tensor_type: Vec<(Pattern, GgmlType)>,
    /// Give all matrices the same type
    #[arg(long)]
    pure: bool,
    /// Overwrite a file that is there
    #[arg(long)]
    force: bool,
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    threads: ThreadArgs,
}

/// Everything the command prints.
#[derive(Serialize)]
struct Report {
    model: String,
    out: Option<String>,
    #[serde(rename = "type")]
    file_type: &'static str,
    n_parameters: u64,
    n_bytes: u64,
    n_bytes_new: u64,
    bits_per_weight: f64,
    seconds: Option<f64>,
    tensors: Vec<TensorReport>,
}

#[derive(Serialize)]
struct TensorReport {
    name: String,
    dims: Vec<u64>,
    #[serde(rename = "type")]
    ty: &'static str,
    type_new: &'static str,
    n_bytes: u64,
    n_bytes_new: u64,
    /// Whether errors are weighted by the importance matrix.
    imatrix: bool,
    /// The type it was meant to have.
    #[serde(skip_serializing_if = "Option::is_none")]
    instead_of: Option<&'static str>,
}

/// A tensor and what becomes of it.
struct Step<'a> {
    tensor: &'a TensorEntry,
    decision: Decision,
    /// Whether its errors are weighted by the importance matrix.
    weighted: bool,
}

impl Step<'_> {
    fn changes(&self) -> bool {
        self.decision.ty != self.tensor.ty
    }
}

/// Runs the command.
///
/// # Errors
/// The model or the importance matrix cannot be read or do not belong together, a weight is not finite,
/// or the file cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let gguf = args.model.open_gguf()?;
    let importance = args.imatrix.as_deref().map(Importance::open).transpose()?;
    let steps = plan(args, &gguf, importance.as_ref())?;
    let header = header(args, &gguf, importance.as_ref(), &steps);
    let mut report = report(args, &gguf, &steps, header.file_bytes());
    tell_fallbacks(&steps);
    if let Some(out) = args.out.as_deref().filter(|_| !args.dry_run) {
        let begin = Instant::now();
        if write(args, &gguf, importance.as_ref(), &steps, &header, out)?.is_break() {
            return Ok(ExitCode::from(interrupt::EXIT_CODE));
        }
        let seconds = begin.elapsed().as_secs_f64();
        report.seconds = Some(seconds);
        note(summary(&report, out, seconds));
    }
    if args.json {
        output::json(&report)?;
    } else if args.dry_run {
        output::text(&people(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What becomes of each tensor.
fn plan<'a>(
    args: &Args,
    gguf: &'a Gguf,
    importance: Option<&Importance>,
) -> anyhow::Result<Vec<Step<'a>>> {
    let policy = Policy {
        file_type: args.file_type,
        pure: args.pure,
        output: args.output_tensor_type,
        token_embedding: args.token_embedding_type,
        overrides: args.tensor_type.clone(),
        has_imatrix: importance.is_some(),
    };
    check_overrides(&policy, gguf)?;
    let decisions = policy.decide(gguf)?;
    let mut steps = Vec::with_capacity(decisions.len());
    for (tensor, decision) in gguf.tensors().iter().zip(decisions) {
        let changes = decision.ty != tensor.ty;
        if changes && tensor.ty.is_quantized() && !args.allow_requantize {
            let what = format!("tensor {:?} is {} already", tensor.name, tensor.ty);
            let hint = "quantise the original file, or add --allow-requantize and lose more";
            return Err(report::with_hint(what, hint));
        }
        let uses_importance = changes && decision.ty.is_quantized();
        let weighted = match importance.filter(|_| uses_importance) {
            Some(importance) => is_weighted(args, importance, gguf, tensor)?,
            None => false,
        };
        steps.push(Step { tensor, decision, weighted });
    }
    Ok(steps)
}

/// An override that changes nothing is a mistake.
fn check_overrides(policy: &Policy, gguf: &Gguf) -> anyhow::Result<()> {
    for (pattern, _) in &policy.overrides {
        if !gguf.tensors().iter().any(|tensor| pattern.matches(&tensor.name)) {
            let what =
                format!("--tensor-type {}: no tensor of this model has such a name", pattern.0);
            return Err(report::with_hint(what, "`zinc inspect --tensors` lists them"));
        }
    }
    Ok(())
}

/// Whether the importance matrix has `tensor`; it should.
fn is_weighted(
    args: &Args,
    importance: &Importance,
    gguf: &Gguf,
    tensor: &TensorEntry,
) -> anyhow::Result<bool> {
    let found = importance.of(tensor)?.is_some();
    if !found && Importance::is_expected(gguf, tensor) {
        if !args.imatrix_incomplete {
            let what = format!("the importance matrix lacks tensor {:?}", tensor.name);
            let hint = "make it with this model, or add --imatrix-incomplete";
            return Err(report::with_hint(what, hint));
        }
        note(format!("{}: not in the importance matrix", printable(&tensor.name)));
    }
    Ok(found)
}

/// The new file's metadata, the old one's but for what tells how its tensors are stored, and tensors.
fn header(args: &Args, gguf: &Gguf, importance: Option<&Importance>, steps: &[Step]) -> Header {
    let mut new = vec![
        ("general.file_type", Value::U32(args.file_type.id())),
        ("general.quantization_version", Value::U32(QUANTIZATION_VERSION)),
    ];
    new.extend(importance.into_iter().flat_map(Importance::metadata));
    let mut header = Header::default();
    for (key, value) in gguf.metadata().iter() {
        if key.starts_with("split.") {
            continue;
        }
        let replaced = new.iter().position(|(new_key, _)| *new_key == key);
        let value = replaced.map_or_else(|| value.clone(), |at| new.remove(at).1);
        header.value(key, value);
    }
    for (key, value) in new {
        header.value(key, value);
    }
    for step in steps {
        header.tensor(&step.tensor.name, step.decision.ty, &step.tensor.dims);
    }
    header
}

/// Writes the file; breaks off, and leaves nothing behind, when Ctrl-C is pressed.
fn write(
    args: &Args,
    gguf: &Gguf,
    importance: Option<&Importance>,
    steps: &[Step],
    header: &Header,
    out: &Path,
) -> anyhow::Result<ControlFlow<()>> {
    let inputs = gguf.shards().iter().filter_map(|shard| shard.path.as_deref());
    let inputs: Vec<&Path> = inputs.chain(args.imatrix.as_deref()).collect();
    let file = NewFile::create(out, &inputs, header.file_bytes(), args.force)?;
    interrupt::install()?;
    let n_threads = args.threads.count();
    let total = steps.iter().map(|step| step.tensor.n_bytes).sum();
    let mut progress = Progress::new("quantising", Unit::Bytes);
    let mut stream = header.begin(file)?;
    let mut done = 0;
    for step in steps {
        let (tensor, ty, data) = (step.tensor, step.decision.ty, gguf.data(step.tensor));
        if step.changes() {
            let means =
                importance.filter(|_| step.weighted).map(|all| all.of(tensor)).transpose()?;
            let importance = means.flatten();
            let job = Job { tensor, data: &data, ty, importance: importance.as_deref(), n_threads };
            let flow = job.run(|bytes, n_read| {
                stream.tensor_bytes(bytes)?;
                progress.update(done + n_read, total);
                Ok(if interrupt::requested() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            })?;
            if flow.is_break() {
                return Ok(flow);
            }
        } else {
            stream.tensor_bytes(&data)?;
        }
        done += tensor.n_bytes;
        progress.update(done, total);
    }
    stream.finish()?.finish()?;
    Ok(ControlFlow::Continue(()))
}

fn tell_fallbacks(steps: &[Step]) {
    for step in steps {
        if let Some(wanted) = step.decision.instead_of {
            let (tensor, ty) = (step.tensor, step.decision.ty);
            let (name, n) = (printable(&tensor.name), tensor.dims[0]);
            let n_block = wanted.block_len();
            note(format!(
                "{name}: {ty} instead of {wanted}: rows of {n} are not whole blocks of {n_block}"
            ));
        }
    }
}

fn report(args: &Args, gguf: &Gguf, steps: &[Step], n_bytes_new: u64) -> Report {
    let tensors: Vec<_> = steps.iter().map(tensor_report).collect();
    let n_parameters = steps.iter().map(|step| step.tensor.n_elems()).sum();
    let n_bits = 8 * tensors.iter().map(|tensor| tensor.n_bytes_new).sum::<u64>();
    Report {
        model: args.model.name(),
        out: args.out.as_ref().map(|path| path.display().to_string()),
        file_type: args.file_type.name(),
        n_parameters,
        n_bytes: gguf.n_bytes(),
        n_bytes_new,
        bits_per_weight: n_bits as f64 / n_parameters.max(1) as f64,
        seconds: None,
        tensors,
    }
}

fn tensor_report(step: &Step) -> TensorReport {
    let (tensor, ty) = (step.tensor, step.decision.ty);
    let block_bytes = (ty.block_len() as u64, ty.block_bytes() as u64);
    TensorReport {
        name: tensor.name.clone(),
        dims: tensor.dims.clone(),
        ty: tensor.ty.name(),
        type_new: ty.name(),
        n_bytes: tensor.n_bytes,
        n_bytes_new: tensor.n_elems() / block_bytes.0 * block_bytes.1,
        imatrix: step.weighted,
        instead_of: step.decision.instead_of.map(GgmlType::name),
    }
}

fn people(report: &Report) -> String {
    let header =
        ["name", "dimensions", "type", "new", "imatrix", "size"].map(str::to_owned).to_vec();
    let row = |tensor: &TensorReport| {
        let dims: Vec<_> = tensor.dims.iter().map(u64::to_string).collect();
        let imatrix = if tensor.imatrix { "yes" } else { "" };
        vec![
            printable(&tensor.name),
            dims.join(" x "),
            tensor.ty.to_owned(),
            tensor.type_new.to_owned(),
            imatrix.to_owned(),
            human_bytes(tensor.n_bytes_new),
        ]
    };
    let rows: Vec<_> = std::iter::once(header).chain(report.tensors.iter().map(row)).collect();
    format!("{}\n{}\n", table(&rows), sizes(report))
}

fn sizes(report: &Report) -> String {
    format!(
        "{}: {} from {}, {:.2} bits per weight",
        report.file_type,
        human_bytes(report.n_bytes_new),
        human_bytes(report.n_bytes),
        report.bits_per_weight
    )
}

fn summary(report: &Report, out: &Path, seconds: f64) -> String {
    let rate = human_bytes((report.n_bytes as f64 / seconds.max(1e-3)) as u64);
    let name = printable(&out.display().to_string());
    format!("{name}: {}; {seconds:.1} s, {rate}/s", sizes(report))
}

fn parse_override(text: &str) -> Result<(Pattern, GgmlType), String> {
    let (name, ty) = text.rsplit_once('=').ok_or("expected NAME=TYPE, such as attn_v=q6_k")?;
    if name.is_empty() {
        return Err("expected NAME=TYPE, such as attn_v=q6_k".into());
    }
    Ok((Pattern(name.to_owned()), parse_tensor_type(ty)?))
}
