//! Caches and attention.

use super::Lowering;
use zinc_backend::DeviceError;
use zinc_plan::{Attention, LatentAttention, Node};

impl Lowering<'_> {
    pub(super) fn kv_write(&mut self, node: &Node) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }

    pub(super) fn attention(&mut self, node: &Node, _: &Attention) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }

    pub(super) fn latent_attention(&mut self, node: &Node, _: &LatentAttention) -> Result<(), DeviceError> {
        Err(self.unsupported(node, "no kernel yet"))
    }
}
