//! Mixture of experts: attributes and shape rules.

use zinc_quant::GgmlType;

use super::{Inferred, expect_f32, expect_rows, expect_shape, f32_result};
use crate::op::Activation;
use crate::plan::{Dim, Shape, TensorInfo};

/// How router logits become the scores that experts are chosen by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Gating {
    /// Softmax over all experts; a chosen expert weighs its probability.
    Softmax,
    /// The logits themselves; weights are the softmax over the chosen experts only.
    TopKSoftmax,
    /// Sigmoid of each logit; a chosen expert weighs its sigmoid.
    Sigmoid,
}

impl Gating {
    /// Name in the plan's text form.
    pub fn name(self) -> &'static str {
        match self {
            Gating::Softmax => "softmax",
            Gating::TopKSoftmax => "top_k_softmax",
            Gating::Sigmoid => "sigmoid",
        }
    }
}

/// What a group of experts is worth when only some groups may be used.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GroupScore {
    /// Its best expert's score: DeepSeek-V2.
    Max,
    /// The sum of its two best scores: DeepSeek-V3.
    TopTwo,
}

/// Only the experts of the best groups may be chosen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ExpertGroups {
    /// Groups of neighbouring experts, all of one size.
    pub n_groups: u32,
    /// Groups that are kept.
    pub n_groups_used: u32,
    /// What groups are ranked by.
    pub score: GroupScore,
}

/// Attributes of [`Op::RouterTopK`](crate::Op::RouterTopK).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RouterTopK {
    /// Experts chosen for each token.
    pub n_experts_used: u32,
    /// From logits to scores and weights.
    pub gating: Gating,
    /// A row vector is added to the scores for the choice, not for the weights: operand 1.
    pub bias: bool,
    /// Restricts the choice to the best groups.
    pub groups: Option<ExpertGroups>,
    /// Weights are divided by their sum plus 1e-20, which keeps sigmoids that are all zero finite.
    pub normalize: bool,
    /// Factor on the weights, last.
    pub scale: f32,
}

/// Attributes of [`Op::ExpertMatMul`](crate::Op::ExpertMatMul).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExpertMatMul {
    /// Matrices stacked in the weight.
    pub n_experts: u32,
    /// A row of the bias `[n_experts, n_out]` is added to each result: operand 3.
    pub bias: bool,
}

/// Attributes of [`Op::ExpertGateUpAct`](crate::Op::ExpertGateUpAct).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExpertGateUpAct {
    /// Matrices stacked in each weight.
    pub n_experts: u32,
    /// Applied to the gate.
    pub act: Activation,
    /// One weight holds both matrices of each expert, the gate's rows first; else there are two.
    pub packed: bool,
    /// A row of each bias `[n_experts, n_out]` is added to each result: the last two operands.
    pub bias: bool,
}

impl ExpertGateUpAct {
    /// Operands that are weights.
    pub fn n_weights(&self) -> usize {
        if self.packed { 1 } else { 2 }
    }
}

/// Attributes of [`Op::ExpertCombine`](crate::Op::ExpertCombine).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExpertCombine {
    /// Each expert's result has a factor of its own: operands 2 (ids) and 3 (`[1, n_experts]`).
    pub expert_scale: bool,
}

pub(super) fn infer_router(router: &RouterTopK, ins: &[&TensorInfo]) -> Inferred {
    let Shape { rows, cols } = ins[0].shape;
    let k = router.n_experts_used;
    expect_f32(ins[0])?;
    if let Some(bias) = ins.get(1) {
        expect_f32(bias)?;
        expect_shape(bias, Shape::new(Dim::Fixed(1), cols))?;
    }
    if k == 0 || k > cols {
        return Err(format!("cannot choose {k} of {cols} experts"));
    }
    if let Some(groups) = router.groups {
        let ExpertGroups { n_groups, n_groups_used, .. } = groups;
        let fits = n_groups > 0
            && cols.is_multiple_of(n_groups)
            && (1..=n_groups).contains(&n_groups_used)
            && k <= cols / n_groups * n_groups_used;
        if !fits {
            return Err(format!(
                "cannot choose {k} of {cols} experts in {n_groups_used} of {n_groups} groups"
            ));
        }
    }
    let shape = Shape::new(rows, k);
    Ok(vec![(GgmlType::I32, shape), (GgmlType::F32, shape)])
}

pub(super) fn infer_expert_matmul(matmul: ExpertMatMul, ins: &[&TensorInfo]) -> Inferred {
    let (weight, x, ids) = (ins[0], ins[1], ins[2]);
    let n_experts = matmul.n_experts;
    let Dim::Fixed(n_rows) = weight.shape.rows else {
        return Err(format!("{} must have fixed rows", weight.name));
    };
    if n_experts == 0 || !n_rows.is_multiple_of(n_experts) {
        return Err(format!("{n_rows} rows are not {n_experts} matrices"));
    }
    if ids.dtype != GgmlType::I32 {
        return Err(format!("{} must be i32, is {}", ids.name, ids.dtype));
    }
    expect_rows(ids, x.shape.rows)?;
    let (n_in, k) = (weight.shape.cols, ids.shape.cols);
    let is_wide = n_in.checked_mul(k) == Some(x.shape.cols);
    if x.shape.cols != n_in && !is_wide {
        return Err(format!(
            "{} takes {n_in} columns, or {k} times that, {} has {}",
            weight.name, x.name, x.shape.cols
        ));
    }
    let n_out = n_rows / n_experts;
    if let Some(bias) = ins.get(3) {
        expect_f32(bias)?;
        expect_shape(bias, Shape::new(Dim::Fixed(n_experts), n_out))?;
    }
    let cols = n_out.checked_mul(k).ok_or("result is too wide")?;
    f32_result(x.shape.rows, cols)
}

pub(super) fn infer_gate_up(pair: &ExpertGateUpAct, ins: &[&TensorInfo]) -> Inferred {
    let ExpertGateUpAct { n_experts, packed, bias, .. } = *pair;
    let matmul = ExpertMatMul { n_experts, bias };
    let [x, ids] = [ins[pair.n_weights()], ins[pair.n_weights() + 1]];
    let product = |idx: usize| {
        let operands = [ins[idx], x, ids];
        let bias = ins.get(4 + idx).copied().filter(|_| bias);
        infer_expert_matmul(matmul, &operands.into_iter().chain(bias).collect::<Vec<_>>())
    };
    let gate = product(0)?;
    if packed {
        let Shape { rows, cols } = gate[0].1;
        let n_slots = ids.shape.cols;
        if bias || !(cols / n_slots).is_multiple_of(2) {
            return Err(format!("{} cannot hold gate and up", ins[0].name));
        }
        return f32_result(rows, cols / 2);
    }
    if gate != product(1)? {
        return Err(format!("{} and {} have different shapes", ins[0].name, ins[1].name));
    }
    Ok(gate)
}

pub(super) fn infer_combine(ins: &[&TensorInfo]) -> Inferred {
    let (x, weights) = (ins[0], ins[1]);
    expect_f32(x)?;
    expect_f32(weights)?;
    expect_rows(weights, x.shape.rows)?;
    let k = weights.shape.cols;
    if !x.shape.cols.is_multiple_of(k) {
        return Err(format!("{} columns are not {k} expert results", x.shape.cols));
    }
    if let [_, _, ids, scale] = ins {
        expect_shape(ids, weights.shape)?;
        expect_f32(scale)?;
        expect_rows(scale, Dim::Fixed(1))?;
        if ids.dtype != GgmlType::I32 {
            return Err(format!("{} must be i32, is {}", ids.name, ids.dtype));
        }
    }
    f32_result(x.shape.rows, x.shape.cols / k)
}
