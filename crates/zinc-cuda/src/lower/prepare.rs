//! What lies between the projections and attention, as one launch: norms of query and key heads, rotations, and the
//! write to the caches.

use zinc_backend::DeviceError;
use zinc_plan::{Dim, Node, Op, Rope, RopeMode, TensorId};
use zinc_quant::GgmlType;

use super::Lowering;
use crate::launch::{Count, Kernel, Launch, Rows};

/// Elements of a value row that a warp takes: `VALUE_PIECE` of `prepare.cu`.
const VALUE_PIECE: u32 = 128;

/// `PrepareParams` of `prepare.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub struct PrepareParams {
    q: Rows,
    q_out: Rows,
    k: Rows,
    v: Rows,
    n: Count,
    q_weight: u64,
    k_weight: u64,
    positions: u64,
    variants: u64,
    slots: u64,
    table: u64,
    cache_k: u64,
    cache_v: u64,
    q_eps: f32,
    k_eps: f32,
    n_heads: u32,
    n_k_heads: u32,
    head_dim: u32,
    n_dims: u32,
    is_neox: u32,
    q_step: u32,
}

/// Nodes `RmsNorm, RmsNorm, Rope, Rope, KvWrite`, the norms or none of them; query before key.
struct Chain<'a> {
    norms: Option<[&'a Node; 2]>,
    ropes: [&'a Node; 2],
    rope: Rope,
    write: &'a Node,
}

impl<'a> Chain<'a> {
    /// The chain that these nodes begin with.
    fn at(nodes: &'a [Node]) -> Option<Chain<'a>> {
        let (norms, rest) = match nodes {
            [q, k, rest @ ..] if is_norm(q) && is_norm(k) => (Some([q, k]), rest),
            rest => (None, rest),
        };
        let [q, k, write, ..] = rest else { return None };
        let (Op::Rope(rope), Op::Rope(of_k), Op::KvWrite) = (q.op, k.op, write.op) else {
            return None;
        };
        let same_turns = rope == of_k && q.reads[1..] == k.reads[1..];
        let joined = write.reads[0] == k.writes[0]
            && norms.is_none_or(|norms| {
                norms.iter().zip([q, k]).all(|(norm, rope_node)| {
                    rope_node.reads[0] == norm.writes[0] && group(norm) == rope.head_dim
                })
            });
        (same_turns && joined).then_some(Chain { norms, ropes: [q, k], rope, write })
    }

    fn len(&self) -> usize {
        if self.norms.is_some() { 5 } else { 3 }
    }

    /// Query and key as the projections give them.
    fn inputs(&self) -> [TensorId; 2] {
        self.norms.unwrap_or(self.ropes).map(|node| node.reads[0])
    }

    /// Values that only the chain reads and that are not written when it is one launch.
    fn inner(&self) -> Vec<TensorId> {
        let norms = self.norms.iter().flatten().map(|node| node.writes[0]);
        norms.chain([self.ropes[1].writes[0]]).collect()
    }
}

/// Where queries are.
struct Queries {
    rows: Rows,
    n_heads: u32,
    /// Columns from head to head.
    step: u32,
    is_sliced: bool,
}

fn is_norm(node: &Node) -> bool {
    matches!(node.op, Op::RmsNorm(_))
}

/// Columns normalised together.
fn group(node: &Node) -> u32 {
    match node.op {
        Op::RmsNorm(norm) => norm.group,
        _ => 0,
    }
}

/// Weight and epsilon of a norm.
fn eps(node: &Node) -> f32 {
    match node.op {
        Op::RmsNorm(norm) => norm.eps,
        _ => 0.0,
    }
}

impl<'a> Lowering<'a> {
    /// Lowers the chain that begins at node `idx`, if one does; the number of its nodes.
    ///
    /// # Errors
    /// Tensors that are not bound.
    pub(super) fn prepare(&mut self, idx: usize) -> Result<Option<usize>, DeviceError> {
        let Some((chain, name, queries)) = self.chain_at(idx)? else { return Ok(None) };
        let k = chain.inputs()[1];
        let address = |id: TensorId| Ok::<_, DeviceError>(self.operand(id)?.address);
        let weight = |norm: usize| chain.norms.map_or(Ok(0), |norms| address(norms[norm].reads[1]));
        let eps = |norm: usize| chain.norms.map_or(0.0, |norms| eps(norms[norm]));
        let rope = &chain.ropes[0].reads;
        let k = self.float_rows(k)?;
        let v = self.float_rows(chain.write.reads[1])?;
        let head_dim = chain.rope.head_dim;
        let params = PrepareParams {
            q: queries.rows,
            q_out: self.float_rows(chain.ropes[0].writes[0])?,
            k,
            v,
            n: self.count(Dim::Tokens),
            q_weight: weight(0)?,
            k_weight: weight(1)?,
            positions: address(rope[1])?,
            variants: address(rope[3])?,
            slots: address(chain.write.reads[2])?,
            table: address(rope[2])?,
            cache_k: address(chain.write.writes[0])?,
            cache_v: address(chain.write.writes[1])?,
            q_eps: eps(0),
            k_eps: eps(1),
            n_heads: queries.n_heads,
            n_k_heads: k.cols / head_dim,
            head_dim,
            n_dims: chain.rope.n_dims,
            is_neox: u32::from(chain.rope.mode == RopeMode::Neox),
            q_step: queries.step,
        };
        let n_slots = params.n_heads + params.n_k_heads + v.cols.div_ceil(VALUE_PIECE);
        let grid = [n_slots.div_ceil(8), self.rows(Dim::Tokens), 1];
        self.push(Launch::new(Kernel { module: "prepare", name }, params, grid, 256));
        Ok(Some(chain.len()))
    }

    /// The chain that begins at node `idx`, if it can be one launch, with the launch's kernel and queries.
    fn chain_at(
        &self,
        idx: usize,
    ) -> Result<Option<(Chain<'a>, &'static str, Queries)>, DeviceError> {
        let plan = self.plan;
        let Some(chain) = Chain::at(&plan.nodes[idx..]) else { return Ok(None) };
        let Some(name) = self.prepare_kernel(&chain) else { return Ok(None) };
        if !self.is_private(&chain, idx) {
            return Ok(None);
        }
        let queries = match self.sliced_queries(&chain)? {
            Some(queries) => Some(queries),
            None => self.whole_queries(&chain)?,
        };
        Ok(queries.map(|queries| (chain, name, queries)))
    }

    /// Whether a chain reads its queries where this slice of heads has them from.
    pub(super) fn is_query_of_chain(&self, node: &Node) -> Result<bool, DeviceError> {
        let id = node.writes[0];
        let Some(reader) = self.plan.nodes.iter().position(|other| other.reads.contains(&id))
        else {
            return Ok(false);
        };
        let chain = self.chain_at(reader)?;
        Ok(chain.is_some_and(|(chain, _, queries)| chain.inputs()[0] == id && queries.is_sliced))
    }

    /// Queries where a slice of heads has them from, if the chain is all that reads the slice.
    fn sliced_queries(&self, chain: &Chain<'_>) -> Result<Option<Queries>, DeviceError> {
        let head_dim = chain.rope.head_dim;
        let Some((base, slice)) = self.slice_for_one(chain.inputs()[0]) else { return Ok(None) };
        if slice.len != head_dim || self.overlaps(chain, base, false)? {
            return Ok(None);
        }
        let rows = self.float_rows(base)?;
        let n_heads = rows.cols / slice.head_dim;
        let rows = rows.from_column(slice.start);
        Ok(Some(Queries { rows, n_heads, step: slice.head_dim, is_sliced: true }))
    }

    fn whole_queries(&self, chain: &Chain<'_>) -> Result<Option<Queries>, DeviceError> {
        let head_dim = chain.rope.head_dim;
        let q = chain.inputs()[0];
        if self.overlaps(chain, q, true)? {
            return Ok(None);
        }
        let rows = self.float_rows(q)?;
        let n_heads = rows.cols / head_dim;
        Ok(Some(Queries { rows, n_heads, step: head_dim, is_sliced: false }))
    }

    /// The kernel for the chain's caches.
    fn prepare_kernel(&self, chain: &Chain<'_>) -> Option<&'static str> {
        let [k, v] = [0, 1].map(|idx| self.plan.tensor(chain.write.writes[idx]).dtype);
        match (k, k == v) {
            (GgmlType::F32, true) => Some("prepare_f32"),
            (GgmlType::F16, true) => Some("prepare_f16"),
            (GgmlType::BF16, true) => Some("prepare_bf16"),
            _ => None,
        }
    }

    /// Whether nobody but the chain reads what is inside it.
    fn is_private(&self, chain: &Chain<'_>, idx: usize) -> bool {
        let inner = chain.inner();
        let others = self.plan.nodes[..idx].iter().chain(&self.plan.nodes[idx + chain.len()..]);
        let is_read = others.flat_map(|node| &node.reads).any(|id| inner.contains(id));
        let is_based = |id: &TensorId| {
            let views = self.plan.tensors_where(|tensor| {
                matches!(tensor.kind, zinc_plan::TensorKind::View { base, .. } if base == *id)
            });
            views.count() > 0
        };
        let is_output = inner.iter().any(|id| self.plan.outputs.contains(id));
        !is_read && !is_output && !inner.iter().any(is_based)
    }

    /// Whether the turned queries lie where the chain still reads: over keys or values, or over queries `q` otherwise
    /// than row on row, or at all where they do not `may_replace` those.
    fn overlaps(
        &self,
        chain: &Chain<'_>,
        q: TensorId,
        may_replace: bool,
    ) -> Result<bool, DeviceError> {
        let extent = |id: TensorId| {
            let operand = self.operand(id)?;
            let n_rows = self.plan.limits.bound(operand.rows);
            let end = operand.address
                + n_rows.saturating_sub(1) * operand.stride
                + u64::from(operand.cols) * 4;
            Ok::<_, DeviceError>((operand.address, end, operand.stride))
        };
        let out = extent(chain.ropes[0].writes[0])?;
        let k = chain.inputs()[1];
        let meets = |other: (u64, u64, u64)| out.0 < other.1 && other.0 < out.1;
        let q = extent(q)?;
        let same = may_replace && (q.0, q.2) == (out.0, out.2);
        Ok((meets(q) && !same) || meets(extent(k)?) || meets(extent(chain.write.reads[1])?))
    }
}
