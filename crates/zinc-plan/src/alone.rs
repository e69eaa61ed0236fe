//! Plans of a few nodes, cut out of a model's plan: what is measured and compared one operation at a
//! time.

use std::collections::{BTreeMap, BTreeSet};

use crate::op::{Embed, Op};
use crate::plan::{Dim, InputKind, Node, Plan, Shape, TensorId, TensorInfo, TensorKind};
use crate::{NodeKind, PlanError};
use zinc_quant::GgmlType;

/// A table of f32 rows that feeds a plan with an operand: token ids choose rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeedTable {
    /// Name of the weight.
    pub name: String,
    /// Elements of a row.
    pub cols: u32,
}

/// Some nodes of a model without the rest.
#[derive(Clone, Debug)]
pub struct Alone {
    /// Base operations, not prepared for any device. Returns what the first of the nodes computes.
    pub plan: Plan,
    /// Weights of the plan that are not the model's.
    pub tables: Vec<FeedTable>,
}

/// Nodes that differ in the layer they stand in only.
#[derive(Clone, PartialEq, Debug)]
pub struct DistinctNode {
    /// What they are.
    pub kind: NodeKind,
    /// The operation with its attributes.
    pub op: Op,
    /// Indices in [`Plan::nodes`].
    pub nodes: Vec<usize>,
}

impl Plan {
    /// The nodes, those together that are the same operation on operands of the same types and sizes.
    pub fn distinct_nodes(&self) -> Vec<DistinctNode> {
        let mut found: Vec<DistinctNode> = Vec::new();
        for (idx, node) in self.nodes.iter().enumerate() {
            let kind = self.node_kind(node);
            match found.iter_mut().find(|other| other.kind == kind && other.op == node.op) {
                Some(other) => other.nodes.push(idx),
                None => found.push(DistinctNode { kind, op: node.op, nodes: vec![idx] }),
            }
        }
        found
    }

    /// The plan that computes what `nodes` of `prepared` compute, and nothing else: each gets its
    /// operands from rows of tables, and the caches and the choices of experts that it reads from the
    /// nodes that make them. `prepared` is this plan prepared for a device; tables have `n_rows` rows.
    ///
    /// # Errors
    /// A node whose operands cannot be fed so.
    pub fn alone(&self, prepared: &Plan, nodes: &[usize], n_rows: u32) -> Result<Alone, PlanError> {
        let mut cut = Cut::new(self, prepared);
        for idx in nodes {
            cut.add(*idx)?;
        }
        cut.finish(n_rows)
    }
}

/// What is cut out of a plan.
struct Cut<'a> {
    base: &'a Plan,
    prepared: &'a Plan,
    /// Node of the base plan that writes each tensor.
    writer: Vec<Option<usize>>,
    needed: BTreeSet<usize>,
    /// Values that come from a table, each with the number of the table among those of its width.
    fed: BTreeMap<TensorId, usize>,
    /// Values fed for the node that is being added, by width.
    n_fed: BTreeMap<u32, usize>,
    outputs: Vec<TensorId>,
}

impl<'a> Cut<'a> {
    fn new(base: &'a Plan, prepared: &'a Plan) -> Cut<'a> {
        let mut writer = vec![None; base.tensors.len()];
        for (idx, node) in base.nodes.iter().enumerate() {
            node.writes.iter().for_each(|id| writer[id.index()] = Some(idx));
        }
        let (needed, fed, n_fed) = Default::default();
        Cut { base, prepared, writer, needed, fed, n_fed, outputs: Vec::new() }
    }

    /// The tensor of the base plan that `id` of the prepared one is or was converted from.
    fn resolve(&self, id: TensorId) -> TensorId {
        if id.index() < self.base.tensors.len() {
            return id;
        }
        let makes = |node: &&Node| node.op == Op::QuantizeAct && node.writes[0] == id;
        self.prepared.nodes.iter().find(makes).map_or(id, |node| self.resolve(node.reads[0]))
    }

    /// The value or state that owns the bytes of a tensor of the base plan.
    fn owner(&self, id: TensorId) -> TensorId {
        self.base.locate(id).0
    }

    /// Adds a node of the prepared plan.
    fn add(&mut self, idx: usize) -> Result<(), PlanError> {
        let mut node = &self.prepared.nodes[idx];
        if node.op == Op::QuantizeAct {
            // Inserted for its readers, so it comes with one of them.
            let reads = |other: &&Node| other.reads.contains(&node.writes[0]);
            let reader = self.prepared.nodes.iter().find(reads);
            node = reader.ok_or_else(|| unfit(node, "nothing reads its result"))?;
        }
        self.n_fed.clear();
        let leaves: Vec<TensorId> =
            node.reads.iter().map(|id| self.owner(self.resolve(*id))).collect();
        let mut results = node.writes.clone();
        if node.op == Op::KvWrite {
            // What it writes shows in what is read there.
            let reads_cache = |other: &&Node| {
                other.reads.contains(&node.writes[0]) && other.op.n_state_writes() == 0
            };
            let reader = self.base.nodes.iter().find(reads_cache);
            results = reader.ok_or_else(|| unfit(node, "nothing reads its cache"))?.writes.clone();
        }
        for id in &results {
            let writer =
                self.writer[id.index()].ok_or_else(|| unfit(node, "is not in the plan"))?;
            self.visit(writer, &leaves)?;
        }
        if self.outputs.is_empty() {
            let is_value = |id: &TensorId| self.base.tensor(*id).kind == TensorKind::Value;
            self.outputs = results.into_iter().filter(is_value).collect();
        }
        Ok(())
    }

    /// Takes a node of the base plan, and those that compute what it reads up to `leaves`, which are
    /// fed.
    fn visit(&mut self, idx: usize, leaves: &[TensorId]) -> Result<(), PlanError> {
        if !self.needed.insert(idx) {
            return Ok(());
        }
        let node = &self.base.nodes[idx];
        for id in node.reads.clone() {
            let owner = self.owner(id);
            let writer = self.writer[owner.index()];
            match (self.base.tensor(owner).kind, writer) {
                (TensorKind::Value, Some(writer)) if !leaves.contains(&owner) => {
                    // The reader of a cache that is under test has operands of its own.
                    if self.is_between(writer, leaves) {
                        self.visit(writer, leaves)?;
                    } else {
                        self.feed(owner)?;
                    }
                }
                (TensorKind::Value, _) => self.feed(owner)?,
                // Caches hold what was written before, in the same plan.
                (TensorKind::State, Some(writer)) if writer != idx => self.take(writer)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a node computes something from `leaves` alone.
    fn is_between(&self, idx: usize, leaves: &[TensorId]) -> bool {
        let owners = self.base.nodes[idx].reads.iter().map(|id| self.owner(*id));
        let mut values =
            owners.filter(|id| self.base.tensor(*id).kind == TensorKind::Value).peekable();
        values.peek().is_some()
            && values.all(|id| {
                let writer = self.writer[id.index()];
                leaves.contains(&id) || writer.is_some_and(|writer| self.is_between(writer, leaves))
            })
    }

    /// Takes a node of the base plan with its operands fed.
    fn take(&mut self, idx: usize) -> Result<(), PlanError> {
        if self.needed.insert(idx) {
            for id in self.base.nodes[idx].reads.clone() {
                let owner = self.owner(id);
                if self.base.tensor(owner).kind == TensorKind::Value {
                    self.feed(owner)?;
                }
            }
        }
        Ok(())
    }

    /// Has a value come from a table, or from a node that gives it a form that its readers rely on:
    /// ids of experts that there are, vectors of length 1, gates that decay.
    fn feed(&mut self, id: TensorId) -> Result<(), PlanError> {
        if self.fed.contains_key(&id) {
            return Ok(());
        }
        if let Some(writer) = self.writer[id.index()] {
            let node = &self.base.nodes[writer];
            if matches!(node.op, Op::RouterTopK(_) | Op::L2Norm(_) | Op::DeltaGates) {
                return self.take(writer);
            }
            let tensor = self.base.tensor(id);
            let is_fit = matches!(tensor.shape.rows, Dim::Tokens | Dim::OutRows);
            if tensor.dtype != GgmlType::F32 || !is_fit {
                return Err(unfit(node, "its result has no form that a table could feed"));
            }
        }
        let n_fed = self.n_fed.entry(self.base.tensor(id).shape.cols).or_default();
        self.fed.insert(id, *n_fed);
        *n_fed += 1;
        Ok(())
    }

    /// The plan of what was taken.
    fn finish(self, n_rows: u32) -> Result<Alone, PlanError> {
        let base = self.base;
        let mut copy = Copy { base, plan: empty_copy(base), moved: vec![None; base.tensors.len()] };
        let mut tables: Vec<FeedTable> = Vec::new();
        for (id, number) in &self.fed {
            // A value that a taken node computes after all is not fed.
            if self.writer[id.index()].is_some_and(|writer| self.needed.contains(&writer)) {
                continue;
            }
            let table = FeedTable {
                name: format!("alone.{}.{number}", base.tensor(*id).shape.cols),
                cols: base.tensor(*id).shape.cols,
            };
            copy.feed(*id, &table, n_rows);
            if !tables.contains(&table) {
                tables.push(table);
            }
        }
        for idx in &self.needed {
            copy.node(&base.nodes[*idx]);
        }
        copy.plan.outputs = self.outputs.iter().map(|id| copy.tensor(*id)).collect();
        Ok(Alone { plan: copy.plan, tables })
    }
}

fn unfit(node: &Node, reason: &str) -> PlanError {
    PlanError::Invalid { at: node.label.clone(), reason: reason.into() }
}

fn empty_copy(plan: &Plan) -> Plan {
    Plan {
        name: plan.name.clone(),
        limits: plan.limits,
        tensors: Vec::new(),
        consts: plan.consts.clone(),
        nodes: Vec::new(),
        outputs: Vec::new(),
        memory: None,
    }
}

/// Moves tensors and nodes to a plan of their own.
struct Copy<'a> {
    base: &'a Plan,
    plan: Plan,
    moved: Vec<Option<TensorId>>,
}

impl Copy<'_> {
    fn push(&mut self, tensor: TensorInfo) -> TensorId {
        if let Some(id) = self.plan.find(&tensor.name) {
            return id;
        }
        self.plan.tensors.push(tensor);
        TensorId(self.plan.tensors.len() as u32 - 1)
    }

    /// A tensor of the base plan in this one, after the one that it is a view of.
    fn tensor(&mut self, id: TensorId) -> TensorId {
        if let Some(moved) = self.moved[id.index()] {
            return moved;
        }
        let mut tensor = self.base.tensor(id).clone();
        if let TensorKind::View { base, col } = tensor.kind {
            tensor.kind = TensorKind::View { base: self.tensor(base), col };
        }
        let moved = self.push(tensor);
        self.moved[id.index()] = Some(moved);
        moved
    }

    fn input(&mut self, kind: InputKind) -> TensorId {
        self.push(TensorInfo {
            name: kind.name().into(),
            dtype: GgmlType::I32,
            shape: kind.shape(&self.base.limits),
            kind: TensorKind::Input(kind),
        })
    }

    fn node(&mut self, node: &Node) {
        let reads = node.reads.iter().map(|id| self.tensor(*id)).collect();
        let writes = node.writes.iter().map(|id| self.tensor(*id)).collect();
        self.plan.nodes.push(Node { reads, writes, ..node.clone() });
    }

    /// Has the value `id` come from rows of `table`.
    fn feed(&mut self, id: TensorId, table: &FeedTable, n_rows: u32) {
        let weight = self.push(TensorInfo {
            name: table.name.clone(),
            dtype: GgmlType::F32,
            shape: Shape::new(Dim::Fixed(n_rows), table.cols),
            kind: TensorKind::Weight,
        });
        let (token_ids, value) = (self.input(InputKind::TokenIds), self.tensor(id));
        let label = format!("alone.{}", self.base.tensor(id).name);
        let embed = Op::Embed(Embed { scale: 1.0 });
        let node = |op, reads, writes| Node {
            op,
            reads,
            writes: vec![writes],
            label: label.clone(),
            barrier: false,
        };
        if self.base.tensor(id).shape.rows == Dim::Tokens {
            self.plan.nodes.push(node(embed, vec![weight, token_ids], value));
            return;
        }
        // Rows of a part of the tokens.
        let all = self.push(TensorInfo {
            name: label.clone(),
            dtype: GgmlType::F32,
            shape: Shape::new(Dim::Tokens, table.cols),
            kind: TensorKind::Value,
        });
        let out_rows = self.input(InputKind::OutRows);
        self.plan.nodes.push(node(embed, vec![weight, token_ids], all));
        self.plan.nodes.push(node(Op::GatherRows, vec![all, out_rows], value));
    }
}
