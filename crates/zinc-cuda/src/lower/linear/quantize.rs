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
    /// Where `node` is to put its result in q8 or as panels as well, if another node only quantises it: that node has
    /// nothing to do then. The memory pass keeps the place free from `node` on.
    pub(in crate::lower) fn quantized_at_once(
        &mut self,
        node: &Node,
        n_groups: u32,
    ) -> Result<Option<Quantized>, DeviceError> {
        let (plan, y) = (self.plan, node.writes[0]);
        let quantizes = |other: &&Node| other.op == Op::QuantizeAct && other.reads[0] == y;
        let Some(quantize) = plan.nodes.iter().find(quantizes) else { return Ok(None) };
        let out = self.operand(quantize.writes[0])?;
        let place = self.panel_place(quantize.writes[0], out.rows);
        let is_cut = place.is_some_and(|place| place.segment != out.cols);
        if n_groups != 1 || is_cut || out.dtype != GgmlType::Q8_1 {
            return Ok(None);
        }
        self.written.push(quantize.writes[0]);
        let is_y = |id: &TensorId| plan.locate(*id).0 == y;
        let reads = |node: &Node| node.writes != quantize.writes && node.reads.iter().any(is_y);
        let keeps_floats = plan.nodes.iter().any(reads) || plan.outputs.iter().any(is_y);
        if let Some(to) = self.panels_of(quantize.writes[0], out.rows) {
            let panels = to.panels;
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
