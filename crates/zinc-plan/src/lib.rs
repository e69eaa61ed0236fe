//! The device-independent description of a model's step, and the passes that prepare it.
//!
//! A [`Plan`] is plain data: typed, coarse operations ([`Op`]) over named tensors. Model families
//! build one with [`Builder`]; the [`passes`] verify it, fuse operations, insert helper operations,
//! lay out memory and compute hazards; a backend compiles the result. The crate does no I/O and
//! knows no device: what a device can do reaches it as [`Caps`].
//!
//! Everything that changes from step to step (token ids, positions, cache slots, page tables) is
//! data in input tensors ([`InputKind`]), so a compiled plan is replayed, never rebuilt.

mod alone;
mod builder;
mod caps;
mod cost;
mod error;
mod node_kind;
mod op;
pub mod passes;
mod plan;
mod print;

pub use alone::{Alone, DistinctNode, FeedTable};
pub use builder::Builder;
pub use caps::{ActivationType, Caps};
pub use cost::{Bound, Cost};
pub use error::PlanError;
pub use node_kind::NodeKind;
pub use op::{
    Activation, Attention, CausalConv1d, Embed, ExpertCombine, ExpertGateUpAct, ExpertGroups,
    ExpertMatMul, GateUpAct, GatedAct, GatedDeltaNet, Gating, GroupScore, HeadMatMul, HeadOrder,
    HeadSlice, L2Norm, LatentAttention, MatMul, Op, OpKind, RmsNorm, Rope, RopeMode, RouterTopK,
    Scale, Softcap, TopK,
};
pub use plan::{
    CacheGroup, Const, Dim, InputKind, Limits, Memory, Node, Plan, Shape, TensorId, TensorInfo,
    TensorKind,
};
