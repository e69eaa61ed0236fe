//! The plan's stable text form, for golden tests and for reading.

use std::fmt::{Display, Formatter, Result, Write};

use crate::op::{GroupScore, Op, RopeMode, RouterTopK};
use crate::plan::{Dim, Plan, Shape, TensorId, TensorInfo, TensorKind};

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let limits = &self.limits;
        write!(
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
        if limits.n_window_pages > 0 {
            let per_seq = limits.window_pages_per_seq;
            write!(f, "; window pages={}, {per_seq} per sequence", limits.n_window_pages)?;
        }
        writeln!(f)?;
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
            Dim::WindowRows => f.write_char('W')?,
            Dim::StateSlots => f.write_char('L')?,
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
                if let Some(cap) = a.softcap {
                    write!(f, " softcap={cap:?}")?;
                }
                if let Some(window) = a.window {
                    write!(f, " window={window}")?;
                }
                f.write_str(if a.sinks { " sinks)" } else { ")" })
            }
            Op::MatMul(_) | Op::GatherRows | Op::Add | Op::KvWrite | Op::QuantizeAct => Ok(()),
            Op::Mul | Op::SigmoidGate | Op::Concat | Op::DeltaGates => Ok(()),
            Op::Scale(scale) => write!(f, "({:?})", scale.factor),
            Op::TopK(top) => write!(f, "(k={})", top.k),
            Op::Softcap(softcap) => write!(f, "({:?})", softcap.cap),
            Op::HeadSlice(slice) => {
                let end = slice.start + slice.len;
                write!(f, "({}..{end} of {})", slice.start, slice.head_dim)
            }
            Op::L2Norm(norm) => write!(f, "(eps={:?} group={})", norm.eps, norm.group),
            Op::RmsNormGated(norm) => write!(f, "(eps={:?} group={})", norm.eps, norm.group),
            Op::HeadMatMul(matmul) => write!(f, "(heads={})", matmul.n_heads),
            Op::ExpertMatMul(matmul) => {
                let bias = if matmul.bias { " bias" } else { "" };
                write!(f, "(experts={}{bias})", matmul.n_experts)
            }
            Op::ExpertGateUpAct(pair) => {
                let packed = if pair.packed { " packed" } else { "" };
                let bias = if pair.bias { " bias" } else { "" };
                write!(f, "({} experts={}{packed}{bias})", pair.act.name(), pair.n_experts)
            }
            Op::RouterTopK(router) => write_router(f, router),
            Op::ExpertCombine(combine) if combine.expert_scale => write!(f, "(expert_scale)"),
            Op::ExpertCombine(_) => Ok(()),
            Op::LatentAttention(a) => {
                write!(f, "(heads={} ", a.n_heads)?;
                write!(f, "dims={}+{} scale={:?})", a.latent_dim, a.rope_dim, a.scale)
            }
            Op::CausalConv1d(conv) => write!(f, "(kernel={})", conv.kernel),
            Op::GatedDeltaNet(net) => {
                write!(f, "(heads={}/{} ", net.n_k_heads, net.n_v_heads)?;
                write!(f, "dims={}/{} ", net.k_dim, net.v_dim)?;
                write!(f, "scale={:?} {})", net.scale, net.order.name())
            }
        }
    }
}

fn write_router(f: &mut Formatter<'_>, router: &RouterTopK) -> Result {
    write!(f, "(k={} {}", router.n_experts_used, router.gating.name())?;
    if router.bias {
        write!(f, " bias")?;
    }
    if let Some(groups) = router.groups {
        write!(f, " groups={}/{}", groups.n_groups_used, groups.n_groups)?;
        let score = match groups.score {
            GroupScore::Max => "max",
            GroupScore::TopTwo => "top_two",
        };
        write!(f, " by {score}")?;
    }
    if router.normalize {
        write!(f, " normalize")?;
    }
    write!(f, " scale={:?})", router.scale)
}

/// FNV-1a over the bits of `data`: shows that a table changed without printing it.
fn fnv1a(data: &[f32]) -> u64 {
    let bytes = data.iter().flat_map(|value| value.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
