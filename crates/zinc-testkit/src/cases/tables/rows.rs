//! Operations on rows: gathers, elementwise, norm and rotation.

use serde::Deserialize;
use zinc_plan::{Activation, OpKind, RopeMode};

use super::{Context, Entry};
use crate::cases::{Case, Layout, Operand, Pattern};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Embed {
    name: String,
    rows: u32,
    vocab: u32,
    cols: u32,
    scale: f32,
}

impl Entry for Embed {
    const OP: OpKind = OpKind::Embed;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let (vocab, cols, scale) = (self.vocab, self.cols, self.scale);
        let case = |dtype| {
            let mut feed = context.feed(&self.name);
            feed.blocks("table", dtype, vocab, cols);
            // The first and the last row, then any.
            let mut ids = vec![0, vocab as i32 - 1];
            let rng = &mut feed.rng;
            ids.extend((2..self.rows).map(|_| rng.below(vocab as usize) as i32));
            ids.truncate(self.rows as usize);
            let build = move |b: &mut zinc_plan::Builder| {
                let table = b.weight("table", dtype, vocab, cols)?;
                Ok(vec![b.embed("y", table, scale)?])
            };
            context.case(&self.name, Some(dtype), feed, Layout::tokens(ids), Box::new(build))
        };
        context.weight_types(cols).map(case).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GatherRows {
    name: String,
    rows: u32,
    cols: u32,
    /// Rows that are kept.
    keep: Vec<usize>,
}

impl Entry for GatherRows {
    const OP: OpKind = OpKind::GatherRows;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let x = Operand {
            name: "x",
            rows: self.rows,
            cols: self.cols,
            view: false,
            pattern: Pattern::Normal,
        };
        let mut feed = context.feed(&self.name);
        x.fill(&mut feed);
        let mut layout = Layout::rows(self.rows);
        for (idx, row) in layout.steps[0].iter_mut().enumerate() {
            row.wanted = self.keep.contains(&idx);
        }
        let build = move |b: &mut zinc_plan::Builder| {
            let x = x.build(b)?;
            let y = b.gather_out_rows("y", x)?;
            // A second operation over the kept rows: it must cope with none of them.
            Ok(vec![y, b.add("twice", y, y)?])
        };
        vec![context.case(&self.name, None, feed, layout, Box::new(build))]
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Add {
    name: String,
    rows: u32,
    cols: u32,
    #[serde(default)]
    view: bool,
}

impl Entry for Add {
    const OP: OpKind = OpKind::Add;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let (rows, cols, view) = (self.rows, self.cols, self.view);
        let operand = |name, view| Operand { name, rows, cols, view, pattern: Pattern::Normal };
        let (a, c) = (operand("a", view), operand("b", false));
        let mut feed = context.feed(&self.name);
        a.fill(&mut feed);
        c.fill(&mut feed);
        let build = move |b: &mut zinc_plan::Builder| {
            let (a, c) = (a.build(b)?, c.build(b)?);
            Ok(vec![b.add("y", a, c)?])
        };
        vec![context.case(&self.name, None, feed, Layout::rows(rows), Box::new(build))]
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GatedAct {
    name: String,
    rows: u32,
    cols: u32,
    #[serde(default)]
    view: bool,
    #[serde(default)]
    pattern: Pattern,
    #[serde(default)]
    act: Act,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Act {
    #[default]
    Silu,
    GeluTanh,
    SwigluOai,
}

impl Act {
    pub(super) fn attributes(self) -> zinc_plan::GatedAct {
        let act = match self {
            Act::Silu => Activation::Silu,
            Act::GeluTanh => Activation::GeluTanh,
            Act::SwigluOai => Activation::SwigluOai,
        };
        zinc_plan::GatedAct { act }
    }
}

impl Entry for GatedAct {
    const OP: OpKind = OpKind::GatedAct;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let (rows, cols, view, pattern) = (self.rows, self.cols, self.view, self.pattern);
        let gate = Operand { name: "gate", rows, cols, view, pattern };
        let up = Operand { name: "up", rows, cols, view, pattern: Pattern::Normal };
        let act = self.act.attributes();
        let mut feed = context.feed(&self.name);
        gate.fill(&mut feed);
        up.fill(&mut feed);
        let build = move |b: &mut zinc_plan::Builder| {
            let (gate, up) = (gate.build(b)?, up.build(b)?);
            Ok(vec![b.gated_act("y", act, gate, up)?])
        };
        vec![context.case(&self.name, None, feed, Layout::rows(rows), Box::new(build))]
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RmsNorm {
    name: String,
    rows: u32,
    cols: u32,
    group: u32,
    eps: f32,
    #[serde(default)]
    view: bool,
    #[serde(default)]
    pattern: Pattern,
}

impl Entry for RmsNorm {
    const OP: OpKind = OpKind::RmsNorm;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let (rows, cols, view, pattern) = (self.rows, self.cols, self.view, self.pattern);
        let x = Operand { name: "x", rows, cols, view, pattern };
        let norm = zinc_plan::RmsNorm { eps: self.eps, group: self.group };
        let mut feed = context.feed(&self.name);
        x.fill(&mut feed);
        feed.floats("w", 1, self.group, Pattern::Normal);
        let build = move |b: &mut zinc_plan::Builder| {
            let x = x.build(b)?;
            let w = b.weight("w", zinc_quant::GgmlType::F32, 1, norm.group)?;
            Ok(vec![b.rms_norm("y", norm, x, w)?])
        };
        vec![context.case(&self.name, None, feed, Layout::rows(rows), Box::new(build))]
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Norm,
    Neox,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rope {
    name: String,
    mode: Mode,
    heads: u32,
    head_dim: u32,
    n_dims: u32,
    /// One row for each; rows take the table's variants in turn.
    positions: Vec<i32>,
    /// Factor on cos and sin of each variant.
    magnitudes: Vec<f32>,
    theta: f32,
    #[serde(default)]
    view: bool,
}

impl Rope {
    /// Each variant stretches the frequencies further.
    fn table(&self) -> Vec<f32> {
        let variants = self.magnitudes.iter().enumerate();
        let row = |(variant, magnitude): (usize, &f32)| {
            let frequency = move |i: u32| {
                let exponent = -2.0 * f64::from(i) / f64::from(self.n_dims);
                (f64::from(self.theta).powf(exponent) / (1 + variant) as f64) as f32
            };
            let frequencies = (0..self.n_dims / 2).map(frequency);
            frequencies.chain([*magnitude]).collect::<Vec<_>>()
        };
        variants.flat_map(row).collect()
    }
}

impl Entry for Rope {
    const OP: OpKind = OpKind::Rope;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let rows = self.positions.len() as u32;
        let cols = self.heads * self.head_dim;
        let x = Operand { name: "x", rows, cols, view: self.view, pattern: Pattern::Normal };
        let mode = match self.mode {
            Mode::Norm => RopeMode::Norm,
            Mode::Neox => RopeMode::Neox,
        };
        let rope = zinc_plan::Rope { mode, head_dim: self.head_dim, n_dims: self.n_dims };
        let mut feed = context.feed(&self.name);
        x.fill(&mut feed);
        let mut layout = Layout::rows(rows);
        let n_variants = self.magnitudes.len();
        for (idx, row) in layout.steps[0].iter_mut().enumerate() {
            row.position = self.positions[idx];
            row.variant = (idx % n_variants) as i32;
        }
        let table = self.table();
        let build = move |b: &mut zinc_plan::Builder| {
            let x = x.build(b)?;
            let table = b.constant("rope_table", rope.n_dims / 2 + 1, table.clone())?;
            Ok(vec![b.rope("y", rope, x, table)?])
        };
        vec![context.case(&self.name, None, feed, layout, Box::new(build))]
    }
}
