//! Plan rules, checked after every pass that changes nodes.

use std::collections::HashSet;

use zinc_quant::GgmlType;

use crate::op::{Op, delta_net};
use crate::plan::{CacheGroup, Dim, InputKind, Node, Plan, Shape, TensorId, TensorKind};
use crate::{Caps, PlanError};

/// Every value has one writer that comes before its readers, names are unique, operands fit and are
/// of the right kind, views lie inside values, outputs are computed.
pub(super) fn rules(plan: &Plan) -> Result<(), PlanError> {
    let mut names = HashSet::new();
    for (idx, tensor) in plan.tensors.iter().enumerate() {
        let invalid = |reason: String| PlanError::Invalid { at: tensor.name.clone(), reason };
        if !names.insert(tensor.name.as_str()) {
            return Err(invalid("two tensors have this name".into()));
        }
        if tensor.dtype.row_bytes(tensor.shape.cols as usize).is_none() {
            return Err(invalid(format!("row is no whole number of {} blocks", tensor.dtype)));
        }
        if let TensorKind::View { base, col } = tensor.kind {
            let owner = plan.tensor(base);
            let inside = col + tensor.shape.cols <= owner.shape.cols
                && owner.shape.rows == tensor.shape.rows
                && owner.dtype == tensor.dtype
                && base.index() < idx;
            if !inside || owner.kind != TensorKind::Value {
                return Err(invalid(format!("view does not lie inside {}", owner.name)));
            }
        }
    }
    // Node that has written each value so far.
    let mut written: Vec<Option<usize>> = vec![None; plan.tensors.len()];
    for idx in 0..plan.nodes.len() {
        check_node(plan, idx, &mut written)?;
    }
    for id in &plan.outputs {
        if written[plan.locate(*id).0.index()].is_none() {
            let at = plan.tensor(*id).name.clone();
            return Err(PlanError::Invalid { at, reason: "output is never computed".into() });
        }
    }
    Ok(())
}

fn check_node(plan: &Plan, idx: usize, written: &mut [Option<usize>]) -> Result<(), PlanError> {
    let node = &plan.nodes[idx];
    let invalid = |reason: String| PlanError::Invalid { at: node.label.clone(), reason };
    for id in &node.reads {
        let owner = plan.locate(*id).0;
        if plan.tensor(owner).kind == TensorKind::Value && written[owner.index()].is_none() {
            return Err(invalid(format!("reads {} before it is written", plan.tensor(*id).name)));
        }
    }
    let infos: Vec<_> = node.reads.iter().map(|id| plan.tensor(*id)).collect();
    let results = node.op.infer(&infos).map_err(|reason| PlanError::Operand {
        label: node.label.clone(),
        op: node.op.kind().name(),
        reason,
    })?;
    check_operand_kinds(plan, node, written).map_err(invalid)?;
    check_results(plan, node, results.len()).map_err(invalid)?;
    for (id, (dtype, shape)) in node.writes.iter().zip(results) {
        let tensor = plan.tensor(*id);
        if tensor.dtype != dtype || tensor.shape != shape {
            return Err(invalid(format!("{} is not the {dtype} {shape:?} it gives", tensor.name)));
        }
    }
    let n_values = node.writes.len() - node.op.n_state_writes();
    for (result, id) in node.writes.iter().enumerate() {
        let tensor = plan.tensor(*id);
        if result >= n_values && tensor.kind == TensorKind::State {
            continue;
        }
        if tensor.kind != TensorKind::Value || written[id.index()].is_some() {
            return Err(invalid(format!("{} cannot be written here", tensor.name)));
        }
        written[id.index()] = Some(idx);
    }
    Ok(())
}

/// What an operand must be, where its shape does not say so. Devices index tables with the step's
/// inputs, and the inputs are checked by their kind, so one kind in the place of another is an
/// index out of range.
fn operand_kinds(op: &Op) -> &'static [(usize, OperandKind)] {
    use InputKind::{OutRows, Pages, Positions, RopeVariant, SeqOf, TokenIds};
    use InputKind::{StateFrom, StateSaves, StateSlots};
    use OperandKind::{Input, State, Weight};
    match op {
        Op::Embed(_) => &[(0, Weight), (1, Input(TokenIds))],
        Op::GatherRows => &[(1, Input(OutRows))],
        Op::MatMul(_) | Op::HeadMatMul(_) | Op::ExpertMatMul(_) => &[(0, Weight)],
        Op::ExpertGateUpAct(pair) if pair.packed => &[(0, Weight)],
        Op::GateUpAct(_) | Op::ExpertGateUpAct(_) => &[(0, Weight), (1, Weight)],
        Op::Rope(_) => &[(1, Input(Positions)), (3, Input(RopeVariant))],
        // Slots and pages of the other operations on caches: see `check_cache_group`.
        Op::Attention(_) => &[(1, State), (2, State), (3, Input(Positions)), (4, Input(SeqOf))],
        Op::LatentAttention(_) => {
            &[(2, State), (3, State), (4, Input(Positions)), (5, Input(SeqOf)), (6, Input(Pages))]
        }
        Op::CausalConv1d(_) => &[
            (2, Input(Positions)),
            (3, Input(SeqOf)),
            (4, Input(StateFrom)),
            (5, Input(StateSlots)),
            (6, Input(StateSaves)),
        ],
        Op::GatedDeltaNet(_) => &[
            (5, Input(Positions)),
            (6, Input(SeqOf)),
            (7, Input(StateFrom)),
            (8, Input(StateSlots)),
            (9, Input(StateSaves)),
        ],
        Op::KvWrite
        | Op::Add
        | Op::Mul
        | Op::Scale(_)
        | Op::Softcap(_)
        | Op::GatedAct(_)
        | Op::SigmoidGate
        | Op::HeadSlice(_)
        | Op::Concat
        | Op::RmsNorm(_)
        | Op::L2Norm(_)
        | Op::RmsNormGated(_)
        | Op::RouterTopK(_)
        | Op::ExpertCombine(_)
        | Op::DeltaGates
        | Op::TopK(_)
        | Op::QuantizeAct => &[],
    }
}

enum OperandKind {
    Weight,
    State,
    Input(InputKind),
}

fn check_operand_kinds(plan: &Plan, node: &Node, written: &[Option<usize>]) -> Result<(), String> {
    for (operand, kind) in operand_kinds(&node.op) {
        let tensor = plan.tensor(node.reads[*operand]);
        let fits = match kind {
            OperandKind::Weight => tensor.kind == TensorKind::Weight,
            OperandKind::State => tensor.kind == TensorKind::State,
            OperandKind::Input(input) => tensor.kind == TensorKind::Input(*input),
        };
        if !fits {
            return Err(format!("{} cannot be operand {operand}", tensor.name));
        }
    }
    let page_size = match node.op {
        Op::KvWrite => {
            return check_cache_group(plan, &node.writes, CacheGroup::slots, node.reads[2], true);
        }
        Op::Attention(attention) => {
            let (caches, has_window) = (&node.reads[1..3], attention.window.is_some());
            check_cache_group(plan, caches, CacheGroup::pages, node.reads[5], has_window)?;
            attention.page_size
        }
        Op::LatentAttention(attention) => attention.page_size,
        Op::ExpertMatMul(matmul) => {
            return check_expert_ids(plan, node.reads[2], matmul.n_experts, written);
        }
        Op::ExpertGateUpAct(pair) => {
            let ids = node.reads[pair.n_weights() + 1];
            return check_expert_ids(plan, ids, pair.n_experts, written);
        }
        Op::ExpertCombine(combine) if combine.expert_scale => {
            let n_experts = plan.tensor(node.reads[3]).shape.cols;
            return check_expert_ids(plan, node.reads[2], n_experts, written);
        }
        _ => return Ok(()),
    };
    if page_size == plan.limits.page_size {
        return Ok(());
    }
    Err(format!("pages of {page_size}, the plan's have {} rows", plan.limits.page_size))
}

/// The caches are of one group, and the step input `index` that devices index them with is that
/// group's; the window group is only for what has a window.
fn check_cache_group(
    plan: &Plan,
    caches: &[TensorId],
    input_of: fn(CacheGroup) -> InputKind,
    index: TensorId,
    has_window: bool,
) -> Result<(), String> {
    let index = plan.tensor(index);
    for cache in caches.iter().map(|id| plan.tensor(*id)) {
        let group = CacheGroup::of(cache.shape.rows);
        let fits = group.is_some_and(|group| {
            index.kind == TensorKind::Input(input_of(group))
                && (has_window || group == CacheGroup::Full)
        });
        if !fits {
            return Err(format!("{} cannot be indexed with {} here", cache.name, index.name));
        }
    }
    Ok(())
}

/// Devices index experts with `ids`: a router over `n_experts` must have chosen them.
fn check_expert_ids(
    plan: &Plan,
    ids: TensorId,
    n_experts: u32,
    written: &[Option<usize>],
) -> Result<(), String> {
    let writer = written[ids.index()].map(|idx| &plan.nodes[idx]);
    let chosen = writer.filter(|writer| matches!(writer.op, Op::RouterTopK(_)));
    let n_found = chosen.map(|router| plan.tensor(router.reads[0]).shape.cols);
    if n_found == Some(n_experts) {
        return Ok(());
    }
    let name = &plan.tensor(ids).name;
    Err(format!("{name} does not choose among {n_experts} experts"))
}

/// The number of results, and the results that `Op::infer` says nothing about.
fn check_results(plan: &Plan, node: &Node, n_inferred: usize) -> Result<(), String> {
    let n_results = match node.op {
        Op::QuantizeAct => 1,
        _ => n_inferred + node.op.n_state_writes(),
    };
    if node.writes.len() != n_results {
        let found = node.writes.len();
        return Err(format!("writes {found} tensors, gives {n_results}"));
    }
    let state_cols = match node.op {
        Op::CausalConv1d(conv) => {
            let n_channels = plan.tensor(node.reads[0]).shape.cols;
            n_channels.checked_mul(conv.kernel - 1)
        }
        Op::GatedDeltaNet(net) => Some(delta_net::state_cols(&net)),
        _ => None,
    };
    if let Some(cols) = state_cols {
        let state = plan.tensor(node.writes[n_inferred]);
        let fits = state.kind == TensorKind::State
            && state.dtype == GgmlType::F32
            && state.shape == Shape::new(Dim::StateSlots, cols);
        if !fits {
            return Err(format!("{} is no state of {cols} f32 columns", state.name));
        }
    }
    for (from, to) in node.reads.iter().zip(&node.writes) {
        let (from, to) = (plan.tensor(*from), plan.tensor(*to));
        let fits = match node.op {
            Op::KvWrite => to.kind == TensorKind::State && to.shape.cols == from.shape.cols,
            Op::QuantizeAct => to.shape == from.shape && to.dtype.is_quantized(),
            _ => true,
        };
        if !fits {
            return Err(format!("{} cannot hold the rows of {}", to.name, from.name));
        }
    }
    Ok(())
}

/// The device can run every node and hold every cache.
pub(super) fn supported(plan: &Plan, caps: &Caps) -> Result<(), PlanError> {
    for node in &plan.nodes {
        let kind = node.op.kind();
        let unsupported = |reason: String| PlanError::Unsupported {
            device: caps.device.clone(),
            op: kind.name(),
            label: node.label.clone(),
            reason,
        };
        if kind.is_fused() && !caps.fused.contains(&kind) {
            return Err(unsupported("fused operation".into()));
        }
        for id in &node.reads[..node.op.n_weight_operands()] {
            let weight = plan.tensor(*id);
            if caps.activation(weight.dtype, weight.shape.cols).is_none() {
                return Err(unsupported(format!("weights of type {}", weight.dtype)));
            }
        }
        for id in node.writes.iter().filter(|id| plan.tensor(**id).kind == TensorKind::State) {
            let dtype = plan.tensor(*id).dtype;
            // Recurrent states are always f32.
            if node.op == Op::KvWrite && !caps.kv_types.contains(&dtype) {
                return Err(unsupported(format!("a key/value cache of type {dtype}")));
            }
        }
    }
    Ok(())
}

/// Inputs that the plan reads.
impl Plan {
    /// The step inputs this plan reads, in the order of [`InputKind::ALL`].
    pub fn inputs(&self) -> Vec<InputKind> {
        let has = |kind: &InputKind| self.find(kind.name()).is_some();
        InputKind::ALL.into_iter().filter(has).collect()
    }
}
