//! The tables' fields, and what plan each operation's case builds.

mod attention;
mod delta_net;
mod elementwise;
mod experts;
mod linear;
mod rows;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use zinc_backend::{ActivationType, Caps};
use zinc_plan::OpKind;
use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;

use super::{Build, Case, Feed, Layout, Pattern};
use crate::{TestError, paths};

/// A file of the table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table<C> {
    /// Base of all random numbers.
    seed: u64,
    /// Largest NMSE, by the type activations (or the cache) are converted to.
    nmse: BTreeMap<String, f64>,
    case: Vec<C>,
}

/// A row of a table.
trait Entry: DeserializeOwned {
    const OP: OpKind;

    /// The cases it stands for.
    fn expand(&self, context: &Context<'_>) -> Vec<Case>;
}

/// What a row needs to know of its file and of the device.
struct Context<'a> {
    op: OpKind,
    seed: u64,
    nmse: &'a BTreeMap<String, f64>,
    caps: &'a Caps,
    /// Weight types there are at all.
    weight_types: Vec<GgmlType>,
    /// Cache types there are at all.
    kv_types: Vec<GgmlType>,
}

impl Context<'_> {
    /// Tolerance for values that pass through `dtype`.
    fn nmse_of(&self, dtype: GgmlType) -> f64 {
        let limit = self.nmse.get(dtype.name()).or_else(|| self.nmse.get("f32"));
        limit.copied().unwrap_or(0.0)
    }

    /// Tolerance of attention over caches of type `dtype`.
    fn nmse_of_attention(&self, dtype: GgmlType) -> f64 {
        match self.nmse.get("f16_products") {
            Some(limit) if self.caps.rounds_attention(dtype) => *limit,
            _ => self.nmse_of(dtype),
        }
    }

    /// Tolerance of a product with weights of type `dtype`.
    fn nmse_of_product(&self, dtype: GgmlType, cols: u32, pattern: Pattern) -> f64 {
        match self.caps.activation(dtype, cols) {
            Some(ActivationType::Quantized(to)) if pattern != Pattern::Int8 => self.nmse_of(to),
            Some(ActivationType::Quantized(_)) if self.caps.f16_products => {
                let limit = self.nmse.get("f16_products").copied();
                limit.unwrap_or_else(|| self.nmse_of(GgmlType::F32))
            }
            _ => self.nmse_of(GgmlType::F32),
        }
    }

    /// The same for activations that are products of normal numbers.
    fn nmse_of_gated_product(&self, dtype: GgmlType, cols: u32) -> f64 {
        let limit = self.nmse_of_product(dtype, cols, Pattern::Normal);
        match self.caps.activation(dtype, cols) {
            Some(ActivationType::Quantized(_)) => self.nmse.get("gated").copied().unwrap_or(limit),
            _ => limit,
        }
    }

    /// What [`Pattern::Exact`] means for weights of type `dtype`.
    fn resolve(&self, pattern: Pattern, dtype: GgmlType, cols: u32) -> Pattern {
        let activation = self.caps.activation(dtype, cols);
        match (pattern, activation) {
            (Pattern::Exact, Some(ActivationType::Quantized(_))) => Pattern::Int8,
            (Pattern::Exact, _) => Pattern::Normal,
            (other, _) => other,
        }
    }

    /// Weight types whose blocks fill rows of `cols` elements.
    fn weight_types(&self, cols: u32) -> impl Iterator<Item = GgmlType> {
        let fits = move |ty: &GgmlType| ty.row_bytes(cols as usize).is_some();
        self.weight_types.iter().copied().filter(fits)
    }

    fn feed(&self, name: &str) -> Feed {
        Feed::new(self.seed, &format!("{}/{name}", self.op.name()))
    }

    fn case(
        &self,
        name: &str,
        dtype: Option<GgmlType>,
        feed: Feed,
        layout: Layout,
        build: Build,
    ) -> Case {
        Case {
            op: self.op,
            name: name.to_owned(),
            dtype,
            nmse_max: self.nmse_of(GgmlType::F32),
            weights: feed.weights,
            layout,
            build,
        }
    }
}

pub(super) fn read_all(caps: &Caps) -> Result<Vec<Case>, TestError> {
    let mut cases = Vec::new();
    for op in OpKind::ALL {
        cases.extend(read_op(op, caps)?);
    }
    Ok(cases)
}

fn read_op(op: OpKind, caps: &Caps) -> Result<Vec<Case>, TestError> {
    match op {
        OpKind::Embed => read::<rows::Embed>(caps),
        OpKind::GatherRows => read::<rows::GatherRows>(caps),
        OpKind::Add => read::<rows::Add>(caps),
        OpKind::GatedAct => read::<rows::GatedAct>(caps),
        OpKind::RmsNorm => read::<rows::RmsNorm>(caps),
        OpKind::MatMul => read::<linear::MatMul>(caps),
        OpKind::MatMulAdd => read::<linear::MatMulAdd>(caps),
        OpKind::GateUpAct => read::<linear::GateUpAct>(caps),
        OpKind::QuantizeAct => read::<linear::QuantizeAct>(caps),
        OpKind::Rope => read::<rows::Rope>(caps),
        OpKind::KvWrite => read::<attention::KvWrite>(caps),
        OpKind::Attention => read::<attention::Attention>(caps),
        OpKind::Mul => read::<elementwise::Mul>(caps),
        OpKind::Scale => read::<elementwise::Scale>(caps),
        OpKind::Softcap => read::<elementwise::Softcap>(caps),
        OpKind::SigmoidGate => read::<elementwise::SigmoidGate>(caps),
        OpKind::HeadSlice => read::<elementwise::HeadSlice>(caps),
        OpKind::Concat => read::<elementwise::Concat>(caps),
        OpKind::L2Norm => read::<elementwise::L2Norm>(caps),
        OpKind::TopK => read::<elementwise::TopK>(caps),
        OpKind::RmsNormGated => read::<elementwise::RmsNormGated>(caps),
        OpKind::HeadMatMul => read::<experts::HeadMatMul>(caps),
        OpKind::ExpertGateUpAct => read::<experts::ExpertGateUpAct>(caps),
        OpKind::ExpertMatMul => read::<experts::ExpertMatMul>(caps),
        OpKind::RouterTopK => read::<experts::RouterTopK>(caps),
        OpKind::ExpertCombine => read::<experts::ExpertCombine>(caps),
        OpKind::LatentAttention => read::<attention::LatentAttention>(caps),
        OpKind::CausalConv1d => read::<delta_net::CausalConv1d>(caps),
        OpKind::DeltaGates => read::<delta_net::DeltaGates>(caps),
        OpKind::GatedDeltaNet => read::<delta_net::GatedDeltaNet>(caps),
    }
}

fn read<E: Entry>(caps: &Caps) -> Result<Vec<Case>, TestError> {
    let path = paths::testdata().join("ops").join(format!("{}.toml", E::OP.name()));
    let file = |reason: String| TestError::File { path: path.clone(), reason };
    let text = std::fs::read_to_string(&path).map_err(|error| file(error.to_string()))?;
    let table: Table<E> = toml::from_str(&text).map_err(|error| file(error.to_string()))?;
    let reference = ReferenceDevice::new();
    let reference = zinc_backend::Device::caps(&reference);
    let context = Context {
        op: E::OP,
        seed: table.seed,
        nmse: &table.nmse,
        caps,
        weight_types: reference.matmul.iter().map(|(ty, _)| *ty).collect(),
        kv_types: reference.kv_types.clone(),
    };
    Ok(table.case.iter().flat_map(|entry| entry.expand(&context)).collect())
}
