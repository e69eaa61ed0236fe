//! Operations on f32 rows.

use super::Lowering;
use zinc_backend::DeviceError;
use zinc_plan::{Embed, GatedAct, HeadSlice, L2Norm, Node, RmsNorm, Rope, Scale, Softcap};

impl Lowering<'_> {
    pub(super) fn embed(&mut self, node: &Node, _: Embed) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }

    pub(super) fn gather_rows(&mut self, node: &Node) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }

    pub(super) fn add(&mut self, node: &Node) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }

    pub(super) fn mul(&mut self, node: &Node) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }

    pub(super) fn scale(&mut self, node: &Node, _: Scale) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }

    pub(super) fn softcap(&mut self, node: &Node, _: Softcap) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }

    pub(super) fn gated_act(&mut self, node: &Node, _: GatedAct) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }

    pub(super) fn sigmoid_gate(&mut self, node: &Node) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }

    pub(super) fn head_slice(&mut self, node: &Node, _: HeadSlice) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }

    pub(super) fn concat(&mut self, node: &Node) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }

    pub(super) fn rms_norm(&mut self, node: &Node, _: RmsNorm) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }

    pub(super) fn l2_norm(&mut self, node: &Node, _: L2Norm) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }

    pub(super) fn rms_norm_gated(&mut self, node: &Node, _: RmsNorm) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }

    pub(super) fn rope(&mut self, node: &Node, _: Rope) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }
}
