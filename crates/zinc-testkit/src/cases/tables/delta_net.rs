//! Operations with a recurrent state. The harness runs their rows also one and three at a time: the
//! state must carry over, and a result must not depend on the cut.

use serde::Deserialize;
use zinc_plan::{Builder, HeadOrder, OpKind, PlanError, TensorId};
use zinc_quant::GgmlType;

use super::{Context, Entry};
use crate::cases::{Case, Feed, Layout, Operand, Pattern};

fn operand(name: &'static str, rows: u32, cols: u32, view: bool) -> Operand {
    Operand { name, rows, cols, view, pattern: Pattern::Normal }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CausalConv1d {
    name: String,
    cols: u32,
    kernel: u32,
    /// For each sequence the tokens of earlier steps and those of the step under test.
    seqs: Vec<[u32; 2]>,
    /// Offsets in the step under test at which states are saved, to go on from.
    #[serde(default)]
    saves: Vec<u32>,
    #[serde(default)]
    view: bool,
}

impl Entry for CausalConv1d {
    const OP: OpKind = OpKind::CausalConv1d;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let (cols, kernel) = (self.cols, self.kernel);
        let mut feed = context.feed(&self.name);
        let layout = Layout::recurrent(&self.seqs, &self.saves, &mut feed.rng);
        let x = operand("x", layout.n_rows() as u32, cols, self.view);
        x.fill(&mut feed);
        feed.floats("w", cols, kernel, Pattern::Normal);
        let build = move |b: &mut Builder| {
            let x = x.build(b)?;
            let weight = b.weight("w", GgmlType::F32, cols, kernel)?;
            let state = b.recurrent_state("state", (kernel - 1) * cols)?;
            let conv = zinc_plan::CausalConv1d { kernel };
            Ok(vec![b.causal_conv1d("y", conv, [x, weight], state)?])
        };
        vec![context.case(&self.name, None, feed, layout, Box::new(build))]
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeltaGates {
    name: String,
    rows: u32,
    heads: u32,
    #[serde(default)]
    pattern: Pattern,
}

impl Entry for DeltaGates {
    const OP: OpKind = OpKind::DeltaGates;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let (rows, heads) = (self.rows, self.heads);
        let [a, c] = ["a", "b"]
            .map(|name| Operand { pattern: self.pattern, ..operand(name, rows, heads, false) });
        let mut feed = context.feed(&self.name);
        a.fill(&mut feed);
        c.fill(&mut feed);
        feed.floats("a_log", 1, heads, Pattern::Normal);
        feed.floats("dt_bias", 1, heads, Pattern::Normal);
        let build = move |b: &mut Builder| {
            let inputs = [a.build(b)?, c.build(b)?];
            let weights = [
                b.weight("a_log", GgmlType::F32, 1, heads)?,
                b.weight("dt_bias", GgmlType::F32, 1, heads)?,
            ];
            Ok(b.delta_gates("y", inputs, weights)?.to_vec())
        };
        vec![context.case(&self.name, None, feed, Layout::rows(rows), Box::new(build))]
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    Grouped,
    Tiled,
}

/// Queries and keys are normalised and the gates made as in a model: the recurrence diverges for
/// arbitrary ones. With `kernel` taps queries, keys and values come from one convolution, also as in a model.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GatedDeltaNet {
    name: String,
    n_k_heads: u32,
    n_v_heads: u32,
    k_dim: u32,
    v_dim: u32,
    order: Order,
    seqs: Vec<[u32; 2]>,
    /// Offsets in the step under test at which states are saved, to go on from.
    #[serde(default)]
    saves: Vec<u32>,
    #[serde(default)]
    view: bool,
    #[serde(default)]
    kernel: Option<u32>,
    /// Of the heads in turn.
    #[serde(default = "usual_a_log")]
    a_log: Vec<f32>,
}

fn usual_a_log() -> Vec<f32> {
    vec![-0.2]
}

/// Query, key and value before the norms: operands, or columns of an operand's convolution.
struct Source {
    operands: Vec<Operand>,
    conv: Option<zinc_plan::CausalConv1d>,
}

impl Source {
    fn fill(&self, feed: &mut Feed) {
        self.operands.iter().for_each(|operand| operand.fill(feed));
        if let Some(conv) = self.conv {
            feed.floats("w", self.operands[0].cols, conv.kernel, Pattern::Normal);
        }
    }

    /// Of the operands in the plan.
    fn build(
        &self,
        b: &mut Builder,
        net: &zinc_plan::GatedDeltaNet,
        operands: &[TensorId],
    ) -> Result<[TensorId; 3], PlanError> {
        let Some(conv) = self.conv else { return Ok([operands[0], operands[1], operands[2]]) };
        let cols = self.operands[0].cols;
        let weight = b.weight("w", GgmlType::F32, cols, conv.kernel)?;
        let state = b.recurrent_state("conv_state", (conv.kernel - 1) * cols)?;
        let y = b.causal_conv1d("conv", conv, [operands[0], weight], state)?;
        let (keys, values) = (net.n_k_heads * net.k_dim, net.n_v_heads * net.v_dim);
        Ok([
            b.view("q", y, 0, keys)?,
            b.view("k", y, keys, keys)?,
            b.view("v", y, 2 * keys, values)?,
        ])
    }
}

impl Entry for GatedDeltaNet {
    const OP: OpKind = OpKind::GatedDeltaNet;

    fn expand(&self, context: &Context<'_>) -> Vec<Case> {
        let net = zinc_plan::GatedDeltaNet {
            n_k_heads: self.n_k_heads,
            n_v_heads: self.n_v_heads,
            k_dim: self.k_dim,
            v_dim: self.v_dim,
            scale: 1.0 / (self.k_dim as f32).sqrt(),
            order: match self.order {
                Order::Grouped => HeadOrder::Grouped,
                Order::Tiled => HeadOrder::Tiled,
            },
        };
        let mut feed = context.feed(&self.name);
        let layout = Layout::recurrent(&self.seqs, &self.saves, &mut feed.rng);
        let rows = layout.n_rows() as u32;
        let (keys, values) = (self.n_k_heads * self.k_dim, self.n_v_heads * self.v_dim);
        let of = |name, cols| operand(name, rows, cols, self.view);
        let operands = match self.kernel {
            None => vec![of("q", keys), of("k", keys), of("v", values)],
            Some(_) => vec![of("x", 2 * keys + values)],
        };
        let conv = self.kernel.map(|kernel| zinc_plan::CausalConv1d { kernel });
        let source = Source { operands, conv };
        let [alpha, beta] = ["alpha", "beta"].map(|name| operand(name, rows, net.n_v_heads, false));
        source.fill(&mut feed);
        alpha.fill(&mut feed);
        beta.fill(&mut feed);
        let a_log = self.a_log.iter().copied().cycle().take(net.n_v_heads as usize);
        feed.values("a_log", 1, net.n_v_heads, &a_log.collect::<Vec<_>>());
        feed.floats("dt_bias", 1, net.n_v_heads, Pattern::Normal);
        let build = move |b: &mut Builder| {
            let norm = zinc_plan::L2Norm { eps: 1e-6, group: net.k_dim };
            let operands = source.operands.iter().map(|operand| operand.build(b));
            let operands = operands.collect::<Result<Vec<_>, _>>()?;
            let inputs = [alpha.build(b)?, beta.build(b)?];
            let weights = [
                b.weight("a_log", GgmlType::F32, 1, net.n_v_heads)?,
                b.weight("dt_bias", GgmlType::F32, 1, net.n_v_heads)?,
            ];
            let [g, beta] = b.delta_gates("gates", inputs, weights)?;
            let [q, k, v] = source.build(b, &net, &operands)?;
            let q = b.l2_norm("q_norm", norm, q)?;
            let k = b.l2_norm("k_norm", norm, k)?;
            let state = b.recurrent_state("state", net.n_v_heads * net.k_dim * net.v_dim)?;
            Ok(vec![b.gated_delta_net("y", net, [q, k, v, g, beta], state)?])
        };
        vec![context.case(&self.name, None, feed, layout, Box::new(build))]
    }
}
