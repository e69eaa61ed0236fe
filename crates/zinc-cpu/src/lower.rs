//! From plan nodes to what the workers run: operands become addresses, symbols stay symbols.

use crate::kernels::format::Form;
use crate::kernels::panel::ROWS;
use crate::memory::{Buffer, Rows};
use crate::store::{StateStore, WeightStore};
use zinc_backend::DeviceError;
use zinc_plan::{
    Activation, Attention, Dim, InputKind, Node, Op, Plan, RopeMode, TensorId, TensorKind,
};
use zinc_quant::GgmlType;

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
    /// Index of the plan's node; none for the rope turns.
    pub node: Option<usize>,
}

/// What a node does.
pub(crate) enum Kind {
    Embed { table: Operand, ids: Rows, scale: f32, out: Rows },
    GatherRows { x: Rows, rows: Rows, out: Rows },
    Add { a: Rows, b: Rows, out: Rows },
    GatedAct { act: Activation, gate: Rows, up: Rows, out: Rows },
    RmsNorm { x: Rows, w: Rows, eps: f32, out: Rows },
    QuantizeAct { x: Rows, dtype: GgmlType, out: Rows },
    MatMul(Product),
    RopeTurns { positions: Rows, variants: Rows, table: Rows, out: Rows },
    Rope { mode: RopeMode, head_dim: usize, x: Rows, turns: Rows, out: Rows },
    KvWrite { values: [Rows; 2], slots: Rows, caches: [Operand; 2] },
    Attention(AttentionStep),
}

/// One matrix product, or a gated pair.
pub(crate) struct Product {
    pub weight: Operand,
    pub up: Option<(Operand, Activation)>,
    pub x: Operand,
    pub bias: Option<Rows>,
    pub residual: Option<Rows>,
    pub out: Rows,
    pub n_out: usize,
    /// Sixteen-row panels of weights that one task takes.
    pub panels_per_task: usize,
}

/// Attention over a cache.
pub(crate) struct AttentionStep {
    pub attention: Attention,
    pub q: Rows,
    pub k: Operand,
    pub v: Operand,
    pub positions: Rows,
    pub seq_of: Rows,
    pub pages: Rows,
    pub out: Rows,
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
    pub n_threads: usize,
    /// Buffers of the rope turns, kept by the executable.
    pub turns: Vec<Buffer>,
    known_turns: Vec<Turns>,
}

impl<'a> Lowering<'a> {
    pub(crate) fn new(
        plan: &'a Plan,
        weights: &'a WeightStore,
        states: &'a StateStore,
        arena: &'a Buffer,
        inputs: &'a [(InputKind, Rows)],
        n_threads: usize,
    ) -> Lowering<'a> {
        Lowering {
            plan,
            weights,
            states,
            arena,
            inputs,
            n_threads,
            turns: Vec::new(),
            known_turns: Vec::new(),
        }
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
            steps.push(Step { kind, rows, barrier: node.barrier, node: Some(idx) });
        }
        let turns = self.known_turns.iter().map(|turns| {
            let kind = Kind::RopeTurns {
                positions: self.input(turns.positions)?,
                variants: self.input(turns.variants)?,
                table: self.operand(turns.table)?.rows,
                out: turns.out,
            };
            // A barrier lies between these and their readers: a rotation reads a value that some node wrote before it.
            Ok(Step { kind, rows: Dim::Tokens, barrier: false, node: None })
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
        Ok(match node.op {
            Op::Embed(embed) => Kind::Embed {
                table: self.operand(reads[0])?,
                ids: self.input(reads[1])?,
                scale: embed.scale,
                out: self.value(node.writes[0])?,
            },
            Op::GatherRows => Kind::GatherRows {
                x: self.value(reads[0])?,
                rows: self.input(reads[1])?,
                out: self.value(node.writes[0])?,
            },
            Op::Add => Kind::Add {
                a: self.value(reads[0])?,
                b: self.value(reads[1])?,
                out: self.value(node.writes[0])?,
            },
            Op::GatedAct(gated) => Kind::GatedAct {
                act: gated.act,
                gate: self.value(reads[0])?,
                up: self.value(reads[1])?,
                out: self.value(node.writes[0])?,
            },
            Op::RmsNorm(norm) => Kind::RmsNorm {
                x: self.value(reads[0])?,
                w: self.operand(reads[1])?.rows,
                eps: norm.eps,
                out: self.value(node.writes[0])?,
            },
            Op::QuantizeAct => Kind::QuantizeAct {
                x: self.value(reads[0])?,
                dtype: self.plan.tensor(node.writes[0]).dtype,
                out: self.value(node.writes[0])?,
            },
            Op::MatMul(matmul) => {
                let mut rest = reads[2..].iter();
                let bias =
                    rest.next().filter(|_| matmul.bias).map(|id| self.operand(*id)).transpose()?;
                let residual = reads
                    .last()
                    .filter(|_| matmul.residual)
                    .map(|id| self.value(*id))
                    .transpose()?;
                let bias = bias.map(|bias| bias.rows);
                Kind::MatMul(self.product(node, None, bias, residual)?)
            }
            Op::GateUpAct(pair) => Kind::MatMul(self.product(node, Some(pair.act), None, None)?),
            Op::Rope(rope) => Kind::Rope {
                mode: rope.mode,
                head_dim: rope.head_dim as usize,
                x: self.value(reads[0])?,
                turns: self.turns_of(node, rope.n_dims as usize / 2)?,
                out: self.value(node.writes[0])?,
            },
            Op::KvWrite => Kind::KvWrite {
                values: [self.value(reads[0])?, self.value(reads[1])?],
                slots: self.input(reads[2])?,
                caches: [self.operand(node.writes[0])?, self.operand(node.writes[1])?],
            },
            Op::Attention(attention) if attention.sinks => {
                return Err(self.unsupported(node, "sinks"));
            }
            Op::Mul
            | Op::Scale(_)
            | Op::Softcap(_)
            | Op::SigmoidGate
            | Op::HeadSlice(_)
            | Op::Concat
            | Op::L2Norm(_)
            | Op::RmsNormGated(_)
            | Op::HeadMatMul(_)
            | Op::ExpertMatMul(_)
            | Op::RouterTopK(_)
            | Op::ExpertCombine(_)
            | Op::LatentAttention(_)
            | Op::CausalConv1d(_)
            | Op::DeltaGates
            | Op::GatedDeltaNet(_) => {
                return Err(self.unsupported(
                    node,
                    "the CPU device has no kernel for it; --device reference computes it, slowly",
                ));
            }
            Op::Attention(attention) => Kind::Attention(AttentionStep {
                attention,
                q: self.value(reads[0])?,
                k: self.cache(node, reads[1])?,
                v: self.cache(node, reads[2])?,
                positions: self.input(reads[3])?,
                seq_of: self.input(reads[4])?,
                pages: self.input(reads[5])?,
                out: self.value(node.writes[0])?,
            }),
        })
    }

    /// `reads` starts with the weight or the pair of weights, then the activations.
    fn product(
        &self,
        node: &Node,
        act: Option<Activation>,
        bias: Option<Rows>,
        residual: Option<Rows>,
    ) -> Result<Product, DeviceError> {
        let n_weights = node.op.n_weight_operands();
        let x = self.operand(node.reads[n_weights])?;
        let weight = self.operand(node.reads[0])?;
        let up = match act {
            Some(act) => Some((self.operand(node.reads[1])?, act)),
            None => None,
        };
        for weight in [Some(weight), up.map(|(up, _)| up)].into_iter().flatten() {
            let wanted = match Form::of(weight.dtype) {
                Some(form) if x.dtype != GgmlType::F32 => form.activations(),
                _ => GgmlType::F32,
            };
            if wanted != x.dtype {
                let reason = format!(
                    "weights of type {} with activations of type {}",
                    weight.dtype, x.dtype
                );
                return Err(self.unsupported(node, reason));
            }
        }
        let out = self.value(node.writes[0])?;
        let n_out = self.plan.tensor(node.writes[0]).shape.cols as usize;
        // Several tasks per thread, so that none waits long for the last; few enough that taking one costs nothing.
        let panels_per_task = (n_out.div_ceil(ROWS) / (self.n_threads * 8)).clamp(1, 16);
        Ok(Product { weight, up, x, bias, residual, out, n_out, panels_per_task })
    }

    /// The buffer that holds the cosines and sines of a rotation: one for each table, computed once per step.
    fn turns_of(&mut self, node: &Node, n_pairs: usize) -> Result<Rows, DeviceError> {
        let [positions, table, variants] = [node.reads[1], node.reads[2], node.reads[3]];
        let same = |turns: &&Turns| {
            (turns.positions, turns.table, turns.variants) == (positions, table, variants)
        };
        if let Some(turns) = self.known_turns.iter().find(same) {
            return Ok(turns.out);
        }
        let n_rows = self.plan.limits.max_tokens as usize;
        let row_bytes = n_pairs * size_of::<[f32; 2]>();
        let buffer = Buffer::new(n_rows * row_bytes)
            .ok_or_else(|| self.unsupported(node, "no memory for angles"))?;
        let out = buffer.rows(0, n_rows, row_bytes, row_bytes);
        self.turns.push(buffer);
        self.known_turns.push(Turns { table, positions, variants, out });
        Ok(out)
    }

    fn cache(&self, node: &Node, id: TensorId) -> Result<Operand, DeviceError> {
        let operand = self.operand(id)?;
        match operand.dtype {
            GgmlType::F32 | GgmlType::F16 | GgmlType::Q8_0 => Ok(operand),
            other => Err(self.unsupported(node, format!("a cache of type {other}"))),
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
