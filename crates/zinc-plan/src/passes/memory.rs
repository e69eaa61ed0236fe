//! Lays all values out in one arena by their lifetimes. Lifetimes are counted in concurrent groups,
//! not nodes, so nodes of one group never share bytes and stay concurrent.

use crate::passes::hazards;
use crate::plan::{Memory, Node, Plan, TensorId, TensorKind};
use crate::{Caps, Op};

/// Alignment of every value: a cache line, and enough for the widest vector loads.
const ALIGN: u64 = 64;

struct Lifetime {
    id: TensorId,
    bytes: u64,
    first: u32,
    last: u32,
}

pub(super) fn run(plan: &mut Plan, caps: &Caps) {
    let mut lifetimes = lifetimes(plan, caps);
    // Largest first packs tightest; the index makes the order, and so the layout, stable.
    lifetimes.sort_by_key(|life| (std::cmp::Reverse(life.bytes), life.id));
    let mut offsets: Vec<Option<u64>> = vec![None; plan.tensors.len()];
    let mut placed = Placed::new(&lifetimes);
    let mut taken: Vec<(u64, u64)> = Vec::new();
    let mut arena_bytes = 0;
    for (idx, life) in lifetimes.iter().enumerate() {
        taken.clear();
        placed.for_each_beside(life, |other| {
            let other = &lifetimes[other];
            taken.extend(offsets[other.id.index()].map(|offset| (offset, offset + other.bytes)));
        });
        taken.sort_unstable();
        let mut offset = 0;
        for (start, end) in &taken {
            if offset + life.bytes <= *start {
                break;
            }
            offset = offset.max(end.next_multiple_of(ALIGN));
        }
        offsets[life.id.index()] = Some(offset);
        arena_bytes = arena_bytes.max(offset + life.bytes);
        placed.add(idx, life);
    }
    plan.memory = Some(Memory { offsets, arena_bytes });
}

/// Groups that a value may live for without being looked at by all others.
const SHORT: u32 = 64;

/// Values that have a place. Nearly all live for a few groups, so those that live beside another one
/// are found near its own groups; a plan of many layers is laid out in time that grows with it.
struct Placed {
    /// Those that live for at most [`SHORT`] groups, by their first one.
    short: Vec<Vec<usize>>,
    /// The others: what every layer reads, and the outputs.
    long: Vec<usize>,
    /// First and last group of each.
    spans: Vec<(u32, u32)>,
}

impl Placed {
    fn new(lifetimes: &[Lifetime]) -> Placed {
        let n_groups = lifetimes.iter().map(|life| life.first + 1).max().unwrap_or(0);
        Placed {
            short: vec![Vec::new(); n_groups as usize],
            long: Vec::new(),
            spans: lifetimes.iter().map(|life| (life.first, life.last)).collect(),
        }
    }

    fn add(&mut self, idx: usize, life: &Lifetime) {
        match life.last - life.first < SHORT {
            true => self.short[life.first as usize].push(idx),
            false => self.long.push(idx),
        }
    }

    /// Calls `f` for every value that lives in one of the groups of `life`.
    fn for_each_beside(&self, life: &Lifetime, mut f: impl FnMut(usize)) {
        let end = self.short.len().min(life.last.saturating_add(1) as usize);
        let begin = end.min(life.first.saturating_sub(SHORT - 1) as usize);
        let near = self.short[begin..end].iter().flatten();
        for idx in near.chain(&self.long) {
            let (first, last) = self.spans[*idx];
            if life.first <= last && first <= life.last {
                f(*idx);
            }
        }
    }
}

/// First and last group of each tensor that owns bytes, by index.
type Spans = Vec<Option<(u32, u32)>>;

fn lifetimes(plan: &Plan, caps: &Caps) -> Vec<Lifetime> {
    let groups = hazards::groups(plan);
    let mut spans: Spans = vec![None; plan.tensors.len()];
    for (node, group) in plan.nodes.iter().zip(groups.iter().copied()) {
        for id in node.reads.iter().chain(&node.writes) {
            let owner = plan.locate(*id).0;
            let span = spans[owner.index()].get_or_insert((group, group));
            span.1 = group;
        }
    }
    if caps.joins_activations {
        join_activations(plan, &mut spans);
        join_rows(plan, &groups, &mut spans);
    }
    for id in &plan.outputs {
        if let Some(span) = &mut spans[plan.locate(*id).0.index()] {
            span.1 = u32::MAX;
        }
    }
    plan.tensors_where(|tensor| tensor.kind == TensorKind::Value)
        .filter_map(|(id, _)| {
            let (first, last) = spans[id.index()]?;
            Some(Lifetime { id, bytes: plan.max_bytes(id), first, last })
        })
        .collect()
}

/// Lets products make their activations, and norms quantise their results: what activations are made from lives until
/// the products have read them, and quantised results live from the norm on. Slices may be read in place as well,
/// queries, keys and values be normalised on their way to attention, and the pair of a shared expert be made with the chosen ones'.
fn join_activations(plan: &Plan, spans: &mut Spans) {
    let owner = |id: TensorId| plan.locate(id).0;
    let goes_to = |id: TensorId, keep: fn(&Op) -> bool| {
        let is_read = |node: &&Node| node.reads.iter().any(|read| owner(*read) == id);
        plan.nodes.iter().filter(is_read).all(|node| keep(&node.op))
    };
    let is_quantize = |op: &Op| *op == Op::QuantizeAct;
    // What chosen experts have made is long, and would be kept beside results that are as long.
    let goes_to_slots = |id: TensorId| {
        let cols = |id: TensorId| plan.tensor(id).shape.cols;
        let is_slot = |node: &Node| {
            matches!(node.op, Op::ExpertMatMul(_))
                && node.reads[1] == id
                && cols(node.reads[0]) != cols(id)
        };
        plan.nodes.iter().any(is_slot)
    };
    let is_joined = |node: &Node| match node.op {
        Op::QuantizeAct => !goes_to_slots(node.writes[0]),
        Op::HeadSlice(_) => true,
        Op::RmsNorm(_) => {
            goes_to(node.writes[0], is_quantize)
                || goes_to(node.writes[0], |op| matches!(op, Op::Rope(_)))
                || goes_to(node.writes[0], |op| *op == Op::KvWrite)
        }
        Op::RmsNormGated(_) | Op::SigmoidGate => goes_to(node.writes[0], is_quantize),
        _ => false,
    };
    // Backwards: what a node makes lives as long by then as it is to.
    for node in plan.nodes.iter().rev().filter(|node| is_joined(node)) {
        let Some((_, last)) = spans[node.writes[0].index()] else { continue };
        for id in &node.reads {
            if let Some(span) = &mut spans[owner(*id).index()] {
                span.1 = span.1.max(last);
            }
        }
    }
    for node in &plan.nodes {
        let taken_along = |other: &&Node| match (node.op, other.op) {
            (Op::RmsNorm(_), Op::QuantizeAct) => other.reads[0] == node.writes[0],
            (Op::ExpertGateUpAct(pair), Op::GateUpAct(_)) => {
                other.reads[2] == node.reads[pair.n_weights()]
            }
            _ => false,
        };
        let Some((first, _)) = spans[node.writes[0].index()] else { continue };
        if let Some(other) = plan.nodes.iter().find(taken_along)
            && let Some(span) = &mut spans[other.writes[0].index()]
        {
            span.0 = span.0.min(first);
        }
    }
}

/// Lets one launch normalise rows, add to them, scale and quantise them: what these nodes touch lives until the last of
/// them.
fn join_rows(plan: &Plan, groups: &[u32], spans: &mut Spans) {
    let is_norm = |node: &Node| match node.op {
        Op::RmsNorm(norm) => norm.group == plan.tensor(node.writes[0]).shape.cols,
        _ => false,
    };
    let is_other = |node: &Node| matches!(node.op, Op::Add | Op::Mul | Op::Scale(_));
    let mut rest = 0..plan.nodes.len();
    while let Some(start) = rest.find(|idx| is_norm(&plan.nodes[*idx])) {
        let nodes = &plan.nodes[start..];
        let n_nodes = nodes.iter().take_while(|node| is_norm(node) || is_other(node)).count();
        rest.start = start + n_nodes;
        let nodes = &nodes[..n_nodes];
        if !nodes.iter().any(is_other) {
            continue;
        }
        for id in nodes.iter().flat_map(|node| node.reads.iter().chain(&node.writes)) {
            if let Some(span) = &mut spans[plan.locate(*id).0.index()] {
                span.1 = span.1.max(groups[rest.start - 1]);
            }
        }
    }
}
