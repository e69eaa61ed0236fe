//! Where a device must wait: a node that touches bytes which an earlier node since the last
//! barrier wrote, or writes bytes which one read, needs a barrier before it. Nodes between two
//! barriers form a group that may run concurrently.

use crate::plan::{Node, Plan, TensorId, TensorKind};

/// A range of bytes in a buffer: the arena (`None`) or a tensor with bytes of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    buffer: Option<TensorId>,
    start: u64,
    end: u64,
}

impl Span {
    fn overlaps(&self, other: &Span) -> bool {
        self.buffer == other.buffer && self.start < other.end && other.start < self.end
    }
}

pub(super) fn run(plan: &mut Plan) {
    let barriers = barriers(plan, |plan, owner| {
        let offset = plan.memory.as_ref()?.offsets[owner.index()]?;
        Some((offset, offset + plan.max_bytes(owner)))
    });
    for (node, barrier) in plan.nodes.iter_mut().zip(barriers) {
        node.barrier = barrier;
    }
}

/// The group of each node before memory is laid out, when each tensor has bytes of its own.
pub(super) fn groups(plan: &Plan) -> Vec<u32> {
    let mut group = 0;
    let step = |barrier| {
        group += u32::from(barrier);
        group
    };
    barriers(plan, |_, _| None).into_iter().map(step).collect()
}

/// `place` gives the arena range of a tensor that lies in the arena.
fn barriers(plan: &Plan, place: impl Fn(&Plan, TensorId) -> Option<(u64, u64)>) -> Vec<bool> {
    let span = |id: &TensorId| {
        let owner = plan.locate(*id).0;
        match plan.tensor(owner).kind {
            // Never written during a step.
            TensorKind::Input(_) | TensorKind::Const(_) | TensorKind::Weight => None,
            TensorKind::State | TensorKind::Value | TensorKind::View { .. } => {
                Some(match place(plan, owner) {
                    Some((start, end)) => Span { buffer: None, start, end },
                    None => Span { buffer: Some(owner), start: 0, end: u64::MAX },
                })
            }
        }
    };
    let (mut reads, mut writes): (Vec<Span>, Vec<Span>) = (Vec::new(), Vec::new());
    let barrier_before = |node: &Node| {
        let node_reads: Vec<Span> = node.reads.iter().filter_map(span).collect();
        let node_writes: Vec<Span> = node.writes.iter().filter_map(span).collect();
        let hits = |mine: &[Span], earlier: &[Span]| {
            mine.iter().any(|span| earlier.iter().any(|other| span.overlaps(other)))
        };
        let barrier =
            hits(&node_reads, &writes) || hits(&node_writes, &writes) || hits(&node_writes, &reads);
        if barrier {
            reads.clear();
            writes.clear();
        }
        reads.extend(node_reads);
        writes.extend(node_writes);
        barrier
    };
    plan.nodes.iter().map(barrier_before).collect()
}
