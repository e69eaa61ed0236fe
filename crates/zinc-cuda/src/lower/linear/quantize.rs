//! Activations to q8.

use crate::launch::{Kernel, Launch};
use crate::lower::{Lowering, q8_scales, row_count};
use zinc_backend::DeviceError;
use zinc_plan::Node;
use zinc_quant::GgmlType;

/// `QuantizeParams` of `quantize.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct QuantizeParams {
    header: u64,
    x: u64,
    quants: u64,
    scales: u64,
    x_stride: u64,
    cols: u32,
    count: u32,
    fixed_rows: u32,
    pad: u32,
}

impl Lowering<'_> {
    pub(in crate::lower) fn quantize_act(&mut self, node: &Node) -> Result<(), DeviceError> {
        let (x, out) = (self.operand(node.reads[0])?, self.operand(node.writes[0])?);
        if out.dtype != GgmlType::Q8_1 {
            return Err(self.unsupported(node, format!("activations of type {}", out.dtype)));
        }
        let max_rows = self.plan.limits.bound(out.rows);
        let rows = self.rows(out.rows);
        let params = QuantizeParams {
            header: self.header(),
            x: x.address,
            quants: out.address,
            scales: out.address + q8_scales(max_rows, out.cols),
            x_stride: x.stride,
            cols: out.cols,
            count: row_count(out.rows),
            fixed_rows: rows,
            pad: 0,
        };
        let kernel = Kernel { module: "quantize", name: "quantize_q8" };
        self.push(Launch::new(kernel, params, [out.cols.div_ceil(1024), rows, 1], 256));
        Ok(())
    }
}
