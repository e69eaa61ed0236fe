//! `zinc imatrix`: how strongly a text drives each column of each weight matrix.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use zinc_engine::ActivationSums;
use zinc_gguf::Imatrix;

use crate::args::{DeviceArgs, ModelArgs, StepArgs};
use crate::new_file::NewFile;
use crate::progress::{Progress, Unit};
use crate::text_chunks::{TextChunks, default_n_ctx};
use crate::{model, report};

/// Flags of `imatrix`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text; - is stdin
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// File to write, in GGUF format
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    /// Tokens of each chunk that the text is cut into. Default: 512, less if the model was trained for
    /// less
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    ctx: Option<u32>,
    /// Use only this many chunks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    /// Also the matrix that gives the logits, which is computed for every token then
    #[arg(long)]
    process_output: bool,
    #[command(flatten)]
    step: StepArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the command.
///
/// # Errors
/// The text is too short, the model cannot be run, or the file cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let model = args.model.open()?;
    let n_ctx = args.ctx.unwrap_or_else(|| default_n_ctx(&model));
    let text = TextChunks::read(&args.file, &model, n_ctx, args.chunks)?;
    let inputs: Vec<&Path> =
        args.model.path()?.into_iter().chain([&args.file]).map(PathBuf::as_path).collect();
    let mut out = NewFile::create(&args.out, &inputs, 0, args.force)?;
    let options = args.step.options(Some(n_ctx));
    let (loaded, _) = model::load(Arc::clone(&model), args.device.open()?, &options)?;
    let mut sums = ActivationSums::new(loaded, &options, args.process_output)?;
    let mut progress = Progress::new("collecting", Unit::Chunks);
    for (idx, chunk) in text.iter().enumerate() {
        sums.add(&chunk).with_context(|| format!("chunk {idx}"))?;
        progress.update((idx + 1) as u64, text.len() as u64);
    }
    progress.finish();
    let imatrix = Imatrix {
        datasets: vec![args.file.display().to_string()],
        chunk_count: text.len() as u32,
        chunk_size: n_ctx,
        entries: sums.entries(),
    };
    let context = || format!("writing {}", args.out.display());
    imatrix.writer().write_to(&mut out).with_context(context)?;
    out.finish()?;
    warn_of_unseen(&imatrix);
    report::note(format!(
        "{}: {} matrices, {} chunks of {} tokens",
        args.out.display(),
        imatrix.entries.len(),
        text.len(),
        n_ctx
    ));
    Ok(ExitCode::SUCCESS)
}

/// Tells of experts that no token chose: nothing is known about what drives them.
fn warn_of_unseen(imatrix: &Imatrix) {
    let is_unseen = |count: &&f32| **count == 0.0;
    let partial = imatrix.entries.values().filter_map(|entry| {
        let n_unseen = entry.counts.iter().filter(is_unseen).count();
        (n_unseen > 0).then_some((n_unseen, entry.counts.len()))
    });
    let (mut n_entries, mut n_unseen, mut n_experts) = (0, 0, 0);
    for (unseen, all) in partial {
        n_entries += 1;
        n_unseen += unseen;
        n_experts += all;
    }
    if n_entries > 0 {
        report::note(format!(
            "warning: no token chose {n_unseen} of the {n_experts} experts in {n_entries} tensors; \
             a longer text reaches more"
        ));
    }
}
