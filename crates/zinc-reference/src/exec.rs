//! Runs a plan node by node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zinc_backend::{
    Bindings, DeviceError, Executable, NodeTime, StepInputs, StepOutputs, StepSizes, Ticket,
    WeightSource,
};
use zinc_plan::{Node, Op, Plan, TensorId, TensorKind};

use crate::storage::{State, StateStore, WeightStore};
use crate::{NAME, ops};

pub(crate) struct ReferenceExecutable {
    plan: Arc<Plan>,
    weights: HashMap<TensorId, Arc<WeightSource>>,
    states: HashMap<TensorId, Arc<State>>,
    /// Values of the latest step, by tensor.
    values: HashMap<TensorId, Vec<f32>>,
    n_steps: u64,
    /// Time of each node, when profiling.
    times: Option<Vec<Duration>>,
    n_profiled: u64,
}

/// A row-major f32 matrix: one row per token, sequence or output.
pub(crate) struct Matrix {
    pub cols: usize,
    pub data: Vec<f32>,
}

impl Matrix {
    pub(crate) fn zeros(rows: usize, cols: usize) -> Self {
        Self { cols, data: vec![0.0; rows * cols] }
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.data.chunks_exact(self.cols)
    }

    pub(crate) fn row(&self, idx: usize) -> &[f32] {
        &self.data[idx * self.cols..][..self.cols]
    }

    pub(crate) fn rows_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.data.chunks_exact_mut(self.cols)
    }
}

impl ReferenceExecutable {
    pub(crate) fn new(plan: Arc<Plan>, bind: &Bindings<'_>) -> Result<Self, DeviceError> {
        let foreign = |reason: &str| DeviceError::Plan {
            plan: plan.name.clone(),
            reason: format!("bound to {reason} of another device"),
        };
        let weight_store =
            bind.weights.0.downcast_ref::<WeightStore>().ok_or_else(|| foreign("weights"))?;
        let state_store =
            bind.states.0.downcast_ref::<StateStore>().ok_or_else(|| foreign("states"))?;
        let mut weights = HashMap::new();
        for (id, _) in plan.tensors_where(|tensor| tensor.kind == TensorKind::Weight) {
            weights.insert(id, weight_store.bind(&plan, id)?);
        }
        let mut states = HashMap::new();
        for (id, _) in plan.tensors_where(|tensor| tensor.kind == TensorKind::State) {
            states.insert(id, state_store.bind(&plan, id)?);
        }
        let values = HashMap::new();
        Ok(Self { plan, weights, states, values, n_steps: 0, times: None, n_profiled: 0 })
    }

    fn run(&mut self, inputs: &StepInputs) -> Result<(), DeviceError> {
        let sizes = inputs.check(&self.plan)?;
        self.values.clear();
        let plan = self.plan.clone();
        for (idx, node) in plan.nodes.iter().enumerate() {
            let start = Instant::now();
            let step = Step { exec: self, inputs, sizes };
            let result = step.node(node)?;
            if let Some(result) = result {
                self.values.insert(node.writes[0], result.data);
            }
            if let Some(times) = &mut self.times {
                times[idx] += start.elapsed();
            }
        }
        self.n_profiled += u64::from(self.times.is_some());
        Ok(())
    }

    /// Columns of a computed tensor, copied out of its owner's rows when it is a view.
    fn value(&self, id: TensorId) -> Matrix {
        let (owner, _, _) = self.plan.locate(id);
        let cols = self.plan.tensor(id).shape.cols as usize;
        let owner_cols = self.plan.tensor(owner).shape.cols as usize;
        let col = match self.plan.tensor(id).kind {
            TensorKind::View { col, .. } => col as usize,
            _ => 0,
        };
        // A step that wants no logits leaves the values behind GatherRows empty.
        let rows = self.values.get(&owner).map_or(&[][..], Vec::as_slice);
        let data = rows.chunks_exact(owner_cols).flat_map(|row| &row[col..col + cols]);
        Matrix { cols, data: data.copied().collect() }
    }
}

/// One step over one executable.
struct Step<'a> {
    exec: &'a ReferenceExecutable,
    inputs: &'a StepInputs,
    sizes: StepSizes,
}

impl Step<'_> {
    /// An operand that is a value, a weight vector or a table, as f32.
    fn operand(&self, id: TensorId) -> Result<Matrix, DeviceError> {
        let plan = &self.exec.plan;
        let tensor = plan.tensor(id);
        match tensor.kind {
            TensorKind::Value | TensorKind::View { .. } => Ok(self.exec.value(id)),
            TensorKind::Const(idx) => {
                let data = plan.consts[idx as usize].data.clone();
                Ok(Matrix { cols: tensor.shape.cols as usize, data })
            }
            TensorKind::Weight => ops::whole(&self.exec.weights[&id]),
            TensorKind::Input(_) | TensorKind::State => Err(DeviceError::Plan {
                plan: plan.name.clone(),
                reason: format!("{} is no f32 operand", tensor.name),
            }),
        }
    }

    fn input(&self, id: TensorId) -> &[i32] {
        match self.exec.plan.tensor(id).kind {
            TensorKind::Input(kind) => self.inputs.get(kind),
            _ => &[],
        }
    }

    /// Computes a node; `None` when it only updates states.
    fn node(&self, node: &Node) -> Result<Option<Matrix>, DeviceError> {
        let reads = &node.reads;
        let result = match node.op {
            Op::Embed(embed) => {
                ops::embed(&self.exec.weights[&reads[0]], self.input(reads[1]), embed.scale)?
            }
            Op::GatherRows => ops::gather_rows(&self.operand(reads[0])?, self.input(reads[1])),
            Op::Add => ops::add(&self.operand(reads[0])?, &self.operand(reads[1])?),
            Op::GatedAct(gated) => {
                ops::gated_act(gated.act, &self.operand(reads[0])?, &self.operand(reads[1])?)
            }
            Op::RmsNorm(norm) => {
                ops::rms_norm(norm, &self.operand(reads[0])?, &self.operand(reads[1])?)
            }
            Op::MatMul(matmul) => {
                let bias = if matmul.bias { Some(self.operand(reads[2])?) } else { None };
                let x = self.operand(reads[1])?;
                ops::matmul(&self.exec.weights[&reads[0]], &x, bias.as_ref())?
            }
            Op::Rope(rope) => {
                let table = self.operand(reads[2])?;
                let (positions, variants) = (self.input(reads[1]), self.input(reads[3]));
                ops::rope(rope, &self.operand(reads[0])?, positions, &table, variants)
            }
            Op::KvWrite => {
                for (value, cache) in reads.iter().zip(&node.writes) {
                    let rows = self.operand(*value)?;
                    ops::kv_write(&rows, self.input(reads[2]), &self.exec.states[cache])?;
                }
                return Ok(None);
            }
            Op::Attention(attention) => {
                let caches = [&*self.exec.states[&reads[1]], &*self.exec.states[&reads[2]]];
                let pages = self.input(reads[5]);
                let per_seq = pages.len() / self.sizes.seqs.max(1);
                let place = ops::Placement {
                    positions: self.input(reads[3]),
                    seq_of: self.input(reads[4]),
                    pages: pages.chunks_exact(per_seq.max(1)).collect(),
                };
                ops::attention(&attention, &self.operand(reads[0])?, caches, &place)?
            }
            Op::QuantizeAct | Op::GateUpAct(_) => {
                return Err(DeviceError::Plan {
                    plan: self.exec.plan.name.clone(),
                    reason: format!("{} is not a base operation", node.op.kind().name()),
                });
            }
        };
        Ok(Some(result))
    }
}

impl Executable for ReferenceExecutable {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn submit(&mut self, inputs: &StepInputs) -> Result<Ticket, DeviceError> {
        self.run(inputs)?;
        self.n_steps += 1;
        Ok(Ticket(self.n_steps))
    }

    fn wait(&mut self, ticket: Ticket, outputs: &mut StepOutputs) -> Result<(), DeviceError> {
        if ticket.0 != self.n_steps {
            let reason = format!("step {} is no longer held", ticket.0);
            return Err(DeviceError::Lost { device: NAME.into(), reason });
        }
        outputs.values.clear();
        for id in &self.plan.outputs {
            outputs.values.push(self.value(*id).data);
        }
        Ok(())
    }

    fn set_profiling(&mut self, on: bool) {
        self.times = on.then(|| vec![Duration::ZERO; self.plan.nodes.len()]);
        self.n_profiled = 0;
    }

    fn profile(&self) -> Vec<NodeTime> {
        let times = self.times.iter().flatten().enumerate();
        times.map(|(node, time)| NodeTime { node, time: *time, n_steps: self.n_profiled }).collect()
    }
}
