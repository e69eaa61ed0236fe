//! Matrix products, their fused forms, and the conversion of their activations.

use serde::Deserialize;
use zinc_backend::ActivationType;
use zinc_plan::{Activation, Builder, HeadSlice, OpKind, PlanError, RmsNorm, TensorId};
use zinc_quant::GgmlType;

use super::{Context, Entry};
use crate::cases::{Case, Layout, Operand, Pattern};

/// The fields that all products share.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Product {
    name: String,
    rows: u32,
    n_out: u32,
    n_in: u32,
    #[serde(default)]
    bias: bool,
    #[serde(default)]
    view: bool,
    #[serde(default)]
    pattern: Pattern,
    #[serde(default)]
    behind: Behind,
    /// Columns of the groups of a norm, or of the heads of gates; the whole row where 0.
    #[serde(default)]
    group: u32,
}

/// What makes the activations, which a device may join with their conversion or with the product.
#[derive(Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Behind {
    /// Nothing: they are an operand.
    #[default]
    Nothing,
    RmsNorm,
    RmsNormGated,
    SigmoidGate,
    /// The gates are the second half of each head of a wider value.
    SlicedGate,
}

/// What a product's plan is made of.
#[derive(Clone, Copy)]
struct Parts {
    dtype: GgmlType,
    n_out: u32,
    n_in: u32,
    bias: bool,
    behind: Behind,
    group: u32,
    x: Operand,
}

impl Parts {
    fn acts(&self, b: &mut Builder) -> Result<TensorId, PlanError> {
        let x = self.x.build(b)?;
        let norm = RmsNorm { eps: 1e-6, group: self.group };
        let weight = |b: &mut Builder| b.weight("norm.w", GgmlType::F32, 1, self.group);
        match self.behind {
            Behind::Nothing => Ok(x),
            Behind::RmsNorm => {
                let weight = weight(b)?;
                b.rms_norm("norm", norm, x, weight)
            }
            Behind::RmsNormGated => {
                let (weight, z) = (weight(b)?, self.gate().build(b)?);
                b.rms_norm_gated("norm", norm, [x, weight, z])
            }
            Behind::SigmoidGate => {
                let z = self.gate().build(b)?;
                b.sigmoid_gate("gated", x, z)
            }
            Behind::SlicedGate => {
                let z = self.gate().build(b)?;
                let (start, len) = (self.group, self.group);
                let slice = HeadSlice { head_dim: 2 * self.group, start, len };
                let z = b.head_slice("gate", slice, z)?;
                b.sigmoid_gate("gated", x, z)
            }
        }
    }

    /// The second operand of what makes the activations.
    fn gate(&self) -> Operand {
        let cols = if self.behind == Behind::SlicedGate { 2 * self.n_in } else { self.n_in };
        Operand { name: "z", cols, pattern: Pattern::Normal, ..self.x }
    }

    fn matmul(&self, b: &mut Builder, label: &str, x: TensorId) -> Result<TensorId, PlanError> {
        let weight = b.weight(&format!("{label}.w"), self.dtype, self.n_out, self.n_in)?;
        let bias = match self.bias {
            true => Some(b.weight(&format!("{label}.b"), GgmlType::F32, 1, self.n_out)?),
            false => None,
        };
        b.matmul(label, weight, x, bias)
    }
}

impl Product {
    /// A case for each weight type; `labels` are the products of the pattern, `finish` makes the
    /// plan's outputs of their operand.
    fn cases(
        &self,
        context: &Context<'_>,
        labels: &[&str],
        finish: fn(&mut Builder, &Parts) -> Result<Vec<TensorId>, PlanError>,
    ) -> Vec<Case> {
        let rows = self.rows;
        let case = |dtype| {
            let pattern = context.resolve(self.pattern, dtype, self.n_in);
            let x = Operand { name: "x", rows, cols: self.n_in, view: self.view, pattern };
            let (n_out, n_in) = (self.n_out, self.n_in);
            let group = if self.group == 0 { n_in } else { self.group };
            let (bias, behind) = (self.bias, self.behind);
            let parts = Parts { dtype, n_out, n_in, bias, behind, group, x };
            let mut feed = context.feed(&self.name);
            x.fill(&mut feed);
            let weights: Vec<f32> = (0..group).map(|col| 0.75 + (col % 5) as f32 / 8.0).collect();
            if matches!(behind, Behind::RmsNorm | Behind::RmsNormGated) {
                feed.values("norm.w", 1, group, &weights);
            }
            if !matches!(behind, Behind::Nothing | Behind::RmsNorm) {
                parts.gate().fill(&mut feed);
            }
            for label in labels {
                feed.blocks(&format!("{label}.w"), dtype, self.n_out, self.n_in);
                if self.bias {
                    feed.floats(&format!("{label}.b"), 1, self.n_out, Pattern::Normal);
                }
            }
            feed.floats("residual", rows, self.n_out, Pattern::Normal);
            let build = Box::new(move |b: &mut Builder| finish(b, &parts));
            let layout = Layout::rows(rows);
            let mut case = context.case(&self.name, Some(dtype), feed, layout, build);
            case.nmse_max = match behind {
                Behind::Nothing | Behind::RmsNorm => {
                    context.nmse_of_product(dtype, self.n_in, pattern)
                }
                _ => context.nmse_of_gated_product(dtype, self.n_in),
            };
            case
        };
        context.weight_types(self.n_in).map(case).collect()
    }
}

#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct MatMul(Product);

impl Entry for MatMul {
    const OP: OpKind = OpKind::MatMul;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        self.0.cases(context, &["y"], |b, parts| {
            let x = parts.acts(b)?;
            Ok(vec![parts.matmul(b, "y", x)?])
        })
    }
}

#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct MatMulAdd(Product);

impl Entry for MatMulAdd {
    const OP: OpKind = OpKind::MatMulAdd;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        self.0.cases(context, &["product"], |b, parts| {
            let residual = Operand {
                name: "residual",
                cols: parts.n_out,
                view: false,
                pattern: Pattern::Normal,
                ..parts.x
            };
            let (x, residual) = (parts.acts(b)?, residual.build(b)?);
            let product = parts.matmul(b, "product", x)?;
            Ok(vec![b.add("y", residual, product)?])
        })
    }
}

#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct GateUpAct(Product);

impl Entry for GateUpAct {
    const OP: OpKind = OpKind::GateUpAct;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        self.0.cases(context, &["gate", "up"], |b, parts| {
            let x = parts.acts(b)?;
            let gate = parts.matmul(b, "gate", x)?;
            let up = parts.matmul(b, "up", x)?;
            let act = zinc_plan::GatedAct { act: Activation::Silu };
            Ok(vec![b.gated_act("y", act, gate, up)?])
        })
    }
}

/// The conversion is seen through a product with the identity, in each weight type that wants it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QuantizeAct {
    name: String,
    rows: u32,
    cols: u32,
    #[serde(default)]
    pattern: Pattern,
    #[serde(default)]
    view: bool,
}

impl Entry for QuantizeAct {
    const OP: OpKind = OpKind::QuantizeAct;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let wants = |dtype: &GgmlType| {
            let activation = context.caps.activation(*dtype, self.cols);
            matches!(activation, Some(ActivationType::Quantized(_)))
        };
        let product = Product {
            name: self.name.clone(),
            rows: self.rows,
            n_out: 8,
            n_in: self.cols,
            bias: false,
            view: self.view,
            pattern: self.pattern,
            behind: Behind::Nothing,
            group: 0,
        };
        let two = |b: &mut Builder, parts: &Parts| {
            // Two products of the same activations share one conversion.
            let x = parts.acts(b)?;
            Ok(vec![parts.matmul(b, "y", x)?, parts.matmul(b, "z", x)?])
        };
        let cases = product.cases(context, &["y", "z"], two);
        cases.into_iter().filter(|case| case.dtype.as_ref().is_some_and(wants)).collect()
    }
}
