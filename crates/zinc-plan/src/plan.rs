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
    /// Rows of a recurrent state: one per sequence that is kept.
    StateSlots,
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
    /// Sequences whose recurrent states are kept.
    pub n_state_slots: u32,
}

impl Limits {
    /// The largest value of `dim`.
    pub fn bound(&self, dim: Dim) -> u64 {
        match dim {
            Dim::Fixed(n) => u64::from(n),
            Dim::Tokens => u64::from(self.max_tokens),
            Dim::Seqs => u64::from(self.max_seqs),
            Dim::OutRows => u64::from(self.max_out_rows),
            Dim::CacheRows => u64::from(self.n_pages) * u64::from(self.page_size),
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
    /// Rows whose logits are wanted, as token indices, `[OutRows, 1]`.
    OutRows,
    /// Row of the rope table that the token uses, `[Tokens, 1]`.
    RopeVariant,
    /// Row of the recurrent states that belongs to each sequence, `[Seqs, 1]`.
    StateSlots,
    /// A hidden state for each token, f32, `[Tokens, d_model]`: what a multi-token-prediction head
    /// reads.
    Hidden,
}

impl InputKind {
    /// Every kind, in the order of their declaration.
    pub const ALL: [InputKind; 9] = [
        InputKind::TokenIds,
        InputKind::Positions,
        InputKind::SeqOf,
        InputKind::Slots,
        InputKind::Pages,
        InputKind::OutRows,
        InputKind::RopeVariant,
        InputKind::StateSlots,
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
            InputKind::OutRows => "out_rows",
            InputKind::RopeVariant => "rope_variant",
            InputKind::StateSlots => "state_slots",
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
            | InputKind::RopeVariant
            | InputKind::Hidden => Shape::new(Dim::Tokens, 1),
            InputKind::Pages => Shape::new(Dim::Seqs, limits.pages_per_seq),
            InputKind::OutRows => Shape::new(Dim::OutRows, 1),
            InputKind::StateSlots => Shape::new(Dim::Seqs, 1),
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
}
