//! Activations to q8, or to panels where tensor cores take them.

use super::Panels;
use crate::launch::{Count, Kernel, Launch, Rows};
use crate::lower::{Lowering, q8_scales};
use zinc_backend::DeviceError;
use zinc_plan::{Node, Op, TensorId};
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

/// Where a norm puts its result in q8 or as panels; zeros where not.
pub(in crate::lower) struct Quantized {
    pub quants: u64,
    pub scales: u64,
    pub panels: Panels,
    /// Whether something else reads the result in f32.
    pub keeps_floats: bool,
}

impl Lowering<'_> {
    /// Whether the node after `node` only quantises its result, which `node` may do itself then: that node is passed
    /// over. The quants must not lie where rows of its operand are still to be
    /// read.
    pub(in crate::lower) fn quantized_at_once(
        &mut self,
        node: &Node,
        n_groups: u32,
    ) -> Result<Option<Quantized>, DeviceError> {
        let (plan, y) = (self.plan, node.writes[0]);
        let next = plan.nodes.get(self.node + 1);
        let Some(next) = next.filter(|next| next.op == Op::QuantizeAct && next.reads[0] == y)
        else {
            return Ok(None);
        };
        let (x, out) = (self.operand(node.reads[0])?, self.operand(next.writes[0])?);
        let x_end = x.address + plan.limits.bound(x.rows) * x.stride;
        let out_bytes = plan.max_bytes(next.writes[0]);
        let overlaps = x.address < out.address + out_bytes && out.address < x_end;
        if n_groups != 1 || out.dtype != GgmlType::Q8_1 {
            return Ok(None);
        }
        let panels = self.panels_of(next.writes[0], out.rows);
        if overlaps && panels.is_none() {
            return Ok(None);
        }
        self.resume = self.node + 2;
        let is_y = |id: &TensorId| plan.locate(*id).0 == y;
        let read =
            |(idx, node): (usize, &Node)| idx != self.node + 1 && node.reads.iter().any(is_y);
        let keeps_floats = plan.nodes.iter().enumerate().any(read) || plan.outputs.iter().any(is_y);
        if let Some(panels) = panels {
            return Ok(Some(Quantized { quants: 0, scales: 0, panels, keeps_floats }));
        }
        let max_rows = plan.limits.bound(out.rows);
        let scales = out.address + q8_scales(max_rows, out.cols);
        Ok(Some(Quantized { quants: out.address, scales, panels: Panels::NONE, keeps_floats }))
    }

    pub(in crate::lower) fn quantize_act(&mut self, node: &Node) -> Result<(), DeviceError> {
        let out = self.operand(node.writes[0])?;
        if out.dtype != GgmlType::Q8_1 {
            return Err(self.unsupported(node, format!("activations of type {}", out.dtype)));
        }
        let x = self.float_rows(node.reads[0])?;
        if let Some(panels) = self.panels_of(node.writes[0], out.rows) {
            self.pack_panels(panels, x, out.rows);
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
