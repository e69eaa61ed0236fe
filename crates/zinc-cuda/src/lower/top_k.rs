//! The largest values of a row.

use zinc_backend::DeviceError;
use zinc_plan::{Node, TopK};

use super::Lowering;
use crate::launch::{Count, Kernel, Launch, Rows};

/// Columns that a block takes, as in `top_k.cu`.
const SEGMENT: u32 = 2048;
/// Largest k, as in `top_k.cu`.
const MOST_K: u32 = 64;
/// Segments whose first keys fit the kernel's shared memory.
const MOST_SEGMENTS: u32 = MOST_K * MOST_K;

/// `TopKParams` of `top_k.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct TopKParams {
    x: Rows,
    n: Count,
    keys: u64,
    ids: u64,
    values: u64,
    k: u32,
    n_segments: u32,
}

impl Lowering<'_> {
    pub(super) fn top_k(&mut self, node: &Node, top: TopK) -> Result<(), DeviceError> {
        let x = self.float_rows(node.reads[0])?;
        let n_segments = x.cols.div_ceil(SEGMENT);
        if top.k > MOST_K || n_segments > MOST_SEGMENTS {
            return Err(self.unsupported(node, format!("{} of {} columns", top.k, x.cols)));
        }
        let dim = self.plan.tensor(node.reads[0]).shape.rows;
        let n_rows = self.rows(dim);
        let keys = self.transient(u64::from(n_rows) * u64::from(n_segments) * u64::from(top.k) * 8);
        let params = TopKParams {
            x,
            n: self.count(dim),
            keys,
            ids: self.operand(node.writes[0])?.address,
            values: self.operand(node.writes[1])?.address,
            k: top.k,
            n_segments,
        };
        let kernel = |name| Kernel { module: "top_k", name };
        self.push(Launch::new(kernel("top_k_segment"), params, [n_segments, n_rows, 1], 256));
        if n_segments > 1 {
            self.push(Launch::new(kernel("top_k_merge"), params, [n_rows, 1, 1], 1024));
        }
        Ok(())
    }
}
