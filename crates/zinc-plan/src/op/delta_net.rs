//! Gated DeltaNet (arXiv 2412.06464): attributes and shape rules.
//!
//! The states have one row per slot. Rows of one sequence are neighbours in a step, in order of
//! position. A sequence goes on from the state in slot `state_from[s]`, or from zeros when its first
//! row has position 0, whatever the slot holds; the state after its last row is written to slot
//! `state_slots[s]`, which may be the same one. The state as it is after row t is also written to
//! slot `state_saves[t]`, unless that is -1. All reads of a sequence come before its writes, no slot
//! is written twice in a step, and no sequence reads what another one writes.
//!
//! So a snapshot is a save, and going back to it, or to any token of a step that saved each of them,
//! is a step that reads from its slot; neither needs an operation of its own.

use zinc_quant::GgmlType;

use super::{Inferred, expect_f32, expect_multiple, expect_rows, expect_shape, f32_result};
use crate::plan::{Dim, InputKind, Shape, TensorInfo};

/// Which key head a value head belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HeadOrder {
    /// Value head `h` uses key head `h / (n_v_heads / n_k_heads)`: Qwen3-Next.
    Grouped,
    /// Value head `h` uses key head `h % n_k_heads`: Qwen3.5 files.
    Tiled,
}

impl HeadOrder {
    /// Name in the plan's text form.
    pub fn name(self) -> &'static str {
        match self {
            HeadOrder::Grouped => "grouped",
            HeadOrder::Tiled => "tiled",
        }
    }
}

/// Attributes of [`Op::CausalConv1d`](crate::Op::CausalConv1d).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CausalConv1d {
    /// Taps: the token itself and `kernel - 1` before it.
    pub kernel: u32,
}

/// Attributes of [`Op::GatedDeltaNet`](crate::Op::GatedDeltaNet).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GatedDeltaNet {
    /// Query and key heads.
    pub n_k_heads: u32,
    /// Value heads, a multiple of the key heads.
    pub n_v_heads: u32,
    /// Elements of a query or key head.
    pub k_dim: u32,
    /// Elements of a value head.
    pub v_dim: u32,
    /// Factor on the queries.
    pub scale: f32,
    /// Which key head serves a value head.
    pub order: HeadOrder,
}

/// Operands that place a step's rows in their sequences, and sequences in the states.
pub(crate) const PLACEMENT: [InputKind; 5] = [
    InputKind::Positions,
    InputKind::SeqOf,
    InputKind::StateFrom,
    InputKind::StateSlots,
    InputKind::StateSaves,
];

/// The operands [`PLACEMENT`].
fn expect_placement(ins: &[&TensorInfo]) -> Result<(), String> {
    let rows = [Dim::Tokens, Dim::Tokens, Dim::Seqs, Dim::Seqs, Dim::Tokens];
    ins.iter().zip(rows).try_for_each(|(input, rows)| expect_rows(input, rows))
}

pub(super) fn infer_conv(conv: CausalConv1d, ins: &[&TensorInfo]) -> Inferred {
    let (x, weight) = (ins[0], ins[1]);
    expect_f32(x)?;
    expect_rows(x, Dim::Tokens)?;
    expect_f32(weight)?;
    if conv.kernel < 2 {
        return Err(format!("{} taps keep no state", conv.kernel));
    }
    let shape = Shape::new(Dim::Fixed(x.shape.cols), conv.kernel);
    expect_shape(weight, shape)?;
    expect_placement(&ins[2..])?;
    f32_result(Dim::Tokens, x.shape.cols)
}

pub(super) fn infer_gates(ins: &[&TensorInfo]) -> Inferred {
    let shape = ins[0].shape;
    for x in ins {
        expect_f32(x)?;
    }
    expect_shape(ins[1], shape)?;
    for x in &ins[2..] {
        expect_shape(x, Shape::new(Dim::Fixed(1), shape.cols))?;
    }
    Ok(vec![(GgmlType::F32, shape); 2])
}

pub(super) fn infer_delta_net(net: &GatedDeltaNet, ins: &[&TensorInfo]) -> Inferred {
    let GatedDeltaNet { n_k_heads, n_v_heads, k_dim, v_dim, .. } = *net;
    if n_k_heads == 0 || !n_v_heads.is_multiple_of(n_k_heads) {
        return Err(format!("{n_v_heads} value heads cannot share {n_k_heads} key heads"));
    }
    let (keys, values) = (n_k_heads * k_dim, n_v_heads * v_dim);
    for (x, cols) in ins[..5].iter().zip([keys, keys, values, n_v_heads, n_v_heads]) {
        expect_f32(x)?;
        expect_shape(x, Shape::new(Dim::Tokens, cols))?;
    }
    expect_placement(&ins[5..])?;
    f32_result(Dim::Tokens, values)
}

/// Columns of the state that `net` keeps for each sequence.
pub(crate) fn state_cols(net: &GatedDeltaNet) -> u32 {
    net.n_v_heads * net.k_dim * net.v_dim
}

pub(super) fn infer_gated_norm(group: u32, ins: &[&TensorInfo]) -> Inferred {
    for x in ins {
        expect_f32(x)?;
    }
    expect_multiple(ins[0], group)?;
    expect_shape(ins[1], Shape::new(Dim::Fixed(1), group))?;
    expect_shape(ins[2], ins[0].shape)?;
    f32_result(ins[0].shape.rows, ins[0].shape.cols)
}
