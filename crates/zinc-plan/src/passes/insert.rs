//! Inserts the helper operations a device wants: `QuantizeAct` before matrix products whose weights
//! are multiplied with quantised activations, shared by all products of the same activations.

use std::collections::HashMap;

use zinc_quant::GgmlType;

use crate::caps::ActivationType;
use crate::op::Op;
use crate::plan::{Node, Plan, TensorId, TensorInfo, TensorKind};
use crate::{Caps, PlanError};

pub(super) fn run(plan: &mut Plan, caps: &Caps) -> Result<(), PlanError> {
    let mut quantized: HashMap<(TensorId, GgmlType), TensorId> = HashMap::new();
    let mut nodes = Vec::with_capacity(plan.nodes.len());
    for mut node in std::mem::take(&mut plan.nodes) {
        if let Some((operand, dtype)) = wanted_type(plan, &node, caps)? {
            let source = node.reads[operand];
            let id = match quantized.get(&(source, dtype)) {
                Some(id) => *id,
                None => {
                    let (id, quantize) = quantize_node(plan, source, dtype);
                    nodes.push(quantize);
                    quantized.insert((source, dtype), id);
                    id
                }
            };
            node.reads[operand] = id;
        }
        nodes.push(node);
    }
    plan.nodes = nodes;
    Ok(())
}

/// The activation operand of `node` and the type the device wants it in, when that is not f32.
fn wanted_type(
    plan: &Plan,
    node: &Node,
    caps: &Caps,
) -> Result<Option<(usize, GgmlType)>, PlanError> {
    let Some(operand) = node.op.activation_operand() else {
        return Ok(None);
    };
    let mut wanted = None;
    for id in &node.reads[..operand] {
        let weight = plan.tensor(*id);
        let activation = caps.activation(weight.dtype, weight.shape.cols);
        if activation.is_none() || wanted.is_some_and(|earlier| earlier != activation) {
            return Err(PlanError::Unsupported {
                device: caps.device.clone(),
                op: node.op.kind().name(),
                label: node.label.clone(),
                reason: format!("weights of type {}", weight.dtype),
            });
        }
        wanted = Some(activation);
    }
    match wanted.flatten() {
        Some(ActivationType::Quantized(dtype)) => Ok(Some((operand, dtype))),
        _ => Ok(None),
    }
}

fn quantize_node(plan: &mut Plan, source: TensorId, dtype: GgmlType) -> (TensorId, Node) {
    let from = plan.tensor(source);
    let name = format!("{}.{dtype}", from.name);
    let shape = from.shape;
    let id = TensorId(plan.tensors.len() as u32);
    plan.tensors.push(TensorInfo { name: name.clone(), dtype, shape, kind: TensorKind::Value });
    let node = Node {
        op: Op::QuantizeAct,
        reads: vec![source],
        writes: vec![id],
        label: name,
        barrier: false,
    };
    (id, node)
}
