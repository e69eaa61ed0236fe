//! Replaces patterns of base operations by fused ones where the device has them. One rule table for
//! all devices; each rule states the pattern it stands for.

use crate::caps::Caps;
use crate::op::{ExpertGateUpAct, ExpertMatMul, GateUpAct, HeadSlice, MatMul, Op, OpKind};
use crate::plan::{Node, Plan, TensorId, TensorKind};

/// Tries to replace the pattern that ends in node `end`; returns the fused node and the earlier
/// nodes that it makes superfluous.
type Rule = fn(&Graph, end: usize) -> Option<(Node, Vec<usize>)>;

const RULES: [(OpKind, Rule); 4] = [
    (OpKind::GateUpAct, gate_up_act),
    (OpKind::ExpertGateUpAct, expert_gate_up_act),
    (OpKind::ExpertGateUpAct, packed_gate_up_act),
    (OpKind::MatMulAdd, matmul_add),
];

/// The plan with what the rules ask of it.
struct Graph<'a> {
    plan: &'a Plan,
    caps: &'a Caps,
    /// Node that writes each tensor.
    writer: Vec<Option<usize>>,
    /// How often each tensor is read, through views or as an output.
    n_uses: Vec<u32>,
}

impl<'a> Graph<'a> {
    fn new(plan: &'a Plan, caps: &'a Caps) -> Self {
        let mut writer = vec![None; plan.tensors.len()];
        let mut n_uses = vec![0; plan.tensors.len()];
        for (idx, node) in plan.nodes.iter().enumerate() {
            for id in &node.writes {
                writer[id.index()] = Some(idx);
            }
            for id in &node.reads {
                n_uses[plan.locate(*id).0.index()] += 1;
            }
        }
        for id in &plan.outputs {
            n_uses[plan.locate(*id).0.index()] += 1;
        }
        Self { plan, caps, writer, n_uses }
    }

    /// The node that computes `id`, if the result is used `n_uses` times, by the asking nodes only.
    fn private(&self, id: TensorId, n_uses: u32) -> Option<(usize, &Node)> {
        let is_value = self.plan.tensor(id).kind == TensorKind::Value;
        let fits = is_value && self.n_uses[id.index()] == n_uses;
        let idx = self.writer[id.index()].filter(|_| fits)?;
        Some((idx, &self.plan.nodes[idx]))
    }

    /// The matrix product that computes `id`, if nothing but the asking node uses the result.
    fn private_matmul(&self, id: TensorId) -> Option<(usize, &Node, MatMul)> {
        let (idx, node) = self.private(id, 1)?;
        match node.op {
            Op::MatMul(matmul) => Some((idx, node, matmul)),
            _ => None,
        }
    }

    /// Whether the device multiplies both weights with activations of one type.
    fn share_activations(&self, weights: [TensorId; 2]) -> bool {
        let [a, b] = weights.map(|id| {
            let weight = self.plan.tensor(id);
            self.caps.activation(weight.dtype, weight.shape.cols)
        });
        a.is_some() && a == b
    }
}

pub(super) fn run(plan: &mut Plan, caps: &Caps) {
    for (kind, rule) in RULES {
        if caps.fused.contains(&kind) {
            apply(plan, caps, rule);
        }
    }
}

fn apply(plan: &mut Plan, caps: &Caps, rule: Rule) {
    let graph = Graph::new(plan, caps);
    let mut fused: Vec<Option<Node>> = vec![None; plan.nodes.len()];
    let mut dead = vec![false; plan.nodes.len()];
    for end in 0..plan.nodes.len() {
        let Some((node, replaced)) = rule(&graph, end) else {
            continue;
        };
        if replaced.iter().any(|idx| dead[*idx] || fused[*idx].is_some()) {
            continue;
        }
        replaced.iter().for_each(|idx| dead[*idx] = true);
        fused[end] = Some(node);
    }
    let nodes = std::mem::take(&mut plan.nodes);
    plan.nodes = nodes
        .into_iter()
        .zip(fused)
        .zip(dead)
        .filter(|(_, dead)| !dead)
        .map(|((node, fused), _)| fused.unwrap_or(node))
        .collect();
}

/// `MatMul g; MatMul u; GatedAct(g, u)` -> `GateUpAct`, for products of the same activations
/// without biases whose weights want them in the same type.
fn gate_up_act(graph: &Graph, end: usize) -> Option<(Node, Vec<usize>)> {
    let node = &graph.plan.nodes[end];
    let Op::GatedAct(gated) = node.op else {
        return None;
    };
    let (gate_idx, gate, gate_op) = graph.private_matmul(node.reads[0])?;
    let (up_idx, up, up_op) = graph.private_matmul(node.reads[1])?;
    let plain = MatMul::default();
    if gate_op != plain || up_op != plain || gate.reads[1] != up.reads[1] || gate_idx == up_idx {
        return None;
    }
    if !graph.share_activations([gate.reads[0], up.reads[0]]) {
        return None;
    }
    let reads = vec![gate.reads[0], up.reads[0], gate.reads[1]];
    let op = Op::GateUpAct(GateUpAct { act: gated.act });
    Some((Node { op, reads, ..node.clone() }, vec![gate_idx, up_idx]))
}

/// `ExpertMatMul g; ExpertMatMul u; GatedAct(g, u)` -> `ExpertGateUpAct`, for products of the same
/// activations with the same experts, both with biases or none, whose weights want them in the same
/// type.
fn expert_gate_up_act(graph: &Graph, end: usize) -> Option<(Node, Vec<usize>)> {
    let node = &graph.plan.nodes[end];
    let Op::GatedAct(gated) = node.op else {
        return None;
    };
    let (gate_idx, gate) = graph.private(node.reads[0], 1)?;
    let (up_idx, up) = graph.private(node.reads[1], 1)?;
    let Op::ExpertMatMul(ExpertMatMul { n_experts, bias }) = gate.op else {
        return None;
    };
    if up.op != gate.op || gate.reads[1..3] != up.reads[1..3] || gate_idx == up_idx {
        return None;
    }
    if !graph.share_activations([gate.reads[0], up.reads[0]]) {
        return None;
    }
    let mut reads = vec![gate.reads[0], up.reads[0], gate.reads[1], gate.reads[2]];
    reads.extend(gate.reads[3..].iter().chain(&up.reads[3..]));
    let op =
        Op::ExpertGateUpAct(ExpertGateUpAct { n_experts, act: gated.act, packed: false, bias });
    Some((Node { op, reads, ..node.clone() }, vec![gate_idx, up_idx]))
}

/// `ExpertMatMul p; HeadSlice g, u of p; GatedAct(g, u)` -> packed `ExpertGateUpAct`, where `g` and
/// `u` are the two halves of each slot and the product has no bias.
fn packed_gate_up_act(graph: &Graph, end: usize) -> Option<(Node, Vec<usize>)> {
    let node = &graph.plan.nodes[end];
    let Op::GatedAct(gated) = node.op else {
        return None;
    };
    let (gate_idx, gate) = graph.private(node.reads[0], 1)?;
    let (up_idx, up) = graph.private(node.reads[1], 1)?;
    let (product_idx, product) = graph.private(gate.reads[0], 2)?;
    let Op::ExpertMatMul(ExpertMatMul { n_experts, bias: false }) = product.op else {
        return None;
    };
    let n_rows = graph.plan.limits.bound(graph.plan.tensor(product.reads[0]).shape.rows);
    let head_dim = u32::try_from(n_rows).ok()? / n_experts;
    let len = head_dim / 2;
    let half = |start| Op::HeadSlice(HeadSlice { head_dim, start, len });
    if gate.reads != up.reads || gate.op != half(0) || up.op != half(len) || len * 2 != head_dim {
        return None;
    }
    let op = Op::ExpertGateUpAct(ExpertGateUpAct {
        n_experts,
        act: gated.act,
        packed: true,
        bias: false,
    });
    let reads = product.reads.clone();
    Some((Node { op, reads, ..node.clone() }, vec![product_idx, gate_idx, up_idx]))
}

/// `MatMul y; Add(r, y)` or `Add(y, r)` -> `MatMul` with the residual `r`.
fn matmul_add(graph: &Graph, end: usize) -> Option<(Node, Vec<usize>)> {
    let node = &graph.plan.nodes[end];
    if node.op != Op::Add || node.reads[0] == node.reads[1] {
        return None;
    }
    let fused = |product: TensorId, residual: TensorId| {
        let (idx, matmul_node, matmul) = graph.private_matmul(product)?;
        if matmul.residual {
            return None;
        }
        let mut reads = matmul_node.reads.clone();
        reads.push(residual);
        let op = Op::MatMul(MatMul { residual: true, ..matmul });
        Some((Node { op, reads, ..node.clone() }, vec![idx]))
    };
    fused(node.reads[1], node.reads[0]).or_else(|| fused(node.reads[0], node.reads[1]))
}
