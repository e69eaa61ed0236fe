//! Convolutions and gated DeltaNet.

use zinc_backend::DeviceError;
use zinc_plan::{CausalConv1d, Dim, GatedDeltaNet, HeadOrder, Node};

pub mod chunks;
pub mod joined;

use super::Lowering;
use crate::launch::{Count, Kernel, Launch, Rows};

/// Taps that the convolution's kernel has room for: `MOST_TAPS` of `delta_net.cu`.
const MOST_TAPS: u32 = 8;

/// Columns and rows that a block of the convolution takes: `CONV_COLS` and `CONV_ROWS` of `delta_net.cu`.
const CONV_COLS: u32 = 128;
const CONV_ROWS: u32 = 32;

/// `Recurrence` of `recurrence.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct Recurrence {
    positions: u64,
    seq_of: u64,
    from: u64,
    slots: u64,
    saves: u64,
    state: u64,
    rows: Count,
    seqs: Count,
}

/// `ConvParams` of `delta_net.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct ConvParams {
    x: Rows,
    y: Rows,
    r: Recurrence,
    taps: u64,
    gates: Gates,
    n_taps: u32,
    n_normed: u32,
    group: u32,
    eps: f32,
}

/// `DeltaParams` of `recurrence.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct DeltaParams {
    q: Rows,
    k: Rows,
    v: Rows,
    g: Rows,
    beta: Rows,
    y: Rows,
    r: Recurrence,
    n_k_heads: u32,
    n_v_heads: u32,
    k_dim: u32,
    v_dim: u32,
    is_tiled: u32,
    scale: f32,
}

/// `Gates` of `delta_gates.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct Gates {
    a: Rows,
    b: Rows,
    g: Rows,
    beta: Rows,
    a_log: u64,
    dt_bias: u64,
}

impl Gates {
    /// Of no heads.
    const NONE: Gates = {
        let none = Rows { data: 0, stride: 0, cols: 0 };
        Gates { a: none, b: none, g: none, beta: none, a_log: 0, dt_bias: 0 }
    };
}

/// `GatesParams` of `rows.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct GatesParams {
    gates: Gates,
    n: Count,
}

impl Lowering<'_> {
    /// The operands from `first` on that place rows in sequences, and the state, which is written last.
    fn recurrence(&self, node: &Node, first: usize) -> Result<Recurrence, DeviceError> {
        let address = |idx: usize| Ok(self.operand(node.reads[first + idx])?.address);
        Ok(Recurrence {
            positions: address(0)?,
            seq_of: address(1)?,
            from: address(2)?,
            slots: address(3)?,
            saves: address(4)?,
            state: self.operand(node.writes[1])?.address,
            rows: self.count(Dim::Tokens),
            seqs: self.count(Dim::Seqs),
        })
    }

    pub(super) fn causal_conv1d(
        &mut self,
        node: &Node,
        conv: CausalConv1d,
    ) -> Result<(), DeviceError> {
        let params = self.conv_params(node, conv)?;
        self.push_conv(params);
        Ok(())
    }

    /// The convolution alone: no gates, nothing normalised.
    fn conv_params(&self, node: &Node, conv: CausalConv1d) -> Result<ConvParams, DeviceError> {
        if conv.kernel > MOST_TAPS {
            return Err(self.unsupported(node, format!("{} taps", conv.kernel)));
        }
        Ok(ConvParams {
            x: self.float_rows(node.reads[0])?,
            y: self.float_rows(node.writes[0])?,
            r: self.recurrence(node, 2)?,
            taps: self.operand(node.reads[1])?.address,
            gates: Gates::NONE,
            n_taps: conv.kernel,
            n_normed: 0,
            group: 1,
            eps: 0.0,
        })
    }

    fn push_conv(&mut self, params: ConvParams) {
        let kernel = Kernel { module: "delta_net", name: "causal_conv1d" };
        let has_gates = u32::from(params.gates.g.cols > 0);
        let n_blocks = params.x.cols.div_ceil(CONV_COLS) + has_gates;
        let grid = [n_blocks, self.bucket.tokens.div_ceil(CONV_ROWS), self.bucket.seqs];
        self.push(Launch::new(kernel, params, grid, CONV_COLS));
    }

    fn gates(&self, node: &Node) -> Result<Gates, DeviceError> {
        Ok(Gates {
            a: self.float_rows(node.reads[0])?,
            b: self.float_rows(node.reads[1])?,
            g: self.float_rows(node.writes[0])?,
            beta: self.float_rows(node.writes[1])?,
            a_log: self.operand(node.reads[2])?.address,
            dt_bias: self.operand(node.reads[3])?.address,
        })
    }

    pub(super) fn delta_gates(&mut self, node: &Node) -> Result<(), DeviceError> {
        let dim = self.plan.tensor(node.writes[0]).shape.rows;
        let gates = self.gates(node)?;
        let grid = [gates.g.cols.div_ceil(1024), self.rows(dim), 1];
        let kernel = Kernel { module: "rows", name: "delta_gates" };
        let params = GatesParams { gates, n: self.count(dim) };
        self.push(Launch::new(kernel, params, grid, 256));
        Ok(())
    }

    /// Operands of gated DeltaNet `node`.
    fn delta_params(&self, node: &Node, net: &GatedDeltaNet) -> Result<DeltaParams, DeviceError> {
        let [q, k, v, g, beta] = [0, 1, 2, 3, 4].map(|idx| node.reads[idx]);
        Ok(DeltaParams {
            q: self.float_rows(q)?,
            k: self.float_rows(k)?,
            v: self.float_rows(v)?,
            g: self.float_rows(g)?,
            beta: self.float_rows(beta)?,
            y: self.float_rows(node.writes[0])?,
            r: self.recurrence(node, 5)?,
            n_k_heads: net.n_k_heads,
            n_v_heads: net.n_v_heads,
            k_dim: net.k_dim,
            v_dim: net.v_dim,
            is_tiled: u32::from(net.order == HeadOrder::Tiled),
            scale: net.scale,
        })
    }

    pub(super) fn gated_delta_net(
        &mut self,
        node: &Node,
        net: &GatedDeltaNet,
    ) -> Result<(), DeviceError> {
        if let Some(chunks) = self.chunk_scratch(net) {
            return self.delta_chunks(node, net, chunks);
        }
        let name = match net.k_dim {
            ..=32 => "delta_rule_32",
            33..=64 => "delta_rule_64",
            65..=128 => "delta_rule_128",
            other => return Err(self.unsupported(node, format!("keys of {other} elements"))),
        };
        let params = self.delta_params(node, net)?;
        let grid = [net.v_dim.div_ceil(32), net.n_v_heads, self.bucket.seqs];
        let kernel = Kernel { module: "delta_net", name };
        self.push(Launch::new(kernel, params, grid, 128));
        Ok(())
    }
}
