//! Blocks of experts in small steps: which nodes become one launch, and where the values between launches lie.
//!
//! What a block computes on the way lies in scratch of its own, not where the plan has put it: the joined launch runs
//! at the place of its last node, where the plan may have given the memory of what it reads to later results. Nothing
//! in the arena is written before that launch but by nodes that the plan has before it, and its result lies beside all
//! that the last node reads; so whatever a block reads from outside is still there. Layers take turns with the scratch.

use std::ops::Range;

use zinc_plan::{MatMul, Op, Plan, TensorId, TensorKind};

/// The nodes of a block that one launch does: from quantising what gate and up give to the residual.
#[derive(Clone, Debug)]
pub(in crate::lower) struct ExpertBlock {
    /// From the first of them to the last.
    pub nodes: Range<usize>,
    /// Those between that remain launches of their own, before the joined one.
    pub kept: Vec<usize>,
    /// The node with the down product of the chosen experts.
    pub down: usize,
    /// The node that adds them up.
    pub combine: usize,
    /// The chosen experts.
    pub ids: TensorId,
    /// Results of gate and up, slot after slot.
    pub hidden: TensorId,
    pub shared: Option<SharedExpert>,
    pub residual: Option<TensorId>,
    pub out: TensorId,
    /// Values between the launches of the block.
    pub inner: Vec<TensorId>,
}

/// What is added to the sum over the chosen experts.
#[derive(Clone, Copy, Debug)]
pub(in crate::lower) struct SharedExpert {
    /// What its down product gives, where that remains a launch of its own; else what the product takes, and the node.
    pub value: TensorId,
    pub down: Option<usize>,
    /// What it is weighed by, before the sigmoid.
    pub gate: Option<TensorId>,
}

/// Who writes and reads each tensor of a plan.
pub(super) struct Uses<'a> {
    pub plan: &'a Plan,
    writer: Vec<Option<usize>>,
    /// Nodes, of owners also those that read a view; the number of nodes for an output.
    readers: Vec<Vec<usize>>,
}

impl<'a> Uses<'a> {
    pub fn of(plan: &'a Plan) -> Uses<'a> {
        let mut writer = vec![None; plan.tensors.len()];
        let mut readers = vec![Vec::new(); plan.tensors.len()];
        for (idx, node) in plan.nodes.iter().enumerate() {
            node.writes.iter().for_each(|id| writer[id.index()] = Some(idx));
            node.reads.iter().for_each(|id| readers[plan.locate(*id).0.index()].push(idx));
        }
        for id in &plan.outputs {
            readers[plan.locate(*id).0.index()].push(plan.nodes.len());
        }
        Uses { plan, writer, readers }
    }

    pub fn writer(&self, id: TensorId) -> Option<usize> {
        self.writer[id.index()]
    }

    /// Nodes that read `id`, once for each operand; the number of nodes where the host does.
    pub fn readers(&self, id: TensorId) -> impl Iterator<Item = usize> {
        self.readers[id.index()].iter().copied()
    }

    /// The node that reads `id`, whole and once, if it is the only reader.
    pub fn only_reader(&self, id: TensorId) -> Option<usize> {
        let [idx] = self.readers[id.index()][..] else { return None };
        let node = self.plan.nodes.get(idx)?;
        let is_value = self.plan.tensor(id).kind == TensorKind::Value;
        (is_value && node.reads.contains(&id)).then_some(idx)
    }

    /// Whether only nodes of a range touch `id`.
    fn is_within(&self, id: TensorId, range: &Range<usize>) -> bool {
        let is_value = self.plan.tensor(id).kind == TensorKind::Value;
        let is_written = self.writer(id).is_some_and(|writer| range.contains(&writer));
        is_value && is_written && self.readers[id.index()].iter().all(|idx| range.contains(idx))
    }

    /// The sum that `id` goes into and nowhere else, and the other operand.
    fn sum(&self, id: TensorId) -> Option<(usize, TensorId)> {
        let idx = self.only_reader(id)?;
        let node = &self.plan.nodes[idx];
        match node.reads[..] {
            [a, b] if node.op == Op::Add => Some((idx, if a == id { b } else { a })),
            _ => None,
        }
    }
}

/// All blocks of a plan, in order, none beginning before the one before it ends.
pub(super) fn find(uses: &Uses<'_>) -> Vec<ExpertBlock> {
    let mut found = Vec::new();
    let mut from = 0;
    for idx in 0..uses.plan.nodes.len() {
        if let Some(block) = block_at(uses, from, idx) {
            from = block.nodes.end;
            found.push(block);
        }
    }
    found
}

/// The block whose joined nodes begin at `first`. Nodes before `from` belong to others.
fn block_at(uses: &Uses<'_>, from: usize, first: usize) -> Option<ExpertBlock> {
    let nodes = &uses.plan.nodes;
    let quantize = nodes.get(first).filter(|node| node.op == Op::QuantizeAct && first >= from)?;
    let hidden = quantize.reads[0];
    let down = uses.only_reader(quantize.writes[0])?;
    let Op::ExpertMatMul(_) = nodes[down].op else { return None };
    let combine = uses.only_reader(nodes[down].writes[0])?;
    let Op::ExpertCombine(_) = nodes[combine].op else { return None };
    let (ids, weights) = (nodes[down].reads[2], nodes[combine].reads[1]);
    if nodes[combine].reads.get(2).is_some_and(|of_scale| *of_scale != ids) {
        return None;
    }
    let mut joined = vec![first, down, combine];
    let mut inner = vec![hidden, ids, weights];
    let mut out = nodes[combine].writes[0];
    let shared = shared_expert(uses, first, down, out);
    if let Some((shared, of_shared)) = &shared {
        joined.extend(of_shared);
        inner.extend([shared.value].into_iter().chain(shared.gate));
        out = nodes[*of_shared.last()?].writes[0];
    }
    let is_before = |id: TensorId| uses.writer(id).is_none_or(|writer| writer < first);
    let residual = uses.sum(out).filter(|(_, residual)| is_before(*residual));
    if let Some((end, _)) = residual {
        joined.push(end);
        out = nodes[end].writes[0];
    }
    let nodes = first..joined.iter().max()? + 1;
    let is_private = inner.iter().all(|id| uses.is_within(*id, &(from..nodes.end)));
    let shared = shared.map(|(shared, _)| shared);
    is_private.then(|| ExpertBlock {
        kept: nodes.clone().filter(|idx| !joined.contains(idx)).collect(),
        nodes,
        down,
        combine,
        ids,
        hidden,
        shared,
        residual: residual.map(|(_, residual)| residual),
        out,
        inner,
    })
}

/// What nodes behind `first` add to `routed`, and those of them that the launch joins, the last one last.
fn shared_expert(
    uses: &Uses<'_>,
    first: usize,
    routed_down: usize,
    routed: TensorId,
) -> Option<(SharedExpert, Vec<usize>)> {
    let nodes = &uses.plan.nodes;
    let end = uses.only_reader(routed)?;
    let later = |idx: &usize| *idx > first;
    // The product adds the sum over the experts itself, or it is gated and added.
    let (down, gate, mut joined) = match nodes[end].op {
        Op::MatMul(MatMul { residual: true, bias: false }) if nodes[end].reads[2] == routed => {
            (end, None, vec![end])
        }
        Op::Add => {
            let gated = uses.writer(uses.sum(routed)?.1).filter(later)?;
            let (product, gate) = match (nodes[gated].op, &nodes[gated].reads[..]) {
                (Op::SigmoidGate, [product, gate]) => (*product, *gate),
                _ => return None,
            };
            let is_one = uses.plan.tensor(gate).shape.cols == 1;
            let is_private = [product, gate, nodes[gated].writes[0]]
                .iter()
                .all(|id| uses.only_reader(*id).is_some());
            let down = uses.writer(product).filter(later).filter(|_| is_one && is_private)?;
            (down, Some(gate), vec![gated, end])
        }
        _ => return None,
    };
    if let Some((quantize, hidden)) =
        joint_product(uses, down, routed_down).filter(|(idx, _)| later(idx))
    {
        joined.splice(0..0, [quantize, down]);
        return Some((SharedExpert { value: hidden, down: Some(down), gate }, joined));
    }
    let value = nodes[down].writes[0];
    (down != end).then_some((SharedExpert { value, down: None, gate }, joined))
}

/// The node that quantises what the product `down` takes, and what it quantises, if nothing else reads either and the
/// product is one like that of the chosen experts.
fn joint_product(uses: &Uses<'_>, down: usize, routed: usize) -> Option<(usize, TensorId)> {
    let nodes = &uses.plan.nodes;
    let Op::MatMul(MatMul { bias: false, .. }) = nodes[down].op else { return None };
    let weight = |idx: usize| uses.plan.tensor(nodes[idx].reads[0]);
    let (mine, theirs) = (weight(down), weight(routed));
    let acts = nodes[down].reads[1];
    let idx = uses.only_reader(acts).and(uses.writer(acts))?;
    let hidden = nodes[idx].reads[0];
    let is_alone = nodes[idx].op == Op::QuantizeAct && uses.only_reader(hidden) == Some(idx);
    let is_like = mine.dtype == theirs.dtype && mine.shape.cols == theirs.shape.cols;
    (is_alone && is_like).then_some((idx, hidden))
}
