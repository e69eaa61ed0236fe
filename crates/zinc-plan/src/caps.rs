use std::collections::BTreeSet;

use zinc_quant::GgmlType;

use crate::OpKind;

/// What the passes may ask of a device.
#[derive(Clone, Debug, Default)]
pub struct Caps {
    /// Device name for messages.
    pub device: String,
    /// Fused operations the device runs natively; all others stay decomposed.
    pub fused: BTreeSet<OpKind>,
    /// Weight types of `MatMul`, each with the type its activations are converted to.
    pub matmul: Vec<(GgmlType, ActivationType)>,
    /// Element types of the key/value cache.
    pub kv_types: Vec<GgmlType>,
    /// A row has the same bits whatever the number of rows in the step. Devices that choose kernels
    /// by it, and so other orders of summation, say `false`.
    pub batch_invariant: bool,
    /// Attention of many rows over f16 and fp8 caches, latent attention among them, rounds queries and weights to f16
    /// (tensor cores), and over quantised caches keys and values as well.
    pub f16_attention: bool,
    /// Products of many rows with quantised weights are made of f16 values of both (tensor cores).
    pub f16_products: bool,
    /// Norms write their results quantised as well, and products make the activations that only they read, rotations the
    /// queries and keys: what those are made from stays where it is until they have run. Chosen experts are multiplied
    /// together with a shared one.
    pub joins_activations: bool,
}

/// How a device wants the activations of a matrix product for one weight type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ActivationType {
    /// As they are: f32.
    F32,
    /// Quantised to this type by a `QuantizeAct` node, shared by all products that read them.
    /// Rows whose length is no multiple of the type's block stay f32.
    Quantized(GgmlType),
}

impl Caps {
    /// Whether attention over caches of type `dtype` may round to f16: see [`Caps::f16_attention`].
    pub fn rounds_attention(&self, dtype: GgmlType) -> bool {
        use GgmlType::{F8_E4M3, F16, Q4_0, Q8_0};
        self.f16_attention && matches!(dtype, F16 | F8_E4M3 | Q8_0 | Q4_0)
    }

    /// The activation type for weights of type `weight` with rows of `cols` elements, or `None`
    /// when the device cannot multiply with them.
    pub fn activation(&self, weight: GgmlType, cols: u32) -> Option<ActivationType> {
        let (_, activation) = self.matmul.iter().find(|(ty, _)| *ty == weight)?;
        match activation {
            ActivationType::Quantized(ty) if ty.row_bytes(cols as usize).is_none() => {
                Some(ActivationType::F32)
            }
            other => Some(*other),
        }
    }
}
