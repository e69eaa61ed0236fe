//! The operations, their operands and shape rules.
//!
//! Base operations are defined by `zinc-reference`; a fused operation is defined by the base
//! operations that the fusion pass replaces with it.
//!
//! **Reproducibility contract of every operation:** a result row depends only on its own operand
//! rows (and, for attention, on the cache rows of its own sequence). Its order of reduction is
//! fixed by operation, shape, data type and kernel variant, never by the number of rows in the
//! step, the number of threads or the chunking of the prompt.

use zinc_quant::GgmlType;

use crate::plan::{CacheGroup, Dim, Shape, TensorInfo};

pub(crate) mod delta_net;
mod elementwise;
mod moe;
mod top_k;

pub use delta_net::{CausalConv1d, GatedDeltaNet, HeadOrder};
pub use elementwise::{HeadMatMul, HeadSlice, L2Norm, LatentAttention, Scale, Softcap};
pub use moe::{
    ExpertCombine, ExpertGateUpAct, ExpertGroups, ExpertMatMul, Gating, GroupScore, RouterTopK,
};
pub use top_k::TopK;

/// Nonlinearity of a gated feed-forward block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Activation {
    /// x * sigmoid(x).
    Silu,
    /// x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))): the tanh form of GELU, evaluated in full.
    GeluTanh,
    /// GPT-OSS: g = min(gate, 7), u = clamp(up, -7, 7), result g * sigmoid(1.702 g) * (u + 1), so
    /// the other factor of the block is changed as well.
    SwigluOai,
}

impl Activation {
    /// Name in the plan's text form.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_tanh",
            Activation::SwigluOai => "swiglu_oai",
        }
    }
}

/// Which pairs of a head's elements a rotation turns.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RopeMode {
    /// Neighbours `(2i, 2i+1)`: the original RoPE paper; Llama and Mistral files.
    Norm,
    /// Halves `(i, i + n_dims/2)`: GPT-NeoX; Qwen, Phi-3.
    Neox,
}

/// Attributes of [`Op::Embed`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Embed {
    /// Factor applied to every element.
    pub scale: f32,
}

/// Attributes of [`Op::RmsNorm`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f32,
    /// Columns normalised together: the whole row, or one head.
    pub group: u32,
}

/// Attributes of [`Op::MatMul`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MatMul {
    /// A row vector is added to every result row: operand 2.
    pub bias: bool,
    /// Fused: a tensor of the result's shape is added last: the operand after the others.
    pub residual: bool,
}

/// Attributes of [`Op::GatedAct`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GatedAct {
    /// Applied to the gate.
    pub act: Activation,
}

/// Attributes of [`Op::GateUpAct`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GateUpAct {
    /// Applied to the gate.
    pub act: Activation,
}

/// Attributes of [`Op::Rope`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rope {
    /// Which elements are paired.
    pub mode: RopeMode,
    /// Elements of one head; a row holds several.
    pub head_dim: u32,
    /// Rotated elements at the start of each head; the rest pass through.
    pub n_dims: u32,
}

/// Attributes of [`Op::Attention`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Attention {
    /// Query heads.
    pub n_heads: u32,
    /// Key/value heads; query head `h` uses `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: u32,
    /// Elements of a query or key head.
    pub k_dim: u32,
    /// Elements of a value head.
    pub v_dim: u32,
    /// Factor on the scores.
    pub scale: f32,
    /// Scaled scores are `c * tanh(score / c)` with this c (Gemma 2); not those of sinks.
    pub softcap: Option<f32>,
    /// A query at position p sees keys `p-window+1 ..= p`; all of `0 ..= p` when absent.
    pub window: Option<u32>,
    /// Each head has one more score without a value, which the softmax counts: operand 6,
    /// `[1, n_heads]`, not scaled.
    pub sinks: bool,
    /// Rows of a cache page; where a key lies is said by [`CacheGroup`].
    pub page_size: u32,
}

/// One operation. Operands are listed as `reads -> writes`; `T` stands for the step's tokens.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Op {
    /// `table [vocab, d], token_ids [T, 1] -> y [T, d]`: y = table\[id\] * scale, as f32.
    Embed(Embed),
    /// `x [T, d], out_rows [R, 1] -> y [R, d]`: only the rows whose logits are wanted.
    GatherRows,
    /// `a, b -> y`: elementwise sum of equal shapes.
    Add,
    /// `a, b -> y`: elementwise product; b has the shape of a, or is one row, or one value.
    Mul,
    /// `x -> y`: x * factor.
    Scale(Scale),
    /// `x -> y`: cap * tanh(x / cap).
    Softcap(Softcap),
    /// `gate, up -> y`: act(gate) * up.
    GatedAct(GatedAct),
    /// `x [n, d], gate [n, d] or [n, 1] -> y`: x * sigmoid(gate).
    SigmoidGate,
    /// `x [n, heads * head_dim] -> y [n, heads * len]`: some columns of each head, moved together.
    HeadSlice(HeadSlice),
    /// `a [n, da], b [n, db] -> y [n, da + db]`: the columns of a, then those of b.
    Concat,
    /// `x [n, d], w [1, group] -> y`: x / sqrt(mean(x^2) + eps) * w in each group of columns.
    RmsNorm(RmsNorm),
    /// `x [n, d] -> y`: x / sqrt(sum(x^2) + eps) in each group of columns.
    L2Norm(L2Norm),
    /// `x [n, d], w [1, group], z [n, d] -> y`: the RMS norm of x, times w, times silu(z).
    RmsNormGated(RmsNorm),
    /// `w [n_out, n_in], x [n, n_in] (, bias [1, n_out]) (, residual [n, n_out]) -> y [n, n_out]`:
    /// y = W x + bias + residual, summed in that order.
    MatMul(MatMul),
    /// `w [n_heads * n_out, n_in], x [n, n_heads * n_in] -> y [n, n_heads * n_out]`: each head has a
    /// matrix of its own.
    HeadMatMul(HeadMatMul),
    /// `w [n_experts * n_out, n_in], x [n, n_in] or [n, k * n_in], ids [n, k] (, bias [n_experts,
    /// n_out]) -> y [n, k * n_out]`: slot j is W\[ids\[j\]\] x + bias\[ids\[j\]\], where x is the
    /// whole row for every slot, or the slot's own part of it.
    ExpertMatMul(ExpertMatMul),
    /// `logits [n, n_experts] (, bias [1, n_experts]) -> ids [n, k] i32, weights [n, k]`: the k
    /// experts of the best scores, best first, the lower id first among equals.
    RouterTopK(RouterTopK),
    /// `y [n, k * d], weights [n, k] (, ids [n, k], scale [1, n_experts]) -> z [n, d]`: sum over j of
    /// weights\[j\] * scale\[ids\[j\]\] * y_j, in the order of j.
    ExpertCombine(ExpertCombine),
    /// `x [T, heads * head_dim], positions, table [variants, n_dims/2 + 1], rope_variant -> y`:
    /// pair i of each head turns by `position * table[variant][i]`, and cos and sin are multiplied
    /// by the last column of the table row (the attention factor of YaRN and longrope).
    Rope(Rope),
    /// `k [T, dk], v [T, dv], slots -> cache_k, cache_v`: row `slots[t]` of each cache becomes row t,
    /// converted to the cache's type (nearest even for floats, ggml's reference for quants). Both
    /// caches are of one [`CacheGroup`], and the slots are that group's.
    KvWrite,
    /// `q [T, n_heads * k_dim], cache_k, cache_v, positions, seq_of, pages (, sinks [1, n_heads]) ->
    /// y [T, n_heads * v_dim]`:
    /// softmax(scale * q k^T) v over the keys that the position and window allow. Both caches are of
    /// one [`CacheGroup`], and the pages are that group's; the window group is for layers with a
    /// window.
    Attention(Attention),
    /// `q [T, n_heads * latent_dim], q_rope [T, n_heads * rope_dim], cache [C, latent_dim],
    /// cache_rope [C, rope_dim], positions, seq_of, pages -> y [T, n_heads * latent_dim]`: multi-head
    /// latent attention with the projections absorbed. A score is scale * (q c + q_rope r) for the
    /// cache row (c, r); the result is the softmax-weighted sum of the c over the keys `0 ..= p`.
    LatentAttention(LatentAttention),
    /// `x [T, d], w [d, kernel], positions, seq_of, state_from, state_slots, state_saves -> y [T, d],
    /// state [slots, (kernel - 1) * d]`: y = silu(sum_i w\[c\]\[i\] * x\[t - kernel + 1 + i\]\[c\])
    /// over the sequence; the state is its last `kernel - 1` rows of x, oldest first, read and
    /// written as [`delta_net`] says.
    CausalConv1d(CausalConv1d),
    /// `a [n, h], b [n, h], a_log [1, h], dt_bias [1, h] -> g [n, h], beta [n, h]`:
    /// g = a_log * softplus(a + dt_bias), where a_log is -exp(A_log) already; beta = sigmoid(b).
    DeltaGates,
    /// `q, k [T, n_k_heads * k_dim], v [T, n_v_heads * v_dim], g, beta [T, n_v_heads], positions,
    /// seq_of, state_from, state_slots, state_saves -> y [T, n_v_heads * v_dim], state [slots,
    /// n_v_heads * k_dim * v_dim]`, read and written as [`delta_net`] says.
    /// Each value head has a matrix S (k_dim rows) and, token by token:
    /// S = exp(g) S; S = S + k (beta (v - S^T k))^T; y = S^T (scale q). This recurrence is the
    /// definition; a chunked evaluation may let a row depend on where chunks end by rounding, and on a
    /// batch-invariant device not at all.
    GatedDeltaNet(GatedDeltaNet),
    /// `x [n, d] -> ids [n, k] i32, values [n, k]`: the k largest of each row, falling, the lower column
    /// first among equals, 0 and -0 being equal. What is infinite or no number comes before all
    /// others, in order of its column, so that whoever reads the first value sees it.
    TopK(TopK),
    /// Inserted: `x [n, d] -> y [n, d]` of a quantised type, for the products that read it.
    QuantizeAct,
    /// Fused `MatMul, MatMul, GatedAct`:
    /// `w_gate, w_up, x -> y`: act(W_gate x) * (W_up x).
    GateUpAct(GateUpAct),
    /// Fused `ExpertMatMul, ExpertMatMul, GatedAct`: `w_gate, w_up, x, ids (, bias_gate, bias_up) -> y
    /// [n, k * n_out]`. When packed, fused `ExpertMatMul, HeadSlice, HeadSlice, GatedAct`: `w [n_experts
    /// * 2 * n_out, n_in], x, ids -> y`, where each expert's matrix has the rows of the gate first.
    ExpertGateUpAct(ExpertGateUpAct),
}

/// An operation without its attributes; fused forms of an operation count as kinds of their own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum OpKind {
    /// [`Op::Embed`]
    Embed,
    /// [`Op::GatherRows`]
    GatherRows,
    /// [`Op::Add`]
    Add,
    /// [`Op::GatedAct`]
    GatedAct,
    /// [`Op::RmsNorm`]
    RmsNorm,
    /// [`Op::MatMul`] without a residual
    MatMul,
    /// [`Op::MatMul`] with a residual: fused `MatMul, Add`
    MatMulAdd,
    /// [`Op::Rope`]
    Rope,
    /// [`Op::KvWrite`]
    KvWrite,
    /// [`Op::Attention`]
    Attention,
    /// [`Op::Mul`]
    Mul,
    /// [`Op::Scale`]
    Scale,
    /// [`Op::Softcap`]
    Softcap,
    /// [`Op::SigmoidGate`]
    SigmoidGate,
    /// [`Op::HeadSlice`]
    HeadSlice,
    /// [`Op::Concat`]
    Concat,
    /// [`Op::L2Norm`]
    L2Norm,
    /// [`Op::RmsNormGated`]
    RmsNormGated,
    /// [`Op::HeadMatMul`]
    HeadMatMul,
    /// [`Op::ExpertMatMul`]
    ExpertMatMul,
    /// [`Op::RouterTopK`]
    RouterTopK,
    /// [`Op::ExpertCombine`]
    ExpertCombine,
    /// [`Op::LatentAttention`]
    LatentAttention,
    /// [`Op::CausalConv1d`]
    CausalConv1d,
    /// [`Op::DeltaGates`]
    DeltaGates,
    /// [`Op::GatedDeltaNet`]
    GatedDeltaNet,
    /// [`Op::TopK`]
    TopK,
    /// [`Op::QuantizeAct`]
    QuantizeAct,
    /// [`Op::GateUpAct`]
    GateUpAct,
    /// [`Op::ExpertGateUpAct`]
    ExpertGateUpAct,
}

impl OpKind {
    /// Every kind, in the order of `docs/ops.md`.
    pub const ALL: [OpKind; 30] = [
        OpKind::Embed,
        OpKind::GatherRows,
        OpKind::Add,
        OpKind::GatedAct,
        OpKind::RmsNorm,
        OpKind::MatMul,
        OpKind::Rope,
        OpKind::KvWrite,
        OpKind::Attention,
        OpKind::Mul,
        OpKind::Scale,
        OpKind::Softcap,
        OpKind::SigmoidGate,
        OpKind::HeadSlice,
        OpKind::Concat,
        OpKind::L2Norm,
        OpKind::RmsNormGated,
        OpKind::HeadMatMul,
        OpKind::ExpertMatMul,
        OpKind::RouterTopK,
        OpKind::ExpertCombine,
        OpKind::LatentAttention,
        OpKind::CausalConv1d,
        OpKind::DeltaGates,
        OpKind::GatedDeltaNet,
        OpKind::TopK,
        OpKind::QuantizeAct,
        OpKind::MatMulAdd,
        OpKind::GateUpAct,
        OpKind::ExpertGateUpAct,
    ];

    /// Name in the plan's text form and in file names.
    pub fn name(self) -> &'static str {
        match self {
            OpKind::Embed => "embed",
            OpKind::GatherRows => "gather_rows",
            OpKind::Add => "add",
            OpKind::GatedAct => "gated_act",
            OpKind::RmsNorm => "rms_norm",
            OpKind::MatMul => "matmul",
            OpKind::MatMulAdd => "matmul_add",
            OpKind::Rope => "rope",
            OpKind::KvWrite => "kv_write",
            OpKind::Attention => "attention",
            OpKind::Mul => "mul",
            OpKind::Scale => "scale",
            OpKind::Softcap => "softcap",
            OpKind::SigmoidGate => "sigmoid_gate",
            OpKind::HeadSlice => "head_slice",
            OpKind::Concat => "concat",
            OpKind::L2Norm => "l2_norm",
            OpKind::RmsNormGated => "rms_norm_gated",
            OpKind::HeadMatMul => "head_matmul",
            OpKind::ExpertMatMul => "expert_matmul",
            OpKind::RouterTopK => "router_top_k",
            OpKind::ExpertCombine => "expert_combine",
            OpKind::LatentAttention => "latent_attention",
            OpKind::CausalConv1d => "causal_conv1d",
            OpKind::DeltaGates => "delta_gates",
            OpKind::GatedDeltaNet => "gated_delta_net",
            OpKind::TopK => "top_k",
            OpKind::QuantizeAct => "quantize_act",
            OpKind::GateUpAct => "gate_up_act",
            OpKind::ExpertGateUpAct => "expert_gate_up_act",
        }
    }

    /// Whether the kind exists only as the result of the fusion pass.
    pub fn is_fused(self) -> bool {
        matches!(self, OpKind::MatMulAdd | OpKind::GateUpAct | OpKind::ExpertGateUpAct)
    }
}

type Inferred = Result<Vec<(GgmlType, Shape)>, String>;

impl Op {
    /// The operation without its attributes.
    pub fn kind(&self) -> OpKind {
        match self {
            Op::Embed(_) => OpKind::Embed,
            Op::GatherRows => OpKind::GatherRows,
            Op::Add => OpKind::Add,
            Op::GatedAct(_) => OpKind::GatedAct,
            Op::RmsNorm(_) => OpKind::RmsNorm,
            Op::MatMul(matmul) if matmul.residual => OpKind::MatMulAdd,
            Op::MatMul(_) => OpKind::MatMul,
            Op::Rope(_) => OpKind::Rope,
            Op::KvWrite => OpKind::KvWrite,
            Op::Attention(_) => OpKind::Attention,
            Op::Mul => OpKind::Mul,
            Op::Scale(_) => OpKind::Scale,
            Op::Softcap(_) => OpKind::Softcap,
            Op::SigmoidGate => OpKind::SigmoidGate,
            Op::HeadSlice(_) => OpKind::HeadSlice,
            Op::Concat => OpKind::Concat,
            Op::L2Norm(_) => OpKind::L2Norm,
            Op::RmsNormGated(_) => OpKind::RmsNormGated,
            Op::HeadMatMul(_) => OpKind::HeadMatMul,
            Op::ExpertMatMul(_) => OpKind::ExpertMatMul,
            Op::RouterTopK(_) => OpKind::RouterTopK,
            Op::ExpertCombine(_) => OpKind::ExpertCombine,
            Op::LatentAttention(_) => OpKind::LatentAttention,
            Op::CausalConv1d(_) => OpKind::CausalConv1d,
            Op::DeltaGates => OpKind::DeltaGates,
            Op::GatedDeltaNet(_) => OpKind::GatedDeltaNet,
            Op::TopK(_) => OpKind::TopK,
            Op::QuantizeAct => OpKind::QuantizeAct,
            Op::GateUpAct(_) => OpKind::GateUpAct,
            Op::ExpertGateUpAct(_) => OpKind::ExpertGateUpAct,
        }
    }

    /// Operands that are matrices multiplied with operand [`Op::activation_operand`].
    pub fn n_weight_operands(&self) -> usize {
        match self {
            Op::MatMul(_) | Op::HeadMatMul(_) | Op::ExpertMatMul(_) => 1,
            Op::GateUpAct(_) => 2,
            Op::ExpertGateUpAct(pair) => pair.n_weights(),
            _ => 0,
        }
    }

    /// Results that are states, updated in place, as a number of trailing entries of `writes`.
    pub fn n_state_writes(&self) -> usize {
        match self {
            Op::KvWrite => 2,
            Op::CausalConv1d(_) | Op::GatedDeltaNet(_) => 1,
            _ => 0,
        }
    }

    /// Index of the operand that a device may want quantised, for matrix products.
    pub fn activation_operand(&self) -> Option<usize> {
        match self.n_weight_operands() {
            0 => None,
            n => Some(n),
        }
    }

    /// Types and shapes of the results for operands `ins`, or what is wrong with the operands.
    ///
    /// `QuantizeAct` and `KvWrite` give no result here: the first one's type is chosen by the pass
    /// that inserts it, the second one updates states that exist already.
    ///
    /// # Errors
    /// A sentence with the shapes or types that do not fit.
    pub fn infer(&self, ins: &[&TensorInfo]) -> Inferred {
        let expected = self.n_reads();
        if ins.len() != expected {
            return Err(format!("takes {expected} operands, got {}", ins.len()));
        }
        match self {
            Op::Embed(_) => {
                expect_rows(ins[1], Dim::Tokens)?;
                f32_result(Dim::Tokens, ins[0].shape.cols)
            }
            Op::GatherRows => {
                expect_f32(ins[0])?;
                expect_rows(ins[1], Dim::OutRows)?;
                f32_result(Dim::OutRows, ins[0].shape.cols)
            }
            Op::Add | Op::GatedAct(_) => {
                expect_f32(ins[0])?;
                expect_f32(ins[1])?;
                expect_shape(ins[1], ins[0].shape)?;
                f32_result(ins[0].shape.rows, ins[0].shape.cols)
            }
            Op::RmsNorm(norm) => {
                expect_f32(ins[0])?;
                expect_f32(ins[1])?;
                expect_shape(ins[1], Shape::new(Dim::Fixed(1), norm.group))?;
                expect_multiple(ins[0], norm.group)?;
                f32_result(ins[0].shape.rows, ins[0].shape.cols)
            }
            Op::MatMul(matmul) => infer_matmul(*matmul, ins),
            Op::Rope(rope) => infer_rope(*rope, ins),
            Op::KvWrite => {
                expect_f32(ins[0])?;
                expect_f32(ins[1])?;
                expect_rows(ins[2], ins[0].shape.rows)?;
                expect_rows(ins[1], ins[0].shape.rows)?;
                Ok(Vec::new())
            }
            Op::Attention(attention) => infer_attention(attention, ins),
            Op::Mul => elementwise::infer_mul(ins),
            Op::Scale(_) | Op::Softcap(_) => elementwise::infer_map(ins),
            Op::L2Norm(norm) => {
                expect_multiple(ins[0], norm.group)?;
                elementwise::infer_map(ins)
            }
            Op::SigmoidGate => elementwise::infer_gate(ins),
            Op::HeadSlice(slice) => elementwise::infer_head_slice(*slice, ins),
            Op::Concat => elementwise::infer_concat(ins),
            Op::HeadMatMul(matmul) => elementwise::infer_head_matmul(*matmul, ins),
            Op::LatentAttention(a) => elementwise::infer_latent_attention(a, ins),
            Op::RouterTopK(router) => moe::infer_router(router, ins),
            Op::ExpertMatMul(matmul) => moe::infer_expert_matmul(*matmul, ins),
            Op::ExpertCombine(_) => moe::infer_combine(ins),
            Op::ExpertGateUpAct(pair) => moe::infer_gate_up(pair, ins),
            Op::CausalConv1d(conv) => delta_net::infer_conv(*conv, ins),
            Op::DeltaGates => delta_net::infer_gates(ins),
            Op::GatedDeltaNet(net) => delta_net::infer_delta_net(net, ins),
            Op::RmsNormGated(norm) => delta_net::infer_gated_norm(norm.group, ins),
            Op::TopK(top) => top_k::infer(*top, ins),
            Op::QuantizeAct => expect_f32(ins[0]).map(|()| Vec::new()),
            Op::GateUpAct(_) => {
                let gate = expect_product(ins[0], ins[2])?;
                let up = expect_product(ins[1], ins[2])?;
                if gate != up {
                    return Err(format!("gate has {gate} rows, up has {up}"));
                }
                f32_result(ins[2].shape.rows, gate)
            }
        }
    }

    /// Number of operands.
    pub fn n_reads(&self) -> usize {
        match self {
            Op::QuantizeAct | Op::Scale(_) | Op::Softcap(_) | Op::L2Norm(_) | Op::HeadSlice(_) => 1,
            Op::TopK(_) => 1,
            Op::Embed(_) | Op::GatherRows | Op::Add | Op::GatedAct(_) | Op::RmsNorm(_) => 2,
            Op::Mul | Op::SigmoidGate | Op::Concat | Op::HeadMatMul(_) => 2,
            Op::RouterTopK(router) => 1 + usize::from(router.bias),
            Op::ExpertMatMul(matmul) => 3 + usize::from(matmul.bias),
            Op::ExpertGateUpAct(pair) => 2 + pair.n_weights() + 2 * usize::from(pair.bias),
            Op::ExpertCombine(combine) => 2 + 2 * usize::from(combine.expert_scale),
            Op::RmsNormGated(_) => 3,
            Op::DeltaGates => 4,
            Op::CausalConv1d(_) | Op::LatentAttention(_) => 7,
            Op::GatedDeltaNet(_) => 10,
            Op::MatMul(matmul) => 2 + usize::from(matmul.bias) + usize::from(matmul.residual),
            Op::KvWrite | Op::GateUpAct(_) => 3,
            Op::Rope(_) => 4,
            Op::Attention(attention) => 6 + usize::from(attention.sinks),
        }
    }
}

fn f32_result(rows: Dim, cols: u32) -> Inferred {
    Ok(vec![(GgmlType::F32, Shape::new(rows, cols))])
}

fn expect_f32(tensor: &TensorInfo) -> Result<(), String> {
    match tensor.dtype {
        GgmlType::F32 => Ok(()),
        other => Err(format!("{} must be f32, is {other}", tensor.name)),
    }
}

fn expect_rows(tensor: &TensorInfo, rows: Dim) -> Result<(), String> {
    if tensor.shape.rows == rows {
        return Ok(());
    }
    Err(format!("{} must have {rows:?} rows, has {:?}", tensor.name, tensor.shape.rows))
}

fn expect_shape(tensor: &TensorInfo, shape: Shape) -> Result<(), String> {
    if tensor.shape == shape {
        return Ok(());
    }
    Err(format!("{} must be {shape:?}, is {:?}", tensor.name, tensor.shape))
}

fn expect_multiple(tensor: &TensorInfo, of: u32) -> Result<(), String> {
    if of > 0 && tensor.shape.cols.is_multiple_of(of) {
        return Ok(());
    }
    Err(format!("columns of {} ({}) are no multiple of {of}", tensor.name, tensor.shape.cols))
}

/// Rows of `w`, when its columns match those of `x`.
fn expect_product(w: &TensorInfo, x: &TensorInfo) -> Result<u32, String> {
    let Dim::Fixed(n_out) = w.shape.rows else {
        return Err(format!("{} must have fixed rows", w.name));
    };
    if w.shape.cols == x.shape.cols {
        return Ok(n_out);
    }
    Err(format!("{} takes {} columns, {} has {}", w.name, w.shape.cols, x.name, x.shape.cols))
}

fn infer_matmul(matmul: MatMul, ins: &[&TensorInfo]) -> Inferred {
    let n_out = expect_product(ins[0], ins[1])?;
    let result = Shape::new(ins[1].shape.rows, n_out);
    let mut rest = ins[2..].iter();
    if let Some(bias) = rest.next().filter(|_| matmul.bias) {
        expect_f32(bias)?;
        expect_shape(bias, Shape::new(Dim::Fixed(1), n_out))?;
    }
    if matmul.residual {
        let residual = ins[ins.len() - 1];
        expect_f32(residual)?;
        expect_shape(residual, result)?;
    }
    Ok(vec![(GgmlType::F32, result)])
}

fn infer_rope(rope: Rope, ins: &[&TensorInfo]) -> Inferred {
    expect_f32(ins[0])?;
    expect_multiple(ins[0], rope.head_dim)?;
    for input in [ins[1], ins[3]] {
        expect_rows(input, ins[0].shape.rows)?;
    }
    expect_f32(ins[2])?;
    if rope.n_dims > rope.head_dim || !rope.n_dims.is_multiple_of(2) || rope.n_dims == 0 {
        return Err(format!("cannot rotate {} of {} elements", rope.n_dims, rope.head_dim));
    }
    if ins[2].shape.cols != rope.n_dims / 2 + 1 {
        return Err(format!(
            "table needs {} columns, has {}",
            rope.n_dims / 2 + 1,
            ins[2].shape.cols
        ));
    }
    f32_result(ins[0].shape.rows, ins[0].shape.cols)
}

fn infer_attention(attention: &Attention, ins: &[&TensorInfo]) -> Inferred {
    let Attention { n_heads, n_kv_heads, k_dim, v_dim, .. } = *attention;
    if n_kv_heads == 0 || !n_heads.is_multiple_of(n_kv_heads) {
        return Err(format!("{n_heads} heads cannot share {n_kv_heads} key/value heads"));
    }
    if attention.page_size == 0 || attention.window == Some(0) {
        return Err("page size and window must not be zero".into());
    }
    if attention.softcap.is_some_and(|cap| !(cap > 0.0 && cap.is_finite())) {
        return Err("the soft cap must be positive".into());
    }
    expect_f32(ins[0])?;
    expect_shape(ins[0], Shape::new(Dim::Tokens, n_heads * k_dim))?;
    let rows = ins[1].shape.rows;
    if CacheGroup::of(rows).is_none() {
        return Err(format!("{} must be a cache, has {rows:?} rows", ins[1].name));
    }
    expect_shape(ins[1], Shape::new(rows, n_kv_heads * k_dim))?;
    expect_shape(ins[2], Shape::new(rows, n_kv_heads * v_dim))?;
    expect_rows(ins[3], Dim::Tokens)?;
    expect_rows(ins[4], Dim::Tokens)?;
    expect_rows(ins[5], Dim::Seqs)?;
    if let Some(sinks) = ins.get(6) {
        expect_f32(sinks)?;
        expect_shape(sinks, Shape::new(Dim::Fixed(1), n_heads))?;
    }
    f32_result(Dim::Tokens, n_heads * v_dim)
}
