//! `zinc logits`: logits and hidden states of given tokens, for comparison with other engines.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use zinc_engine::{Evaluator, Model, Tapped, Taps, sampler};

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
    /// Also the logits of the multi-token-prediction head (refused so far)
    #[arg(long)]
    mtp: bool,
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
    if args.mtp {
        let config = model.config();
        let why = match config.n_mtp_layers {
            0 => "has no multi-token-prediction head",
            _ => "has a multi-token-prediction head, which this command does not run",
        };
        let what = format!("{}: architecture {} {why}", args.model.name(), config.arch);
        return Err(report::with_hint(what, "leave out --mtp"));
    }
    let n_greedy = args.greedy.unwrap_or(0);
    let n_ctx = n_positions(args.tokens.0.len(), n_greedy);
    let hint = match args.greedy {
        Some(_) => "give fewer tokens, or less to --greedy",
        None => "give fewer tokens",
    };
    model::check_context(&model, n_ctx, &asked(args), hint)?;
    let device = args.device.open()?;
    check_memory(&model, args, device.info().memory_free)?;
    let options = args.step.options(u32::try_from(n_ctx).ok());
    let (loaded, _) = model::load(Arc::clone(&model), device, &options)?;
    let hidden = if args.hidden { model.graph().hidden_tensors() } else { Vec::new() };
    let taps = Taps { all_logits: true, tensors: hidden };
    let mut evaluator = Evaluator::new(loaded, &options, &taps)?;
    let spinner = Spinner::new(format!("computing {} tokens", args.tokens.0.len()));
    let tapped = evaluator.eval(&args.tokens.0)?;
    check_finite(&tapped[0])?;
    let greedy = greedy(&mut evaluator, tapped[0].last_row(), n_greedy as usize)?;
    drop(spinner);
    let mut tensors: Vec<_> = tapped.into_iter().map(tensor).collect();
    if args.greedy.is_some() {
        let ids: Vec<i32> = greedy.into_iter().map(|id| id as i32).collect();
        tensors.push(Tensor {
            name: "greedy".into(),
            shape: vec![ids.len()],
            data: Data::I32(ids),
        });
    }
    safetensors::write(&args.out, &tensors)?;
    Ok(ExitCode::SUCCESS)
}

/// Tokens that are computed. Of the greedy ones, the last is only chosen.
fn n_positions(n_tokens: usize, n_greedy: u32) -> u64 {
    n_tokens as u64 + u64::from(n_greedy.saturating_sub(1))
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
    let mut ids = vec![sampler::greedy(last_row)?];
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
