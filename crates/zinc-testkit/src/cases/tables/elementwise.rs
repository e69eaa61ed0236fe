//! Elementwise operations, norms without a weight of their own, and rearrangements of columns.

use serde::Deserialize;
use zinc_plan::{Builder, OpKind, PlanError, TensorId};
use zinc_quant::GgmlType;

use super::{Context, Entry};
use crate::cases::{Case, Layout, Operand, Pattern};

/// The fields of an operation on rows of one width.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    name: String,
    rows: u32,
    cols: u32,
    #[serde(default)]
    view: bool,
    #[serde(default)]
    pattern: Pattern,
    /// Columns of the second operand; as the first when absent.
    other_cols: Option<u32>,
    /// The second operand is one row, not one for each.
    #[serde(default)]
    one_row: bool,
    /// The factor, bound or epsilon of the operation.
    #[serde(default)]
    value: f32,
    /// Columns of a head or group, the first that is kept, and how many are.
    #[serde(default)]
    head: [u32; 3],
}

type Parts = (TensorId, TensorId);

impl Rows {
    /// One case: operands x and other, and what `finish` makes of them.
    fn case(
        &self,
        context: &Context<'_>,
        finish: impl Fn(&mut Builder, Parts) -> Result<TensorId, PlanError> + 'static,
    ) -> Vec<Case> {
        let (rows, one_row) = (self.rows, self.one_row);
        let operand = |name, cols, view, pattern| Operand { name, rows, cols, view, pattern };
        let x = operand("x", self.cols, self.view, self.pattern);
        let other_cols = self.other_cols.unwrap_or(self.cols);
        let other = operand("other", other_cols, self.view && !one_row, Pattern::Normal);
        let mut feed = context.feed(&self.name);
        x.fill(&mut feed);
        match one_row {
            true => feed.floats("other", 1, other_cols, Pattern::Normal),
            false => other.fill(&mut feed),
        }
        let build = move |b: &mut Builder| {
            let x = x.build(b)?;
            let other = match one_row {
                true => b.weight("other", GgmlType::F32, 1, other_cols)?,
                false => other.build(b)?,
            };
            Ok(vec![finish(b, (x, other))?])
        };
        vec![context.case(&self.name, None, feed, Layout::rows(rows), Box::new(build))]
    }
}

macro_rules! rows_entry {
    ($name:ident, |$entry:ident, $b:ident, $x:ident, $other:ident| $finish:expr) => {
        #[derive(Deserialize)]
        #[serde(transparent)]
        pub(super) struct $name(Rows);

        impl Entry for $name {
            const OP: OpKind = OpKind::$name;

            fn expand(&self, context: &Context<'_>) -> Vec<Case> {
                let $entry = (self.0.value, self.0.head);
                self.0.case(context, move |$b: &mut Builder, ($x, $other)| $finish)
            }
        }
    };
}

rows_entry!(Mul, |_attributes, b, x, other| b.mul("y", x, other));
rows_entry!(Scale, |attributes, b, x, _other| b.scale("y", x, attributes.0));
rows_entry!(Softcap, |attributes, b, x, _other| b.softcap("y", x, attributes.0));
rows_entry!(SigmoidGate, |_attributes, b, x, other| b.sigmoid_gate("y", x, other));
rows_entry!(Concat, |_attributes, b, x, other| b.concat("y", x, other));
rows_entry!(HeadSlice, |attributes, b, x, _other| {
    let [head_dim, start, len] = attributes.1;
    let slice = zinc_plan::HeadSlice { head_dim, start, len };
    b.head_slice("y", slice, x)
});
rows_entry!(L2Norm, |attributes, b, x, _other| {
    let (eps, [group, ..]) = attributes;
    b.l2_norm("y", zinc_plan::L2Norm { eps, group }, x)
});

/// The columns are compared, and the values unless the pattern has some that are no numbers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopK {
    name: String,
    rows: u32,
    cols: u32,
    k: u32,
    #[serde(default)]
    view: bool,
    #[serde(default)]
    pattern: Pattern,
}

impl Entry for TopK {
    const OP: OpKind = OpKind::TopK;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let TopK { rows, cols, k, view, pattern, .. } = *self;
        let x = Operand { name: "x", rows, cols, view, pattern };
        let mut feed = context.feed(&self.name);
        x.fill(&mut feed);
        let build = move |b: &mut Builder| {
            let x = x.build(b)?;
            let [ids, values] = b.top_k("top", zinc_plan::TopK { k }, x)?;
            Ok(match pattern {
                Pattern::Poisoned => vec![ids],
                _ => vec![ids, values],
            })
        };
        vec![context.case(&self.name, None, feed, Layout::rows(rows), Box::new(build))]
    }
}

#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct RmsNormGated(Rows);

impl Entry for RmsNormGated {
    const OP: OpKind = OpKind::RmsNormGated;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let (eps, [group, ..]) = (self.0.value, self.0.head);
        let mut cases = self.0.case(context, move |b, (x, z)| {
            let weight = b.weight("w", GgmlType::F32, 1, group)?;
            let norm = zinc_plan::RmsNorm { eps, group };
            b.rms_norm_gated("y", norm, [x, weight, z])
        });
        for case in &mut cases {
            let mut feed = context.feed(&format!("{}/w", self.0.name));
            feed.floats("w", 1, group, Pattern::Normal);
            case.weights.append(&mut feed.weights);
        }
        cases
    }
}
