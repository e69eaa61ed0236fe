//! Products with one of several matrices, and the choice of the matrix.

use serde::Deserialize;
use zinc_plan::{
    Builder, ExpertGroups, Gating, GroupScore, HeadSlice, OpKind, PlanError, TensorId,
};
use zinc_quant::GgmlType;

use super::rows::Act;
use super::{Context, Entry};
use crate::cases::{Case, Layout, Operand, Pattern};

/// An operand of f32 rows that is a whole value.
fn operand(name: &'static str, rows: u32, cols: u32, pattern: Pattern) -> Operand {
    Operand { name, rows, cols, view: false, pattern }
}

/// Top-k of the softmax.
fn plain_router(n_experts_used: u32) -> zinc_plan::RouterTopK {
    zinc_plan::RouterTopK {
        n_experts_used,
        gating: Gating::Softmax,
        bias: false,
        groups: None,
        normalize: false,
        scale: 1.0,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeadMatMul {
    name: String,
    rows: u32,
    n_heads: u32,
    n_out: u32,
    n_in: u32,
}

impl Entry for HeadMatMul {
    const OP: OpKind = OpKind::HeadMatMul;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let heads = zinc_plan::HeadMatMul { n_heads: self.n_heads };
        let (rows, n_in) = (self.rows, self.n_in);
        let n_rows = self.n_heads * self.n_out;
        let case = |dtype| {
            let pattern = context.resolve(Pattern::Exact, dtype, n_in);
            let x = operand("x", rows, self.n_heads * n_in, pattern);
            let mut feed = context.feed(&self.name);
            x.fill(&mut feed);
            feed.blocks("w", dtype, n_rows, n_in);
            let build = move |b: &mut Builder| {
                let x = x.build(b)?;
                let weight = b.weight("w", dtype, n_rows, n_in)?;
                Ok(vec![b.head_matmul("y", heads, weight, x)?])
            };
            let layout = Layout::rows(rows);
            let mut case = context.case(&self.name, Some(dtype), feed, layout, Box::new(build));
            case.nmse_max = context.nmse_of_product(dtype, n_in, pattern);
            case
        };
        context.weight_types(n_in).map(case).collect()
    }
}

/// The experts are chosen by a router over logits of the case.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpertMatMul {
    name: String,
    rows: u32,
    n_experts: u32,
    n_experts_used: u32,
    n_out: u32,
    n_in: u32,
    #[serde(default)]
    bias: bool,
    /// Each slot has a row of its own, as in the second product of a block.
    #[serde(default)]
    per_slot: bool,
    /// All rows choose the same experts.
    #[serde(default)]
    one_choice: bool,
}

impl Entry for ExpertMatMul {
    const OP: OpKind = OpKind::ExpertMatMul;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let (n_experts, k) = (self.n_experts, self.n_experts_used);
        let (rows, n_out, n_in, bias) = (self.rows, self.n_out, self.n_in, self.bias);
        let case = |dtype| {
            let pattern = context.resolve(Pattern::Exact, dtype, n_in);
            let width = if self.per_slot { k * n_in } else { n_in };
            let x = operand("x", rows, width, pattern);
            let logits = operand("logits", rows, n_experts, Pattern::Normal);
            let mut feed = context.feed(&self.name);
            x.fill(&mut feed);
            match self.one_choice {
                true => {
                    let choice: Vec<f32> = (0..n_experts).map(|id| (id * 7 % 11) as f32).collect();
                    feed.values("logits", rows, n_experts, &choice.repeat(rows as usize));
                }
                false => logits.fill(&mut feed),
            }
            feed.blocks("w", dtype, n_experts * n_out, n_in);
            feed.floats("b", n_experts, n_out, Pattern::Normal);
            let build = move |b: &mut Builder| {
                let (x, logits) = (x.build(b)?, logits.build(b)?);
                let [ids, _] = b.router_top_k("router", plain_router(k), logits, None)?;
                let weight = b.weight("w", dtype, n_experts * n_out, n_in)?;
                let bias = match bias {
                    true => Some(b.weight("b", GgmlType::F32, n_experts, n_out)?),
                    false => None,
                };
                Ok(vec![b.expert_matmul("y", n_experts, [weight, x, ids], bias)?])
            };
            let layout = Layout::rows(rows);
            let mut case = context.case(&self.name, Some(dtype), feed, layout, Box::new(build));
            case.nmse_max = context.nmse_of_product(dtype, n_in, pattern);
            case
        };
        context.weight_types(n_in).map(case).collect()
    }
}

/// Gate and up of the chosen experts, from two stacks or from one.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpertGateUpAct {
    name: String,
    rows: u32,
    n_experts: u32,
    n_experts_used: u32,
    n_out: u32,
    n_in: u32,
    #[serde(default)]
    act: Act,
    #[serde(default)]
    packed: bool,
    #[serde(default)]
    bias: bool,
}

impl ExpertGateUpAct {
    fn products(
        &self,
        b: &mut Builder,
        dtype: GgmlType,
        [x, ids]: [TensorId; 2],
    ) -> Result<[TensorId; 2], PlanError> {
        let (n_experts, n_out, n_in) = (self.n_experts, self.n_out, self.n_in);
        if self.packed {
            let w = b.weight("packed", dtype, n_experts * 2 * n_out, n_in)?;
            let both = b.expert_matmul("both", n_experts, [w, x, ids], None)?;
            let half = |start| HeadSlice { head_dim: 2 * n_out, start, len: n_out };
            let gate = b.head_slice("gate", half(0), both)?;
            return Ok([gate, b.head_slice("up", half(n_out), both)?]);
        }
        let mut product = |label: &str| {
            let w = b.weight(&format!("{label}.w"), dtype, n_experts * n_out, n_in)?;
            let bias = match self.bias {
                true => Some(b.weight(&format!("{label}.b"), GgmlType::F32, n_experts, n_out)?),
                false => None,
            };
            b.expert_matmul(label, n_experts, [w, x, ids], bias)
        };
        Ok([product("gate")?, product("up")?])
    }
}

impl Entry for ExpertGateUpAct {
    const OP: OpKind = OpKind::ExpertGateUpAct;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let (rows, n_experts, k) = (self.rows, self.n_experts, self.n_experts_used);
        let (n_out, n_in) = (self.n_out, self.n_in);
        let case = |dtype| {
            let pattern = context.resolve(Pattern::Exact, dtype, n_in);
            let x = operand("x", rows, n_in, pattern);
            let logits = operand("logits", rows, n_experts, Pattern::Normal);
            let mut feed = context.feed(&self.name);
            x.fill(&mut feed);
            logits.fill(&mut feed);
            if self.packed {
                feed.blocks("packed", dtype, n_experts * 2 * n_out, n_in);
            } else {
                for label in ["gate", "up"] {
                    feed.blocks(&format!("{label}.w"), dtype, n_experts * n_out, n_in);
                    feed.floats(&format!("{label}.b"), n_experts, n_out, Pattern::Normal);
                }
            }
            let entry = self.clone();
            let build = move |b: &mut Builder| {
                let (x, logits) = (x.build(b)?, logits.build(b)?);
                let [ids, _] = b.router_top_k("router", plain_router(k), logits, None)?;
                let [gate, up] = entry.products(b, dtype, [x, ids])?;
                Ok(vec![b.gated_act("y", entry.act.attributes(), gate, up)?])
            };
            let layout = Layout::rows(rows);
            let mut case = context.case(&self.name, Some(dtype), feed, layout, Box::new(build));
            case.nmse_max = context.nmse_of_product(dtype, n_in, pattern);
            case
        };
        context.weight_types(n_in).map(case).collect()
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum GatingName {
    Softmax,
    TopKSoftmax,
    Sigmoid,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ScoreName {
    Max,
    TopTwo,
}

/// The ids are seen through a product with matrices of one element: the expert's number.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouterTopK {
    name: String,
    rows: u32,
    n_experts: u32,
    n_experts_used: u32,
    gating: GatingName,
    #[serde(default)]
    bias: bool,
    /// Groups and how many of them are kept.
    groups: Option<[u32; 2]>,
    score: Option<ScoreName>,
    #[serde(default)]
    normalize: bool,
    #[serde(default = "one")]
    scale: f32,
    #[serde(default)]
    pattern: Pattern,
}

fn one() -> f32 {
    1.0
}

impl RouterTopK {
    fn attributes(&self) -> zinc_plan::RouterTopK {
        let groups = self.groups.map(|[n_groups, n_groups_used]| ExpertGroups {
            n_groups,
            n_groups_used,
            score: match self.score {
                Some(ScoreName::TopTwo) => GroupScore::TopTwo,
                Some(ScoreName::Max) | None => GroupScore::Max,
            },
        });
        zinc_plan::RouterTopK {
            n_experts_used: self.n_experts_used,
            gating: match self.gating {
                GatingName::Softmax => Gating::Softmax,
                GatingName::TopKSoftmax => Gating::TopKSoftmax,
                GatingName::Sigmoid => Gating::Sigmoid,
            },
            bias: self.bias,
            groups,
            normalize: self.normalize,
            scale: self.scale,
        }
    }
}

impl Entry for RouterTopK {
    const OP: OpKind = OpKind::RouterTopK;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let (rows, n_experts) = (self.rows, self.n_experts);
        let router = self.attributes();
        let logits = operand("logits", rows, n_experts, self.pattern);
        let unit = operand("unit", rows, 1, Pattern::Normal);
        let mut feed = context.feed(&self.name);
        logits.fill(&mut feed);
        feed.floats("bias", 1, n_experts, Pattern::Normal);
        feed.values("unit", rows, 1, &vec![1.0; rows as usize]);
        let numbers: Vec<f32> = (0..n_experts).map(|expert| expert as f32).collect();
        feed.values("numbers", n_experts, 1, &numbers);
        let build = move |b: &mut Builder| {
            let (logits, unit) = (logits.build(b)?, unit.build(b)?);
            let bias = match router.bias {
                true => Some(b.weight("bias", GgmlType::F32, 1, n_experts)?),
                false => None,
            };
            let [ids, weights] = b.router_top_k("router", router, logits, bias)?;
            let numbers = b.weight("numbers", GgmlType::F32, n_experts, 1)?;
            let operands = [numbers, unit, ids];
            Ok(vec![weights, b.expert_matmul("ids", n_experts, operands, None)?])
        };
        vec![context.case(&self.name, None, feed, Layout::rows(rows), Box::new(build))]
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpertCombine {
    name: String,
    rows: u32,
    cols: u32,
    n_experts: u32,
    n_experts_used: u32,
    #[serde(default)]
    expert_scale: bool,
}

impl Entry for ExpertCombine {
    const OP: OpKind = OpKind::ExpertCombine;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let (rows, n_experts, k) = (self.rows, self.n_experts, self.n_experts_used);
        let expert_scale = self.expert_scale;
        let x = operand("x", rows, k * self.cols, Pattern::Normal);
        let logits = operand("logits", rows, n_experts, Pattern::Normal);
        let mut feed = context.feed(&self.name);
        x.fill(&mut feed);
        logits.fill(&mut feed);
        feed.floats("scale", 1, n_experts, Pattern::Normal);
        let build = move |b: &mut Builder| {
            let (x, logits) = (x.build(b)?, logits.build(b)?);
            let [ids, weights] = b.router_top_k("router", plain_router(k), logits, None)?;
            let scale = match expert_scale {
                true => Some([ids, b.weight("scale", GgmlType::F32, 1, n_experts)?]),
                false => None,
            };
            Ok(vec![b.expert_combine("y", x, weights, scale)?])
        };
        vec![context.case(&self.name, None, feed, Layout::rows(rows), Box::new(build))]
    }
}
