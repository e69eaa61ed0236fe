//! Convolutions and gated DeltaNet.

use zinc_backend::DeviceError;
use zinc_plan::{CausalConv1d, Dim, GatedDeltaNet, HeadOrder, Node};

use super::Lowering;
use crate::launch::{Count, Kernel, Launch, Rows};

/// Taps that the convolution's kernel has room for: `MOST_TAPS` of `delta_net.cu`.
const MOST_TAPS: u32 = 8;

/// Rows that a block of the convolution takes: `CONV_ROWS` of `delta_net.cu`.
const CONV_ROWS: u32 = 32;

/// `Recurrence` of `delta_net.cu`.
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
    n_taps: u32,
    unused: u32,
}

/// `DeltaParams` of `delta_net.cu`.
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

/// `GatesParams` of `rows.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct GatesParams {
    a: Rows,
    b: Rows,
    g: Rows,
    beta: Rows,
    n: Count,
    a_log: u64,
    dt_bias: u64,
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
        if conv.kernel > MOST_TAPS {
            return Err(self.unsupported(node, format!("{} taps", conv.kernel)));
        }
        let x = self.float_rows(node.reads[0])?;
        let params = ConvParams {
            x,
            y: self.float_rows(node.writes[0])?,
            r: self.recurrence(node, 2)?,
            taps: self.operand(node.reads[1])?.address,
            n_taps: conv.kernel,
            unused: 0,
        };
        let kernel = Kernel { module: "delta_net", name: "causal_conv1d" };
        let (tokens, seqs) = (self.bucket.tokens, self.bucket.seqs);
        let grid = [x.cols.div_ceil(128), tokens.div_ceil(CONV_ROWS), seqs];
        self.push(Launch::new(kernel, params, grid, 128));
        Ok(())
    }

    pub(super) fn delta_gates(&mut self, node: &Node) -> Result<(), DeviceError> {
        let dim = self.plan.tensor(node.writes[0]).shape.rows;
        let g = self.float_rows(node.writes[0])?;
        let params = GatesParams {
            a: self.float_rows(node.reads[0])?,
            b: self.float_rows(node.reads[1])?,
            g,
            beta: self.float_rows(node.writes[1])?,
            n: self.count(dim),
            a_log: self.operand(node.reads[2])?.address,
            dt_bias: self.operand(node.reads[3])?.address,
        };
        let grid = [g.cols.div_ceil(1024), self.rows(dim), 1];
        let kernel = Kernel { module: "rows", name: "delta_gates" };
        self.push(Launch::new(kernel, params, grid, 256));
        Ok(())
    }

    pub(super) fn gated_delta_net(
        &mut self,
        node: &Node,
        net: &GatedDeltaNet,
    ) -> Result<(), DeviceError> {
        let name = match net.k_dim {
            ..=32 => "delta_rule_32",
            33..=64 => "delta_rule_64",
            65..=128 => "delta_rule_128",
            other => return Err(self.unsupported(node, format!("keys of {other} elements"))),
        };
        let [q, k, v, g, beta] = [0, 1, 2, 3, 4].map(|idx| node.reads[idx]);
        let params = DeltaParams {
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
        };
        let grid = [net.v_dim.div_ceil(32), net.n_v_heads, self.bucket.seqs];
        let kernel = Kernel { module: "delta_net", name };
        self.push(Launch::new(kernel, params, grid, 128));
        Ok(())
    }
}
