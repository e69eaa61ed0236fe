//! `zinc bench --shapes`: every distinct operation of a model alone, with each choice of kernels that the
//! device has, timed and compared with the reference.

mod limits;
mod steps;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use serde::Serialize;
use zinc_backend::{
    Bindings, Device, Executable, NodeTime, Profiling, StepOutputs, Variant, WeightSource, Weights,
};
use zinc_engine::Model;
use zinc_models::PlanOptions;
use zinc_plan::{Alone, Cost, DistinctNode, FeedTable, Plan, passes};
use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;

use crate::compare::compare;
use crate::profile::{Kind, gb_s};
use steps::{Rows, TABLE_ROWS};

/// Equal nodes of several layers run one after the other, each with its own weights, until they have read
/// this much: so weights come from memory, as in a step, not from a cache.
const BYTES_READ: u64 = 512 << 20;
/// And no more nodes than this.
const N_NODES_MAX: usize = 16;
/// Rows of a step that the reference computes.
const REFERENCE_ROWS: u32 = 2;
/// Values that are compared, at least: the limits of conversions to 8 bits are for many.
const N_COMPARED: usize = 512;
/// Steps that are compared, at most.
const N_STEPS_MAX: usize = 64;

/// Sizes of the steps.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Sequences.
    pub seqs: u32,
    /// Tokens of each.
    pub tokens: u32,
    /// Tokens of each that are in the caches before.
    pub depth: u32,
    /// Most tokens of the steps that fill the caches.
    pub chunk: u32,
    /// Element type of key and value caches.
    pub kv_type: GgmlType,
}

/// A distinct operation.
#[derive(Debug, Serialize)]
pub struct ShapeReport {
    #[serde(flatten)]
    pub kind: Kind,
    /// How often the model's step does this.
    pub n: usize,
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub flops: u64,
    /// Largest normalised squared error allowed.
    pub limit: f64,
    pub variants: Vec<VariantReport>,
}

/// An operation by one choice of kernels.
#[derive(Debug, Serialize)]
pub struct VariantReport {
    pub name: String,
    /// The kernels of a node, where the device tells.
    pub kernels: Vec<String>,
    /// Median of a node.
    pub us: f64,
    pub read_gb_s: f64,
    /// Of the measured read bandwidth.
    pub of_bandwidth: f64,
    /// Normalised squared error against the reference, in the rows that it computes.
    pub error: f64,
    /// Against the first variant, in all rows.
    pub difference: f64,
}

impl ShapeReport {
    /// Whether a variant is as near to the reference and to the first one as the operation table allows.
    pub fn agrees(&self, variant: &VariantReport) -> bool {
        variant.error <= self.limit && variant.difference <= self.limit
    }
}

/// Step by step, the values of each output.
type Outputs = Vec<Vec<Vec<f32>>>;

/// What all measurements of a command have in common.
pub struct Shapes<'a> {
    model: &'a Model,
    variants: Vec<Variant>,
    reference: ReferenceDevice,
    bandwidth: f64,
    repetitions: u32,
}

/// One size of step: the model's plan, as it is and prepared for the device.
pub struct Phase {
    sizes: Sizes,
    base: Plan,
    prepared: Plan,
    /// What is measured.
    pub distinct: Vec<DistinctNode>,
}

impl<'a> Shapes<'a> {
    /// Measures the device's bandwidth.
    ///
    /// # Errors
    /// The device has no memory for that, or failed.
    pub fn new(
        model: &'a Model,
        device: &Arc<dyn Device>,
        repetitions: u32,
    ) -> anyhow::Result<Shapes<'a>> {
        let mut variants = device.variants();
        if variants.is_empty() {
            let name = device.info().name.clone();
            variants.push(Variant { name, device: Arc::clone(device) });
        }
        let bandwidth = device.measure_read_bandwidth()?;
        let reference = ReferenceDevice::new();
        Ok(Shapes { model, variants, reference, bandwidth, repetitions })
    }

    /// Bytes per second that the device reads.
    pub fn bandwidth(&self) -> f64 {
        self.bandwidth
    }

    /// The distinct operations of steps of these sizes.
    ///
    /// # Errors
    /// The device lacks an operation of the model.
    pub fn phase(&self, sizes: Sizes) -> anyhow::Result<Phase> {
        let limits = sizes.limits(self.model.config().longest_window());
        let base = self.model.graph().plan(&PlanOptions { limits, kv_type: sizes.kv_type })?;
        let prepared = passes::prepare(base.clone(), self.variants[0].device.caps())?;
        let distinct = prepared.distinct_nodes();
        Ok(Phase { sizes, base, prepared, distinct })
    }

    /// Measures one of them.
    ///
    /// # Errors
    /// The device failed, or has not enough memory.
    pub fn measure(&self, phase: &Phase, distinct: &DistinctNode) -> anyhow::Result<ShapeReport> {
        let Phase { sizes, base, prepared, .. } = phase;
        let bound = sizes.bound();
        let cost = prepared.node_cost(&prepared.nodes[distinct.nodes[0]], &bound);
        let n_wanted = (BYTES_READ / cost.read_bytes.max(1)) as usize;
        let n_nodes = distinct.nodes.len().min(n_wanted.clamp(1, N_NODES_MAX));
        let alone = base.alone(prepared, &distinct.nodes[..n_nodes], TABLE_ROWS)?;
        let weights = self.variants[0].device.bind_weights(self.sources(&alone), &mut |_, _| {})?;
        let expected = self.reference_rows(phase, distinct)?;
        let mut report = ShapeReport {
            kind: Kind::from(&distinct.kind),
            n: distinct.nodes.len(),
            read_bytes: cost.read_bytes,
            write_bytes: cost.write_bytes,
            flops: cost.flops,
            limit: 0.0,
            variants: Vec::new(),
        };
        let mut first: Option<Outputs> = None;
        for variant in &self.variants {
            let device = variant.device.as_ref();
            let plan = passes::prepare(alone.plan.clone(), device.caps())?;
            report.limit = limits::of(&plan, device.caps()).max(report.limit);
            let (node, found) =
                self.run(device, plan, &weights, (*sizes, expected.len()), distinct)?;
            let is_same = |other: &VariantReport| other.kernels == node.kernels;
            if !node.kernels.is_empty() && report.variants.iter().any(is_same) {
                continue;
            }
            let first = first.get_or_insert_with(|| found.clone());
            let variant = self.report(&variant.name, node, &cost, [&found, &expected, first]);
            report.variants.push(variant);
        }
        Ok(report)
    }

    fn report(
        &self,
        name: &str,
        node: NodeTime,
        cost: &Cost,
        [found, expected, first]: [&Outputs; 3],
    ) -> VariantReport {
        let read_gb_s = gb_s(cost.read_bytes as f64, node.time);
        VariantReport {
            name: name.to_owned(),
            us: node.time.as_secs_f64() * 1e6,
            kernels: node.kernels,
            read_gb_s,
            of_bandwidth: read_gb_s * 1e9 / self.bandwidth.max(1.0),
            error: distance(expected, found),
            difference: distance(first, found),
        }
    }

    /// Weights of the model and tables of numbers.
    fn sources(&self, alone: &Alone) -> Vec<WeightSource> {
        let of_model = |name: &str| alone.plan.find(name).is_some();
        let tables = alone.tables.iter().map(table);
        self.model.weight_sources(of_model).into_iter().chain(tables).collect()
    }

    /// What the reference gives for the first rows of the first of the nodes, in as many steps as it takes for
    /// enough values.
    fn reference_rows(&self, phase: &Phase, distinct: &DistinctNode) -> anyhow::Result<Outputs> {
        let alone = phase.base.alone(&phase.prepared, &distinct.nodes[..1], TABLE_ROWS)?;
        let device = &self.reference;
        let weights = device.bind_weights(self.sources(&alone), &mut |_, _| {})?;
        let plan = passes::prepare(alone.plan, device.caps())?;
        let rows = phase.sizes.rows().first(REFERENCE_ROWS);
        let mut running = Running::new(device, plan, &weights)?;
        running.fill(phase.sizes, &rows)?;
        let first = running.step(&rows)?.clone();
        let n_values = first.iter().map(Vec::len).min().unwrap_or(0).max(1);
        let mut outputs = vec![first];
        for step in 1..N_COMPARED.div_ceil(n_values).min(N_STEPS_MAX) {
            outputs.push(running.step(&rows.with_other_values(step))?.clone());
        }
        Ok(outputs)
    }

    /// The first of the nodes with the median time of one, and what it computes in the first steps, so many of them.
    fn run(
        &self,
        device: &dyn Device,
        plan: Plan,
        weights: &Weights,
        (sizes, n_steps): (Sizes, usize),
        distinct: &DistinctNode,
    ) -> anyhow::Result<(NodeTime, Outputs)> {
        let same = |other: &&DistinctNode| other.kind == distinct.kind && other.op == distinct.op;
        let targets = plan.distinct_nodes().iter().find(same).map(|found| found.nodes.clone());
        let targets = targets.unwrap_or_default();
        anyhow::ensure!(!targets.is_empty(), "{} alone is another operation", distinct.kind);
        let rows = sizes.rows();
        let mut running = Running::new(device, plan, weights)?;
        running.fill(sizes, &rows)?;
        let mut found = Vec::new();
        for step in 0..n_steps {
            found.push(running.step(&rows.with_other_values(step))?.clone());
        }
        running.exec.set_profiling(Profiling::Nodes);
        let mut times = Vec::new();
        for _ in 0..self.repetitions {
            running.step(&rows)?;
            let spans = running.exec.profile().nodes;
            let timed = spans.iter().filter(|span| targets.iter().any(|n| span.nodes.contains(n)));
            let sum: Duration = timed.map(|span| span.time).sum();
            times.push(sum / u32::try_from(targets.len()).unwrap_or(u32::MAX));
        }
        times.sort_unstable();
        let spans = running.exec.profile().nodes;
        let node = spans.into_iter().find(|span| span.nodes.contains(&targets[0]));
        let node = node.context("the device did not time the operation")?;
        Ok((NodeTime { time: times[times.len() / 2], ..node }, found))
    }
}

/// A compiled plan with its outputs.
struct Running {
    exec: Box<dyn Executable>,
    outputs: StepOutputs,
}

impl Running {
    fn new(device: &dyn Device, plan: Plan, weights: &Weights) -> anyhow::Result<Running> {
        let states = device.alloc_states(&plan)?;
        let exec = device.compile(Arc::new(plan), &Bindings { weights, states: &states })?;
        Ok(Running { exec, outputs: StepOutputs::default() })
    }

    fn step(&mut self, rows: &Rows) -> anyhow::Result<&Vec<Vec<f32>>> {
        let inputs = rows.inputs(self.exec.plan());
        let ticket = self.exec.submit(&inputs)?;
        self.exec.wait(ticket, &mut self.outputs)?;
        Ok(&self.outputs.values)
    }

    /// Computes what lies in caches and states before `rows`, if the plan has any.
    fn fill(&mut self, sizes: Sizes, rows: &Rows) -> anyhow::Result<()> {
        let has_states = self.exec.plan().nodes.iter().any(|node| node.op.n_state_writes() > 0);
        if has_states {
            for before in sizes.before(rows) {
                self.step(&before)?;
            }
        }
        Ok(())
    }
}

/// The largest error of an output, of the rows that both have in each step.
fn distance(expected: &Outputs, found: &Outputs) -> f64 {
    let n_outputs = expected.first().map_or(0, Vec::len);
    let errors = (0..n_outputs).map(|output| {
        let (mut all_expected, mut all_found) = (Vec::new(), Vec::new());
        for (expected, found) in expected.iter().zip(found) {
            let n = expected[output].len().min(found[output].len());
            all_expected.extend_from_slice(&expected[output][..n]);
            all_found.extend_from_slice(&found[output][..n]);
        }
        compare(&all_expected, &all_found).nmse
    });
    errors.fold(0.0, f64::max)
}

/// A table of normal numbers, nearly: sums of four uniform ones, of deviation 1.
fn table(table: &FeedTable) -> WeightSource {
    let mut state = table
        .name
        .bytes()
        .fold(0x7a69_6e63_u64, |hash, byte| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
    let mut uniform = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let n_values = u64::from(TABLE_ROWS) * u64::from(table.cols);
    let values = (0..n_values).map(|_| (0..4).map(|_| uniform()).sum::<f32>() * 0.75_f32.sqrt());
    WeightSource {
        name: table.name.clone(),
        dtype: GgmlType::F32,
        rows: TABLE_ROWS.into(),
        cols: table.cols.into(),
        data: Bytes::from(values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>()),
    }
}
