//! Lays all values out in one arena by their lifetimes. Lifetimes are counted in concurrent groups,
//! not nodes, so nodes of one group never share bytes and stay concurrent.

use crate::passes::hazards;
use crate::plan::{Memory, Plan, TensorId, TensorKind};

/// Alignment of every value: a cache line, and enough for the widest vector loads.
const ALIGN: u64 = 64;

struct Lifetime {
    id: TensorId,
    bytes: u64,
    first: u32,
    last: u32,
}

pub(super) fn run(plan: &mut Plan) {
    let mut lifetimes = lifetimes(plan);
    // Largest first packs tightest; the index makes the order, and so the layout, stable.
    lifetimes.sort_by_key(|life| (std::cmp::Reverse(life.bytes), life.id));
    let mut offsets: Vec<Option<u64>> = vec![None; plan.tensors.len()];
    let mut placed: Vec<(u64, &Lifetime)> = Vec::with_capacity(lifetimes.len());
    let mut arena_bytes = 0;
    for life in &lifetimes {
        let mut taken: Vec<(u64, u64)> = placed
            .iter()
            .filter(|(_, other)| life.first <= other.last && other.first <= life.last)
            .map(|(offset, other)| (*offset, offset + other.bytes))
            .collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (start, end) in taken {
            if offset + life.bytes <= start {
                break;
            }
            offset = offset.max(end.next_multiple_of(ALIGN));
        }
        offsets[life.id.index()] = Some(offset);
        arena_bytes = arena_bytes.max(offset + life.bytes);
        placed.push((offset, life));
    }
    plan.memory = Some(Memory { offsets, arena_bytes });
}

fn lifetimes(plan: &Plan) -> Vec<Lifetime> {
    let groups = hazards::groups(plan);
    let mut spans: Vec<Option<(u32, u32)>> = vec![None; plan.tensors.len()];
    for (node, group) in plan.nodes.iter().zip(groups) {
        for id in node.reads.iter().chain(&node.writes) {
            let owner = plan.locate(*id).0;
            let span = spans[owner.index()].get_or_insert((group, group));
            span.1 = group;
        }
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
