//! Activations to q8, or to panels where tensor cores take them.

use crate::launch::{Count, Kernel, Launch, Rows};
use crate::lower::{Lowering, q8_scales};
use zinc_backend::DeviceError;
use zinc_plan::Node;
use zinc_quant::GgmlType;

/// `QuantizeParams` of `quantize.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct QuantizeParams {
    x: Rows,
    n: Count,
    quants: u64,
    scales: u64,
}

impl Lowering<'_> {
    pub(in crate::lower) fn quantize_act(&mut self, node: &Node) -> Result<(), DeviceError> {
        let out = self.operand(node.writes[0])?;
        if out.dtype != GgmlType::Q8_1 {
            return Err(self.unsupported(node, format!("activations of type {}", out.dtype)));
        }
        let x = self.float_rows(node.reads[0])?;
        if self.pack_panels(node.writes[0], x, out.rows)? {
            return Ok(());
        }
        let max_rows = self.plan.limits.bound(out.rows);
        let rows = self.rows(out.rows);
        let params = QuantizeParams {
            x,
            n: self.count(out.rows),
            quants: out.address,
            scales: out.address + q8_scales(max_rows, out.cols),
        };
        let kernel = Kernel { module: "quantize", name: "quantize_q8" };
        self.push(Launch::new(kernel, params, [out.cols.div_ceil(1024), rows, 1], 256));
        Ok(())
    }
}
