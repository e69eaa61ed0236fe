//! Products of many rows on Hopper's tensor cores: which are taken, and their activations as panels of f16.

use zinc_backend::DeviceError;
use zinc_plan::{Dim, Node, Op, TensorId};
use zinc_quant::GgmlType;

use super::matvec::MORE;
use super::{Matrices, Product};
use crate::device::HOPPER;
use crate::launch::{Count, Kernel, Launch, Rows};
use crate::lower::{Grouping, Lowering, Operand};

/// `GEMM_SHARED` of `gemm.cuh`.
const SHARED: u32 = 226 << 10;
/// Most rows of activations of a tile.
const MOST_TILE: u32 = 256;
/// `PANEL_PAIR` of `panels.cuh`: rows are cut into so many elements, the last ones zeros.
const PANEL_PAIR: u32 = 128;
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
    n_segments: u32,
    n_row_tiles: u32,
    unused: u32,
    more: [GemmSegment; MORE],
}

/// `GemmSegment` of `gemm.cuh`: a further product of the same panels.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GemmSegment {
    w: u64,
    bias: u64,
    out: u64,
    out_stride: u32,
    n_out: u32,
    first_tile: u32,
    unused: u32,
}

/// `PackParams` of `panels.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct PackParams {
    x: Rows,
    n: Count,
    to: Panels,
    segment: u32,
    padded: u32,
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
    slot_panels: u32,
    n_panels: u32,
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
    n_segments: u32,
    more: [SplitSegment; MORE],
}

/// `SplitSegment` of `panels.cu`: where the columns of a further product go.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct SplitSegment {
    out: u64,
    out_stride: u32,
    first_col: u32,
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

/// Panels of rows of so many elements that are multiplied together.
fn n_panels(cols: u32) -> u32 {
    cols.div_ceil(PANEL_PAIR) * 2
}

/// Bytes of the panels and factors of so many rows. What a tile reads past the last row is there too.
fn panel_bytes(n_rows: u64, n_panels: u32) -> u64 {
    let groups = n_rows.div_ceil(8) * u64::from(n_panels);
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

/// Weight rows of a group of four warps.
const GROUP_ROWS: u32 = 64;

/// A shape of tiles.
#[derive(Clone, Copy, Debug)]
struct Variant {
    /// Rows of activations.
    n: u32,
    /// Groups of four warps that may share them, and for each number the microseconds of a step of 64 weights of each row,
    /// as measured on an H200 (Q4_K, 2026-11-27): bound by turning weights to f16, of 256 rows by the tensor cores.
    groups: &'static [(u32, f64)],
    /// Microseconds that the tile takes besides.
    tile_us: f64,
}

const VARIANTS: [Variant; 4] = [
    Variant { n: 32, groups: &[(3, 0.30), (2, 0.23)], tile_us: 3.0 },
    Variant { n: 64, groups: &[(3, 0.345), (2, 0.25)], tile_us: 3.0 },
    Variant { n: 128, groups: &[(3, 0.46), (2, 0.335)], tile_us: 5.0 },
    Variant { n: 256, groups: &[(2, 0.56)], tile_us: 9.0 },
];

fn kernel(dtype: GgmlType, variant: Variant) -> Option<Kernel> {
    macro_rules! names {
        ($($ty:ident $module:literal),*) => {
            match (dtype, variant.n) {
                $(
                    (GgmlType::$ty, 32) => Kernel { module: $module, name: concat!($module, "_32") },
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
    /// The place of the panels that `id` is kept as in this step, if it is.
    pub(in crate::lower) fn panel_place(&self, id: TensorId, dim: Dim) -> Option<PanelPlace> {
        let place = self.panel_places.iter().find(|place| place.id == id).copied();
        place.filter(|place| self.rows(dim) >= place.least_rows)
    }

    /// Gives every result of `QuantizeAct` that goes to such products only a place for its panels; those that are
    /// never needed at the same time share one. The same for all buckets.
    ///
    /// # Errors
    /// As [`Lowering::operand`].
    pub(in crate::lower) fn place_panels(&mut self) -> Result<(), DeviceError> {
        let has_room = self.card.shared_per_block > SHARED;
        if self.card.capability != HOPPER || !has_room || self.batch_invariant {
            return Ok(());
        }
        // Last reader of what a place holds, and its bytes.
        let mut places: Vec<(usize, u64)> = Vec::new();
        let mut placed = Vec::new();
        for (idx, node) in self.plan.nodes.iter().enumerate() {
            let (Op::QuantizeAct, [id]) = (node.op, &node.writes[..]) else { continue };
            let Some(Readers { last, segment, least_rows }) = self.readers_of_panels(*id)? else {
                continue;
            };
            // A norm writes panels as soon as it runs.
            let is_norm =
                |other: &Node| matches!(other.op, Op::RmsNorm(_)) && other.writes == node.reads;
            let idx = self.plan.nodes[..idx].iter().rposition(is_norm).unwrap_or(idx);
            let tensor = self.plan.tensor(*id).shape;
            let n_panels = tensor.cols / segment * n_panels(segment);
            let bytes = panel_bytes(self.plan.limits.bound(tensor.rows), n_panels);
            let free = places.iter().position(|(busy_until, _)| *busy_until < idx);
            let place = free.unwrap_or_else(|| {
                places.push((0, 0));
                places.len() - 1
            });
            places[place] = (last, places[place].1.max(bytes));
            placed.push((place, PanelPlace { id: *id, address: 0, segment, least_rows }));
        }
        let addresses: Vec<u64> = places.iter().map(|(_, bytes)| self.persistent(*bytes)).collect();
        let placed = placed.into_iter();
        self.panel_places =
            placed.map(|(idx, place)| PanelPlace { address: addresses[idx], ..place }).collect();
        Ok(())
    }

    /// The nodes that read `id`, if all of them take panels.
    fn readers_of_panels(&self, id: TensorId) -> Result<Option<Readers>, DeviceError> {
        let mut readers: Option<Readers> = None;
        if self.plan.outputs.iter().any(|output| self.plan.locate(*output).0 == id) {
            return Ok(None);
        }
        for (idx, node) in self.plan.nodes.iter().enumerate() {
            // Also through views.
            let reads = |read: &TensorId| *read == id || self.plan.locate(*read).0 == id;
            if node.reads.iter().any(reads) {
                let segment = self.plan.tensor(node.reads[0]).shape.cols;
                let differs = readers.is_some_and(|readers| readers.segment != segment);
                if differs || !node.reads.contains(&id) || !self.takes_panels(node)? {
                    return Ok(None);
                }
                let least_rows = match node.op {
                    Op::ExpertMatMul(_) | Op::ExpertGateUpAct(_) => self.least_grouped,
                    _ => Grouping::MIN_TOKENS,
                };
                let least_rows = readers.map_or(0, |readers| readers.least_rows).max(least_rows);
                readers = Some(Readers { last: idx, segment, least_rows });
            }
        }
        Ok(readers)
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
    pub(in crate::lower) fn panels_of(&mut self, id: TensorId, dim: Dim) -> Option<PanelsOf> {
        let rows = self.rows(dim);
        let PanelPlace { address, segment, .. } = self.panel_place(id, dim)?;
        let panels = Panels::at(address, self.plan.limits.bound(dim), rows);
        self.panels.push((id, panels));
        Some(PanelsOf { panels, segment })
    }

    /// Writes panels of rows that lie in memory.
    pub(in crate::lower) fn pack_panels(&mut self, to: PanelsOf, x: Rows, dim: Dim) {
        let PanelsOf { panels, segment } = to;
        let padded = n_panels(segment) * PANEL_PAIR / 2;
        let params = PackParams { x, n: self.count(dim), to: panels, segment, padded };
        let kernel = Kernel { module: "panels", name: "pack_panels" };
        let block = (x.cols / 4).next_power_of_two().clamp(128, 512);
        self.push(Launch::new(kernel, params, [self.rows(dim), 1, 1], block));
    }

    /// Whether the activations `id` are there as panels.
    pub(super) fn is_in_panels(&self, id: TensorId) -> bool {
        self.panels.iter().any(|(of, _)| *of == id)
    }

    /// The product of panels, if the activations `id` are there as such. `others` as for [`Lowering::multiply_rows`].
    pub(super) fn multiply_panels(
        &mut self,
        id: TensorId,
        product: &Product,
        others: &[Product],
    ) -> bool {
        let Some((_, panels)) = self.panels.iter().rev().find(|(of, _)| *of == id).copied() else {
            return false;
        };
        let rows = self.rows(product.out.rows);
        let Matrices::Experts { n_slots, grouping: Some(grouping), .. } = product.matrices else {
            self.gemm(product, others, panels, None, rows);
            return true;
        };
        let n_pairs = u64::from(rows) * u64::from(n_slots);
        let n_experts = grouping.n_experts;
        // Each expert's rows begin at a group of 8.
        let to_rows = n_pairs + 7 * u64::from(n_experts);
        let n_panels = n_panels(product.n_in);
        let gathered_at = self.transient(panel_bytes(to_rows, n_panels));
        let gathered = Panels::at(gathered_at, to_rows, u32::try_from(to_rows).unwrap_or(u32::MAX));
        let tile = match n_pairs / u64::from(n_experts) {
            0..24 => 32,
            24..96 => 64,
            96..192 => 128,
            _ => 256,
        };
        // Of the smallest tiles: a smaller bucket must not need more than a larger one.
        let most_tiles = n_pairs / 32 + u64::from(n_experts);
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
            slot_panels: if product.slot_cols() > 0 { n_panels } else { 0 },
            n_panels,
        };
        let kernel = Kernel { module: "panels", name: "gather_panels" };
        self.push(Launch::new(kernel, params, [gathered.n_groups, 1, 1], 256));
        // Each expert that has rows has one that is not full.
        let n_tiles = n_pairs / u64::from(tile) + n_pairs.min(u64::from(n_experts));
        let tiles = Tiles { tiles, targets, tile, n_tiles };
        self.gemm(product, &[], gathered, Some(tiles), rows);
        true
    }

    fn gemm(
        &mut self,
        product: &Product,
        others: &[Product],
        panels: Panels,
        tiles: Option<Tiles>,
        rows: u32,
    ) {
        let n_cols = product.n_out + others.iter().map(|other| other.n_out).sum::<u32>();
        let choice = self.choose(product, others, tiles.as_ref(), rows);
        let Choice { variant, splits, .. } = choice;
        let Some(kernel) = kernel(product.weight.weight.dtype, variant) else {
            unreachable!("only known types have panels")
        };
        let up = product.up.map(|(up, _)| up);
        let floats = |operand: Option<Operand>| operand.map_or(0, |it| (it.stride / 4) as u32);
        let gate = product.gate.map(|(gate, _)| gate);
        let parts =
            self.transient(if may_split(product, tiles.as_ref()) { PARTS_BYTES } else { 0 });
        let residual = product.residual.filter(|_| splits == 1);
        // Where results of a product go whose first column of the launch is `first`.
        let out = |product: &Product, first: u32| match splits {
            1 => (product.out.address, floats(Some(product.out))),
            _ => (parts + 4 * u64::from(first), n_cols),
        };
        let mut params = GemmParams {
            n: self.count(product.out.rows),
            w0: product.weight.address(),
            w1: up.map_or(0, |up| up.address()),
            bias0: product.weight.bias_address(),
            bias1: up.map_or(0, |up| up.bias_address()),
            x: panels,
            residual: residual.map_or(0, |residual| residual.address),
            gate: gate.map_or(0, |gate| gate.address),
            out: out(product, 0).0,
            tiles: tiles.as_ref().map_or(0, |tiles| tiles.tiles),
            targets: tiles.as_ref().map_or(0, |tiles| tiles.targets),
            row_bytes: product.weight.weight.stride,
            matrix_bytes0: product.weight.matrix_bytes(),
            matrix_bytes1: up.map_or(0, |up| up.matrix_bytes()),
            out_stride: out(product, 0).1,
            residual_stride: floats(residual),
            gate_stride: floats(gate),
            n_in: product.n_in,
            n_out: product.n_out,
            splits,
            n_slots: product.n_slots().max(1),
            act: product.act(),
            rows,
            n_segments: others.len() as u32,
            n_row_tiles: product.n_out.div_ceil(choice.tile_rows),
            unused: 0,
            more: [GemmSegment::default(); MORE],
        };
        let mut first_col = product.n_out;
        for (segment, other) in params.more.iter_mut().zip(others) {
            let (out, out_stride) = out(other, first_col);
            *segment = GemmSegment {
                w: other.weight.address(),
                bias: other.weight.bias_address(),
                out,
                out_stride,
                n_out: other.n_out,
                first_tile: params.n_row_tiles,
                unused: 0,
            };
            first_col += other.n_out;
            params.n_row_tiles += other.n_out.div_ceil(choice.tile_rows);
        }
        let threads = 128 * (choice.groups + 1);
        self.push(Launch::new(kernel, params, [choice.grid, 1, 1], threads).with_shared(SHARED));
        if splits > 1 {
            self.reduce_splits(product, others, parts, splits);
        }
    }

    fn reduce_splits(&mut self, product: &Product, others: &[Product], parts: u64, splits: u32) {
        let rows = self.rows(product.out.rows);
        let mut params = ReduceSplitsParams {
            n: self.count(product.out.rows),
            parts,
            residual: product.residual.map_or(0, |residual| residual.address),
            out: product.out.address,
            out_stride: (product.out.stride / 4) as u32,
            residual_stride: product.residual.map_or(0, |it| (it.stride / 4) as u32),
            n_out: product.n_out,
            splits,
            rows,
            n_segments: others.len() as u32,
            more: [SplitSegment::default(); MORE],
        };
        for (segment, other) in params.more.iter_mut().zip(others) {
            let (out, out_stride) = (other.out.address, (other.out.stride / 4) as u32);
            *segment = SplitSegment { out, out_stride, first_col: params.n_out };
            params.n_out += other.n_out;
        }
        let kernel = Kernel { module: "panels", name: "reduce_splits" };
        let grid = [params.n_out.div_ceil(1024), rows, 1];
        self.push(Launch::new(kernel, params, grid, 256));
    }

    /// The variant that should be done first, by the waves of tiles over the card.
    fn choose(
        &self,
        product: &Product,
        others: &[Product],
        tiles: Option<&Tiles>,
        rows: u32,
    ) -> Choice {
        let n_sms = u64::from(self.card.n_multiprocessors);
        let n_steps = f64::from(product.n_in.div_ceil(64));
        let n_outs = || [product].into_iter().chain(others).map(|product| product.n_out);
        let row_bytes = u64::from(rows) * u64::from(n_outs().sum::<u32>()) * 4;
        // No split without a part of 256 elements.
        let n_parts = u64::from(product.n_in.div_ceil(256));
        let most_splits = match may_split(product, tiles) {
            true => (PARTS_BYTES / row_bytes).min(n_parts).clamp(1, 8) as u32,
            false => 1,
        };
        let mut best: Option<(f64, Choice)> = None;
        for variant in VARIANTS {
            if tiles.is_some_and(|tiles| tiles.tile != variant.n) {
                continue;
            }
            let token_tiles = match tiles {
                Some(tiles) => tiles.n_tiles,
                None => u64::from(rows.div_ceil(variant.n)),
            };
            for ((groups, step_us), splits) in
                variant.groups.iter().flat_map(|it| (1..=most_splits).map(move |n| (*it, n)))
            {
                let tile_rows = groups * GROUP_ROWS / if product.up.is_some() { 2 } else { 1 };
                let row_tiles: u32 = n_outs().map(|n_out| n_out.div_ceil(tile_rows)).sum();
                let n_tiles = u64::from(row_tiles) * token_tiles * u64::from(splits);
                let waves = n_tiles.div_ceil(n_sms) as f64;
                let moved = row_bytes as f64 * f64::from(splits + 1);
                let reduce = if splits > 1 { REDUCE_US + moved / BYTES_PER_US } else { 0.0 };
                // Of the longest split.
                let steps = n_steps.min((4 * n_parts.div_ceil(u64::from(splits))) as f64);
                let us = waves * (steps * step_us + variant.tile_us) + reduce;
                if best.as_ref().is_none_or(|(least, _)| us < *least) {
                    let grid = u32::try_from(n_tiles.min(n_sms)).unwrap_or(1);
                    best = Some((us, Choice { variant, groups, tile_rows, splits, grid }));
                }
            }
        }
        match best {
            Some((_, choice)) => choice,
            None => unreachable!("there is a variant for each tile"),
        }
    }
}

/// Whether the sums of splits are all there is to the results.
fn may_split(product: &Product, tiles: Option<&Tiles>) -> bool {
    product.up.is_none() && product.gate.is_none() && tiles.is_none()
}

/// Activations of which panels are kept.
#[derive(Clone, Copy)]
pub struct PanelPlace {
    /// The result of `QuantizeAct`.
    id: TensorId,
    address: u64,
    /// Columns that are multiplied together.
    pub segment: u32,
    /// Fewest rows of steps that have them as panels.
    least_rows: u32,
}

/// The nodes that read activations.
#[derive(Clone, Copy)]
struct Readers {
    /// The last of them.
    last: usize,
    /// As in [`PanelPlace`].
    segment: u32,
    least_rows: u32,
}

/// Panels that are to be written.
#[derive(Clone, Copy)]
pub struct PanelsOf {
    pub panels: Panels,
    /// Columns that are multiplied together, which begin a panel of their own.
    pub segment: u32,
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
    /// Groups of four warps of a block.
    groups: u32,
    /// Weight rows of a tile, of each matrix.
    tile_rows: u32,
    splits: u32,
    grid: u32,
}
