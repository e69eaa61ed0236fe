//! Rows that are normalised, added and scaled, as one launch: what follows the blocks of gemma.

use std::ops::Range;

use zinc_backend::DeviceError;
use zinc_plan::{Dim, Node, Op, RmsNorm, Shape, TensorId, TensorKind};
use zinc_quant::GgmlType;

use super::Lowering;
use super::rows::{COLUMNS_OF_WARP, LONGEST_OF_WARP, threads_of_row};
use crate::launch::{Count, Kernel, Launch, Rows};

/// Most steps of a launch: `MOST_STEPS` of `post_norm.cu`.
const MOST_STEPS: usize = 4;
/// Most columns of a row, for a block of 16 warps.
const MOST_COLUMNS: u32 = 16 * COLUMNS_OF_WARP;

/// `NormStep` of `post_norm.cu`.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct NormStep {
    x: Rows,
    plus: Rows,
    to: Rows,
    w: u64,
    times: u64,
    quants: u64,
    scales: u64,
    factor: f32,
    flags: u32,
}

const ADDS_VALUE: u32 = 1;
const HOLDS: u32 = 2;

/// `PostNormParams` of `post_norm.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct PostNormParams {
    n: Count,
    steps: [NormStep; MOST_STEPS],
    n_steps: u32,
    cols: u32,
    eps: f32,
    unused: u32,
}

/// What a step takes: what an earlier one has left in registers, or something in memory.
#[derive(Clone, Copy, PartialEq)]
enum Source {
    Value,
    Memory(TensorId),
}

/// A step: nodes `RmsNorm, Add?, (Mul | Scale)?`.
struct Step {
    nodes: Range<usize>,
    x: Source,
    weight: TensorId,
    plus: Option<Source>,
    times: Option<TensorId>,
    factor: f32,
    result: TensorId,
    /// Whether the result is the value for later steps.
    holds: bool,
    /// Whether the result is read in q8.
    quantizes: bool,
}

impl Lowering<'_> {
    /// Lowers the steps that begin at node `idx`, if some do; the number of their nodes.
    ///
    /// # Errors
    /// Tensors that are not bound.
    pub(super) fn post_norm(&mut self, idx: usize) -> Result<Option<usize>, DeviceError> {
        let steps = self.steps_at(idx);
        let (Some(last), Some(norm)) = (steps.last(), self.whole_norm(idx)) else {
            return Ok(None);
        };
        let dim = self.plan.tensor(last.result).shape.rows;
        let mut params = PostNormParams {
            n: self.count(dim),
            steps: [NormStep::default(); MOST_STEPS],
            n_steps: steps.len() as u32,
            cols: norm.group,
            eps: norm.eps,
            unused: 0,
        };
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        for (at, (step, to)) in steps.iter().zip(&mut params.steps).enumerate() {
            if let Source::Memory(id) = step.x {
                to.x = self.float_rows(id)?;
                reads.push((id, to.x));
            }
            match step.plus {
                Some(Source::Memory(id)) => {
                    to.plus = self.float_rows(id)?;
                    reads.push((id, to.plus));
                }
                Some(Source::Value) => to.flags |= ADDS_VALUE,
                None => (),
            }
            if !step.quantizes && !self.is_only_held(&steps, at) {
                to.to = self.float_rows(step.result)?;
                writes.push((step.result, to.to));
            }
            to.w = self.operand(step.weight)?.address;
            to.times =
                step.times.map_or(Ok(0), |id| self.operand(id).map(|times| times.address))?;
            to.factor = step.factor;
            to.flags |= if step.holds { HOLDS } else { 0 };
        }
        // A thread reads what it has written, but nothing else may lie there.
        let last_row = self.plan.limits.bound(dim).saturating_sub(1);
        let end = |rows: &Rows| {
            rows.data + 4 * (last_row * u64::from(rows.stride) + u64::from(rows.cols))
        };
        let meets = |a: &Rows, b: &Rows| a.data < end(b) && b.data < end(a);
        let touched = || reads.iter().chain(&writes);
        let overlaps = writes
            .iter()
            .any(|(result, rows)| touched().any(|(id, other)| id != result && meets(rows, other)));
        let is_aligned =
            |rows: &Rows| rows.data.is_multiple_of(16) && rows.stride.is_multiple_of(4);
        let fits = touched().all(|(_, rows)| is_aligned(rows))
            && params.steps.iter().all(|step| step.w.is_multiple_of(16));
        if overlaps || !fits {
            return Ok(None);
        }
        for (step, to) in steps.iter().zip(&mut params.steps).filter(|(step, _)| step.quantizes) {
            let node = &self.plan.nodes[step.nodes.start];
            let Some(quantized) = self.quantized_at_once(node, 1)? else { continue };
            (to.quants, to.scales) = (quantized.quants, quantized.scales);
            if quantized.keeps_floats {
                to.to = self.float_rows(step.result)?;
            }
        }
        let block = threads_of_row(norm.group);
        let kernel = Kernel { module: "post_norm", name: "post_norm" };
        self.push(Launch::new(kernel, params, [self.rows(dim), 1, 1], block));
        Ok(Some(last.nodes.end - idx))
    }

    /// The steps that begin at node `idx`. Each but the first takes the value of an earlier one.
    fn steps_at(&self, idx: usize) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        let mut value = None;
        let mut at = idx;
        while steps.len() < MOST_STEPS && self.whole_norm(at) == self.whole_norm(idx) {
            let Some(mut step) = self.step_at(at, value) else { break };
            at = step.nodes.end;
            let next = self.step_at(at, Some(step.result));
            let feeds = next.is_some_and(|next| next.plus == Some(Source::Value));
            if step.nodes.len() == 1 {
                // A norm alone is one of two that are added, or for products.
                step.quantizes = !feeds && value.is_some() && self.is_for_quants(step.result);
                if !(step.quantizes || feeds && steps.len() + 1 < MOST_STEPS) {
                    break;
                }
            }
            step.holds = value.is_none() || step.plus.is_some() || feeds;
            value = if step.holds { Some(step.result) } else { value };
            steps.push(step);
        }
        steps
    }

    /// The step that begins at node `idx` when the value is `value`.
    fn step_at(&self, idx: usize, value: Option<TensorId>) -> Option<Step> {
        self.whole_norm(idx)?;
        let node = &self.plan.nodes[idx];
        let shape = |id: TensorId| self.plan.tensor(id).shape;
        let source = |id: TensorId| match value == Some(id) {
            true => Source::Value,
            false => Source::Memory(id),
        };
        let mut step = Step {
            nodes: idx..idx + 1,
            x: source(node.reads[0]),
            weight: node.reads[1],
            plus: None,
            times: None,
            factor: 1.0,
            result: node.writes[0],
            holds: false,
            quantizes: false,
        };
        if let Some((Op::Add, [a, b])) = self.next_of(&step) {
            let other = if *a == step.result { *b } else { *a };
            if other != step.result && shape(other) == shape(step.result) {
                step.plus = Some(source(other));
                self.extend(&mut step);
            }
        }
        match self.next_of(&step) {
            Some((Op::Mul, [a, b])) if *a == step.result => {
                let is_number = shape(*b) == Shape { rows: Dim::Fixed(1), cols: 1 };
                if is_number && self.plan.tensor(*b).kind == TensorKind::Weight {
                    step.times = Some(*b);
                    self.extend(&mut step);
                }
            }
            Some((Op::Scale(scale), _)) => {
                step.factor = scale.factor;
                self.extend(&mut step);
            }
            _ => (),
        }
        let uses_value = step.x == Source::Value || step.plus == Some(Source::Value);
        (value.is_none() || uses_value).then_some(step)
    }

    /// The norm of whole long rows that node `idx` is, if it is one.
    fn whole_norm(&self, idx: usize) -> Option<RmsNorm> {
        let node = self.plan.nodes.get(idx)?;
        let Op::RmsNorm(norm) = node.op else { return None };
        let is_whole = norm.group == self.plan.tensor(node.writes[0]).shape.cols
            && (LONGEST_OF_WARP + 1..=MOST_COLUMNS).contains(&norm.group)
            && norm.group.is_multiple_of(4)
            && self.is_constant(node.reads[1]);
        is_whole.then_some(norm)
    }

    /// The node behind a step, if it takes the step's result and nothing else does.
    fn next_of(&self, step: &Step) -> Option<(Op, &[TensorId])> {
        let next = step.nodes.end;
        let node = self.plan.nodes.get(next)?;
        self.is_only_read_in(step.result, next..next + 1).then_some((node.op, &node.reads))
    }

    /// Makes the next node a part of the step.
    fn extend(&self, step: &mut Step) {
        step.result = self.plan.nodes[step.nodes.end].writes[0];
        step.nodes.end += 1;
    }

    /// Whether what reads a norm's result reads it in q8, not as panels.
    fn is_for_quants(&self, id: TensorId) -> bool {
        let quantizes = |node: &&Node| node.op == Op::QuantizeAct && node.reads[0] == id;
        let Some(node) = self.plan.nodes.iter().find(quantizes) else { return false };
        let (id, tensor) = (node.writes[0], self.plan.tensor(node.writes[0]));
        tensor.dtype == GgmlType::Q8_1 && self.panel_place(id, tensor.shape.rows).is_none()
    }

    /// Whether only later steps read a step's result, as their value.
    fn is_only_held(&self, steps: &[Step], at: usize) -> bool {
        let later = &steps[at + 1..];
        let last = later.iter().find(|step| step.holds).or_else(|| later.last());
        match last {
            Some(last) if steps[at].holds => {
                self.is_only_read_in(steps[at].result, steps[at].nodes.end..last.nodes.end)
            }
            _ => false,
        }
    }

    /// Whether a value is read by some of these nodes, and by nothing else.
    fn is_only_read_in(&self, id: TensorId, nodes: Range<usize>) -> bool {
        let plan = self.plan;
        let owner = |id: TensorId| plan.locate(id).0;
        let reads = |node: &Node| node.reads.iter().any(|read| owner(*read) == id);
        let others = plan.nodes[..nodes.start].iter().chain(&plan.nodes[nodes.end..]);
        let is_wanted = plan.outputs.iter().any(|output| owner(*output) == id);
        owner(id) == id
            && !is_wanted
            && plan.nodes[nodes.clone()].iter().any(reads)
            && !others.into_iter().any(reads)
    }
}
