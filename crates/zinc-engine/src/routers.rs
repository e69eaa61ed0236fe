//! What the routers of a plan read and write, for those who check them.

use zinc_plan::{Op, Plan, RouterTopK, TensorId};
use zinc_quant::dequantize;

use crate::{EngineError, Model};

/// A router of a model's plan, with its tensors by their names in the plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Router {
    /// How it chooses.
    pub op: RouterTopK,
    /// What is added to the scores for the choice, one value per expert.
    pub bias: Option<Vec<f32>>,
    /// What it reads: `[T, n_experts]`.
    pub scores: String,
    /// The experts it chooses: `[T, k]`, as ids.
    pub ids: String,
    /// Tensors with k blocks of columns, one for each chosen expert in the order of the ids: the
    /// weights, and what experts compute before their results are added up.
    pub by_slot: Vec<String>,
}

/// The routers of `plan`, in order.
///
/// # Errors
/// A selection bias that the file lacks or that cannot be read.
pub(crate) fn of_plan(plan: &Plan, model: &Model) -> Result<Vec<Router>, EngineError> {
    let mut routers = Vec::new();
    for node in &plan.nodes {
        let Op::RouterTopK(op) = node.op else { continue };
        let name = |id: TensorId| plan.tensor(id).name.clone();
        let bias = node.reads.get(1).filter(|_| op.bias).map(|id| vector(model, &name(*id)));
        routers.push(Router {
            op,
            bias: bias.transpose()?,
            scores: name(node.reads[0]),
            ids: name(node.writes[0]),
            by_slot: by_slot(plan, [node.writes[0], node.writes[1]])
                .into_iter()
                .map(name)
                .collect(),
        });
    }
    Ok(routers)
}

/// The weights of a choice, and the tensors that products with the chosen experts and what is made of
/// their columns, block by block, write.
fn by_slot(plan: &Plan, [ids, weights]: [TensorId; 2]) -> Vec<TensorId> {
    let mut found = vec![weights];
    for node in &plan.nodes {
        let is_by_slot = match node.op {
            Op::ExpertMatMul(_) | Op::ExpertGateUpAct(_) => node.reads.contains(&ids),
            Op::GatedAct(_) | Op::HeadSlice(_) => found.contains(&node.reads[0]),
            _ => false,
        };
        if is_by_slot {
            found.extend(&node.writes);
        }
    }
    found
}

/// Values of a vector in the model's file.
fn vector(model: &Model, name: &str) -> Result<Vec<f32>, EngineError> {
    let source = model.weight_sources(|other| other == name).pop();
    let invalid = |reason: String| zinc_plan::PlanError::Invalid { at: name.to_owned(), reason };
    let source = source.ok_or_else(|| invalid("is not in the file".into()))?;
    let mut values = vec![0.0; source.cols as usize];
    dequantize(source.dtype, &source.data, &mut values)
        .map_err(|error| invalid(error.to_string()))?;
    Ok(values)
}
