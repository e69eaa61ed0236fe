//! The plan's data structures.

use zinc_quant::GgmlType;

use crate::{Op, PlanError};

/// Index of a tensor in [`Plan::tensors`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TensorId(pub u32);

impl TensorId {
    /// The index as a `usize`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A number of rows: fixed by the model, or a symbol bounded by [`Limits`] and set by each step.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Dim {
    /// The same in every step.
    Fixed(u32),
    /// Tokens processed by the step, over all sequences.
    Tokens,
    /// Sequences taking part in the step.
    Seqs,
    /// Rows whose logits are wanted.
    OutRows,
    /// Rows of a key/value cache: pages times page size.
    CacheRows,
    /// Rows of a cache whose sequences keep a window only: window pages times page size.
    WindowRows,
    /// Rows of a recurrent state: one per sequence or snapshot that is kept.
    StateSlots,
}

/// Which page tables a cache is addressed through. In both groups the table of a sequence is a
/// ring: the key at position `j` of sequence `s` is cache row
/// `pages[s][(j / page_size) % n] * page_size + j % page_size`, `n` being the table's columns.
/// Tables of the full group have a column for every page of the longest sequence, so they never
/// come round.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CacheGroup {
    /// Every position of a sequence is kept.
    Full,
    /// The last positions of a sequence are kept: caches of layers with a sliding window.
    Window,
}

impl CacheGroup {
    /// The group of a cache with these rows.
    pub fn of(rows: Dim) -> Option<CacheGroup> {
        match rows {
            Dim::CacheRows => Some(CacheGroup::Full),
            Dim::WindowRows => Some(CacheGroup::Window),
            _ => None,
        }
    }

    /// Rows of the group's caches.
    pub fn rows(self) -> Dim {
        match self {
            CacheGroup::Full => Dim::CacheRows,
            CacheGroup::Window => Dim::WindowRows,
        }
    }

    /// The input with the cache row of each token.
    pub fn slots(self) -> InputKind {
        match self {
            CacheGroup::Full => InputKind::Slots,
            CacheGroup::Window => InputKind::WindowSlots,
        }
    }

    /// The input with the page table of each sequence.
    pub fn pages(self) -> InputKind {
        match self {
            CacheGroup::Full => InputKind::Pages,
            CacheGroup::Window => InputKind::WindowPages,
        }
    }
}

/// Upper bounds of the symbolic dimensions; part of a plan's identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Limits {
    /// Most tokens one step may process.
    pub max_tokens: u32,
    /// Most sequences one step may touch.
    pub max_seqs: u32,
    /// Most rows whose logits one step may return.
    pub max_out_rows: u32,
    /// Rows of a cache page.
    pub page_size: u32,
    /// Pages one sequence may own: the context length divided by the page size, rounded up.
    pub pages_per_seq: u32,
    /// Pages of the whole cache.
    pub n_pages: u32,
    /// Pages one sequence may own in the window group: [`Limits::ring_pages`]; 0 without windows.
    pub window_pages_per_seq: u32,
    /// Pages of the whole window group.
    pub n_window_pages: u32,
    /// Recurrent states that are kept: those of sequences and snapshots of them.
    pub n_state_slots: u32,
}

impl Limits {
    /// Pages that the ring of a sequence needs for steps of `n_tokens` neighbouring tokens in
    /// layers with `window`: a step writes all its rows before attention reads, so the rows of the
    /// first token's window and of all tokens must lie apart, wherever they begin in a page.
    pub fn ring_pages(page_size: u32, window: u32, n_tokens: u32) -> u32 {
        let n_others = u64::from(window).saturating_sub(1) + u64::from(n_tokens).saturating_sub(1);
        u32::try_from(n_others.div_ceil(u64::from(page_size.max(1))) + 1).unwrap_or(u32::MAX)
    }

    /// The largest value of `dim`.
    pub fn bound(&self, dim: Dim) -> u64 {
        match dim {
            Dim::Fixed(n) => u64::from(n),
            Dim::Tokens => u64::from(self.max_tokens),
            Dim::Seqs => u64::from(self.max_seqs),
            Dim::OutRows => u64::from(self.max_out_rows),
            Dim::CacheRows => u64::from(self.n_pages) * u64::from(self.page_size),
            Dim::WindowRows => u64::from(self.n_window_pages) * u64::from(self.page_size),
            Dim::StateSlots => u64::from(self.n_state_slots),
        }
    }
}

/// Rows with a contiguous last dimension.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Shape {
    /// Number of rows.
    pub rows: Dim,
    /// Elements of one row (`ne[0]` in ggml's terms).
    pub cols: u32,
}

impl Shape {
    /// `rows` x `cols`.
    pub fn new(rows: Dim, cols: u32) -> Self {
        Self { rows, cols }
    }
}

/// The per-step data of a plan, one input tensor each; all `i32` but the hidden states.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum InputKind {
    /// Token id of each row, `[Tokens, 1]`.
    TokenIds,
    /// Position of each token in its sequence, `[Tokens, 1]`.
    Positions,
    /// Which of the step's sequences a token belongs to, `[Tokens, 1]`.
    SeqOf,
    /// Cache row that receives the token's keys and values, `[Tokens, 1]`.
    Slots,
    /// Cache pages of each sequence in order of position, `[Seqs, pages_per_seq]`.
    Pages,
    /// Row of the window group's caches that receives the token's keys and values, `[Tokens, 1]`.
    WindowSlots,
    /// Pages of each sequence in the window group, `[Seqs, window_pages_per_seq]`: a ring, see
    /// [`CacheGroup`].
    WindowPages,
    /// Rows whose logits are wanted, as token indices, `[OutRows, 1]`.
    OutRows,
    /// Row of the rope table that the token uses, `[Tokens, 1]`.
    RopeVariant,
    /// Row of the recurrent states that each sequence goes on from, `[Seqs, 1]`.
    StateFrom,
    /// Row of the recurrent states that receives the state after each sequence's last token of the
    /// step, `[Seqs, 1]`. May be the row it was read from.
    StateSlots,
    /// Row of the recurrent states that also receives the state as it is after the token, or -1,
    /// `[Tokens, 1]`.
    StateSaves,
    /// A hidden state for each token, f32, `[Tokens, d_model]`: what a multi-token-prediction head
    /// reads.
    Hidden,
}

impl InputKind {
    /// Every kind, in the order of their declaration.
    pub const ALL: [InputKind; 13] = [
        InputKind::TokenIds,
        InputKind::Positions,
        InputKind::SeqOf,
        InputKind::Slots,
        InputKind::Pages,
        InputKind::WindowSlots,
        InputKind::WindowPages,
        InputKind::OutRows,
        InputKind::RopeVariant,
        InputKind::StateFrom,
        InputKind::StateSlots,
        InputKind::StateSaves,
        InputKind::Hidden,
    ];

    /// Name of the input tensor.
    pub fn name(self) -> &'static str {
        match self {
            InputKind::TokenIds => "token_ids",
            InputKind::Positions => "positions",
            InputKind::SeqOf => "seq_of",
            InputKind::Slots => "slots",
            InputKind::Pages => "pages",
            InputKind::WindowSlots => "window_slots",
            InputKind::WindowPages => "window_pages",
            InputKind::OutRows => "out_rows",
            InputKind::RopeVariant => "rope_variant",
            InputKind::StateFrom => "state_from",
            InputKind::StateSlots => "state_slots",
            InputKind::StateSaves => "state_saves",
            InputKind::Hidden => "hidden",
        }
    }

    /// Shape of the input tensor under `limits`. The width of the hidden states is the model's:
    /// their tensor has it, here it is 1.
    pub fn shape(self, limits: &Limits) -> Shape {
        match self {
            InputKind::TokenIds
            | InputKind::Positions
            | InputKind::SeqOf
            | InputKind::Slots
            | InputKind::WindowSlots
            | InputKind::RopeVariant
            | InputKind::StateSaves
            | InputKind::Hidden => Shape::new(Dim::Tokens, 1),
            InputKind::Pages => Shape::new(Dim::Seqs, limits.pages_per_seq),
            InputKind::WindowPages => Shape::new(Dim::Seqs, limits.window_pages_per_seq),
            InputKind::OutRows => Shape::new(Dim::OutRows, 1),
            InputKind::StateFrom | InputKind::StateSlots => Shape::new(Dim::Seqs, 1),
        }
    }
}

/// Where a tensor's bytes come from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TensorKind {
    /// Filled by the host before each step.
    Input(InputKind),
    /// Small f32 table computed when the plan is built: index into [`Plan::consts`].
    Const(u32),
    /// Bound by name from the model file. The number of matrices stacked in it (experts) is
    /// folded into `rows`.
    Weight,
    /// Lives across steps, updated in place: a key/value cache or a recurrent state.
    State,
    /// Written by exactly one node of the plan.
    Value,
    /// Columns of another value, starting at `col`; rows keep the base's stride.
    View {
        /// The value that owns the bytes.
        base: TensorId,
        /// First column of the view in the base.
        col: u32,
    },
}

/// A named tensor of the plan.
#[derive(Clone, PartialEq, Debug)]
pub struct TensorInfo {
    /// Unique, stable name; for weights the name in the model file.
    pub name: String,
    /// Element type.
    pub dtype: GgmlType,
    /// Rows and columns.
    pub shape: Shape,
    /// Where the bytes come from.
    pub kind: TensorKind,
}

impl TensorInfo {
    /// Bytes of one row, without the stride of a view's base.
    pub fn row_bytes(&self) -> usize {
        // Checked when the tensor is added: a row is a whole number of blocks.
        self.dtype.row_bytes(self.shape.cols as usize).unwrap_or(0)
    }
}

/// A table of f32 values that belongs to the plan, such as rope frequencies.
#[derive(Clone, PartialEq, Debug)]
pub struct Const {
    /// Row-major values.
    pub data: Vec<f32>,
}

/// One operation with its operands.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// The operation and its attributes.
    pub op: Op,
    /// Operands, in the order the operation documents.
    pub reads: Vec<TensorId>,
    /// Results; states appear here when they are updated in place.
    pub writes: Vec<TensorId>,
    /// Where in the model the node stands, such as `blk.3.attn_q`.
    pub label: String,
    /// Set by the hazard pass: all earlier nodes must be finished before this one starts.
    pub barrier: bool,
}

/// Result of the memory pass: one arena for all values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Byte offset in the arena of each tensor that owns arena bytes, by tensor index.
    pub offsets: Vec<Option<u64>>,
    /// Size of the arena in bytes.
    pub arena_bytes: u64,
}

/// A model's step as data. See the crate documentation.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// Name for people, such as `qwen3 decode`.
    pub name: String,
    /// Bounds of the symbolic dimensions.
    pub limits: Limits,
    /// All tensors.
    pub tensors: Vec<TensorInfo>,
    /// Data of the constant tensors.
    pub consts: Vec<Const>,
    /// Operations in execution order.
    pub nodes: Vec<Node>,
    /// Tensors returned to the host after the step, the logits first.
    pub outputs: Vec<TensorId>,
    /// Set by the memory pass.
    pub memory: Option<Memory>,
}

impl Plan {
    /// The tensor `id`.
    pub fn tensor(&self, id: TensorId) -> &TensorInfo {
        &self.tensors[id.index()]
    }

    /// The tensor called `name`.
    pub fn find(&self, name: &str) -> Option<TensorId> {
        let idx = self.tensors.iter().position(|tensor| tensor.name == name)?;
        Some(TensorId(u32::try_from(idx).ok()?))
    }

    /// The tensor that owns the bytes of `id`, the byte offset inside its rows, and its row stride
    /// in bytes. A tensor that is no view owns its own bytes.
    pub fn locate(&self, id: TensorId) -> (TensorId, usize, usize) {
        let tensor = self.tensor(id);
        match tensor.kind {
            TensorKind::View { base, col } => {
                let owner = self.tensor(base);
                let offset = owner.dtype.row_bytes(col as usize).unwrap_or(0);
                (base, offset, owner.row_bytes())
            }
            _ => (id, 0, tensor.row_bytes()),
        }
    }

    /// Bytes of `id` at the largest bound of its rows.
    pub fn max_bytes(&self, id: TensorId) -> u64 {
        let tensor = self.tensor(id);
        self.limits.bound(tensor.shape.rows) * tensor.row_bytes() as u64
    }

    /// Whether the plan gives the largest values of `id` too: then the rows of it that a step returns
    /// are only those that were asked for.
    pub fn has_top_k(&self, id: TensorId) -> bool {
        let of_it = |node: &Node| matches!(node.op, Op::TopK(_)) && node.reads[0] == id;
        self.nodes.iter().any(of_it)
    }

    /// Tensors of one kind, in order.
    pub fn tensors_where(
        &self,
        keep: impl Fn(&TensorInfo) -> bool,
    ) -> impl Iterator<Item = (TensorId, &TensorInfo)> {
        (0u32..).map(TensorId).zip(&self.tensors).filter(move |(_, tensor)| keep(tensor))
    }

    /// Returns `names` to the host as well, after the logits.
    ///
    /// # Errors
    /// A name that no tensor has, or that is not computed by the plan.
    pub fn add_outputs(&mut self, names: &[String]) -> Result<(), PlanError> {
        for name in names {
            let id = self.find(name).filter(|id| {
                matches!(self.tensor(*id).kind, TensorKind::Value | TensorKind::View { .. })
            });
            let id = id.ok_or_else(|| PlanError::Invalid {
                at: name.clone(),
                reason: "no such computed tensor".into(),
            })?;
            if !self.outputs.contains(&id) {
                self.outputs.push(id);
            }
        }
        Ok(())
    }

    /// Returns `names` to the host and nothing else, and leaves out what is computed for other
    /// outputs only. States are written as before.
    ///
    /// # Errors
    /// As [`Plan::add_outputs`].
    pub fn only_outputs(&mut self, names: &[String]) -> Result<(), PlanError> {
        self.outputs.clear();
        self.add_outputs(names)?;
        let mut needed = vec![false; self.tensors.len()];
        self.outputs.iter().for_each(|id| needed[self.locate(*id).0.index()] = true);
        let mut kept = Vec::with_capacity(self.nodes.len());
        for node in std::mem::take(&mut self.nodes).into_iter().rev() {
            let is_needed = |id: &TensorId| needed[self.locate(*id).0.index()];
            if node.op.n_state_writes() > 0 || node.writes.iter().any(is_needed) {
                for id in &node.reads {
                    needed[self.locate(*id).0.index()] = true;
                }
                kept.push(node);
            }
        }
        kept.reverse();
        self.nodes = kept;
        Ok(())
    }
}
