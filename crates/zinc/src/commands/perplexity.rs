//! `zinc perplexity`: how well a model predicts a text, and how far it is from another one.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use serde::Serialize;
use zinc_engine::{EngineOptions, Evaluator, Model, StepRows, Taps};

use crate::args::{DeviceArgs, ModelArgs, StepArgs};
use crate::progress::{Progress, Unit};
use crate::saved_logits::{self, Layout};
use crate::scores::{self, Comparison, Mean, in_parallel, percentile};
use crate::text_chunks::{TextChunks, default_n_ctx};
use crate::{model, output, report};

/// Flags of `perplexity`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("text").required(true).multiple(true).args(["file", "kl_base"])))]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text; - is stdin
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Tokens of each chunk that the text is cut into; the second half of each is scored.
    /// Default: 512, less if the model was trained for less; or what the base was saved with
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(3..))]
    ctx: Option<u32>,
    /// Score only this many chunks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    /// Also save the model's log-probabilities to this file, as a base for --kl-base (2 bytes for each
    /// entry of the vocabulary and each scored token; llama-perplexity can read it)
    #[arg(long, value_name = "FILE", conflicts_with = "kl_base")]
    save_logits: Option<PathBuf>,
    /// Replace the file of saved log-probabilities if it is there
    #[arg(long, requires = "save_logits")]
    force: bool,
    /// Compare with the base model whose log-probabilities this file holds: Kullback-Leibler
    /// divergence and more. The text comes from it
    #[arg(long, value_name = "FILE")]
    kl_base: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    step: StepArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Everything the command prints.
#[derive(Serialize)]
struct Report {
    model: String,
    device: String,
    kv_type: &'static str,
    n_ctx: usize,
    n_chunks: usize,
    /// Tokens that were predicted.
    n_scored: u64,
    perplexity: f64,
    perplexity_error: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<BaseReport>,
}

/// Comparison with the base; divergences in nats.
#[derive(Serialize)]
struct BaseReport {
    file: String,
    perplexity: f64,
    perplexity_error: f64,
    /// This model's perplexity over the base's.
    perplexity_ratio: f64,
    perplexity_ratio_error: f64,
    kl_mean: f64,
    kl_mean_error: f64,
    kl_median: f64,
    kl_99: f64,
    kl_max: f64,
    /// Share of rows where both hold the same token for the most probable one.
    same_top: f64,
    same_top_error: f64,
    /// Root mean square of the differences in the probability of the next token.
    p_difference_rms: f64,
    p_difference_rms_error: f64,
    p_difference_mean: f64,
    p_difference_mean_error: f64,
}

/// Runs the command.
///
/// # Errors
/// The text or the base cannot be used with the model, or the model cannot be run.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let model = args.model.open()?;
    let mut task = Task::new(args, &model)?;
    let text = text(args, &model, &task)?;
    let n_vocab = model.config().n_vocab;
    let layout = Layout { n_ctx: text.n_ctx() as u32, n_vocab, n_chunks: text.len() as u32 };
    if let (Task::Score { save, .. }, Some(path)) = (&mut task, &args.save_logits) {
        let inputs: Vec<&Path> =
            args.model.path()?.into_iter().chain(&args.file).map(PathBuf::as_path).collect();
        let (tokens, force) = (text.tokens(), args.force);
        *save = Some(saved_logits::Writer::create(path, layout, tokens, &inputs, force)?);
    }
    let device = args.device.open()?;
    let options = args.step.options(Some(layout.n_ctx));
    let taps = Taps { all_logits: true, tensors: Vec::new() };
    let (loaded, _) = model::load(Arc::clone(&model), device, &options)?;
    let name = loaded.device().info().name.clone();
    let mut evaluator = Evaluator::new(loaded, &options, &taps)?;
    let n_threads = args.device.threads.count().get();
    let mut run = Run { task, n_vocab: n_vocab as usize, n_threads, nll: Mean::default() };
    let mut progress = Progress::new("scoring", Unit::Chunks);
    for (idx, chunk) in text.iter().enumerate() {
        evaluator.reset();
        run.chunk(&mut evaluator, &chunk).with_context(|| format!("chunk {idx}"))?;
        let estimate = run.estimate();
        progress.report((idx + 1) as u64, text.len() as u64, &estimate);
    }
    progress.finish();
    let report = run.report(args, &text, &options, name)?;
    match args.json {
        true => output::json(&report)?,
        false => output::text(&people(&report))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What is done with each row.
enum Task {
    /// Scored, and perhaps saved.
    Score { save: Option<saved_logits::Writer> },
    /// Compared with the base's.
    Compare { base: Box<saved_logits::Reader>, against: Against },
}

/// Sums over compared rows.
#[derive(Default)]
struct Against {
    nll_base: Mean,
    /// Differences of the logarithms, row by row: their mean is the logarithm of the ratio.
    nll_difference: Mean,
    kl: Mean,
    kl_values: Vec<f64>,
    p_difference: Mean,
    p_difference_squared: Mean,
    n_same_top: u64,
}

impl Task {
    /// Opens the base, if there is one, and checks that it is of this model's vocabulary.
    fn new(args: &Args, model: &Model) -> anyhow::Result<Task> {
        let Some(path) = &args.kl_base else {
            return Ok(Task::Score { save: None });
        };
        let base = saved_logits::Reader::open(path)?;
        let path = path.display();
        let (layout, n_vocab) = (base.layout(), model.config().n_vocab);
        if layout.n_vocab != n_vocab {
            let what = format!(
                "{path}: the base has a vocabulary of {} tokens, the model one of {n_vocab}",
                layout.n_vocab
            );
            return Err(report::with_hint(what, "compare models of the same vocabulary"));
        }
        if let Some(id) = base.tokens().iter().find(|id| **id >= n_vocab) {
            anyhow::bail!("{path}: token id {id} is outside the vocabulary of {n_vocab}");
        }
        match args.ctx.filter(|n_ctx| *n_ctx != layout.n_ctx) {
            None => Ok(Task::Compare { base: Box::new(base), against: Against::default() }),
            Some(n_ctx) => {
                let what = format!(
                    "--ctx is {n_ctx}; {path} was saved with chunks of {} tokens",
                    layout.n_ctx
                );
                Err(report::with_hint(what, "leave out --ctx"))
            }
        }
    }
}

/// The chunks to score: of the base, or of the text. If both are given, they must agree.
fn text(args: &Args, model: &Model, task: &Task) -> anyhow::Result<TextChunks> {
    let Task::Compare { base, .. } = task else {
        let path = args.file.as_deref().unwrap_or("-".as_ref());
        return TextChunks::read(
            path,
            model,
            args.ctx.unwrap_or_else(|| default_n_ctx(model)),
            args.chunks,
        );
    };
    let Layout { n_ctx, n_chunks, .. } = base.layout();
    let n_chunks = args.chunks.map_or(n_chunks, |most| n_chunks.min(most));
    let tokens = &base.tokens()[..n_ctx as usize * n_chunks as usize];
    if let Some(path) = &args.file {
        let text = TextChunks::read(path, model, n_ctx, Some(n_chunks))?;
        let differs = |at: &usize| text.tokens().get(*at) != tokens.get(*at);
        if let Some(at) = (0..tokens.len()).find(differs) {
            let what = format!(
                "{}: token {at} of the text is not the one that the base was computed on",
                path.display()
            );
            return Err(report::with_hint(what, "leave out --file to use the base's text"));
        }
    }
    TextChunks::of_tokens(tokens.to_vec(), model, n_ctx)
}

/// A run over all chunks.
struct Run {
    task: Task,
    n_vocab: usize,
    n_threads: usize,
    nll: Mean,
}

impl Run {
    /// Computes a chunk and takes its rows as they come.
    fn chunk(&mut self, evaluator: &mut Evaluator, chunk: &[u32]) -> anyhow::Result<()> {
        let first = Layout::first_row(chunk.len());
        // The last token has no successor to predict.
        let (_, tokens) = chunk.split_last().context("a chunk is empty")?;
        evaluator.eval_steps(tokens, first, |StepRows { with_logits, values, .. }| {
            self.rows(&values[0], &chunk[next_tokens(&with_logits)], with_logits.start)
        })
    }

    /// Takes rows of logits with the tokens that follow them; `first` is the first row's position.
    fn rows(&mut self, logits: &[f32], next: &[u32], first: usize) -> anyhow::Result<()> {
        let (n_vocab, n_threads) = (self.n_vocab, self.n_threads);
        let row = |idx: usize| &logits[idx * n_vocab..][..n_vocab];
        match &mut self.task {
            Task::Score { save: None } => {
                let nll = |idx| scores::nll(row(idx), next[idx]);
                let nll = in_parallel(next.len(), n_threads, nll)?;
                self.add(nll.into_iter(), first)
            }
            Task::Score { save: Some(file) } => {
                let score = |idx| {
                    let logits = row(idx);
                    (scores::nll(logits, next[idx]), saved_logits::encode_row(logits))
                };
                let scores = in_parallel(next.len(), n_threads, score)?;
                scores.iter().try_for_each(|(nll, row)| file.row(row, *nll))?;
                self.add(scores.iter().map(|(nll, _)| *nll), first)
            }
            Task::Compare { base, against } => {
                let base = base.rows(next.len())?;
                let compare = |idx| scores::compare(row(idx), base[idx], next[idx]);
                let compared = in_parallel(next.len(), n_threads, compare)?;
                compared.iter().for_each(|comparison| against.add(comparison));
                self.add(compared.iter().map(|comparison| comparison.nll), first)
            }
        }
    }

    fn add(&mut self, nll: impl Iterator<Item = f64>, first: usize) -> anyhow::Result<()> {
        for (position, nll) in (first..).zip(nll) {
            if !nll.is_finite() {
                let what = format!("the logits of token {position} are not finite");
                let hint = "`zinc diff` finds the first tensor that is wrong";
                return Err(report::with_hint(what, hint));
            }
            self.nll.add(nll);
        }
        Ok(())
    }

    /// The running estimate.
    fn estimate(&self) -> String {
        let perplexity = format!("perplexity {:.4}", self.nll.mean().exp());
        match &self.task {
            Task::Score { .. } => perplexity,
            Task::Compare { against, .. } => {
                format!("{perplexity}, KL divergence {:.6}", against.kl.mean())
            }
        }
    }

    fn report(
        self,
        args: &Args,
        text: &TextChunks,
        options: &EngineOptions,
        device: String,
    ) -> anyhow::Result<Report> {
        let (perplexity, perplexity_error) = exp(&self.nll);
        let base = match self.task {
            Task::Score { save } => {
                save.map_or(Ok(()), saved_logits::Writer::finish)?;
                None
            }
            Task::Compare { against, .. } => {
                let path = args.kl_base.as_ref().map(|path| path.display().to_string());
                Some(against.report(path.unwrap_or_default()))
            }
        };
        Ok(Report {
            model: args.model.name(),
            device,
            kv_type: options.kv_type.name(),
            n_ctx: text.n_ctx(),
            n_chunks: text.len(),
            n_scored: self.nll.n(),
            perplexity,
            perplexity_error,
            base,
        })
    }
}

/// The tokens that rows predict.
fn next_tokens(rows: &Range<usize>) -> Range<usize> {
    rows.start + 1..rows.end + 1
}

/// The exponential of a mean with its error.
fn exp(mean: &Mean) -> (f64, f64) {
    let value = mean.mean().exp();
    (value, value * mean.error())
}

impl Against {
    fn add(&mut self, comparison: &Comparison) {
        let difference = comparison.p_difference();
        self.nll_base.add(comparison.nll_base);
        self.nll_difference.add(comparison.nll - comparison.nll_base);
        self.kl.add(comparison.kl);
        self.kl_values.push(comparison.kl);
        self.p_difference.add(difference);
        self.p_difference_squared.add(difference * difference);
        self.n_same_top += u64::from(comparison.same_top);
    }

    fn report(mut self, file: String) -> BaseReport {
        self.kl_values.sort_unstable_by(f64::total_cmp);
        let kl = |fraction| percentile(&self.kl_values, fraction);
        let (perplexity, perplexity_error) = exp(&self.nll_base);
        let (perplexity_ratio, perplexity_ratio_error) = exp(&self.nll_difference);
        let n = self.kl.n().max(1) as f64;
        let same_top = self.n_same_top as f64 / n;
        let rms = self.p_difference_squared.mean().sqrt();
        let rms_error = match rms > 0.0 {
            true => 0.5 / rms * self.p_difference_squared.error(),
            false => 0.0,
        };
        BaseReport {
            file,
            perplexity,
            perplexity_error,
            perplexity_ratio,
            perplexity_ratio_error,
            kl_mean: self.kl.mean(),
            kl_mean_error: self.kl.error(),
            kl_median: kl(0.5),
            kl_99: kl(0.99),
            kl_max: kl(1.0),
            same_top,
            same_top_error: (same_top * (1.0 - same_top) / (n - 1.0).max(1.0)).sqrt(),
            p_difference_rms: rms,
            p_difference_rms_error: rms_error,
            p_difference_mean: self.p_difference.mean(),
            p_difference_mean_error: self.p_difference.error(),
        }
    }
}

fn people(report: &Report) -> String {
    let with_error = |value: f64, error: f64| format!("{value:.4} +- {error:.5}");
    let text =
        format!("{} tokens in {} chunks of {}", report.n_scored, report.n_chunks, report.n_ctx);
    let mut rows = vec![
        ("perplexity", with_error(report.perplexity, report.perplexity_error)),
        ("scored", text),
    ];
    if let Some(base) = &report.base {
        let precise = |value: f64, error: f64| format!("{value:.6} +- {error:.6}");
        let percent =
            |value: f64, error: f64| format!("{:.3} % +- {:.3} %", 100.0 * value, 100.0 * error);
        rows.extend([
            ("perplexity of the base", with_error(base.perplexity, base.perplexity_error)),
            ("ratio", precise(base.perplexity_ratio, base.perplexity_ratio_error)),
            ("KL divergence, mean", precise(base.kl_mean, base.kl_mean_error)),
            ("KL divergence, median", format!("{:.6}", base.kl_median)),
            ("KL divergence, 99 %", format!("{:.6}", base.kl_99)),
            ("KL divergence, largest", format!("{:.6}", base.kl_max)),
            ("same most probable token", percent(base.same_top, base.same_top_error)),
            ("RMS of Δp", percent(base.p_difference_rms, base.p_difference_rms_error)),
            ("mean Δp", percent(base.p_difference_mean, base.p_difference_mean_error)),
        ]);
    }
    output::fields(&rows)
}
