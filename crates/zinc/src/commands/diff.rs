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
use crate::compare::{NMSE_EXACT, compare, tolerance};
use crate::progress::Spinner;
use crate::tokens::{TokenList, pseudo_random};
use crate::{backends, output, report};

/// Tokens computed when none are given: more than a cache page, and no multiple of anything.
const N_TOKENS: usize = 37;

/// By how much more tensors may differ when some tokens had other experts: as the golden data allows ten times the
/// divergence where a router chooses.
const PARTED: f64 = 10.0;

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
    #[serde(flatten)]
    outcome: Outcome,
}

/// What comparing the tensors gave.
#[derive(Default, Serialize)]
struct Outcome {
    /// Largest normalised squared error allowed, of the last tensor compared.
    tolerance: f64,
    /// Largest normalised squared error found in the tensors compared.
    worst_nmse: f64,
    first: Option<Found>,
    /// Tokens for which the devices chose other experts, though the choices weigh the same within the tolerance. What is
    /// computed of them after that is not compared.
    n_parted: usize,
    /// The first such choice.
    parted_at: Option<String>,
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
    let outcome = first_difference(
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
        outcome,
    };
    match args.json {
        true => output::json(&report)?,
        false => output::text(&people(&report))?,
    }
    Ok(if report.outcome.first.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
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

/// Compares in the order of the plan up to the first tensor that differs.
///
/// Where devices may differ by more than rounding, a router's nearly equal experts change places now and then. That shows in
/// its ids, not in its weights, which are in order of size; a router that is wrong shows in both.
fn first_difference(
    names: &[String],
    found: &[Tapped],
    expected: &[Tapped],
    tolerance: f64,
) -> Outcome {
    let mut outcome = Outcome { tolerance, ..Outcome::default() };
    let (mut rows, mut pending) = (Rows::default(), Vec::new());
    for name in names {
        let find = |tapped: &[Tapped]| tapped.iter().position(|tensor| tensor.name == *name);
        let (Some(a), Some(b)) = (find(found), find(expected)) else {
            continue;
        };
        let (found, expected) = (&found[a], &expected[b]);
        if expected.is_ids && tolerance > NMSE_EXACT && found.values.len() == expected.values.len()
        {
            pending = rows.other_choices(expected, found);
            if !pending.is_empty() {
                outcome.parted_at.get_or_insert_with(|| name.clone());
            }
            continue;
        }
        let difference = compare(&rows.of(expected), &rows.of(found));
        outcome.worst_nmse = outcome.worst_nmse.max(difference.nmse);
        if difference.nmse > outcome.tolerance || expected.values.len() != found.values.len() {
            let at = rows.place(difference.worst, expected.n_cols);
            outcome.first = Some(Found {
                tensor: name.clone(),
                nmse: difference.nmse,
                max_abs: difference.max_abs,
                row: at / expected.n_cols,
                column: at % expected.n_cols,
                value: found.values[at],
                expected: expected.values[at],
            });
            break;
        }
        // The weights of the choice agreed. Later tokens see the others' keys, values and states.
        if !pending.is_empty() {
            outcome.tolerance = tolerance * PARTED;
        }
        rows.parted.append(&mut pending);
    }
    outcome.n_parted = rows.parted.len();
    outcome
}

/// Rows that are still compared.
#[derive(Default)]
struct Rows {
    parted: Vec<usize>,
}

impl Rows {
    fn kept<'a>(&'a self, tensor: &Tapped) -> impl Iterator<Item = usize> + 'a {
        (0..tensor.n_rows()).filter(|row| !self.parted.contains(row))
    }

    /// The values of a tensor's rows.
    fn of(&self, tensor: &Tapped) -> Vec<f32> {
        self.kept(tensor).flat_map(|row| row_of(tensor, row)).copied().collect()
    }

    /// Where in the tensor the value at `at` of [`Rows::of`] is.
    fn place(&self, at: usize, n_cols: usize) -> usize {
        let mut row = at / n_cols;
        let mut parted = self.parted.clone();
        parted.sort_unstable();
        for earlier in parted {
            row += usize::from(earlier <= row);
        }
        row * n_cols + at % n_cols
    }

    /// Rows in which two tensors differ.
    fn other_choices(&self, a: &Tapped, b: &Tapped) -> Vec<usize> {
        self.kept(a).filter(|row| row_of(a, *row) != row_of(b, *row)).collect()
    }
}

fn row_of(tensor: &Tapped, row: usize) -> &[f32] {
    &tensor.values[row * tensor.n_cols..][..tensor.n_cols]
}

fn people(report: &Report) -> String {
    let Report { device, against, n_tokens, n_compared, outcome, .. } = report;
    let tolerance = outcome.tolerance;
    let parted = match &outcome.parted_at {
        Some(name) => format!(
            "{} of {n_tokens} tokens have other experts of nearly the same weight, first in {name}; from there on they \
             are not compared\n",
            outcome.n_parted
        ),
        None => String::new(),
    };
    let Some(first) = &outcome.first else {
        let worst = outcome.worst_nmse;
        return format!(
            "no tensor differs: {device} and {against} agree on {n_compared} tensors of {n_tokens} tokens \
             (largest normalised error {worst:.1e}, allowed {tolerance:.0e})\n{parted}"
        );
    };
    let Found { tensor, nmse, max_abs, row, column, value, expected } = first;
    if !(value.is_finite() && expected.is_finite()) {
        return format!(
            "{tensor} is not finite at row {row}, column {column}: {device} {value}, {against} {expected}\n{parted}"
        );
    }
    format!(
        "{tensor} differs: normalised error {nmse:.1e}, allowed {tolerance:.0e}; largest {max_abs:.3e}\n\
         at row {row}, column {column}: {device} {value}, {against} {expected}\n{parted}"
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
            is_ids: false,
            values: values.to_vec(),
        };
        let expected =
            ["logits", "embed", "blk.0.out"].map(|name| tapped(name, [1.0, 2.0, 3.0, 4.0]));
        let mut found = expected.clone();
        let names = ["embed", "blk.0.out", "logits"].map(String::from);
        assert!(first_difference(&names, &found, &expected, 1e-9).first.is_none());
        found[0].values[0] = 9.0;
        found[2].values[3] = f32::NAN;
        let first = first_difference(&names, &found, &expected, 1e-9).first.unwrap();
        assert_eq!(
            (first.tensor.as_str(), first.row, first.column, first.expected),
            ("blk.0.out", 1, 1, 4.0)
        );
        assert!(first.value.is_nan() && first.nmse.is_infinite());
    }

    #[test]
    fn tokens_with_other_experts_part() {
        let tapped = |name: &str, is_ids, values: &[f32]| Tapped {
            name: name.into(),
            n_cols: 2,
            is_ids,
            values: values.to_vec(),
        };
        let expected = [
            tapped("moe.ids", true, &[3.0, 1.0, 0.0, 2.0, 1.0, 2.0]),
            tapped("moe.weights", false, &[0.51, 0.49, 0.7, 0.3, 0.6, 0.4]),
            tapped("moe.act", false, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        ];
        let names = expected.clone().map(|tensor| tensor.name);
        let mut found = expected.clone();
        found[0].values[..2].copy_from_slice(&[1.0, 3.0]);
        found[2].values[..2].copy_from_slice(&[2.0, 1.0]);
        let outcome = first_difference(&names, &found, &expected, 5e-3);
        assert!(outcome.first.is_none() && outcome.n_parted == 1);
        assert_eq!(outcome.parted_at.as_deref(), Some("moe.ids"));
        // The other rows are compared still, and are named as they are numbered.
        found[2].values[5] = 9.0;
        let first = first_difference(&names, &found, &expected, 5e-3).first.unwrap();
        assert_eq!((first.tensor.as_str(), first.row, first.column), ("moe.act", 2, 1));
        // Experts that weigh something else are wrong, and devices that round alike choose alike.
        found[1].values[0] = 0.9;
        let first = first_difference(&names, &found, &expected, 5e-3).first.unwrap();
        assert_eq!((first.tensor.as_str(), first.row, first.column), ("moe.weights", 0, 0));
        let first = first_difference(&names, &found, &expected, 1e-9).first.unwrap();
        assert_eq!((first.tensor.as_str(), first.row, first.value), ("moe.ids", 0, 1.0));
    }
}
