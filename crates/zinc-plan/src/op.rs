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

use crate::plan::{Dim, Shape, TensorInfo};

/// Nonlinearity of a gated feed-forward block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Activation {
    /// x * sigmoid(x).
    Silu,
}

impl Activation {
    /// Name in the plan's text form.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
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
    /// A query at position p sees keys `p-window+1 ..= p`; all of `0 ..= p` when absent.
    pub window: Option<u32>,
    /// Rows of a cache page: key `j` of sequence `s` is cache row
    /// `pages[s][j / page_size] * page_size + j % page_size`.
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
    /// `gate, up -> y`: act(gate) * up.
    GatedAct(GatedAct),
    /// `x [n, d], w [1, group] -> y`: x / sqrt(mean(x^2) + eps) * w in each group of columns.
    RmsNorm(RmsNorm),
    /// `w [n_out, n_in], x [n, n_in] (, bias [1, n_out]) (, residual [n, n_out]) -> y [n, n_out]`:
    /// y = W x + bias + residual, summed in that order.
    MatMul(MatMul),
    /// `x [T, heads * head_dim], positions, table [variants, n_dims/2 + 1], rope_variant -> y`:
    /// pair i of each head turns by `position * table[variant][i]`, and cos and sin are multiplied
    /// by the last column of the table row (the attention factor of YaRN and longrope).
    Rope(Rope),
    /// `k [T, dk], v [T, dv], slots -> cache_k, cache_v`: row `slots[t]` of each cache becomes row t,
    /// converted to the cache's type (nearest even for floats, ggml's reference for quants).
    KvWrite,
    /// `q [T, n_heads * k_dim], cache_k, cache_v, positions, seq_of, pages -> y [T, n_heads * v_dim]`:
    /// softmax(scale * q k^T) v over the keys that the position and window allow.
    Attention(Attention),
    /// Inserted: `x [n, d] -> y [n, d]` of a quantised type, for the products that read it.
    QuantizeAct,
    /// Fused `MatMul, MatMul, GatedAct`:
    /// `w_gate, w_up, x -> y`: act(W_gate x) * (W_up x).
    GateUpAct(GateUpAct),
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
    /// [`Op::QuantizeAct`]
    QuantizeAct,
    /// [`Op::GateUpAct`]
    GateUpAct,
}

impl OpKind {
    /// Every kind, in the order of `docs/ops.md`.
    pub const ALL: [OpKind; 12] = [
        OpKind::Embed,
        OpKind::GatherRows,
        OpKind::Add,
        OpKind::GatedAct,
        OpKind::RmsNorm,
        OpKind::MatMul,
        OpKind::Rope,
        OpKind::KvWrite,
        OpKind::Attention,
        OpKind::QuantizeAct,
        OpKind::MatMulAdd,
        OpKind::GateUpAct,
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
            OpKind::QuantizeAct => "quantize_act",
            OpKind::GateUpAct => "gate_up_act",
        }
    }

    /// Whether the kind exists only as the result of the fusion pass.
    pub fn is_fused(self) -> bool {
        matches!(self, OpKind::MatMulAdd | OpKind::GateUpAct)
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
            Op::QuantizeAct => OpKind::QuantizeAct,
            Op::GateUpAct(_) => OpKind::GateUpAct,
        }
    }

    /// Operands that are matrices multiplied with operand [`Op::activation_operand`].
    pub fn n_weight_operands(&self) -> usize {
        match self {
            Op::MatMul(_) => 1,
            Op::GateUpAct(_) => 2,
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
            Op::QuantizeAct => 1,
            Op::Embed(_) | Op::GatherRows | Op::Add | Op::GatedAct(_) | Op::RmsNorm(_) => 2,
            Op::MatMul(matmul) => 2 + usize::from(matmul.bias) + usize::from(matmul.residual),
            Op::KvWrite | Op::GateUpAct(_) => 3,
            Op::Rope(_) => 4,
            Op::Attention(_) => 6,
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
    expect_f32(ins[0])?;
    expect_shape(ins[0], Shape::new(Dim::Tokens, n_heads * k_dim))?;
    expect_shape(ins[1], Shape::new(Dim::CacheRows, n_kv_heads * k_dim))?;
    expect_shape(ins[2], Shape::new(Dim::CacheRows, n_kv_heads * v_dim))?;
    expect_rows(ins[3], Dim::Tokens)?;
    expect_rows(ins[4], Dim::Tokens)?;
    expect_rows(ins[5], Dim::Seqs)?;
    f32_result(Dim::Tokens, n_heads * v_dim)
}
