//! Convolutions and gated DeltaNet.

use super::Lowering;
use zinc_backend::DeviceError;
use zinc_plan::{CausalConv1d, GatedDeltaNet, Node};

impl Lowering<'_> {
    pub(super) fn causal_conv1d(&mut self, node: &Node, _: CausalConv1d) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }

    pub(super) fn delta_gates(&mut self, node: &Node) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }

    pub(super) fn gated_delta_net(&mut self, node: &Node, _: &GatedDeltaNet) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }
}
