//! `zinc logits`: logits and hidden states of given tokens, for comparison with other engines.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use zinc_engine::mtp::HIDDEN_TENSOR;
use zinc_engine::{
    Draft, EngineOptions, Evaluator, LoadedModel, Model, MtpHead, MtpRows, Speculation, Tapped,
    Taps, sampler,
};

use crate::args::{DeviceArgs, ModelArgs, StepArgs};
use crate::output::human_bytes;
use crate::progress::Spinner;
use crate::safetensors::{self, Data, Tensor};
use crate::tokens::TokenList;
use crate::{model, report};

/// Flags of `logits`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Token ids, such as 1,2,3
    #[arg(long, value_name = "IDS")]
    tokens: TokenList,
    /// Also the N most probable tokens that follow, one after another; stop tokens do not end them
    #[arg(long, value_name = "N")]
    greedy: Option<u32>,
    /// Also the hidden states: before the first layer, after each layer, after the final norm
    #[arg(long)]
    hidden: bool,
    /// Also the rows of the multi-token-prediction head, as mtp_logits and mtp_hidden; with --greedy
    /// also what it drafts after the first of those tokens, as mtp_chain_tokens and mtp_chain_logits
    #[arg(long)]
    mtp: bool,
    /// Tokens that the head drafts
    #[arg(long, value_name = "N", default_value_t = 4, requires_all = ["mtp", "greedy"])]
    mtp_drafts: u32,
    #[command(flatten)]
    step: StepArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// File to write, in safetensors format
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// The model cannot be run, a token is not in its vocabulary, or the file cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let model = args.model.open()?;
    if args.mtp && model.config().n_mtp_layers == 0 {
        let arch = &model.config().arch;
        let name = args.model.name();
        let what =
            format!("{name}: architecture {arch} has no multi-token-prediction head in this file");
        return Err(report::with_hint(what, "leave out --mtp"));
    }
    let n_ctx = n_positions(args);
    let hint = match args.greedy {
        Some(_) => "give fewer tokens, or less to --greedy",
        None => "give fewer tokens",
    };
    model::check_context(&model, n_ctx, &asked(args), hint)?;
    let device = args.device.open()?;
    check_memory(&model, args, device.info().memory_free)?;
    let options = args.step.options(u32::try_from(n_ctx).ok());
    let speculation = if args.mtp { Speculation::Mtp } else { Speculation::Off };
    let options = EngineOptions { speculation, ..options };
    let (loaded, _) = model::load(Arc::clone(&model), device, &options)?;
    let spinner = Spinner::new(format!("computing {} tokens", args.tokens.0.len()));
    let tensors = compute(args, &loaded, &options)?;
    drop(spinner);
    safetensors::write(&args.out, &tensors)?;
    Ok(ExitCode::SUCCESS)
}

/// Everything that goes to the file.
fn compute(
    args: &Args,
    loaded: &Arc<LoadedModel>,
    options: &EngineOptions,
) -> anyhow::Result<Vec<Tensor>> {
    let graph = loaded.model().graph();
    let mut taps = if args.hidden { graph.hidden_tensors() } else { Vec::new() };
    if args.mtp && !args.hidden {
        taps.push(HIDDEN_TENSOR.into());
    }
    let taps = Taps { all_logits: true, tensors: taps };
    let mut evaluator = Evaluator::new(Arc::clone(loaded), options, &taps)?;
    let mut tapped = evaluator.eval(&args.tokens.0)?;
    check_finite(&tapped[0])?;
    let n_greedy = args.greedy.unwrap_or(0) as usize;
    let greedy = greedy(&mut evaluator, tapped[0].last_row(), n_greedy)?;
    let mut mtp = Vec::new();
    if args.mtp {
        let hidden = tapped.iter().find(|tensor| tensor.name == HIDDEN_TENSOR);
        if let Some(hidden) = hidden {
            let drafts = greedy.first().map(|token| (*token, args.mtp_drafts as usize));
            mtp = mtp_tensors(loaded, options, &args.tokens.0, hidden, drafts)?;
        }
        if !args.hidden {
            tapped.retain(|tensor| tensor.name != HIDDEN_TENSOR);
        }
    }
    let mut tensors: Vec<_> = tapped.into_iter().map(tensor).collect();
    if args.greedy.is_some() {
        tensors.push(ids("greedy", greedy));
    }
    tensors.extend(mtp);
    Ok(tensors)
}

/// The head's rows of all tokens but the first, and what it drafts after `drafts.0`.
fn mtp_tensors(
    loaded: &Arc<LoadedModel>,
    options: &EngineOptions,
    tokens: &[u32],
    hidden: &Tapped,
    drafts: Option<(u32, usize)>,
) -> anyhow::Result<Vec<Tensor>> {
    let mut head = MtpHead::new(Arc::clone(loaded), options)?;
    let (before_last, last) = hidden.values.split_at(hidden.values.len() - hidden.n_cols);
    let rows = match tokens {
        [] | [_] => MtpRows::default(),
        [_, rest @ ..] => head.eval(rest, before_last)?,
    };
    let n_vocab = loaded.model().config().n_vocab as usize;
    let matrix = |name: &str, n_cols: usize, values: Vec<f32>| {
        let shape = vec![values.len() / n_cols, n_cols];
        Tensor { name: name.into(), shape, data: Data::F32(values) }
    };
    let mut tensors = vec![
        matrix("mtp_logits", n_vocab, rows.logits),
        matrix("mtp_hidden", hidden.n_cols, rows.hidden),
    ];
    if let Some((token, n)) = drafts {
        let Draft { tokens, rows } = head.draft(token, last, n)?;
        tensors.push(ids("mtp_chain_tokens", tokens));
        tensors.push(matrix("mtp_chain_logits", n_vocab, rows.logits));
    }
    Ok(tensors)
}

/// Tokens that are computed. Of the greedy ones, the last is only chosen; so it is with drafts,
/// which begin after the first greedy one.
fn n_positions(args: &Args) -> u64 {
    let n_greedy = args.greedy.unwrap_or(0);
    let n_drafts = if args.mtp && n_greedy > 0 { args.mtp_drafts } else { 0 };
    args.tokens.0.len() as u64 + u64::from(n_greedy.saturating_sub(1).max(n_drafts))
}

fn ids(name: &str, ids: Vec<u32>) -> Tensor {
    let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
    Tensor { name: name.into(), shape: vec![ids.len()], data: Data::I32(ids) }
}

/// The flags that decide the length of the context, as typed.
fn asked(args: &Args) -> String {
    let n_tokens = args.tokens.0.len();
    match args.greedy {
        Some(n_greedy) => format!("--tokens with {n_tokens} ids and --greedy {n_greedy}"),
        None => format!("--tokens with {n_tokens} ids"),
    }
}

/// Names the first row of logits that holds NaN or an infinity: a broken model, not a result.
fn check_finite(logits: &Tapped) -> anyhow::Result<()> {
    let Some(at) = logits.values.iter().position(|value| !value.is_finite()) else {
        return Ok(());
    };
    let (row, id, value) = (at / logits.n_cols, at % logits.n_cols, logits.values[at]);
    let what = format!("row {row} of the logits is not finite: token {id} has {value}");
    Err(report::with_hint(what, "`zinc diff` finds the first tensor that is wrong"))
}

/// The `n` most probable tokens that follow a last row of logits, one after another.
fn greedy(evaluator: &mut Evaluator, last_row: &[f32], n: usize) -> anyhow::Result<Vec<u32>> {
    if n == 0 {
        return Ok(Vec::new());
    }
    let mut ids = vec![sampler::greedy(sampler::Logits::All(last_row))?];
    if n > 1 {
        ids.extend(evaluator.greedy(&[ids[0]], n - 1)?.1);
    }
    Ok(ids)
}

/// The logits of all tokens are held in memory at once.
fn check_memory(model: &Model, args: &Args, n_free: u64) -> anyhow::Result<()> {
    let n_bytes = 4 * u64::from(model.config().n_vocab) * args.tokens.0.len() as u64;
    if n_free > 0 && n_bytes > n_free {
        let what = format!(
            "the logits of {} tokens take {}, {} are free",
            args.tokens.0.len(),
            human_bytes(n_bytes),
            human_bytes(n_free)
        );
        return Err(report::with_hint(what, "give fewer tokens"));
    }
    Ok(())
}

fn tensor(tapped: Tapped) -> Tensor {
    let shape = vec![tapped.n_rows(), tapped.n_cols];
    Tensor { name: public_name(&tapped.name), shape, data: Data::F32(tapped.values) }
}

/// The plan's name of a tensor as the file spells it: `blk.3.out` is `hidden.3`.
fn public_name(name: &str) -> String {
    match name.strip_prefix("blk.").and_then(|rest| rest.strip_suffix(".out")) {
        Some(layer) => format!("hidden.{layer}"),
        None if name == "logits" => name.to_owned(),
        None => format!("hidden.{name}"),
    }
}
