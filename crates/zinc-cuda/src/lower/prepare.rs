//! What lies between the projections and attention, as one launch: norms of query and key heads, rotations, and the
//! write to the caches.

use zinc_backend::DeviceError;
use zinc_plan::{Dim, Node, Op, Rope, RopeMode, TensorId};
use zinc_quant::GgmlType;

use super::Lowering;
use super::rows::LONGEST_OF_WARP;
use crate::launch::{Count, Kernel, Launch, Rows};

/// Elements of a value row that a warp takes where values are not normalised.
const VALUE_PIECE: u32 = 128;
/// Most columns of a head that are turned: twice `MOST_PAIRS` of `prepare.cu`.
const MOST_TURNED: u32 = 512;

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
    v_weight: u64,
    positions: u64,
    variants: u64,
    slots: u64,
    table: u64,
    cache_k: u64,
    cache_v: u64,
    q_eps: f32,
    k_eps: f32,
    v_eps: f32,
    n_heads: u32,
    n_k_heads: u32,
    head_dim: u32,
    n_dims: u32,
    is_neox: u32,
    q_step: u32,
    v_piece: u32,
    cell: u32,
    unused: u32,
}

/// Norms, then rotations, then the write of keys and values: nodes `RmsNorm, RmsNorm, RmsNorm, Rope, Rope, KvWrite` of
/// query, key and value, without the last norm or all of them; or `RmsNorm, Rope` of the query alone, where keys and
/// values are another layer's.
struct Chain<'a> {
    /// Of query, key and value.
    norms: [Option<&'a Node>; 3],
    q_rope: &'a Node,
    rope: Rope,
    /// Rotation of the keys, and the write.
    keys: Option<[&'a Node; 2]>,
}

impl<'a> Chain<'a> {
    /// The chain that these nodes begin with.
    fn at(nodes: &'a [Node]) -> Option<Chain<'a>> {
        let n_norms = nodes.iter().take(3).take_while(|node| is_norm(node)).count();
        let norms = std::array::from_fn(|idx| nodes[..n_norms].get(idx));
        let q_rope = nodes.get(n_norms)?;
        let Op::Rope(rope) = q_rope.op else { return None };
        let is_shared = n_norms == 1;
        let keys = match &nodes[n_norms + 1..] {
            _ if is_shared => None,
            [k_rope, write, ..] => Some([k_rope, write]),
            _ => return None,
        };
        let chain = Chain { norms, q_rope, rope, keys };
        chain.is_joined().then_some(chain)
    }

    /// Whether the nodes read each other's results, in shapes that the kernel takes.
    fn is_joined(&self) -> bool {
        let rope = &self.rope;
        let is_fed = |norm: Option<&Node>, reader: &Node, operand: usize| {
            norm.is_none_or(|norm| reader.reads[operand] == norm.writes[0])
        };
        let is_of_heads =
            |norm: Option<&Node>| norm.is_none_or(|norm| group(norm) == rope.head_dim);
        let [q_norm, k_norm, v_norm] = self.norms;
        let of_keys = self.keys.is_none_or(|[k_rope, write]| {
            k_rope.op == self.q_rope.op
                && k_rope.reads[1..] == self.q_rope.reads[1..]
                && write.op == Op::KvWrite
                && write.reads[0] == k_rope.writes[0]
                && is_fed(k_norm, k_rope, 0)
                && is_fed(v_norm, write, 1)
        });
        let has_norms = q_norm.is_some() == k_norm.is_some() || self.keys.is_none();
        of_keys
            && has_norms
            && is_fed(q_norm, self.q_rope, 0)
            && is_of_heads(q_norm)
            && is_of_heads(k_norm)
            && self
                .norms
                .iter()
                .flatten()
                .all(|norm| group(norm).is_multiple_of(2) && group(norm) <= LONGEST_OF_WARP)
            && rope.head_dim.is_multiple_of(2)
            && rope.n_dims.is_multiple_of(2)
            && rope.n_dims <= MOST_TURNED
    }

    fn len(&self) -> usize {
        self.norms.iter().flatten().count() + 1 + self.keys.map_or(0, |keys| keys.len())
    }

    fn q(&self) -> TensorId {
        self.norms[0].unwrap_or(self.q_rope).reads[0]
    }

    /// Keys and values as the projections give them.
    fn kv(&self) -> Option<[TensorId; 2]> {
        let [k_rope, write] = self.keys?;
        let k = self.norms[1].unwrap_or(k_rope).reads[0];
        Some([k, self.norms[2].map_or(write.reads[1], |norm| norm.reads[0])])
    }

    /// What the nodes read besides query, key and value.
    fn given(&self) -> impl Iterator<Item = &TensorId> {
        let of_norms = self.norms.iter().flatten().map(|norm| &norm.reads[1]);
        of_norms.chain(&self.q_rope.reads[1..]).chain(self.keys.map(|[_, write]| &write.reads[2]))
    }

    /// Values that only the chain reads and that are not written when it is one launch.
    fn inner(&self) -> Vec<TensorId> {
        let norms = self.norms.iter().flatten().map(|node| node.writes[0]);
        norms.chain(self.keys.map(|[k_rope, _]| k_rope.writes[0])).collect()
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
        let Some((chain, cell, queries)) = self.chain_at(idx)? else { return Ok(None) };
        let address = |id: TensorId| Ok::<_, DeviceError>(self.operand(id)?.address);
        let weight = |norm: usize| chain.norms[norm].map_or(Ok(0), |norm| address(norm.reads[1]));
        let eps = |norm: usize| chain.norms[norm].map_or(0.0, eps);
        let rope = &chain.q_rope.reads;
        let head_dim = chain.rope.head_dim;
        let mut params = PrepareParams {
            q: queries.rows,
            q_out: self.float_rows(chain.q_rope.writes[0])?,
            k: Rows::default(),
            v: Rows::default(),
            n: self.count(Dim::Tokens),
            q_weight: weight(0)?,
            k_weight: weight(1)?,
            v_weight: weight(2)?,
            positions: address(rope[1])?,
            variants: address(rope[3])?,
            slots: 0,
            table: address(rope[2])?,
            cache_k: 0,
            cache_v: 0,
            q_eps: eps(0),
            k_eps: eps(1),
            v_eps: eps(2),
            n_heads: queries.n_heads,
            n_k_heads: 0,
            head_dim,
            n_dims: chain.rope.n_dims,
            is_neox: u32::from(chain.rope.mode == RopeMode::Neox),
            q_step: queries.step,
            v_piece: chain.norms[2].map_or(VALUE_PIECE, group),
            cell,
            unused: 0,
        };
        if let (Some([_, write]), Some([k, v])) = (chain.keys, chain.kv()) {
            (params.k, params.v) = (self.float_rows(k)?, self.float_rows(v)?);
            params.n_k_heads = params.k.cols / head_dim;
            params.slots = address(write.reads[2])?;
            (params.cache_k, params.cache_v) =
                (address(write.writes[0])?, address(write.writes[1])?);
        }
        let n_slots = params.n_heads + params.n_k_heads + params.v.cols.div_ceil(params.v_piece);
        let rows = self.rows(Dim::Tokens);
        // Few rows on many multiprocessors; of many a block does more with the angles that it has made.
        let n_warps = if rows < 16 { 4 } else { 8 };
        let grid = [n_slots.div_ceil(n_warps), rows, 1];
        let kernel = Kernel { module: "prepare", name: "prepare" };
        self.push(Launch::new(kernel, params, grid, 32 * n_warps));
        Ok(Some(chain.len()))
    }

    /// The chain that begins at node `idx`, if it can be one launch, with the type of the caches and the queries.
    fn chain_at(&self, idx: usize) -> Result<Option<(Chain<'a>, u32, Queries)>, DeviceError> {
        let plan = self.plan;
        let Some(chain) = Chain::at(&plan.nodes[idx..]) else { return Ok(None) };
        let Some(cell) = self.cell_of(&chain) else { return Ok(None) };
        let is_even = |id: TensorId| plan.tensor(id).shape.cols.is_multiple_of(2);
        let fits = chain.kv().is_none_or(|[_, v]| is_even(v));
        // What the kernel loads before launches before it are done.
        let is_given = |id: &TensorId| {
            use zinc_plan::TensorKind::{Const, Input, Weight};
            matches!(plan.tensor(*id).kind, Const(_) | Input(_) | Weight)
        };
        if !fits || !chain.given().all(is_given) || !self.is_private(&chain, idx) {
            return Ok(None);
        }
        let queries = match self.sliced_queries(&chain)? {
            Some(queries) => Some(queries),
            None => self.whole_queries(&chain)?,
        };
        Ok(queries.map(|queries| (chain, cell, queries)))
    }

    /// Whether a chain reads its queries where this slice of heads has them from.
    pub(super) fn is_query_of_chain(&self, node: &Node) -> Result<bool, DeviceError> {
        let id = node.writes[0];
        let Some(reader) = self.plan.nodes.iter().position(|other| other.reads.contains(&id))
        else {
            return Ok(false);
        };
        let chain = self.chain_at(reader)?;
        Ok(chain.is_some_and(|(chain, _, queries)| chain.q() == id && queries.is_sliced))
    }

    /// Queries where a slice of heads has them from, if the chain is all that reads the slice.
    fn sliced_queries(&self, chain: &Chain<'_>) -> Result<Option<Queries>, DeviceError> {
        let head_dim = chain.rope.head_dim;
        let Some((base, slice)) = self.slice_for_one(chain.q()) else { return Ok(None) };
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
        let q = chain.q();
        if self.overlaps(chain, q, true)? {
            return Ok(None);
        }
        let rows = self.float_rows(q)?;
        let n_heads = rows.cols / head_dim;
        Ok(Some(Queries { rows, n_heads, step: head_dim, is_sliced: false }))
    }

    /// The type of the chain's caches: `Cell` of `prepare.cu`.
    fn cell_of(&self, chain: &Chain<'_>) -> Option<u32> {
        let Some([_, write]) = chain.keys else { return Some(0) };
        let [k, v] = [0, 1].map(|idx| self.plan.tensor(write.writes[idx]).dtype);
        match k {
            _ if k != v => None,
            GgmlType::F32 => Some(0),
            GgmlType::F16 => Some(1),
            GgmlType::BF16 => Some(2),
            GgmlType::F8_E4M3 => Some(3),
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
        let out = extent(chain.q_rope.writes[0])?;
        let meets = |other: (u64, u64, u64)| out.0 < other.1 && other.0 < out.1;
        let q = extent(q)?;
        let same = may_replace && (q.0, q.2) == (out.0, out.2);
        let mut overlaps = meets(q) && !same;
        for id in chain.kv().into_iter().flatten() {
            overlaps |= meets(extent(id)?);
        }
        Ok(overlaps)
    }
}
