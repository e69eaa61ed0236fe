//! From plan nodes to what the workers run: operands become addresses, symbols stay symbols.

mod attention;
mod experts;
mod product;
mod recurrent;
mod rows;

use crate::memory::{Buffer, Rows};
use crate::store::{StateStore, WeightStore};
use zinc_backend::DeviceError;
use zinc_plan::{Dim, InputKind, Node, Op, Plan, TensorId, TensorKind};
use zinc_quant::GgmlType;

pub(crate) use attention::{AttentionStep, one_key_head};
pub(crate) use experts::{Combine, Grouping, RouterStep};
pub(crate) use product::{Matrices, Product, StackOperand};
pub(crate) use recurrent::{ConvStep, DeltaStep, Recurrence};
pub(crate) use rows::RowOp;

/// An operand or result: where, and of which type.
#[derive(Clone, Copy)]
pub(crate) struct Operand {
    pub rows: Rows,
    pub dtype: GgmlType,
    pub cols: usize,
}

/// A node ready to run.
pub(crate) struct Step {
    pub kind: Kind,
    /// Rows of the result.
    pub rows: Dim,
    /// All earlier nodes must be finished.
    pub barrier: bool,
    /// Index of the plan's node; for rope turns that of the first node that uses them.
    pub node: usize,
}

/// What a node does.
pub(crate) enum Kind {
    /// A task is a row.
    Row(RowOp),
    /// A task is a row.
    Embed {
        table: Operand,
        ids: Rows,
        scale: f32,
        out: Rows,
    },
    /// A task is a row.
    KvWrite {
        values: [Rows; 2],
        slots: Rows,
        caches: [Operand; 2],
    },
    /// A task is a row; the last one orders the work of the experts.
    Router(RouterStep),
    Product(Product),
    Attention(AttentionStep),
    Conv(ConvStep),
    DeltaNet(DeltaStep),
}

/// Cosines and sines that several nodes share.
struct Turns {
    table: TensorId,
    positions: TensorId,
    variants: TensorId,
    out: Rows,
}

/// Lowers the nodes of one plan.
pub(crate) struct Lowering<'a> {
    pub plan: &'a Plan,
    pub weights: &'a WeightStore,
    pub states: &'a StateStore,
    /// The values; laid out by the plan.
    pub arena: &'a Buffer,
    /// The inputs, each at its largest size.
    pub inputs: &'a [(InputKind, Rows)],
    /// Memory of the rope turns, groupings and rearranged weights, kept by the executable.
    pub buffers: Vec<Buffer>,
    turns: Vec<Turns>,
    /// By the ids of the router.
    groupings: Vec<(TensorId, Grouping)>,
}

impl<'a> Lowering<'a> {
    pub(crate) fn new(
        plan: &'a Plan,
        weights: &'a WeightStore,
        states: &'a StateStore,
        arena: &'a Buffer,
        inputs: &'a [(InputKind, Rows)],
    ) -> Lowering<'a> {
        Lowering {
            plan,
            weights,
            states,
            arena,
            inputs,
            buffers: Vec::new(),
            turns: Vec::new(),
            groupings: Vec::new(),
        }
    }

    /// Routers among the nodes that are lowered.
    pub(crate) fn n_routers(&self) -> usize {
        self.groupings.len()
    }

    /// All nodes, the rope turns first.
    pub(crate) fn steps(&mut self) -> Result<Vec<Step>, DeviceError> {
        let mut steps = Vec::with_capacity(self.plan.nodes.len() + 1);
        for (idx, node) in self.plan.nodes.iter().enumerate() {
            let rows = self.plan.tensor(node.writes[0]).shape.rows;
            let rows = if matches!(node.op, Op::KvWrite) {
                self.plan.tensor(node.reads[0]).shape.rows
            } else {
                rows
            };
            let kind = self.kind(node)?;
            steps.push(Step { kind, rows, barrier: node.barrier, node: idx });
        }
        let turns = self.turns.iter().map(|turns| {
            let turn = RowOp::RopeTurns {
                positions: self.input(turns.positions)?,
                variants: self.input(turns.variants)?,
                table: self.operand(turns.table)?.rows,
                out: turns.out,
            };
            // A barrier lies between these and their readers: a rotation reads a value that some node wrote before it.
            let operands = [turns.positions, turns.table, turns.variants];
            let uses = |node: &Node| matches!(node.op, Op::Rope(_)) && node.reads[1..] == operands;
            let node = self.plan.nodes.iter().position(uses).unwrap_or(0);
            Ok(Step { kind: Kind::Row(turn), rows: Dim::Tokens, barrier: false, node })
        });
        let mut all = turns.collect::<Result<Vec<_>, DeviceError>>()?;
        all.append(&mut steps);
        Ok(all)
    }

    fn unsupported(&self, node: &Node, reason: impl Into<String>) -> DeviceError {
        let reason = format!("{} of {}: {}", node.op.kind().name(), node.label, reason.into());
        DeviceError::Plan { plan: self.plan.name.clone(), reason }
    }

    fn kind(&mut self, node: &Node) -> Result<Kind, DeviceError> {
        let reads = &node.reads;
        let row = |op: Result<RowOp, DeviceError>| op.map(Kind::Row);
        let product = |product: Result<Product, DeviceError>| product.map(Kind::Product);
        match node.op {
            Op::Embed(embed) => Ok(Kind::Embed {
                table: self.operand(reads[0])?,
                ids: self.input(reads[1])?,
                scale: embed.scale,
                out: self.value(node.writes[0])?,
            }),
            Op::KvWrite => Ok(Kind::KvWrite {
                values: [self.value(reads[0])?, self.value(reads[1])?],
                slots: self.input(reads[2])?,
                caches: [self.operand(node.writes[0])?, self.operand(node.writes[1])?],
            }),
            Op::GatherRows => row(self.gather_rows(node)),
            Op::Add => row(self.add(node)),
            Op::GatedAct(gated) => row(self.gated_act(node, gated)),
            Op::RmsNorm(norm) => row(self.rms_norm(node, norm)),
            Op::Mul => row(self.mul(node)),
            Op::Scale(scale) => row(self.scale(node, scale)),
            Op::Softcap(softcap) => row(self.softcap(node, softcap)),
            Op::SigmoidGate => row(self.sigmoid_gate(node)),
            Op::HeadSlice(slice) => row(self.head_slice(node, slice)),
            Op::Concat => row(self.concat(node)),
            Op::L2Norm(norm) => row(self.l2_norm(node, norm)),
            Op::RmsNormGated(norm) => row(self.rms_norm_gated(node, norm)),
            Op::QuantizeAct => row(self.quantize_act(node)),
            Op::Rope(rope) => row(self.rope(node, rope)),
            Op::ExpertCombine(combine) => {
                self.combine(node, combine).map(|op| Kind::Row(RowOp::Combine(op)))
            }
            Op::TopK(_) => row(self.top_k(node)),
            Op::MatMul(matmul) => product(self.matmul(node, matmul)),
            Op::GateUpAct(pair) => product(self.gate_up_act(node, pair.act)),
            Op::HeadMatMul(matmul) => product(self.head_matmul(node, matmul)),
            Op::ExpertGateUpAct(pair) => product(self.expert_gate_up_act(node, pair)),
            Op::ExpertMatMul(matmul) => product(self.expert_matmul(node, matmul)),
            Op::RouterTopK(router) => Ok(Kind::Router(self.router(node, router)?)),
            Op::Attention(attention) => Ok(Kind::Attention(self.attention(node, attention)?)),
            Op::LatentAttention(latent) => {
                Ok(Kind::Attention(self.latent_attention(node, latent)?))
            }
            Op::DeltaGates => row(self.delta_gates(node)),
            Op::CausalConv1d(conv) => Ok(Kind::Conv(self.causal_conv1d(node, conv)?)),
            Op::GatedDeltaNet(net) => Ok(Kind::DeltaNet(self.gated_delta_net(node, net)?)),
        }
    }

    fn input(&self, id: TensorId) -> Result<Rows, DeviceError> {
        Ok(self.operand(id)?.rows)
    }

    fn value(&self, id: TensorId) -> Result<Rows, DeviceError> {
        Ok(self.operand(id)?.rows)
    }

    /// Where a tensor of any kind lies.
    pub(crate) fn operand(&self, id: TensorId) -> Result<Operand, DeviceError> {
        let plan = self.plan;
        let tensor = plan.tensor(id);
        let cols = tensor.shape.cols as usize;
        let no_memory = |reason: &str| DeviceError::Plan {
            plan: plan.name.clone(),
            reason: format!("{} {reason}", tensor.name),
        };
        let rows = match tensor.kind {
            TensorKind::Input(kind) => {
                let found = self.inputs.iter().find(|(input, _)| *input == kind);
                found.map(|(_, rows)| *rows).ok_or_else(|| no_memory("is no input"))?
            }
            TensorKind::Const(idx) => Rows::of_f32(&plan.consts[idx as usize].data, cols),
            TensorKind::Weight => {
                Rows::of_bytes(&self.weights.bind(plan, id)?.data, tensor.row_bytes())
            }
            TensorKind::State => self.states.bind(plan, id)?,
            TensorKind::Value | TensorKind::View { .. } => {
                let (owner, offset, stride) = plan.locate(id);
                let memory = plan.memory.as_ref().and_then(|memory| memory.offsets[owner.index()]);
                let start = memory
                    .ok_or_else(|| no_memory("has no place; the plan is not prepared"))?
                    as usize;
                let n_rows = plan.limits.bound(tensor.shape.rows) as usize;
                self.arena.rows(start + offset, n_rows, stride, tensor.row_bytes())
            }
        };
        Ok(Operand { rows, dtype: tensor.dtype, cols })
    }
}
