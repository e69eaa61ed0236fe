use std::collections::HashMap;

use zinc_quant::GgmlType;

use crate::PlanError;
use crate::op::{Attention, Embed, GatedAct, MatMul, Op, RmsNorm, Rope, TopK};
use crate::plan::{
    CacheGroup, Const, Dim, InputKind, Limits, Node, Plan, Shape, TensorId, TensorInfo, TensorKind,
};

mod delta_net;
mod elementwise;
mod moe;

/// Builds a [`Plan`] operation by operation. Every result gets the label of its node as its name.
pub struct Builder {
    plan: Plan,
    by_name: HashMap<String, TensorId>,
}

impl Builder {
    /// An empty plan called `name`.
    pub fn new(name: impl Into<String>, limits: Limits) -> Self {
        let plan = Plan {
            name: name.into(),
            limits,
            tensors: Vec::new(),
            consts: Vec::new(),
            nodes: Vec::new(),
            outputs: Vec::new(),
            memory: None,
        };
        Self { plan, by_name: HashMap::new() }
    }

    /// Goes on with a plan that was finished, but not prepared for a device: its outputs are given anew.
    pub fn reopen(plan: Plan) -> Self {
        let names = (0u32..).map(TensorId).zip(&plan.tensors);
        let by_name = names.map(|(id, tensor)| (tensor.name.clone(), id)).collect();
        Self { plan, by_name }
    }

    /// The bounds the plan is built for.
    pub fn limits(&self) -> &Limits {
        &self.plan.limits
    }

    /// Finishes the plan with its outputs, the logits first.
    pub fn finish(mut self, outputs: Vec<TensorId>) -> Plan {
        self.plan.outputs = outputs;
        self.plan
    }

    fn add_tensor(&mut self, tensor: TensorInfo) -> Result<TensorId, PlanError> {
        let invalid = |reason: String| PlanError::Invalid { at: tensor.name.clone(), reason };
        let cols = tensor.shape.cols;
        if cols == 0 || tensor.dtype.row_bytes(cols as usize).is_none() {
            return Err(invalid(format!(
                "{cols} columns do not divide into {} blocks",
                tensor.dtype
            )));
        }
        if self.by_name.contains_key(&tensor.name) {
            return Err(invalid("name is already taken".into()));
        }
        let id = u32::try_from(self.plan.tensors.len())
            .map(TensorId)
            .map_err(|_| invalid("too many tensors".into()))?;
        self.by_name.insert(tensor.name.clone(), id);
        self.plan.tensors.push(tensor);
        Ok(id)
    }

    /// The step input `kind`; the same tensor each time it is asked for.
    ///
    /// # Errors
    /// A tensor of another kind that has taken the name.
    pub fn input(&mut self, kind: InputKind) -> Result<TensorId, PlanError> {
        if let Some(id) = self.by_name.get(kind.name()) {
            return Ok(*id);
        }
        self.add_tensor(TensorInfo {
            name: kind.name().into(),
            dtype: GgmlType::I32,
            shape: kind.shape(&self.plan.limits),
            kind: TensorKind::Input(kind),
        })
    }

    /// A weight matrix `[rows, cols]` (a vector has one row), bound by name from the model file.
    /// A weight asked for again is the same tensor.
    ///
    /// # Errors
    /// A row that is no whole number of blocks.
    pub fn weight(
        &mut self,
        name: &str,
        dtype: GgmlType,
        rows: u32,
        cols: u32,
    ) -> Result<TensorId, PlanError> {
        if let Some(id) = self.by_name.get(name) {
            return Ok(*id);
        }
        let shape = Shape::new(Dim::Fixed(rows), cols);
        self.add_tensor(TensorInfo { name: name.into(), dtype, shape, kind: TensorKind::Weight })
    }

    /// An f32 table `[data.len() / cols, cols]` that belongs to the plan.
    ///
    /// # Errors
    /// Data that is no whole number of rows, or a name that is taken.
    pub fn constant(
        &mut self,
        name: &str,
        cols: u32,
        data: Vec<f32>,
    ) -> Result<TensorId, PlanError> {
        let n_rows = data.len() / (cols as usize).max(1);
        let rows = u32::try_from(n_rows).unwrap_or(u32::MAX);
        if rows == 0 || n_rows * cols as usize != data.len() {
            let reason = format!("{} values are no rows of {cols}", data.len());
            return Err(PlanError::Invalid { at: name.into(), reason });
        }
        let idx = self.plan.consts.len() as u32;
        let id = self.add_tensor(TensorInfo {
            name: name.into(),
            dtype: GgmlType::F32,
            shape: Shape::new(Dim::Fixed(rows), cols),
            kind: TensorKind::Const(idx),
        })?;
        self.plan.consts.push(Const { data });
        Ok(id)
    }

    /// A cache of `cols` elements per row that lives across steps and keeps every position.
    ///
    /// # Errors
    /// A row that is no whole number of blocks, or a name that is taken.
    pub fn cache(&mut self, name: &str, dtype: GgmlType, cols: u32) -> Result<TensorId, PlanError> {
        self.cache_of(CacheGroup::Full, name, dtype, cols)
    }

    /// A cache of `cols` elements per row that lives across steps.
    ///
    /// # Errors
    /// As [`Builder::cache`].
    pub fn cache_of(
        &mut self,
        group: CacheGroup,
        name: &str,
        dtype: GgmlType,
        cols: u32,
    ) -> Result<TensorId, PlanError> {
        let shape = Shape::new(group.rows(), cols);
        self.add_tensor(TensorInfo { name: name.into(), dtype, shape, kind: TensorKind::State })
    }

    /// Columns `col .. col + cols` of the value `x`.
    ///
    /// # Errors
    /// A range outside the value, or a view of something that is no value.
    pub fn view(
        &mut self,
        name: &str,
        x: TensorId,
        col: u32,
        cols: u32,
    ) -> Result<TensorId, PlanError> {
        let base = self.plan.tensor(x);
        let inside = col.checked_add(cols).is_some_and(|end| end <= base.shape.cols);
        if base.kind != TensorKind::Value || !inside {
            let reason = format!("columns {col}+{cols} are not inside the value {}", base.name);
            return Err(PlanError::Invalid { at: name.into(), reason });
        }
        let shape = Shape::new(base.shape.rows, cols);
        let dtype = base.dtype;
        let kind = TensorKind::View { base: x, col };
        self.add_tensor(TensorInfo { name: name.into(), dtype, shape, kind })
    }

    /// Adds a node that computes one new value, named `label`.
    fn node(&mut self, label: &str, op: Op, reads: Vec<TensorId>) -> Result<TensorId, PlanError> {
        let [id] = self.add_node(label, [label.to_owned()], op, reads)?;
        Ok(id)
    }

    /// Adds a node that computes several new values, named `{label}.{suffix}`.
    fn node_of<const N: usize>(
        &mut self,
        label: &str,
        suffixes: [&str; N],
        op: Op,
        reads: Vec<TensorId>,
    ) -> Result<[TensorId; N], PlanError> {
        let names = suffixes.map(|suffix| format!("{label}.{suffix}"));
        self.add_node(label, names, op, reads)
    }

    fn add_node<const N: usize>(
        &mut self,
        label: &str,
        names: [String; N],
        op: Op,
        reads: Vec<TensorId>,
    ) -> Result<[TensorId; N], PlanError> {
        let operand = |reason: String| PlanError::Operand {
            label: label.into(),
            op: op.kind().name(),
            reason,
        };
        let infos: Vec<_> = reads.iter().map(|id| self.plan.tensor(*id)).collect();
        let results = op.infer(&infos).map_err(operand)?;
        if results.len() != N {
            return Err(operand(format!("gives {} results, not {N}", results.len())));
        }
        let mut ids = [TensorId(0); N];
        for ((id, name), (dtype, shape)) in ids.iter_mut().zip(names).zip(results) {
            *id = self.add_tensor(TensorInfo { name, dtype, shape, kind: TensorKind::Value })?;
        }
        self.push(label, op, reads, ids.to_vec());
        Ok(ids)
    }

    fn push(&mut self, label: &str, op: Op, reads: Vec<TensorId>, writes: Vec<TensorId>) {
        let label = label.to_owned();
        self.plan.nodes.push(Node { op, reads, writes, label, barrier: false });
    }

    /// Rows of `table` for the step's token ids. See [`Op::Embed`].
    ///
    /// # Errors
    /// Operands that do not fit; so for every method below.
    pub fn embed(
        &mut self,
        label: &str,
        table: TensorId,
        scale: f32,
    ) -> Result<TensorId, PlanError> {
        let ids = self.input(InputKind::TokenIds)?;
        self.node(label, Op::Embed(Embed { scale }), vec![table, ids])
    }

    /// Keeps the rows whose logits are wanted. See [`Op::GatherRows`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn gather_out_rows(&mut self, label: &str, x: TensorId) -> Result<TensorId, PlanError> {
        let rows = self.input(InputKind::OutRows)?;
        self.node(label, Op::GatherRows, vec![x, rows])
    }

    /// Sum of two values. See [`Op::Add`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn add(&mut self, label: &str, a: TensorId, b: TensorId) -> Result<TensorId, PlanError> {
        self.node(label, Op::Add, vec![a, b])
    }

    /// act(gate) * up. See [`Op::GatedAct`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn gated_act(
        &mut self,
        label: &str,
        attributes: GatedAct,
        gate: TensorId,
        up: TensorId,
    ) -> Result<TensorId, PlanError> {
        self.node(label, Op::GatedAct(attributes), vec![gate, up])
    }

    /// Root-mean-square norm. See [`Op::RmsNorm`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn rms_norm(
        &mut self,
        label: &str,
        attributes: RmsNorm,
        x: TensorId,
        weight: TensorId,
    ) -> Result<TensorId, PlanError> {
        self.node(label, Op::RmsNorm(attributes), vec![x, weight])
    }

    /// Matrix product with an optional bias. See [`Op::MatMul`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn matmul(
        &mut self,
        label: &str,
        weight: TensorId,
        x: TensorId,
        bias: Option<TensorId>,
    ) -> Result<TensorId, PlanError> {
        let op = Op::MatMul(MatMul { bias: bias.is_some(), residual: false });
        let reads = [weight, x].into_iter().chain(bias).collect();
        self.node(label, op, reads)
    }

    /// Rotary position embedding with the frequency table `table`. See [`Op::Rope`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn rope(
        &mut self,
        label: &str,
        attributes: Rope,
        x: TensorId,
        table: TensorId,
    ) -> Result<TensorId, PlanError> {
        let positions = self.input(InputKind::Positions)?;
        let variant = self.input(InputKind::RopeVariant)?;
        self.node(label, Op::Rope(attributes), vec![x, positions, table, variant])
    }

    /// Writes keys and values into their caches. See [`Op::KvWrite`].
    ///
    /// # Errors
    /// Operands that do not fit, caches of other widths.
    pub fn kv_write(
        &mut self,
        label: &str,
        [k, v]: [TensorId; 2],
        [cache_k, cache_v]: [TensorId; 2],
    ) -> Result<(), PlanError> {
        let slots = self.input(self.group_of(cache_k).slots())?;
        let reads = vec![k, v, slots];
        let operand = |reason| PlanError::Operand {
            label: label.into(),
            op: Op::KvWrite.kind().name(),
            reason,
        };
        let infos: Vec<_> = reads.iter().map(|id| self.plan.tensor(*id)).collect();
        Op::KvWrite.infer(&infos).map_err(operand)?;
        for (value, cache) in [(k, cache_k), (v, cache_v)] {
            let (value, cache) = (self.plan.tensor(value), self.plan.tensor(cache));
            if cache.kind != TensorKind::State || cache.shape.cols != value.shape.cols {
                let reason = format!("{} is no cache for rows of {}", cache.name, value.name);
                return Err(operand(reason));
            }
        }
        self.push(label, Op::KvWrite, reads, vec![cache_k, cache_v]);
        Ok(())
    }

    /// The largest values of each row: their columns and themselves, named `{label}.ids` and
    /// `{label}.values`. See [`Op::TopK`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn top_k(
        &mut self,
        label: &str,
        attributes: TopK,
        x: TensorId,
    ) -> Result<[TensorId; 2], PlanError> {
        self.node_of(label, ["ids", "values"], Op::TopK(attributes), vec![x])
    }

    /// Attention over the caches. See [`Op::Attention`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn attention(
        &mut self,
        label: &str,
        attributes: Attention,
        q: TensorId,
        caches: [TensorId; 2],
    ) -> Result<TensorId, PlanError> {
        self.attention_with_sinks(label, attributes, q, caches, None)
    }

    /// Attention over the caches, with a sink for each head or without. See [`Op::Attention`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn attention_with_sinks(
        &mut self,
        label: &str,
        attributes: Attention,
        q: TensorId,
        [cache_k, cache_v]: [TensorId; 2],
        sinks: Option<TensorId>,
    ) -> Result<TensorId, PlanError> {
        let op = Op::Attention(Attention { sinks: sinks.is_some(), ..attributes });
        let mut reads = vec![q, cache_k, cache_v];
        for kind in [InputKind::Positions, InputKind::SeqOf, self.group_of(cache_k).pages()] {
            reads.push(self.input(kind)?);
        }
        reads.extend(sinks);
        self.node(label, op, reads)
    }

    /// The group of a cache; what is none is refused by the node's shape rule.
    fn group_of(&self, cache: TensorId) -> CacheGroup {
        CacheGroup::of(self.plan.tensor(cache).shape.rows).unwrap_or(CacheGroup::Full)
    }
}
