//! Operations on f32 rows.

use zinc_backend::DeviceError;
use zinc_plan::{
    Activation, Dim, Embed, GatedAct, HeadSlice, L2Norm, Node, RmsNorm, Rope, RopeMode, Scale,
    Softcap, TensorId,
};
use zinc_quant::GgmlType;

use super::Lowering;
use super::linear::Panels;
use crate::launch::{Count, Kernel, Launch, Rows};

/// Columns that a block of the elementwise kernels takes.
const COLUMNS: u32 = 1024;

/// Groups up to this length are normalised by a warp each, longer ones by a block.
pub(super) const LONGEST_OF_WARP: u32 = 512;

/// Columns that a warp of those blocks keeps in registers: four pieces of 128, in `norm.cu` and `post_norm.cu`.
pub(super) const COLUMNS_OF_WARP: u32 = 4 * 128;

/// Threads of a block that normalises a row of so many columns.
pub(super) fn threads_of_row(cols: u32) -> u32 {
    (cols.div_ceil(COLUMNS_OF_WARP) * 32).min(1024)
}

/// `EmbedParams` of `embed.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct EmbedParams {
    y: Rows,
    n: Count,
    table: u64,
    ids: u64,
    row_bytes: u64,
    scale: f32,
    unused: u32,
}

/// `MapParams` of `rows.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct MapParams {
    x: Rows,
    y: Rows,
    n: Count,
    rows: u64,
    factor: f32,
    head_dim: u32,
    start: u32,
    len: u32,
}

/// `ZipParams` of `rows.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct ZipParams {
    a: Rows,
    b: Rows,
    y: Rows,
    n: Count,
    b_step: u32,
    unused: u32,
}

/// `NormParams` of `norm.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct NormParams {
    x: Rows,
    y: Rows,
    z: Rows,
    n: Count,
    w: u64,
    quants: u64,
    scales: u64,
    panels: Panels,
    group: u32,
    n_groups: u32,
    eps: f32,
    unused: u32,
}

/// `RopeParams` of `rope.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct RopeParams {
    x: Rows,
    y: Rows,
    n: Count,
    positions: u64,
    variants: u64,
    table: u64,
    n_heads: u32,
    head_dim: u32,
    n_dims: u32,
    is_neox: u32,
    heads_per_block: u32,
    unused: u32,
}

impl Lowering<'_> {
    pub(super) fn embed(&mut self, node: &Node, embed: Embed) -> Result<(), DeviceError> {
        let table = self.operand(node.reads[0])?;
        let dim = self.plan.tensor(node.writes[0]).shape.rows;
        let y = self.float_rows(node.writes[0])?;
        let params = EmbedParams {
            y,
            n: self.count(dim),
            table: table.address,
            ids: self.operand(node.reads[1])?.address,
            row_bytes: table.stride,
            scale: embed.scale,
            unused: 0,
        };
        let name = embed_kernel(table.dtype)
            .ok_or_else(|| self.unsupported(node, format!("a table of type {}", table.dtype)))?;
        let grid = [y.cols.div_ceil(256), self.rows(dim), 1];
        self.push(Launch::new(Kernel { module: "embed", name }, params, grid, 256));
        Ok(())
    }

    /// A kernel with one operand of floats; `set` fills in what else it needs.
    fn map(
        &mut self,
        node: &Node,
        name: &'static str,
        set: impl FnOnce(&mut MapParams),
    ) -> Result<(), DeviceError> {
        let dim = self.plan.tensor(node.writes[0]).shape.rows;
        let (x, y) = (self.float_rows(node.reads[0])?, self.float_rows(node.writes[0])?);
        let n = self.count(dim);
        let mut params = MapParams { x, y, n, rows: 0, factor: 0.0, head_dim: 1, start: 0, len: 1 };
        set(&mut params);
        self.elementwise(name, params, y, dim);
        Ok(())
    }

    fn elementwise(
        &mut self,
        name: &'static str,
        params: impl crate::launch::Params,
        y: Rows,
        rows: Dim,
    ) {
        let grid = [y.cols.div_ceil(COLUMNS), self.rows(rows), 1];
        self.push(Launch::new(Kernel { module: "rows", name }, params, grid, 256));
    }

    /// A kernel with two operands of floats.
    fn zip(&mut self, node: &Node, name: &'static str) -> Result<(), DeviceError> {
        let (a_id, b_id, y_id) = (node.reads[0], node.reads[1], node.writes[0]);
        let dim = self.plan.tensor(y_id).shape.rows;
        let (a, mut b, y) =
            (self.float_rows(a_id)?, self.float_rows(b_id)?, self.float_rows(y_id)?);
        if self.plan.tensor(b_id).shape.rows == Dim::Fixed(1) {
            b.stride = 0;
        }
        let b_step = u32::from(b.cols > 1);
        let params = ZipParams { a, b, y, n: self.count(dim), b_step, unused: 0 };
        self.elementwise(name, params, y, dim);
        Ok(())
    }

    pub(super) fn gather_rows(&mut self, node: &Node) -> Result<(), DeviceError> {
        let rows = self.operand(node.reads[1])?.address;
        self.map(node, "gather_rows", |params| params.rows = rows)
    }

    pub(super) fn add(&mut self, node: &Node) -> Result<(), DeviceError> {
        self.zip(node, "add")
    }

    pub(super) fn mul(&mut self, node: &Node) -> Result<(), DeviceError> {
        self.zip(node, "mul")
    }

    pub(super) fn scale(&mut self, node: &Node, scale: Scale) -> Result<(), DeviceError> {
        self.map(node, "scale", |params| params.factor = scale.factor)
    }

    pub(super) fn softcap(&mut self, node: &Node, softcap: Softcap) -> Result<(), DeviceError> {
        self.map(node, "softcap", |params| params.factor = softcap.cap)
    }

    pub(super) fn gated_act(&mut self, node: &Node, gated: GatedAct) -> Result<(), DeviceError> {
        let name = match gated.act {
            Activation::Silu => "gated_act_silu",
            Activation::GeluTanh => "gated_act_gelu_tanh",
            Activation::SwigluOai => "gated_act_swiglu_oai",
        };
        self.zip(node, name)
    }

    pub(super) fn sigmoid_gate(&mut self, node: &Node) -> Result<(), DeviceError> {
        self.zip(node, "sigmoid_gate")
    }

    pub(super) fn head_slice(&mut self, node: &Node, slice: HeadSlice) -> Result<(), DeviceError> {
        self.map(node, "head_slice", |params| {
            (params.head_dim, params.start, params.len) = (slice.head_dim, slice.start, slice.len);
        })
    }

    pub(super) fn concat(&mut self, node: &Node) -> Result<(), DeviceError> {
        self.zip(node, "concat")
    }

    /// A norm by the kernel for warps, or the one for blocks where there is one and groups are long.
    fn norm(
        &mut self,
        node: &Node,
        names: (&'static str, Option<&'static str>),
        (group, eps): (u32, f32),
        (w, z): (u64, Option<TensorId>),
    ) -> Result<(), DeviceError> {
        let dim = self.plan.tensor(node.writes[0]).shape.rows;
        let (x, y) = (self.float_rows(node.reads[0])?, self.float_rows(node.writes[0])?);
        let z = z.map_or(Ok(Rows { data: 0, stride: 0, cols: 0 }), |z| self.float_rows(z))?;
        let n_groups = y.cols / group;
        let mut params = NormParams {
            x,
            y,
            z,
            n: self.count(dim),
            w,
            quants: 0,
            scales: 0,
            panels: Panels::NONE,
            group,
            n_groups,
            eps,
            unused: 0,
        };
        let n = self.rows(dim) * n_groups;
        let launch = |name, params: NormParams, grid, block| {
            Launch::new(Kernel { module: "norm", name }, params, [grid, 1, 1], block)
        };
        let launch = match names {
            // Whole rows in the order of `row_norm.cuh`, as products that normalise them.
            (_, Some(name)) if group > LONGEST_OF_WARP || n_groups == 1 => {
                if let Some(quantized) = self.quantized_at_once(node, n_groups)? {
                    (params.quants, params.scales) = (quantized.quants, quantized.scales);
                    params.panels = quantized.panels;
                    if !quantized.keeps_floats {
                        params.y.data = 0;
                    }
                }
                launch(name, params, n, threads_of_row(group))
            }
            (name, _) => launch(name, params, n.div_ceil(8), 256),
        };
        self.push(launch);
        Ok(())
    }

    pub(super) fn rms_norm(&mut self, node: &Node, norm: RmsNorm) -> Result<(), DeviceError> {
        // The kernel reads them before what other launches of the step write.
        if !self.is_constant(node.reads[1]) {
            return Err(self.unsupported(node, "norm weights that the step computes"));
        }
        let w = self.operand(node.reads[1])?.address;
        let names = ("rms_norm_warp", Some("rms_norm_block"));
        self.norm(node, names, (norm.group, norm.eps), (w, None))
    }

    pub(super) fn l2_norm(&mut self, node: &Node, norm: L2Norm) -> Result<(), DeviceError> {
        self.norm(node, ("l2_norm_warp", None), (norm.group, norm.eps), (0, None))
    }

    pub(super) fn rms_norm_gated(&mut self, node: &Node, norm: RmsNorm) -> Result<(), DeviceError> {
        let w = self.operand(node.reads[1])?.address;
        let names = ("rms_norm_gated_warp", None);
        self.norm(node, names, (norm.group, norm.eps), (w, Some(node.reads[2])))
    }

    pub(super) fn rope(&mut self, node: &Node, rope: Rope) -> Result<(), DeviceError> {
        let dim = self.plan.tensor(node.writes[0]).shape.rows;
        let (x, y) = (self.float_rows(node.reads[0])?, self.float_rows(node.writes[0])?);
        let n_heads = y.cols / rope.head_dim;
        let n_rows = self.rows(dim);
        // Heads side by side in a block; with many rows a thread uses an angle for four heads.
        let n_jobs = rope.head_dim - rope.n_dims / 2;
        let heads_per_block = (256 / n_jobs).max(1) * if n_rows < 64 { 1 } else { 4 };
        let params = RopeParams {
            x,
            y,
            n: self.count(dim),
            positions: self.operand(node.reads[1])?.address,
            variants: self.operand(node.reads[3])?.address,
            table: self.operand(node.reads[2])?.address,
            n_heads,
            head_dim: rope.head_dim,
            n_dims: rope.n_dims,
            is_neox: u32::from(rope.mode == RopeMode::Neox),
            heads_per_block,
            unused: 0,
        };
        let grid = [n_heads.div_ceil(heads_per_block), n_rows, 1];
        self.push(Launch::new(Kernel { module: "rope", name: "rope" }, params, grid, 256));
        Ok(())
    }
}

fn embed_kernel(dtype: GgmlType) -> Option<&'static str> {
    use GgmlType::*;
    Some(match dtype {
        F32 => "embed_f32",
        F16 => "embed_f16",
        BF16 => "embed_bf16",
        Q4_0 => "embed_q4_0",
        Q4_1 => "embed_q4_1",
        Q5_0 => "embed_q5_0",
        Q5_1 => "embed_q5_1",
        Q8_0 => "embed_q8_0",
        Q4_K => "embed_q4_k",
        Q5_K => "embed_q5_k",
        Q6_K => "embed_q6_k",
        MXFP4 => "embed_mxfp4",
        IQ4_NL => "embed_iq4_nl",
        IQ4_XS => "embed_iq4_xs",
        _ => return None,
    })
}
