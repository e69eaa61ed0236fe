//! Products of many rows on Hopper's tensor cores: which are taken, and their activations as panels of f16.

use zinc_backend::DeviceError;
use zinc_plan::{Dim, Node, Op, TensorId};
use zinc_quant::GgmlType;

use super::{Matrices, Product};
use crate::device::HOPPER;
use crate::launch::{Count, Kernel, Launch, Rows};
use crate::lower::{Grouping, Lowering, Operand};

/// `GEMM_SHARED` of `gemm.cuh`.
const SHARED: u32 = 226 << 10;
/// Most rows of activations of a tile.
const MOST_TILE: u32 = 256;
/// Bytes for the results of splits, kept whatever the bucket.
const PARTS_BYTES: u64 = 16 << 20;
/// Microseconds that a launch which adds splits up takes besides moving their bytes, and bytes moved in one.
const REDUCE_US: f64 = 2.0;
const BYTES_PER_US: f64 = 4e6;

/// `GemmParams` of `gemm.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct GemmParams {
    n: Count,
    w0: u64,
    w1: u64,
    bias0: u64,
    bias1: u64,
    x: Panels,
    residual: u64,
    gate: u64,
    out: u64,
    tiles: u64,
    targets: u64,
    row_bytes: u64,
    matrix_bytes0: u64,
    matrix_bytes1: u64,
    out_stride: u32,
    residual_stride: u32,
    gate_stride: u32,
    n_in: u32,
    n_out: u32,
    splits: u32,
    n_slots: u32,
    act: u32,
    rows: u32,
    unused: u32,
}

/// `PackParams` of `panels.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct PackParams {
    x: Rows,
    n: Count,
    to: Panels,
}

/// `PanelTilesParams` of `panels.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct PanelTilesParams {
    offsets: u64,
    starts: u64,
    tiles: u64,
    n_experts: u32,
    tile: u32,
}

/// `GatherPanelsParams` of `panels.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct GatherPanelsParams {
    panels: u64,
    factors: u64,
    to: u64,
    to_factors: u64,
    targets: u64,
    offsets: u64,
    starts: u64,
    pairs: u64,
    n_groups: u32,
    to_groups: u32,
    n_experts: u32,
    n_slots: u32,
    slot_cols: u32,
    cols: u32,
}

/// `ReduceSplitsParams` of `panels.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct ReduceSplitsParams {
    n: Count,
    parts: u64,
    residual: u64,
    out: u64,
    out_stride: u32,
    residual_stride: u32,
    n_out: u32,
    splits: u32,
    rows: u32,
    unused: u32,
}

/// `Panels` of `panels.cuh`: activations as panels, for a step of up to `8 * n_groups` rows.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, bytemuck::NoUninit)]
pub struct Panels {
    address: u64,
    factors: u64,
    n_groups: u32,
    unused: u32,
}

/// Bytes of the panels and factors of so many rows. What a tile reads past the last row is there too.
fn panel_bytes(n_rows: u64, cols: u32) -> u64 {
    let groups = n_rows.div_ceil(8) * u64::from(cols.div_ceil(64));
    groups * 1024 + u64::from(MOST_TILE) * 128 + factor_bytes(n_rows)
}

fn factor_bytes(n_rows: u64) -> u64 {
    n_rows.next_multiple_of(64) * 4
}

impl Panels {
    /// None.
    pub const NONE: Panels = Panels { address: 0, factors: 0, n_groups: 0, unused: 0 };

    /// At `address`, in [`panel_bytes`] of `max_rows`, for a step of up to `rows`.
    fn at(address: u64, max_rows: u64, rows: u32) -> Panels {
        let panels = address + factor_bytes(max_rows);
        Panels { address: panels, factors: address, n_groups: rows.div_ceil(8), unused: 0 }
    }
}

/// Weight rows of a tile.
const TILE_ROWS: u32 = 128;
/// Threads of a block.
const THREADS: u32 = 384;

/// A shape of tiles.
#[derive(Clone, Copy, Debug)]
struct Variant {
    /// Rows of activations.
    n: u32,
    /// Microseconds of a step of 64 weights of each row. Those of 64 and 128 rows as measured on an H200 (Q4_K,
    /// 2026-11-26), bound by turning weights to f16; that of 256 by the tensor cores.
    step_us: f64,
    /// Microseconds that the tile takes besides.
    tile_us: f64,
}

const VARIANTS: [Variant; 3] = [
    Variant { n: 64, step_us: 0.47, tile_us: 3.0 },
    Variant { n: 128, step_us: 0.54, tile_us: 3.0 },
    Variant { n: 256, step_us: 0.65, tile_us: 5.0 },
];

fn kernel(dtype: GgmlType, variant: Variant) -> Option<Kernel> {
    macro_rules! names {
        ($($ty:ident $module:literal),*) => {
            match (dtype, variant.n) {
                $(
                    (GgmlType::$ty, 64) => Kernel { module: $module, name: concat!($module, "_64") },
                    (GgmlType::$ty, 128) => Kernel { module: $module, name: concat!($module, "_128") },
                    (GgmlType::$ty, _) => Kernel { module: $module, name: concat!($module, "_256") },
                )*
                _ => return None,
            }
        };
    }
    Some(names!(
        Q4_0 "gemm_q4_0", Q4_1 "gemm_q4_1", Q5_0 "gemm_q5_0", Q5_1 "gemm_q5_1", Q8_0 "gemm_q8_0",
        Q4_K "gemm_q4_k", Q5_K "gemm_q5_k", Q6_K "gemm_q6_k", MXFP4 "gemm_mxfp4",
        IQ4_NL "gemm_iq4_nl", IQ4_XS "gemm_iq4_xs"
    ))
}

/// Four floats at a time.
fn is_wide(operand: &Operand) -> bool {
    (operand.address | operand.stride).is_multiple_of(16)
}

impl Lowering<'_> {
    /// Whether steps of so many rows go through panels.
    fn has_panels(&self, rows: u32) -> bool {
        self.card.capability == HOPPER
            && self.card.shared_per_block > SHARED
            && !self.batch_invariant
            && rows >= Grouping::MIN_TOKENS
    }

    /// Gives every result of `QuantizeAct` that goes to such products only a place for its panels; those that are
    /// never needed at the same time share one. The same for all buckets.
    ///
    /// # Errors
    /// As [`Lowering::operand`].
    pub(in crate::lower) fn place_panels(&mut self) -> Result<(), DeviceError> {
        if self.card.capability != HOPPER || self.batch_invariant {
            return Ok(());
        }
        // Last reader of what a place holds, and its bytes.
        let mut places: Vec<(usize, u64)> = Vec::new();
        let mut placed = Vec::new();
        for (idx, node) in self.plan.nodes.iter().enumerate() {
            let (Op::QuantizeAct, [id]) = (node.op, &node.writes[..]) else { continue };
            let Some(last) = self.last_reader(*id)? else { continue };
            // A norm writes panels as soon as it runs.
            let is_norm =
                |other: &Node| matches!(other.op, Op::RmsNorm(_)) && other.writes == node.reads;
            let idx = self.plan.nodes[..idx].iter().rposition(is_norm).unwrap_or(idx);
            let tensor = self.plan.tensor(*id).shape;
            let bytes = panel_bytes(self.plan.limits.bound(tensor.rows), tensor.cols);
            let free = places.iter().position(|(busy_until, _)| *busy_until < idx);
            let place = free.unwrap_or_else(|| {
                places.push((0, 0));
                places.len() - 1
            });
            places[place] = (last, places[place].1.max(bytes));
            placed.push((*id, place));
        }
        let addresses: Vec<u64> = places.iter().map(|(_, bytes)| self.persistent(*bytes)).collect();
        self.panel_places = placed.into_iter().map(|(id, place)| (id, addresses[place])).collect();
        Ok(())
    }

    /// The last node that reads `id`, if all that do take panels.
    fn last_reader(&self, id: TensorId) -> Result<Option<usize>, DeviceError> {
        let mut last = None;
        if self.plan.outputs.iter().any(|output| self.plan.locate(*output).0 == id) {
            return Ok(None);
        }
        for (idx, node) in self.plan.nodes.iter().enumerate() {
            // Also through views.
            let reads = |read: &TensorId| *read == id || self.plan.locate(*read).0 == id;
            if node.reads.iter().any(reads) {
                if !node.reads.contains(&id) || !self.takes_panels(node)? {
                    return Ok(None);
                }
                last = Some(idx);
            }
        }
        Ok(last)
    }

    fn takes_panels(&self, node: &Node) -> Result<bool, DeviceError> {
        let (n_weights, n_slots) = match node.op {
            Op::MatMul(_) => (1, 1),
            Op::GateUpAct(_) => (2, 1),
            Op::ExpertMatMul(_) | Op::ExpertGateUpAct(_) => {
                let n_weights = node.op.n_weight_operands();
                let ids = node.reads[n_weights + 1];
                let is_router =
                    |node: &Node| matches!(node.op, Op::RouterTopK(_)) && node.writes[0] == ids;
                // Rows are grouped by expert behind routers.
                if !self.plan.nodes.iter().any(is_router) {
                    return Ok(false);
                }
                (n_weights, self.plan.tensor(ids).shape.cols)
            }
            _ => return Ok(false),
        };
        for id in &node.reads[..n_weights] {
            let known = kernel(self.plan.tensor(*id).dtype, VARIANTS[0]).is_some();
            if !known {
                return Ok(false);
            }
        }
        let out = self.operand(node.writes[0])?;
        let wide = is_wide(&out) && (out.cols / n_slots).is_multiple_of(4);
        // Biases and a residual are f32 behind the activations.
        let others = node.reads[n_weights + 1..].iter();
        let others = others.filter(|id| self.plan.tensor(**id).dtype == GgmlType::F32);
        for id in others {
            if !is_wide(&self.operand(*id)?) {
                return Ok(false);
            }
        }
        Ok(wide)
    }

    /// The panels that are to be written instead of the quants of `id`; none where steps are small or `id` has no
    /// place. Products of `id` read them from now on.
    pub(in crate::lower) fn panels_of(&mut self, id: TensorId, dim: Dim) -> Option<Panels> {
        let rows = self.rows(dim);
        let place = self.panel_places.iter().find(|(of, _)| *of == id);
        let (_, address) = place.copied().filter(|_| self.has_panels(rows))?;
        let panels = Panels::at(address, self.plan.limits.bound(dim), rows);
        self.panels.push((id, panels));
        Some(panels)
    }

    /// Writes panels of rows that lie in memory.
    pub(in crate::lower) fn pack_panels(&mut self, to: Panels, x: Rows, dim: Dim) {
        let params = PackParams { x, n: self.count(dim), to };
        let kernel = Kernel { module: "panels", name: "pack_panels" };
        let block = (x.cols / 4).next_power_of_two().clamp(128, 512);
        self.push(Launch::new(kernel, params, [self.rows(dim), 1, 1], block));
    }

    /// The product of panels, if the activations `id` are there as such.
    pub(super) fn multiply_panels(&mut self, id: TensorId, product: &Product) -> bool {
        let Some((_, panels)) = self.panels.iter().rev().find(|(of, _)| *of == id).copied() else {
            return false;
        };
        let rows = self.rows(product.out.rows);
        let Matrices::Experts { n_slots, grouping: Some(grouping), .. } = product.matrices else {
            self.gemm(product, panels, None, rows);
            return true;
        };
        let n_pairs = u64::from(rows) * u64::from(n_slots);
        let n_experts = grouping.n_experts;
        // Each expert's rows begin at a group of 8.
        let to_rows = n_pairs + 7 * u64::from(n_experts);
        let gathered_at = self.transient(panel_bytes(to_rows, product.n_in));
        let gathered = Panels::at(gathered_at, to_rows, u32::try_from(to_rows).unwrap_or(u32::MAX));
        let tile = match n_pairs / u64::from(n_experts) {
            0..96 => 64,
            96..192 => 128,
            _ => 256,
        };
        // Of tiles of 64: a smaller bucket must not need more than a larger one.
        let most_tiles = n_pairs / 64 + u64::from(n_experts);
        let starts = self.transient(4 * (u64::from(n_experts) + 1));
        let tiles = self.transient(4 * (1 + 3 * most_tiles));
        let targets = self.transient(4 * u64::from(gathered.n_groups) * 8);
        let offsets = grouping.offsets;
        let params = PanelTilesParams { offsets, starts, tiles, n_experts, tile };
        let kernel = Kernel { module: "panels", name: "panel_tiles" };
        self.push(Launch::new(kernel, params, [1, 1, 1], 32));
        let params = GatherPanelsParams {
            panels: panels.address,
            factors: panels.factors,
            to: gathered.address,
            to_factors: gathered.factors,
            targets,
            offsets,
            starts,
            pairs: grouping.pairs,
            n_groups: panels.n_groups,
            to_groups: gathered.n_groups,
            n_experts,
            n_slots,
            slot_cols: product.slot_cols(),
            cols: product.n_in,
        };
        let kernel = Kernel { module: "panels", name: "gather_panels" };
        self.push(Launch::new(kernel, params, [gathered.n_groups, 1, 1], 256));
        let tiles = Tiles { tiles, targets, tile, n_tiles: most_tiles };
        self.gemm(product, gathered, Some(tiles), rows);
        true
    }

    fn gemm(&mut self, product: &Product, panels: Panels, tiles: Option<Tiles>, rows: u32) {
        let Choice { variant, splits, grid } = self.choose(product, tiles.as_ref(), rows);
        let Some(kernel) = kernel(product.weight.weight.dtype, variant) else {
            unreachable!("only known types have panels")
        };
        let up = product.up.map(|(up, _)| up);
        let floats = |operand: Option<Operand>| operand.map_or(0, |it| (it.stride / 4) as u32);
        let gate = product.gate.map(|(gate, _)| gate);
        let parts =
            self.transient(if may_split(product, tiles.as_ref()) { PARTS_BYTES } else { 0 });
        let residual = product.residual.filter(|_| splits == 1);
        let params = GemmParams {
            n: self.count(product.out.rows),
            w0: product.weight.address(),
            w1: up.map_or(0, |up| up.address()),
            bias0: product.weight.bias_address(),
            bias1: up.map_or(0, |up| up.bias_address()),
            x: panels,
            residual: residual.map_or(0, |residual| residual.address),
            gate: gate.map_or(0, |gate| gate.address),
            out: if splits == 1 { product.out.address } else { parts },
            tiles: tiles.as_ref().map_or(0, |tiles| tiles.tiles),
            targets: tiles.as_ref().map_or(0, |tiles| tiles.targets),
            row_bytes: product.weight.weight.stride,
            matrix_bytes0: product.weight.matrix_bytes(),
            matrix_bytes1: up.map_or(0, |up| up.matrix_bytes()),
            out_stride: if splits == 1 { floats(Some(product.out)) } else { product.n_out },
            residual_stride: floats(residual),
            gate_stride: floats(gate),
            n_in: product.n_in,
            n_out: product.n_out,
            splits,
            n_slots: product.n_slots().max(1),
            act: product.act(),
            rows,
            unused: 0,
        };
        self.push(Launch::new(kernel, params, [grid, 1, 1], THREADS).with_shared(SHARED));
        if splits > 1 {
            self.reduce_splits(product, parts, splits, rows);
        }
    }

    fn reduce_splits(&mut self, product: &Product, parts: u64, splits: u32, rows: u32) {
        let params = ReduceSplitsParams {
            n: self.count(product.out.rows),
            parts,
            residual: product.residual.map_or(0, |residual| residual.address),
            out: product.out.address,
            out_stride: (product.out.stride / 4) as u32,
            residual_stride: product.residual.map_or(0, |it| (it.stride / 4) as u32),
            n_out: product.n_out,
            splits,
            rows,
            unused: 0,
        };
        let kernel = Kernel { module: "panels", name: "reduce_splits" };
        let grid = [product.n_out.div_ceil(1024), rows, 1];
        self.push(Launch::new(kernel, params, grid, 256));
    }

    /// The variant that should be done first, by the waves of tiles over the card.
    fn choose(&self, product: &Product, tiles: Option<&Tiles>, rows: u32) -> Choice {
        let n_sms = u64::from(self.card.n_multiprocessors);
        let n_steps = f64::from(product.n_in.div_ceil(64));
        let row_bytes = u64::from(rows) * u64::from(product.n_out) * 4;
        // No split without a part of 256 elements.
        let n_parts = u64::from(product.n_in.div_ceil(256));
        let most_splits = match may_split(product, tiles) {
            true => (PARTS_BYTES / row_bytes).min(n_parts).clamp(1, 4) as u32,
            false => 1,
        };
        let mut best: Option<(f64, Choice)> = None;
        for variant in VARIANTS {
            if tiles.is_some_and(|tiles| tiles.tile != variant.n) {
                continue;
            }
            let tile_rows = if product.up.is_some() { TILE_ROWS / 2 } else { TILE_ROWS };
            let token_tiles = match tiles {
                Some(tiles) => tiles.n_tiles,
                None => u64::from(rows.div_ceil(variant.n)),
            };
            for splits in [1, 2, 4].into_iter().filter(|splits| *splits <= most_splits) {
                let n_tiles =
                    u64::from(product.n_out.div_ceil(tile_rows)) * token_tiles * u64::from(splits);
                let waves = n_tiles.div_ceil(n_sms) as f64;
                let moved = row_bytes as f64 * f64::from(splits + 1);
                let reduce = if splits > 1 { REDUCE_US + moved / BYTES_PER_US } else { 0.0 };
                let steps = n_steps / f64::from(splits);
                let us = waves * (steps * variant.step_us + variant.tile_us) + reduce;
                if best.as_ref().is_none_or(|(least, _)| us < *least) {
                    let grid = u32::try_from(n_tiles.min(n_sms)).unwrap_or(1);
                    best = Some((us, Choice { variant, splits, grid }));
                }
            }
        }
        best.map_or(Choice { variant: VARIANTS[0], splits: 1, grid: 1 }, |(_, choice)| choice)
    }
}

/// Whether the sums of splits are all there is to the results.
fn may_split(product: &Product, tiles: Option<&Tiles>) -> bool {
    let is_plain = product.up.is_none() && product.gate.is_none() && product.weight.bias.is_none();
    is_plain && tiles.is_none()
}

/// Rows of chosen experts as tiles.
struct Tiles {
    tiles: u64,
    targets: u64,
    /// Rows of a tile.
    tile: u32,
    /// Most there can be.
    n_tiles: u64,
}

/// How a product is cut.
struct Choice {
    variant: Variant,
    splits: u32,
    grid: u32,
}
