//! `zinc diff`: the first tensor that two devices, or two ways of cutting a text into steps, compute
//! differently.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;
use zinc_backend::Device;
use zinc_engine::{EngineOptions, Evaluator, LoadedModel, Model, Tapped, Taps};
use zinc_quant::GgmlType;

use crate::args::{ModelArgs, ThreadArgs, parse_kv_type};
use crate::compare::{compare, tolerance};
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
    /// Compare from this layer on
    #[arg(long, value_name = "blk.N", value_parser = parse_layer)]
    from: Option<u32>,
    /// Compare up to this layer
    #[arg(long, value_name = "blk.N", value_parser = parse_layer)]
    to: Option<u32>,
    /// Element type of the key/value cache: f32, f16, bf16, f8_e4m3, q8_0, q4_0
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = parse_kv_type)]
    kv: GgmlType,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Everything the command prints.
#[derive(Serialize)]
struct Report {
    model: String,
    device: String,
    against: String,
    n_tokens: usize,
    n_compared: usize,
    /// Largest normalised squared error allowed.
    tolerance: f64,
    /// Largest found in the tensors compared.
    worst_nmse: f64,
    first: Option<Found>,
}

/// A tensor that differs, or is not finite.
#[derive(Serialize)]
struct Found {
    tensor: String,
    nmse: f64,
    max_abs: f32,
    /// Where the error is largest.
    row: usize,
    column: usize,
    value: f32,
    expected: f32,
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
    let names = common_tensors(args, &found, &expected)?;
    let tolerance = tolerance(found.device().as_ref(), expected.device().as_ref(), &model, args.kv);
    let (worst_nmse, first) = first_difference(
        &names,
        &found.eval(&names, &tokens)?,
        &expected.eval(&names, &tokens)?,
        tolerance,
    );
    let report = Report {
        model: args.model.name(),
        device: found.title,
        against: expected.title,
        n_tokens: tokens.len(),
        n_compared: names.len(),
        tolerance,
        worst_nmse,
        first,
    };
    match args.json {
        true => output::json(&report)?,
        false => output::text(&people(&report))?,
    }
    Ok(if report.first.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn choice(args: &Args) -> backends::Choice {
    backends::Choice { threads: args.threads.threads, ..Default::default() }
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

    fn device(&self) -> &Arc<dyn Device> {
        self.loaded.device()
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
fn common_tensors(args: &Args, found: &Side, expected: &Side) -> anyhow::Result<Vec<String>> {
    let names = |side: &Side| Evaluator::computed_tensors(&side.loaded, &side.options);
    let expected = names(expected)?;
    let wanted = |name: &String| expected.contains(name) && in_range(name, args.from, args.to);
    let names: Vec<_> = names(found)?.into_iter().filter(wanted).collect();
    if names.is_empty() {
        return Err(report::with_hint(
            "no tensor lies between --from and --to",
            "layers count from blk.0",
        ));
    }
    Ok(names)
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

fn first_difference(
    names: &[String],
    found: &[Tapped],
    expected: &[Tapped],
    tolerance: f64,
) -> (f64, Option<Found>) {
    let mut worst = 0.0_f64;
    for name in names {
        let find = |tapped: &[Tapped]| tapped.iter().position(|tensor| tensor.name == *name);
        let (Some(a), Some(b)) = (find(found), find(expected)) else {
            continue;
        };
        let (found, expected) = (&found[a], &expected[b]);
        let difference = compare(&expected.values, &found.values);
        worst = worst.max(difference.nmse);
        if difference.nmse > tolerance || expected.values.len() != found.values.len() {
            let at = difference.worst;
            let first = Found {
                tensor: name.clone(),
                nmse: difference.nmse,
                max_abs: difference.max_abs,
                row: at / expected.n_cols,
                column: at % expected.n_cols,
                value: found.values[at],
                expected: expected.values[at],
            };
            return (worst, Some(first));
        }
    }
    (worst, None)
}

fn people(report: &Report) -> String {
    let Report { device, against, n_tokens, n_compared, tolerance, worst_nmse, .. } = report;
    let Some(first) = &report.first else {
        return format!(
            "no tensor differs: {device} and {against} agree on {n_compared} tensors of {n_tokens} tokens \
             (largest normalised error {worst_nmse:.1e}, allowed {tolerance:.0e})\n"
        );
    };
    let Found { tensor, nmse, max_abs, row, column, value, expected } = first;
    if !(value.is_finite() && expected.is_finite()) {
        return format!(
            "{tensor} is not finite at row {row}, column {column}: {device} {value}, {against} {expected}\n"
        );
    }
    format!(
        "{tensor} differs: normalised error {nmse:.1e}, allowed {tolerance:.0e}; largest {max_abs:.3e}\n\
         at row {row}, column {column}: {device} {value}, {against} {expected}\n"
    )
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

    #[test]
    fn the_first_tensor_in_the_order_of_the_plan_is_named() {
        let tapped = |name: &str, values: [f32; 4]| Tapped {
            name: name.into(),
            n_cols: 2,
            values: values.to_vec(),
        };
        let expected =
            ["logits", "embed", "blk.0.out"].map(|name| tapped(name, [1.0, 2.0, 3.0, 4.0]));
        let mut found = expected.clone();
        let names = ["embed", "blk.0.out", "logits"].map(String::from);
        assert!(first_difference(&names, &found, &expected, 1e-9).1.is_none());
        found[0].values[0] = 9.0;
        found[2].values[3] = f32::NAN;
        let (_, first) = first_difference(&names, &found, &expected, 1e-9);
        let first = first.unwrap();
        assert_eq!(
            (first.tensor.as_str(), first.row, first.column, first.expected),
            ("blk.0.out", 1, 1, 4.0)
        );
        assert!(first.value.is_nan() && first.nmse.is_infinite());
    }
}
