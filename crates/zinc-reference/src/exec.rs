//! Runs a plan node by node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use zinc_backend::{
    Bindings, DeviceError, Executable, NodeTime, Profile, Profiling, Returned, StepInputs,
    StepOutputs, StepSizes, Ticket, WeightSource,
};
use zinc_plan::{
    Attention, GatedDeltaNet, InputKind, LatentAttention, Node, Op, Plan, TensorId, TensorKind,
};

use crate::NAME;
use crate::ops::delta_net::{self, Recurrence};
use crate::ops::{self, elementwise, latent_attention, moe};
use crate::storage::{State, StateStore, WeightStore};

pub(crate) struct ReferenceExecutable {
    plan: Arc<Plan>,
    weights: HashMap<TensorId, Arc<WeightSource>>,
    states: HashMap<TensorId, Arc<State>>,
    /// Values of the latest step, by tensor; expert ids are held as f32 too.
    values: HashMap<TensorId, Vec<f32>>,
    sizes: StepSizes,
    /// Of the latest step: see [`StepInputs::whole_rows`].
    whole_rows: Vec<i32>,
    n_steps: u64,
    profiling: Profiling,
    profile: Profile,
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
        Ok(Self {
            plan,
            weights,
            states,
            values,
            sizes: StepSizes { tokens: 0, seqs: 0, out_rows: 0 },
            whole_rows: Vec::new(),
            n_steps: 0,
            profiling: Profiling::Off,
            profile: Profile::default(),
        })
    }

    fn run(&mut self, inputs: &StepInputs) -> Result<(), DeviceError> {
        let sizes = inputs.check(&self.plan)?;
        self.sizes = sizes;
        self.whole_rows.clone_from(&inputs.whole_rows);
        self.values.clear();
        self.profile.nodes.clear();
        self.profile.n_submissions = u64::from(self.profiling != Profiling::Off);
        let plan = self.plan.clone();
        for (idx, node) in plan.nodes.iter().enumerate() {
            let start = Instant::now();
            let step = Step { exec: self, inputs, sizes };
            for (id, result) in node.writes.iter().zip(step.node(node)?) {
                self.values.insert(*id, result.data);
            }
            if self.profiling == Profiling::Nodes {
                let time = start.elapsed();
                self.profile.nodes.push(NodeTime {
                    nodes: idx..idx + 1,
                    time,
                    kernels: Vec::new(),
                });
            }
        }
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
            TensorKind::Input(InputKind::Hidden) => {
                Ok(Matrix { cols: tensor.shape.cols as usize, data: self.inputs.hidden.clone() })
            }
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

    /// The operand at `idx` of `reads`, when the node has it.
    fn optional(&self, reads: &[TensorId], idx: usize) -> Result<Option<Matrix>, DeviceError> {
        reads.get(idx).map(|id| self.operand(*id)).transpose()
    }

    /// The cache or recurrent state `id`.
    fn state(&self, id: TensorId) -> &State {
        &self.exec.states[&id]
    }

    /// Operands positions, seq_of and pages.
    fn placement(&self, reads: &[TensorId], page_size: u32) -> ops::Placement<'_> {
        let pages = self.input(reads[2]);
        let per_seq = pages.len() / self.sizes.seqs.max(1);
        ops::Placement {
            positions: self.input(reads[0]),
            seq_of: self.input(reads[1]),
            pages: pages.chunks_exact(per_seq.max(1)).collect(),
            page_size: page_size as usize,
        }
    }

    /// Operands positions, seq_of, state_from, state_slots and state_saves.
    fn recurrence(&self, reads: &[TensorId], state: TensorId) -> Recurrence<'_> {
        Recurrence {
            positions: self.input(reads[0]),
            seq_of: self.input(reads[1]),
            from: self.input(reads[2]),
            slots: self.input(reads[3]),
            saves: self.input(reads[4]),
            state: self.state(state),
        }
    }

    fn expert_combine(&self, node: &Node) -> Result<Matrix, DeviceError> {
        let reads = &node.reads;
        let (ids, scale) = (self.optional(reads, 2)?, self.optional(reads, 3)?);
        let scale = ids.as_ref().zip(scale.as_ref());
        let (x, weights) = (self.operand(reads[0])?, self.operand(reads[1])?);
        Ok(moe::expert_combine(&x, &weights, scale))
    }

    fn kv_write(&self, node: &Node) -> Result<Vec<Matrix>, DeviceError> {
        let slots = self.input(node.reads[2]);
        for (value, cache) in node.reads.iter().zip(&node.writes) {
            ops::kv_write(&self.operand(*value)?, slots, self.state(*cache))?;
        }
        Ok(Vec::new())
    }

    fn attention(&self, attention: &Attention, node: &Node) -> Result<Matrix, DeviceError> {
        let reads = &node.reads;
        let caches = [self.state(reads[1]), self.state(reads[2])];
        let place = self.placement(&reads[3..], attention.page_size);
        let sinks = self.optional(reads, 6)?;
        let q = self.operand(reads[0])?;
        ops::attention(attention, &q, caches, &place, sinks.as_ref())
    }

    fn latent_attention(
        &self,
        attention: &LatentAttention,
        node: &Node,
    ) -> Result<Matrix, DeviceError> {
        let reads = &node.reads;
        let queries = [&self.operand(reads[0])?, &self.operand(reads[1])?];
        let caches = [self.state(reads[2]), self.state(reads[3])];
        let place = self.placement(&reads[4..], attention.page_size);
        latent_attention::latent_attention(attention, queries, caches, &place)
    }

    fn delta_gates(&self, node: &Node) -> Result<Vec<Matrix>, DeviceError> {
        let operand = |idx: usize| self.operand(node.reads[idx]);
        let [a, b, a_log, dt_bias] = [operand(0)?, operand(1)?, operand(2)?, operand(3)?];
        Ok(delta_net::delta_gates(&a, &b, &a_log, &dt_bias).into())
    }

    fn gated_delta_net(&self, net: &GatedDeltaNet, node: &Node) -> Result<Matrix, DeviceError> {
        let operand = |idx: usize| self.operand(node.reads[idx]);
        let [q, k, v] = [operand(0)?, operand(1)?, operand(2)?];
        let [g, beta] = [operand(3)?, operand(4)?];
        let recurrence = self.recurrence(&node.reads[5..], node.writes[1]);
        delta_net::gated_delta_net(net, [&q, &k, &v, &g, &beta], &recurrence)
    }

    /// Computes a node's values; states are updated in place.
    fn node(&self, node: &Node) -> Result<Vec<Matrix>, DeviceError> {
        let reads = &node.reads;
        let operand = |idx: usize| self.operand(reads[idx]);
        let weight = || &self.exec.weights[&reads[0]];
        let result = match node.op {
            Op::Embed(embed) => ops::embed(weight(), self.input(reads[1]), embed.scale)?,
            Op::GatherRows => ops::gather_rows(&operand(0)?, self.input(reads[1])),
            Op::Add => ops::add(&operand(0)?, &operand(1)?),
            Op::Mul => elementwise::mul(&operand(0)?, &operand(1)?),
            Op::Scale(scale) => elementwise::scale(&operand(0)?, scale.factor),
            Op::Softcap(softcap) => elementwise::softcap(&operand(0)?, softcap.cap),
            Op::GatedAct(gated) => ops::gated_act(gated.act, &operand(0)?, &operand(1)?),
            Op::SigmoidGate => elementwise::sigmoid_gate(&operand(0)?, &operand(1)?),
            Op::HeadSlice(slice) => elementwise::head_slice(slice, &operand(0)?),
            Op::Concat => elementwise::concat(&operand(0)?, &operand(1)?),
            Op::RmsNorm(norm) => ops::rms_norm(norm, &operand(0)?, &operand(1)?),
            Op::L2Norm(norm) => elementwise::l2_norm(norm, &operand(0)?),
            Op::RmsNormGated(norm) => {
                elementwise::rms_norm_gated(norm, &operand(0)?, &operand(1)?, &operand(2)?)
            }
            Op::MatMul(matmul) if !matmul.residual => {
                ops::matmul(weight(), &operand(1)?, self.optional(reads, 2)?.as_ref())?
            }
            Op::HeadMatMul(matmul) => elementwise::head_matmul(matmul, weight(), &operand(1)?)?,
            Op::ExpertMatMul(matmul) => {
                let bias = self.optional(reads, 3)?;
                moe::expert_matmul(matmul, weight(), &operand(1)?, &operand(2)?, bias.as_ref())?
            }
            Op::RouterTopK(router) => {
                let bias = self.optional(reads, 1)?;
                return Ok(moe::router_top_k(&router, &operand(0)?, bias.as_ref()).into());
            }
            Op::ExpertCombine(_) => self.expert_combine(node)?,
            Op::TopK(top) => return Ok(elementwise::top_k(top, &operand(0)?).into()),
            Op::Rope(rope) => {
                let (positions, variants) = (self.input(reads[1]), self.input(reads[3]));
                ops::rope(rope, &operand(0)?, positions, &operand(2)?, variants)
            }
            Op::KvWrite => return self.kv_write(node),
            Op::Attention(attention) => self.attention(&attention, node)?,
            Op::LatentAttention(attention) => self.latent_attention(&attention, node)?,
            Op::CausalConv1d(conv) => {
                let recurrence = self.recurrence(&reads[2..], node.writes[1]);
                delta_net::causal_conv1d(conv, &operand(0)?, &operand(1)?, &recurrence)?
            }
            Op::DeltaGates => return self.delta_gates(node),
            Op::GatedDeltaNet(net) => self.gated_delta_net(&net, node)?,
            Op::MatMul(_) | Op::QuantizeAct | Op::GateUpAct(_) | Op::ExpertGateUpAct(_) => {
                return Err(DeviceError::Plan {
                    plan: self.exec.plan.name.clone(),
                    reason: format!("{} is not a base operation", node.op.kind().name()),
                });
            }
        };
        Ok(vec![result])
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
            let value = self.value(*id);
            let n_rows = self.sizes.rows(self.plan.tensor(*id).shape.rows, &self.plan);
            let returned = Returned::new(self.plan.has_top_k(*id), n_rows, &self.whole_rows);
            let rows = returned.spans().flatten().flat_map(|row| value.row(row));
            outputs.values.push(rows.copied().collect());
        }
        Ok(())
    }

    fn set_profiling(&mut self, what: Profiling) {
        self.profiling = what;
    }

    fn profile(&self) -> Profile {
        self.profile.clone()
    }
}
