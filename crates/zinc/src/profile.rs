//! `--profile`: where the time of steps went, as a table for people and an object for programs.

use std::time::Duration;

use serde::Serialize;
use zinc_backend::Device;
use zinc_engine::{OpProfile, Phase, PlanProfile};
use zinc_plan::{Cost, NodeKind};

use crate::output;

/// The flag.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct ProfileArgs {
    /// Show where the time goes: each operation with its bytes and its share of the device's measured
    /// read bandwidth, the host's part of a step by phase, and how often work is handed to the
    /// device. On stderr, with --json in the object. Slows down what is measured
    #[arg(long)]
    pub profile: bool,
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    device: String,
    /// Measured now: what operations are compared with.
    read_gb_s: f64,
    plans: Vec<PlanReport>,
}

/// The steps of one plan. Numbers are those of a step, on average.
#[derive(Debug, Serialize)]
struct PlanReport {
    plan: String,
    max_tokens: u32,
    /// Steps whose operations were timed, and their tokens.
    timed_steps: u64,
    tokens_per_timed_step: f64,
    operations: Vec<OpReport>,
    /// Steps that ran as always, and their tokens; nothing below is known if there were none.
    steps: u64,
    tokens_per_step: Option<f64>,
    submissions_per_step: Option<f64>,
    submissions_per_token: Option<f64>,
    copies_per_step: Option<f64>,
    /// By phase.
    host_us: serde_json::Map<String, serde_json::Value>,
}

/// An operation, or several that the device computes as one.
#[derive(Debug, Serialize)]
struct OpReport {
    operations: Vec<Kind>,
    /// How often a step does this.
    n: f64,
    us: f64,
    /// Of the time of all operations.
    share: f64,
    read_bytes: f64,
    write_bytes: f64,
    flops: f64,
    read_gb_s: f64,
    /// Of the measured read bandwidth.
    of_bandwidth: f64,
}

/// What a node is.
#[derive(Debug, Serialize)]
pub struct Kind {
    op: &'static str,
    #[serde(rename = "type")]
    dtype: &'static str,
    shape: String,
}

/// `matmul q4_k 4096x12288`.
impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.op, self.dtype, self.shape)
    }
}

impl From<&NodeKind> for Kind {
    fn from(kind: &NodeKind) -> Kind {
        Kind { op: kind.op.name(), dtype: kind.dtype.name(), shape: kind.shape.clone() }
    }
}

impl Report {
    /// Of what an engine or evaluator on `device` measured, which measures the bandwidth now.
    ///
    /// # Errors
    /// The device has no memory for that, or failed.
    pub fn new(device: &dyn Device, plans: &[PlanProfile]) -> anyhow::Result<Report> {
        let read_gb_s = device.measure_read_bandwidth()? / 1e9;
        let plans = plans.iter().map(|plan| PlanReport::new(plan, read_gb_s)).collect();
        Ok(Report { device: device.info().name.clone(), read_gb_s, plans })
    }

    /// Tables and lines of at most 80 columns.
    pub fn for_people(&self) -> String {
        let mut text = String::new();
        for plan in &self.plans {
            text.push_str(&plan.for_people());
            text.push('\n');
        }
        text + &format!("{} reads {:.1} GB/s from memory\n", self.device, self.read_gb_s)
    }
}

impl PlanReport {
    fn new(plan: &PlanProfile, read_gb_s: f64) -> PlanReport {
        let ratio = |n: u64, of: u64| (of > 0).then(|| n as f64 / of as f64);
        let total: Duration = plan.ops.iter().map(|op| op.time).sum();
        let op = |op: &OpProfile| OpReport::new(op, plan.n_timed_steps, total, read_gb_s);
        let host = Phase::ALL.iter().zip(&plan.host).filter(|_| plan.n_steps > 0);
        let host = host.map(|(phase, time)| {
            (phase.name().to_owned(), (us(*time) / plan.n_steps.max(1) as f64).into())
        });
        PlanReport {
            plan: plan.plan.clone(),
            max_tokens: plan.max_tokens,
            timed_steps: plan.n_timed_steps,
            tokens_per_timed_step: ratio(plan.n_timed_tokens, plan.n_timed_steps).unwrap_or(0.0),
            operations: plan.ops.iter().map(op).collect(),
            steps: plan.n_steps,
            tokens_per_step: ratio(plan.n_tokens, plan.n_steps),
            submissions_per_step: ratio(plan.n_submissions, plan.n_steps),
            submissions_per_token: ratio(plan.n_submissions, plan.n_tokens),
            copies_per_step: ratio(plan.n_copies, plan.n_steps),
            host_us: host.collect(),
        }
    }

    fn for_people(&self) -> String {
        let tokens = |n: f64| if n == 1.0 { "1 token".into() } else { format!("{n} tokens") };
        let mut text = format!(
            "{}, steps of up to {}: {} timed, {:.1} tokens each\n",
            self.plan,
            tokens(self.max_tokens.into()),
            self.timed_steps,
            self.tokens_per_timed_step
        );
        let header = ["operation", "n", "us", "time", "MB", "GB/s", "of max"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        self.operations.iter().for_each(|op| op.add_rows(&mut rows));
        let sum = |value: fn(&OpReport) -> f64| self.operations.iter().map(value).sum::<f64>();
        let (us, mb) = (sum(|op| op.us), sum(|op| op.read_bytes) / 1e6);
        let all = ["all", "", &format!("{us:.1}"), "", &format!("{mb:.2}")];
        rows.push(all.map(str::to_owned).to_vec());
        text.push_str(&output::table(&rows));
        if let (Some(per_step), Some(per_token)) =
            (self.submissions_per_step, self.submissions_per_token)
        {
            text.push_str(&format!(
                "{} not timed: {per_step:.2} submissions and {:.2} copies a step, {per_token:.2} submissions a token\n",
                self.steps,
                self.copies_per_step.unwrap_or(0.0),
            ));
            // What is no part of this command's steps is 0.
            let phases = self.host_us.iter().filter_map(|(phase, us)| {
                us.as_f64().filter(|us| *us > 0.0).map(|us| (phase.clone(), format!("{us:.1}")))
            });
            let (names, times): (Vec<_>, Vec<_>) = phases.unzip();
            let row = |first: &str, cells: Vec<String>| {
                std::iter::once(first.to_owned()).chain(cells).collect::<Vec<_>>()
            };
            text.push_str(&output::table(&[row("host", names), row("us a step", times)]));
        }
        text
    }
}

impl OpReport {
    fn new(op: &OpProfile, n_steps: u64, total: Duration, max_gb_s: f64) -> OpReport {
        let per_step = |n: u64| n as f64 / n_steps.max(1) as f64;
        let Cost { read_bytes, write_bytes, flops } = op.cost;
        let read_gb_s = gb_s(read_bytes as f64, op.time);
        OpReport {
            operations: op.kinds.iter().map(Kind::from).collect(),
            n: per_step(op.n_times),
            us: us(op.time) / n_steps.max(1) as f64,
            share: op.time.as_secs_f64() / total.as_secs_f64().max(1e-12),
            read_bytes: per_step(read_bytes),
            write_bytes: per_step(write_bytes),
            flops: per_step(flops),
            read_gb_s,
            of_bandwidth: read_gb_s / max_gb_s.max(1e-9),
        }
    }

    /// A row with the numbers, and one for each further operation that is computed with it.
    fn add_rows(&self, rows: &mut Vec<Vec<String>>) {
        let Some((first, others)) = self.operations.split_first() else { return };
        let n =
            if self.n.fract() == 0.0 { format!("{}", self.n) } else { format!("{:.1}", self.n) };
        rows.push(vec![
            first.to_string(),
            n,
            format!("{:.1}", self.us),
            format!("{:.1} %", 100.0 * self.share),
            format!("{:.2}", self.read_bytes / 1e6),
            format!("{:.1}", self.read_gb_s),
            format!("{:.0} %", 100.0 * self.of_bandwidth),
        ]);
        rows.extend(others.iter().map(|kind| vec![format!("+ {kind}")]));
    }
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// 10^9 bytes per second.
pub fn gb_s(n_bytes: f64, time: Duration) -> f64 {
    n_bytes / time.as_secs_f64().max(1e-9) / 1e9
}
