//! `zinc bench --shapes`.

use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use zinc_backend::Device;
use zinc_engine::Model;

use super::Args;
use crate::progress::{Progress, Unit};
use crate::shapes::{ShapeReport, Shapes, Sizes, VariantReport};
use crate::{output, report};

/// All operations of one size of step.
#[derive(Serialize)]
struct PhaseReport {
    phase: &'static str,
    device: String,
    model: String,
    tokens: u32,
    streams: u32,
    depth: u32,
    kv_type: &'static str,
    /// Measured now.
    read_gb_s: f64,
    shapes: Vec<ShapeReport>,
}

/// Runs the command.
///
/// # Errors
/// The device lacks an operation, fails, or has not enough memory.
pub fn run(args: &Args, model: &Model, device: &Arc<dyn Device>) -> anyhow::Result<ExitCode> {
    let shapes = Shapes::new(model, device, args.repetitions)?;
    let prompt = args.prompt.min(args.step.chunk);
    let sizes = |seqs, tokens| Sizes {
        seqs,
        tokens,
        depth: args.depth,
        chunk: args.step.chunk,
        kv_type: args.step.kv,
    };
    let phases =
        [("decode", sizes(args.streams, args.generate.min(1))), ("prefill", sizes(1, prompt))];
    let mut reports = Vec::new();
    for (name, sizes) in phases.into_iter().filter(|(_, sizes)| sizes.tokens > 0) {
        let phase = shapes.phase(sizes)?;
        let mut progress = Progress::new(name, Unit::Runs);
        let mut measured = Vec::new();
        for distinct in &phase.distinct {
            measured.push(shapes.measure(&phase, distinct)?);
            progress.update(measured.len() as u64, phase.distinct.len() as u64);
        }
        progress.finish();
        reports.push(PhaseReport {
            phase: name,
            device: device.info().name.clone(),
            model: args.model.name(),
            tokens: sizes.tokens * sizes.seqs,
            streams: sizes.seqs,
            depth: sizes.depth,
            kv_type: sizes.kv_type.name(),
            read_gb_s: shapes.bandwidth() / 1e9,
            shapes: measured,
        });
    }
    match args.json {
        true => output::json(&reports)?,
        false => output::text(&for_people(&reports))?,
    }
    let all = reports.iter().flat_map(|phase| &phase.shapes);
    let wrong = |shape: &&ShapeReport| shape.variants.iter().any(|v| !shape.agrees(v));
    match all.filter(wrong).count() {
        0 => Ok(ExitCode::SUCCESS),
        n => {
            report::note(format_args!(
                "{n} operations are further from the reference than allowed"
            ));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn for_people(phases: &[PhaseReport]) -> String {
    let mut text = String::new();
    for phase in phases {
        let PhaseReport { phase: name, tokens, depth, device, read_gb_s, .. } = phase;
        text.push_str(&format!(
            "{name}, tokens in a step: {tokens}, before them: {depth}; {device} reads {read_gb_s:.1} GB/s\n"
        ));
        let header = ["operation", "n", "MB", "us", "GB/s", "of max", "error", ""];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        phase.shapes.iter().for_each(|shape| add_rows(shape, &mut rows));
        text.push_str(&output::table(&rows));
        text.push('\n');
    }
    text.trim_end().to_owned() + "\n"
}

/// The names of kernels, without modules and shapes.
fn names_of(kernels: &[String]) -> String {
    let name = |kernel: &String| {
        let name = kernel.split(' ').next().unwrap_or_default();
        name.rsplit('/').next().unwrap_or_default().to_owned()
    };
    let mut names: Vec<String> = kernels.iter().map(name).collect();
    names.dedup();
    names.join(" + ")
}

/// The operation, and a row for each of its variants.
fn add_rows(shape: &ShapeReport, rows: &mut Vec<Vec<String>>) {
    let mb = format!("{:.2}", shape.read_bytes as f64 / 1e6);
    rows.push(vec![shape.kind.to_string(), shape.n.to_string(), mb]);
    rows.extend(shape.variants.iter().map(|variant| {
        let VariantReport { name, us, read_gb_s, of_bandwidth, error, difference, kernels } =
            variant;
        let error = error.max(*difference);
        let mark = if shape.agrees(variant) { "" } else { " wrong" };
        vec![
            format!("  {name}"),
            String::new(),
            String::new(),
            format!("{us:.1}"),
            format!("{read_gb_s:.1}"),
            format!("{:.0} %", 100.0 * of_bandwidth),
            format!("{error:.0e}{mark}"),
            names_of(kernels),
        ]
    }));
}
