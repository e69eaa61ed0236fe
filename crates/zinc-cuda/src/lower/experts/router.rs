//! The router's product, the choice of experts and the gate of a shared expert as one launch, in small steps.

use zinc_backend::DeviceError;
use zinc_plan::{Dim, MatMul, Op, RouterTopK, TensorId};
use zinc_quant::GgmlType;

use super::block::{ExpertBlock, Uses};
use super::{MOST_EXPERTS, RouterParams};
use crate::launch::{Kernel, Launch, Rows};
use crate::lower::prologue::Prologue;
use crate::lower::{COUNTERS, Lowering};

/// Warps of a block: each makes one logit.
const WARPS: [u32; 2] = [8, 4];
/// Bytes of shared memory that the kernel has besides two rows for x and one of weights for each warp.
const CHOICE_BYTES: u32 = 21 << 10;

/// `RouterProductParams` of `router.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct RouterProductParams {
    router: RouterParams,
    x: Prologue,
    w: u64,
    bias: u64,
    w_gate: u64,
    gate: Rows,
    counters: u64,
    n_in: u32,
    unused: u32,
}

/// Nodes that one launch does.
#[derive(Clone, Copy, Debug)]
pub(in crate::lower) struct Router {
    /// The product; the choice is the next node.
    pub product: usize,
    pub top_k: RouterTopK,
    /// The product with the gate of the shared expert, a later node.
    pub gate: Option<usize>,
    /// x and its quantised form where they are a norm of the block's residual and nothing else reads them than the router
    /// and the block: its launches may make them themselves.
    pub normed: Option<[TensorId; 2]>,
}

/// Whether a node is a product of weights in f32.
fn is_float_product(uses: &Uses<'_>, idx: usize) -> bool {
    let node = &uses.plan.nodes[idx];
    let weight = uses.plan.tensor(node.reads[0]);
    matches!(node.op, Op::MatMul(MatMul { residual: false, .. })) && weight.dtype == GgmlType::F32
}

/// The routers of blocks, of x that `has_room` agrees to, whose logits nothing else reads. A row may be chosen for while
/// others are still multiplied: the choice must not lie over x, and where it is a block's it does not. The gate of a
/// shared expert goes with the router, where both read the same; it no longer is a launch of the block.
fn find(
    uses: &Uses<'_>,
    blocks: &mut [ExpertBlock],
    has_room: impl Fn(TensorId) -> bool,
) -> Vec<Router> {
    let mut found = Vec::new();
    for (idx, node) in uses.plan.nodes.iter().enumerate().skip(1) {
        let (Op::RouterTopK(top_k), product) = (node.op, idx - 1) else { continue };
        let logits = node.reads[0];
        let is_joined = uses.plan.nodes[product].writes[0] == logits
            && uses.only_reader(logits) == Some(idx)
            && is_float_product(uses, product)
            && has_room(uses.plan.nodes[product].reads[1])
            && uses.plan.tensor(logits).shape.rows == Dim::Tokens
            && uses.plan.tensor(logits).shape.cols <= MOST_EXPERTS;
        if !is_joined {
            continue;
        }
        let Some(block) = blocks.iter_mut().find(|block| block.ids == node.writes[0]) else {
            continue;
        };
        let gate = gate_beside(uses, product, block);
        block.kept.retain(|kept| Some(*kept) != gate);
        let normed = normed_for(uses, [Some(product), gate], block);
        found.push(Router { product, top_k, gate, normed });
    }
    found
}

/// What the router's products read, and that quantised, if [`Router::normed`] holds. The residual is there until the
/// block ends.
fn normed_for(
    uses: &Uses<'_>,
    products: [Option<usize>; 2],
    block: &ExpertBlock,
) -> Option<[TensorId; 2]> {
    let x = uses.plan.nodes[products[0]?].reads[1];
    let norm = &uses.plan.nodes[uses.writer(x)?];
    let mut others = uses.readers(x).filter(|idx| !products.contains(&Some(*idx)));
    let (quantize, None) = (others.next()?, others.next()) else { return None };
    let quantize = uses.plan.nodes.get(quantize).filter(|node| node.op == Op::QuantizeAct)?;
    let acts = quantize.writes[0];
    let is_norm = matches!(norm.op, Op::RmsNorm(_)) && block.residual == Some(norm.reads[0]);
    let is_within = uses.readers(acts).all(|idx| idx < block.nodes.end);
    (is_norm && is_within).then_some([x, acts])
}

/// The product that makes the gate of the block's shared expert, if it is one like the router's of the same x.
fn gate_beside(uses: &Uses<'_>, product: usize, block: &ExpertBlock) -> Option<usize> {
    let gate = uses.writer(block.shared?.gate?).filter(|gate| block.kept.contains(gate))?;
    let [mine, theirs] = [gate, product].map(|idx| &uses.plan.nodes[idx]);
    let is_plain = mine.op == Op::MatMul(MatMul::default()) && is_float_product(uses, gate);
    (is_plain && mine.reads[1] == theirs.reads[1]).then_some(gate)
}

impl Lowering<'_> {
    /// Lowers product and choice of a router, if they begin at node `idx`; the number of nodes.
    ///
    /// # Errors
    /// Tensors that are not bound.
    pub(in crate::lower) fn router(&mut self, idx: usize) -> Result<Option<usize>, DeviceError> {
        let found = self.routers.iter().find(|router| router.product == idx).copied();
        let Some(Router { product, top_k, gate, normed }) = found else { return Ok(None) };
        let plan = self.plan;
        let (product, choice) = (&plan.nodes[product], &plan.nodes[product + 1]);
        let x = self.float_rows(product.reads[1])?;
        let made = normed.map_or(Prologue::NONE, |[_, acts]| self.prologue_of(acts));
        let address = |id: Option<&TensorId>| {
            id.map_or(Ok(0), |id| self.operand(*id).map(|operand| operand.address))
        };
        let gate = gate.map(|idx| &plan.nodes[idx]);
        let no_rows = Ok(Rows { data: 0, stride: 0, cols: 0 });
        let params = RouterProductParams {
            router: self.router_params(choice, &top_k)?,
            x: if made == Prologue::NONE { Prologue::floats(x) } else { made },
            w: address(product.reads.first())?,
            bias: address(product.reads.get(2))?,
            w_gate: address(gate.map(|node| &node.reads[0]))?,
            gate: gate.map_or(no_rows, |node| self.float_rows(node.writes[0]))?,
            counters: self.places.inputs() + COUNTERS,
            n_in: x.cols,
            unused: 0,
        };
        let n_cols = params.router.logits.cols + u32::from(gate.is_some());
        let Some(warps) = self.router_warps(x.cols) else { return Ok(None) };
        let grid = [n_cols.div_ceil(warps), self.rows(Dim::Tokens), 1];
        let kernel = Kernel { module: "router", name: "router_product_f32" };
        let launch = Launch::new(kernel, params, grid, warps * 32);
        self.push(launch.with_shared(shared_bytes(x.cols, warps)));
        self.group_experts(choice.writes[0], &params.router);
        Ok(Some(2))
    }

    /// The routers of the plan; see [`find`].
    pub(super) fn find_routers(&self, uses: &Uses<'_>, blocks: &mut [ExpertBlock]) -> Vec<Router> {
        let has_room = |x: TensorId| {
            let Ok(x) = self.float_rows(x) else { return false };
            self.router_warps(x.cols).is_some()
                && x.cols.is_multiple_of(32)
                && Prologue::floats(x).fits(x.cols)
        };
        find(uses, blocks, has_room)
    }

    /// The most warps of a block that there is shared memory for.
    fn router_warps(&self, n_in: u32) -> Option<u32> {
        let fits = |warps: &u32| {
            shared_bytes(n_in, *warps).saturating_add(CHOICE_BYTES) <= self.card.shared_per_block
        };
        WARPS.into_iter().find(fits)
    }

    /// The quantised form of `id` where the router that reads it may make it itself, as the products of that may.
    pub(in crate::lower) fn quantized_beside_router(&self, id: TensorId) -> Option<TensorId> {
        let mut normed = self.routers.iter().filter_map(|router| router.normed);
        normed.find(|[x, _]| *x == id).map(|[_, acts]| acts)
    }
}

/// Bytes of two rows for x and one of weights for each warp.
fn shared_bytes(n_in: u32, warps: u32) -> u32 {
    n_in.saturating_mul(4 * (2 + warps))
}
