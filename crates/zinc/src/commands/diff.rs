//! `zinc diff`: the first tensor that two devices, or two ways of cutting a text into steps, compute
//! differently.

mod choices;
mod comparison;
mod outcome;
mod rows;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::builder::NonEmptyStringValueParser;
use zinc_engine::{EngineOptions, Evaluator, LoadedModel, Model, Tapped, Taps};
use zinc_quant::GgmlType;

use self::comparison::{Comparison, Terms};
use self::outcome::{Outcome, Report};
use crate::args::{ModelArgs, ThreadArgs, parse_kv_type};
use crate::compare::tolerance;
use crate::progress::Spinner;
use crate::tokens::{TokenList, pseudo_random};
use crate::{backends, output, report};

/// Tokens computed when none are given: more than a cache page, and no multiple of anything.
const N_TOKENS: usize = 37;

/// Flags of `diff`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Device to check. Default: the fastest
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    device: Option<String>,
    /// Device that is right. Default: reference; with --against-chunk, the device to check
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    against: Option<String>,
    /// Token ids, such as 1,2,3. Default: 37 fixed pseudo-random ones
    #[arg(long, value_name = "IDS")]
    tokens: Option<TokenList>,
    /// Most tokens of a step on the device to check
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    chunk: u32,
    /// The same for the results to compare with: a device must give the same, however a text is cut.
    /// Default: as --chunk
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=65536))]
    against_chunk: Option<u32>,
    /// Compare from this layer on. Tokens that have other experts before it are left out
    #[arg(long, value_name = "blk.N", value_parser = parse_layer)]
    from: Option<u32>,
    /// Compare up to this layer
    #[arg(long, value_name = "blk.N", value_parser = parse_layer)]
    to: Option<u32>,
    /// Element type of the key/value cache: f32, f16, bf16, f8_e4m3, q8_0, q4_0
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = parse_kv_type)]
    kv: GgmlType,
    /// The same request gives the same tokens whatever else runs: refuse a device that does not compute
    /// so. The cpu and the reference device always do
    #[arg(long)]
    batch_invariant: bool,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// The model cannot be run on both devices.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let model = args.model.open()?;
    let tokens = match &args.tokens {
        Some(tokens) => tokens.0.clone(),
        None => {
            pseudo_random(N_TOKENS.min(model.config().n_ctx_train as usize), model.config().n_vocab)
        }
    };
    let what = format!("--tokens with {} ids", tokens.len());
    let n_tokens = tokens.len() as u64;
    crate::model::check_context(&model, n_tokens, &what, "give fewer tokens")?;
    let name = args.device.clone().map_or_else(|| fastest(args), Ok)?;
    let against = match (&args.against, args.against_chunk) {
        (Some(against), _) => against.as_str(),
        (None, Some(_)) => name.as_str(),
        (None, None) => zinc_reference::NAME,
    };
    let against_chunk = args.against_chunk.unwrap_or(args.chunk);
    let found = Side::open(args, &model, &name, args.chunk, tokens.len())?;
    let expected = match against == name {
        true => found.with_chunk(&name, against_chunk),
        false => Side::open(args, &model, against, against_chunk, tokens.len())?,
    };
    let outcome = difference(args, &model, &tokens, [&found, &expected])?;
    let report = Report {
        model: args.model.name(),
        device: found.title,
        against: expected.title,
        n_tokens: tokens.len(),
        outcome,
    };
    match args.json {
        true => output::json(&report)?,
        false => output::text(&report.people())?,
    }
    Ok(if report.agrees() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Computes on both sides and compares.
fn difference(
    args: &Args,
    model: &Model,
    tokens: &[u32],
    [found, expected]: [&Side; 2],
) -> anyhow::Result<Outcome> {
    let is_asked = |name: &String| in_range(name, args.from, args.to);
    let mut routers = Evaluator::routers(&found.loaded, &found.options)?;
    routers.retain(|router| in_range(&router.ids, None, args.to));
    let is_of_router = |name: &String| routers.iter().any(|r| [&r.scores, &r.ids].contains(&name));
    let mut names = common_tensors(found, expected)?;
    names.retain(|name| is_asked(name) || is_of_router(name));
    let asked: Vec<_> = names.iter().filter(|name| is_asked(name)).cloned().collect();
    if asked.is_empty() {
        return Err(report::with_hint(
            "no tensor lies between --from and --to",
            "layers count from blk.0",
        ));
    }
    let sides = [found.loaded.device().as_ref(), expected.loaded.device().as_ref()];
    let is_one_device = Arc::ptr_eq(&found.loaded, &expected.loaded);
    let is_invariant = is_one_device && sides[0].caps().batch_invariant;
    let is_alike = is_invariant || (is_one_device && found.options.chunk == expected.options.chunk);
    let terms = Terms {
        names: &names,
        in_range: &asked,
        routers: &routers,
        tolerance: tolerance(sides, model, args.kv, is_alike),
    };
    let mut comparison = Comparison::new(terms);
    let expected = expected.eval(&names, tokens)?;
    comparison.tapped(&found.eval(&names, tokens)?, &expected)?;
    // What is tapped is launched apart from what comes after it, so that real steps are not what was compared so far.
    if comparison.outcome.first.is_none() && args.to.is_none() {
        let logits = found.eval(&[], tokens)?;
        let tolerance = tolerance(sides, model, args.kv, is_invariant);
        let names =
            || routers.iter().flat_map(|r| [r.scores.clone(), r.ids.clone()]).collect::<Vec<_>>();
        comparison.untapped(&logits[0], &expected, tolerance, || found.eval(&names(), tokens))?;
    }
    Ok(comparison.outcome)
}

fn choice(args: &Args) -> backends::Choice {
    backends::Choice {
        threads: args.threads.threads,
        share: false,
        batch_invariant: args.batch_invariant,
    }
}

fn fastest(args: &Args) -> anyhow::Result<String> {
    let devices = backends::devices(choice(args));
    let first = devices.into_iter().next().context("this machine has no device")?;
    Ok(first.name)
}

/// One of the two computations.
struct Side {
    title: String,
    loaded: Arc<LoadedModel>,
    options: EngineOptions,
}

impl Side {
    /// Devices are taken as they are, without a self-test: a wrong one is what is looked for.
    fn open(
        args: &Args,
        model: &Arc<Model>,
        name: &str,
        chunk: u32,
        n_tokens: usize,
    ) -> anyhow::Result<Side> {
        let device = backends::open(name, choice(args))?;
        if args.batch_invariant {
            backends::check_invariant(device.as_ref())?;
        }
        let n_ctx = u32::try_from(n_tokens).unwrap_or(u32::MAX);
        let options = EngineOptions {
            n_ctx: Some(n_ctx),
            chunk,
            kv_type: args.kv,
            ..EngineOptions::default()
        };
        let (loaded, _) = crate::model::load(Arc::clone(model), device, &options)?;
        Ok(Side { title: title(name, chunk), loaded, options })
    }

    /// The same device with other steps.
    fn with_chunk(&self, name: &str, chunk: u32) -> Side {
        Side {
            title: title(name, chunk),
            loaded: Arc::clone(&self.loaded),
            options: EngineOptions { chunk, ..self.options },
        }
    }

    fn eval(&self, names: &[String], tokens: &[u32]) -> anyhow::Result<Vec<Tapped>> {
        let _spinner = Spinner::new(format!("computing on {}", self.title));
        let taps = Taps { all_logits: true, tensors: names.to_vec() };
        let mut evaluator = Evaluator::new(Arc::clone(&self.loaded), &self.options, &taps)?;
        Ok(evaluator.eval(tokens)?)
    }
}

fn title(name: &str, chunk: u32) -> String {
    format!("{name} (chunk {chunk})")
}

/// Tensors that both sides compute, in the order of the plan. Fusion may leave some out on one side.
fn common_tensors(found: &Side, expected: &Side) -> anyhow::Result<Vec<String>> {
    let names = |side: &Side| Evaluator::computed_tensors(&side.loaded, &side.options);
    let expected = names(expected)?;
    Ok(names(found)?.into_iter().filter(|name| expected.contains(name)).collect())
}

/// Whether a tensor lies in the layers asked for; what is before the first layer and after the last
/// counts where no bound is given.
fn in_range(name: &str, from: Option<u32>, to: Option<u32>) -> bool {
    let layer =
        name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    match layer {
        Some(layer) => from.is_none_or(|from| layer >= from) && to.is_none_or(|to| layer <= to),
        None if name == "embed" => from.is_none(),
        None => to.is_none(),
    }
}

fn parse_layer(text: &str) -> Result<u32, String> {
    let layer = text.strip_prefix("blk.").unwrap_or(text);
    layer.parse().map_err(|_| "expected a layer such as blk.7".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_layers() {
        let names = ["embed", "blk.0.attn_q", "blk.7.out", "blk.10.out", "final_norm", "logits"];
        let check = |from, to, expected: &[&str]| {
            let found: Vec<_> = names.into_iter().filter(|name| in_range(name, from, to)).collect();
            assert_eq!(found, expected);
        };
        check(None, None, &names);
        check(Some(7), None, &names[2..]);
        check(None, Some(7), &names[..3]);
        check(Some(1), Some(9), &names[2..3]);
    }
}
