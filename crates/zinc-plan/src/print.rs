//! The plan's stable text form, for golden tests and for reading.

use std::fmt::{Display, Formatter, Result, Write};

use crate::op::{Op, RopeMode};
use crate::plan::{Dim, Plan, Shape, TensorId, TensorInfo, TensorKind};

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let limits = &self.limits;
        writeln!(
            f,
            "plan {}: tokens<={} seqs<={} out_rows<={} pages={}x{}, {} per sequence",
            self.name,
            limits.max_tokens,
            limits.max_seqs,
            limits.max_out_rows,
            limits.n_pages,
            limits.page_size,
            limits.pages_per_seq
        )?;
        for tensor in &self.tensors {
            let kind = match tensor.kind {
                TensorKind::Input(_) => "input ",
                TensorKind::Const(_) => "const ",
                TensorKind::Weight => "weight",
                TensorKind::State => "state ",
                TensorKind::Value | TensorKind::View { .. } => continue,
            };
            write!(f, "{kind} {} {}", tensor.name, Typed(tensor))?;
            match tensor.kind {
                TensorKind::Const(idx) => {
                    writeln!(f, " #{:016x}", fnv1a(&self.consts[idx as usize].data))?;
                }
                _ => writeln!(f)?,
            }
        }
        for node in &self.nodes {
            let bar = if node.barrier { "|" } else { " " };
            write!(f, "{bar} {}", OpText(&node.op))?;
            for id in &node.reads {
                write!(f, " ")?;
                self.write_operand(f, *id)?;
            }
            write!(f, " ->")?;
            for id in &node.writes {
                let tensor = self.tensor(*id);
                write!(f, " {} {}", tensor.name, Typed(tensor))?;
                if let Some(offset) = self.memory.as_ref().and_then(|m| m.offsets[id.index()]) {
                    write!(f, " @{offset}")?;
                }
            }
            writeln!(f)?;
        }
        for id in &self.outputs {
            writeln!(f, "output {}", self.tensor(*id).name)?;
        }
        match &self.memory {
            Some(memory) => writeln!(f, "arena {} bytes", memory.arena_bytes),
            None => Ok(()),
        }
    }
}

impl Plan {
    fn write_operand(&self, f: &mut Formatter<'_>, id: TensorId) -> Result {
        let tensor = self.tensor(id);
        match tensor.kind {
            TensorKind::View { base, col } => {
                let end = col + tensor.shape.cols;
                write!(f, "{}[{col}..{end}]", self.tensor(base).name)
            }
            _ => f.write_str(&tensor.name),
        }
    }
}

/// `f32 [T, 64]`.
struct Typed<'a>(&'a TensorInfo);

impl Display for Typed<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Shape { rows, cols } = self.0.shape;
        write!(f, "{} [", self.0.dtype)?;
        match rows {
            Dim::Fixed(n) => write!(f, "{n}")?,
            Dim::Tokens => f.write_char('T')?,
            Dim::Seqs => f.write_char('S')?,
            Dim::OutRows => f.write_char('R')?,
            Dim::CacheRows => f.write_char('C')?,
        }
        write!(f, ", {cols}]")
    }
}

/// The operation's name with its attributes.
struct OpText<'a>(&'a Op);

impl Display for OpText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(self.0.kind().name())?;
        match self.0 {
            Op::Embed(embed) => write!(f, "(scale={:?})", embed.scale),
            Op::RmsNorm(norm) => write!(f, "(eps={:?} group={})", norm.eps, norm.group),
            Op::MatMul(matmul) if matmul.bias => write!(f, "(bias)"),
            Op::GatedAct(gated) => write!(f, "({})", gated.act.name()),
            Op::GateUpAct(gated) => write!(f, "({})", gated.act.name()),
            Op::Rope(rope) => {
                let mode = match rope.mode {
                    RopeMode::Norm => "norm",
                    RopeMode::Neox => "neox",
                };
                write!(f, "({mode} dims={} of {})", rope.n_dims, rope.head_dim)
            }
            Op::Attention(a) => {
                write!(f, "(heads={}/{} ", a.n_heads, a.n_kv_heads)?;
                write!(f, "dims={}/{} scale={:?}", a.k_dim, a.v_dim, a.scale)?;
                match a.window {
                    Some(window) => write!(f, " window={window})"),
                    None => write!(f, ")"),
                }
            }
            Op::MatMul(_) | Op::GatherRows | Op::Add | Op::KvWrite | Op::QuantizeAct => Ok(()),
        }
    }
}

/// FNV-1a over the bits of `data`: shows that a table changed without printing it.
fn fnv1a(data: &[f32]) -> u64 {
    let bytes = data.iter().flat_map(|value| value.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
