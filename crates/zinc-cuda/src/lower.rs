//! From plan nodes to launches, for one bucket of step sizes. Needs no card: addresses come from [`Places`].

pub mod attention;
pub mod experts;
pub mod linear;
pub mod post_norm;
pub mod prepare;
pub mod prologue;
pub mod recurrent;
pub mod rows;
pub mod top_k;

use std::collections::HashMap;
use std::ops::Range;

use zinc_backend::{DeviceError, StepSizes};
use zinc_plan::{Dim, InputKind, Node, Op, Plan, TensorId, TensorKind};
use zinc_quant::GgmlType;

pub use crate::card::Card;
use crate::launch::{Count, Launch, Rows};
pub use experts::Grouping;

/// Bytes of the step header at the start of the inputs: i32 tokens, sequences, wanted rows, bytes of all inputs, then counters
/// that are zero when a step begins and that every launch leaves at zero.
pub const HEADER_BYTES: u64 = 1024;
/// Where the counters begin: of a small step's rows, or of what shares the work of a row.
const COUNTERS: u64 = 16;
/// How many there are.
const N_COUNTERS: u32 = (HEADER_BYTES - COUNTERS) as u32 / 4;

/// The header of a step whose inputs take `n_bytes` with it.
pub fn header(sizes: StepSizes, n_bytes: usize) -> [i32; HEADER_BYTES as usize / 4] {
    let mut header = [0; HEADER_BYTES as usize / 4];
    let words = [sizes.tokens, sizes.seqs, sizes.out_rows, n_bytes];
    header[..4].copy_from_slice(&words.map(|n| n as i32));
    header
}

/// Alignment of inputs and scratch.
const ALIGN: u64 = 256;

/// Upper bounds of a step that one recording serves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Bucket {
    /// Tokens.
    pub tokens: u32,
    /// Sequences.
    pub seqs: u32,
    /// Rows whose logits are wanted; may be 0.
    pub out_rows: u32,
}

impl Bucket {
    /// The largest that `plan` allows.
    pub fn largest(plan: &Plan) -> Bucket {
        let limits = &plan.limits;
        Bucket { tokens: limits.max_tokens, seqs: limits.max_seqs, out_rows: limits.max_out_rows }
    }

    /// The bucket of a step, bounded by the plan's limits: small numbers as they are, larger ones
    /// rounded up to one of two steps per power of two.
    pub fn of(sizes: &StepSizes, plan: &Plan) -> Bucket {
        let largest = Bucket::largest(plan);
        let up = |n: usize, max: u32| {
            let n = u32::try_from(n).unwrap_or(u32::MAX);
            let power = n.next_power_of_two();
            let rounded = if n > 4 && n <= power / 4 * 3 { power / 4 * 3 } else { power };
            rounded.clamp(n.min(max), max.max(1))
        };
        let out_rows = if sizes.out_rows == 0 { 0 } else { up(sizes.out_rows, largest.out_rows) };
        Bucket {
            tokens: up(sizes.tokens, largest.tokens),
            seqs: up(sizes.seqs, largest.seqs),
            out_rows,
        }
    }

    /// Rows of `dim` to launch for.
    pub fn rows(&self, dim: Dim, plan: &Plan) -> u32 {
        match dim {
            Dim::Fixed(n) => n,
            Dim::Tokens => self.tokens,
            Dim::Seqs => self.seqs,
            Dim::OutRows => self.out_rows,
            Dim::CacheRows | Dim::WindowRows | Dim::StateSlots => {
                u32::try_from(plan.limits.bound(dim)).unwrap_or(u32::MAX)
            }
        }
    }
}

/// Where things lie.
pub trait Places {
    /// Where the weight that `plan` calls `id` begins.
    ///
    /// # Errors
    /// It is not bound, or has another type or shape.
    fn weight(&self, plan: &Plan, id: TensorId) -> Result<u64, DeviceError>;

    /// Where the state that `plan` calls `id` begins.
    ///
    /// # Errors
    /// As for weights.
    fn state(&self, plan: &Plan, id: TensorId) -> Result<u64, DeviceError>;

    /// Where the table `idx` of [`Plan::consts`] begins.
    fn constant(&self, idx: u32) -> u64;

    /// Where the arena of the values begins.
    fn arena(&self) -> u64;

    /// Where the inputs of the step begin, with their header.
    fn inputs(&self) -> u64;

    /// Where the scratch memory begins.
    fn scratch(&self) -> u64;
}

/// Addresses of nothing, for what does not depend on them: what launches need, and their lists.
pub struct Nowhere;

impl Places for Nowhere {
    fn weight(&self, _: &Plan, _: TensorId) -> Result<u64, DeviceError> {
        Ok(0)
    }

    fn state(&self, _: &Plan, _: TensorId) -> Result<u64, DeviceError> {
        Ok(0)
    }

    fn constant(&self, _: u32) -> u64 {
        0
    }

    fn arena(&self) -> u64 {
        0
    }

    fn inputs(&self) -> u64 {
        0
    }

    fn scratch(&self) -> u64 {
        0
    }
}

/// Where each input lies behind the header, and the bytes of all.
#[derive(Clone, Debug)]
pub struct InputLayout {
    /// Kind, offset and bytes at the plan's limits.
    pub parts: Vec<(InputKind, u64, u64)>,
    /// Bytes with the header.
    pub n_bytes: u64,
}

impl InputLayout {
    /// That of the inputs which `plan` names.
    pub fn of(plan: &Plan) -> InputLayout {
        let mut n_bytes = HEADER_BYTES.next_multiple_of(ALIGN);
        let mut parts = Vec::new();
        for (_, tensor) in plan.tensors_where(|tensor| matches!(tensor.kind, TensorKind::Input(_)))
        {
            if let TensorKind::Input(kind) = tensor.kind {
                let bytes = plan.limits.bound(tensor.shape.rows) * u64::from(tensor.shape.cols) * 4;
                parts.push((kind, n_bytes, bytes));
                n_bytes = (n_bytes + bytes).next_multiple_of(ALIGN);
            }
        }
        InputLayout { parts, n_bytes }
    }
}

/// An operand or result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operand {
    /// Of its first row.
    pub address: u64,
    /// Bytes from row to row. Of a repacked weight those of the layout.
    pub stride: u64,
    /// Element type.
    pub dtype: GgmlType,
    /// Rows by dimension.
    pub rows: Dim,
    /// Elements of a row.
    pub cols: u32,
}

/// Bytes from the start of a `Q8_1` value of `max_rows` rows of `cols` elements to its scales.
pub fn q8_scales(max_rows: u64, cols: u32) -> u64 {
    max_rows * u64::from(cols)
}

/// Lowers the nodes of one plan for one bucket.
pub struct Lowering<'a> {
    /// The prepared plan.
    pub plan: &'a Plan,
    /// Upper bounds of the step.
    pub bucket: Bucket,
    /// The card to shape launches for.
    pub card: Card,
    /// Whether only variants are used whose rows do not depend on the number of rows.
    pub batch_invariant: bool,
    places: &'a dyn Places,
    inputs: InputLayout,
    launches: Vec<Launch>,
    node: usize,
    /// The next node to lower: launches may do the work of several.
    resume: usize,
    persistent_bytes: u64,
    transient_bytes: u64,
    transient_max: u64,
    /// Bytes kept for persistent scratch, before the transient one.
    persistent_limit: u64,
    pub(crate) groupings: Vec<(TensorId, Grouping)>,
    /// Fewest rows that products with experts take together, expert by expert.
    least_grouped: u32,
    /// Results that are written over what they are made from.
    in_place: Vec<(TensorId, TensorId)>,
    /// Where activations are kept as panels, and those that are there.
    panel_places: Vec<linear::PanelPlace>,
    panels: Vec<(TensorId, linear::Panels)>,
    /// Results that launches of earlier nodes have written, and activations that products make themselves.
    written: Vec<TensorId>,
    prologues: Vec<(TensorId, prologue::Prologue)>,
    expert_blocks: Vec<experts::block::ExpertBlock>,
    routers: Vec<experts::router::Router>,
    /// Values that lie in scratch, not where the plan has put them.
    moved: HashMap<TensorId, u64>,
}

/// Launches of a step and the scratch they use.
pub struct Lowered {
    /// In the order they run.
    pub launches: Vec<Launch>,
    /// Nodes that were lowered together, in order: all of the plan. Launches name the first node of theirs.
    pub spans: Vec<Range<usize>>,
    /// Bytes of scratch that lives over the step.
    pub persistent_bytes: u64,
    /// Bytes of scratch of a node.
    pub transient_bytes: u64,
}

impl<'a> Lowering<'a> {
    /// Lowering into launches. `persistent_limit` is what an earlier lowering for the largest bucket
    /// used of persistent scratch; transient scratch lies behind it.
    pub fn new(
        plan: &'a Plan,
        bucket: Bucket,
        card: Card,
        places: &'a dyn Places,
        persistent_limit: u64,
    ) -> Lowering<'a> {
        Lowering {
            plan,
            bucket,
            card,
            batch_invariant: false,
            places,
            inputs: InputLayout::of(plan),
            launches: Vec::new(),
            node: 0,
            resume: 0,
            persistent_bytes: 0,
            transient_bytes: 0,
            transient_max: 0,
            persistent_limit,
            groupings: Vec::new(),
            least_grouped: Grouping::least_rows(plan, card),
            in_place: Vec::new(),
            panel_places: Vec::new(),
            panels: Vec::new(),
            written: Vec::new(),
            prologues: Vec::new(),
            expert_blocks: Vec::new(),
            routers: Vec::new(),
            moved: HashMap::new(),
        }
    }

    /// All nodes.
    ///
    /// # Errors
    /// What the device lacks, by name, or tensors that are not bound.
    pub fn run(mut self) -> Result<Lowered, DeviceError> {
        let plan = self.plan;
        let mut spans: Vec<Range<usize>> = Vec::with_capacity(plan.nodes.len());
        self.place_panels()?;
        self.place_expert_blocks();
        for (idx, node) in plan.nodes.iter().enumerate() {
            if idx < self.resume {
                continue;
            }
            self.node = idx;
            self.resume = idx + 1;
            self.transient_bytes = 0;
            match self.joined(idx)? {
                Some(n_nodes) => self.resume = idx + n_nodes,
                None => self.lower(node)?,
            }
            spans.push(idx..self.resume);
        }
        Ok(Lowered {
            launches: self.launches,
            spans,
            persistent_bytes: self.persistent_bytes,
            transient_bytes: self.transient_max,
        })
    }

    /// Lowers the nodes from `idx` on that have a launch together, if some do; their number.
    fn joined(&mut self, idx: usize) -> Result<Option<usize>, DeviceError> {
        let joins =
            [Self::prepare, Self::post_norm, Self::delta_inputs, Self::router, Self::expert_block];
        for join in joins {
            if let Some(n_nodes) = join(self, idx)? {
                return Ok(Some(n_nodes));
            }
        }
        Ok(None)
    }

    fn lower(&mut self, node: &Node) -> Result<(), DeviceError> {
        if self.is_done_by_others(node)? {
            return Ok(());
        }
        match node.op {
            Op::Embed(embed) => self.embed(node, embed),
            Op::GatherRows => self.gather_rows(node),
            Op::Add => self.add(node),
            Op::Mul => self.mul(node),
            Op::Scale(scale) => self.scale(node, scale),
            Op::Softcap(softcap) => self.softcap(node, softcap),
            Op::GatedAct(gated) => self.gated_act(node, gated),
            Op::SigmoidGate => self.sigmoid_gate(node),
            Op::HeadSlice(slice) => self.head_slice(node, slice),
            Op::Concat => self.concat(node),
            Op::RmsNorm(norm) => self.rms_norm(node, norm),
            Op::L2Norm(norm) => self.l2_norm(node, norm),
            Op::RmsNormGated(norm) => self.rms_norm_gated(node, norm),
            Op::Rope(rope) => self.rope(node, rope),
            Op::KvWrite => self.kv_write(node),
            Op::Attention(attention) => self.attention(node, &attention),
            Op::LatentAttention(attention) => self.latent_attention(node, &attention),
            Op::RouterTopK(router) => self.router_top_k(node, &router),
            Op::ExpertCombine(combine) => self.expert_combine(node, combine),
            Op::CausalConv1d(conv) => self.causal_conv1d(node, conv),
            Op::DeltaGates => self.delta_gates(node),
            Op::GatedDeltaNet(net) => self.gated_delta_net(node, &net),
            Op::TopK(top) => self.top_k(node, top),
            Op::QuantizeAct => self.quantize_act(node),
            Op::MatMul(matmul) => self.matmul(node, matmul),
            Op::GateUpAct(pair) => self.gate_up_act(node, pair.act),
            Op::HeadMatMul(matmul) => self.head_matmul(node, matmul),
            Op::ExpertMatMul(matmul) => self.expert_matmul(node, matmul),
            Op::ExpertGateUpAct(pair) => self.expert_gate_up_act(node, &pair),
        }
    }

    /// Adds a launch of the node that is being lowered, unless the bucket has no rows for it.
    pub fn push(&mut self, launch: Launch) {
        debug_assert!(launch.grid[1..].iter().all(|n| *n <= 65_535), "{launch} is no grid");
        if launch.grid.iter().all(|n| *n > 0) {
            self.launches.push(Launch { node: self.node, ..launch });
        }
    }

    /// Whether no launch of a step writes `id`, so that kernels may read it before they wait for other launches.
    fn is_constant(&self, id: TensorId) -> bool {
        matches!(self.plan.tensor(id).kind, TensorKind::Weight | TensorKind::Const(_))
    }

    /// The error for what no kernel does.
    pub fn unsupported(&self, node: &Node, reason: impl Into<String>) -> DeviceError {
        let reason = format!("{} of {}: {}", node.op.kind().name(), node.label, reason.into());
        DeviceError::Plan { plan: self.plan.name.clone(), reason }
    }

    /// Scratch that this node's launches may use.
    pub fn transient(&mut self, n_bytes: u64) -> u64 {
        let at = self.transient_bytes;
        self.transient_bytes = (at + n_bytes).next_multiple_of(ALIGN);
        self.transient_max = self.transient_max.max(self.transient_bytes);
        self.places.scratch() + self.persistent_limit + at
    }

    /// Scratch that later nodes read too. Ask for the same bytes whatever the bucket.
    pub fn persistent(&mut self, n_bytes: u64) -> u64 {
        let at = self.persistent_bytes;
        self.persistent_bytes = (at + n_bytes).next_multiple_of(ALIGN);
        self.places.scratch() + at
    }

    /// The actual rows of `dim`, for the kernels.
    pub fn count(&self, dim: Dim) -> Count {
        let which = match dim {
            Dim::Tokens => 0,
            Dim::Seqs => 1,
            Dim::OutRows => 2,
            Dim::Fixed(_) | Dim::CacheRows | Dim::WindowRows | Dim::StateSlots => 3,
        };
        Count { header: self.places.inputs(), which, unused: 0 }
    }

    /// Rows of `dim` to launch for.
    pub fn rows(&self, dim: Dim) -> u32 {
        self.bucket.rows(dim, self.plan)
    }

    /// A tensor of f32 rows, for the kernels.
    ///
    /// # Errors
    /// As [`Lowering::operand`].
    pub fn float_rows(&self, id: TensorId) -> Result<Rows, DeviceError> {
        let operand = self.operand(id)?;
        let stride = u32::try_from(operand.stride / 4).unwrap_or(u32::MAX);
        Ok(Rows { data: operand.address, stride, cols: operand.cols })
    }

    /// Where a tensor of any kind lies.
    ///
    /// # Errors
    /// It is not bound, or the plan is not prepared.
    pub fn operand(&self, id: TensorId) -> Result<Operand, DeviceError> {
        let plan = self.plan;
        let id = self.in_place.iter().find(|(of, _)| *of == id).map_or(id, |(_, at)| *at);
        let tensor = plan.tensor(id);
        let missing = |reason: &str| DeviceError::Plan {
            plan: plan.name.clone(),
            reason: format!("{} {reason}", tensor.name),
        };
        let mut stride = tensor.row_bytes() as u64;
        let address = match tensor.kind {
            TensorKind::Input(kind) => {
                let found = self.inputs.parts.iter().find(|(input, ..)| *input == kind);
                let (_, offset, _) = found.ok_or_else(|| missing("is no input"))?;
                self.places.inputs() + offset
            }
            TensorKind::Const(idx) => self.places.constant(idx),
            TensorKind::Weight => {
                if let Some(layout) = crate::store::RowLayout::of(tensor.dtype, tensor.shape.cols) {
                    stride = layout.row_bytes;
                }
                self.places.weight(plan, id)?
            }
            TensorKind::State => self.places.state(plan, id)?,
            TensorKind::Value | TensorKind::View { .. } => {
                let (owner, offset, base_stride) = plan.locate(id);
                let memory = plan.memory.as_ref().and_then(|memory| memory.offsets[owner.index()]);
                let in_arena = memory.map(|start| self.places.arena() + start);
                let start = self.moved.get(&owner).copied().or(in_arena);
                let start =
                    start.ok_or_else(|| missing("has no place; the plan is not prepared"))?;
                stride = base_stride as u64;
                start + offset as u64
            }
        };
        let (rows, cols) = (tensor.shape.rows, tensor.shape.cols);
        Ok(Operand { address, stride, dtype: tensor.dtype, rows, cols })
    }
}
