use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use zinc_gguf::{Gguf, TensorEntry};
use zinc_plan::{Limits, Plan, TensorKind};
use zinc_quant::GgmlType;

use crate::ModelError;
use crate::config::{FileFacts, ModelConfig};
use crate::graph::Graph;
use crate::registry::{self, Family};
use crate::rope::{FACTORS_LONG, RopeTable};

/// Type and dimensions of a tensor in the file.
#[derive(Clone, Debug)]
pub(crate) struct WeightInfo {
    pub dtype: GgmlType,
    pub dims: Vec<u64>,
}

/// A model file understood: what to compute, without the weights themselves.
#[derive(Clone)]
pub struct Model {
    config: ModelConfig,
    family: &'static Family,
    weights: Arc<HashMap<String, WeightInfo>>,
    rope: RopeTable,
    rope_local: Option<RopeTable>,
}

/// What a plan is built for.
#[derive(Clone, Copy, Debug)]
pub struct PlanOptions {
    /// Bounds of a step and of the cache.
    pub limits: Limits,
    /// Element type of the key/value cache.
    pub kv_type: GgmlType,
}

impl PlanOptions {
    /// One token with caches of one row, in a type that has no blocks and so takes rows of any
    /// length: for what does not depend on limits, such as names, weights and widths.
    pub const ONE_TOKEN: PlanOptions = PlanOptions {
        limits: Limits {
            max_tokens: 1,
            max_seqs: 1,
            max_out_rows: 1,
            page_size: 1,
            pages_per_seq: 1,
            n_pages: 1,
            window_pages_per_seq: 1,
            n_window_pages: 1,
            n_state_slots: 1,
        },
        kv_type: GgmlType::F32,
    };
}

impl Model {
    /// Reads the configuration and checks that the file holds exactly the tensors the architecture
    /// needs, in the right shapes.
    ///
    /// # Errors
    /// The architecture, metadata key or tensor that is unknown, missing or wrong, by name.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ModelError> {
        let arch = gguf.metadata().require_str("general.architecture")?;
        let family = registry::find(arch)?;
        let table = gguf.tensor("token_embd.weight");
        let table =
            table.ok_or_else(|| ModelError::MissingTensor { name: "token_embd.weight".into() })?;
        let facts = FileFacts {
            n_vocab: table.dims.get(1).copied().unwrap_or(0),
            has_long_factors: gguf.tensor(FACTORS_LONG).is_some(),
        };
        let config = ModelConfig::read(gguf.metadata(), family, &facts)?;
        let mut used = Vec::new();
        let rope = RopeTable::new(gguf, &config, &mut used)?;
        let rope_local = config.rope_local.as_ref().map(RopeTable::plain);
        let info =
            |t: &TensorEntry| (t.name.clone(), WeightInfo { dtype: t.ty, dims: t.dims.clone() });
        let weights = Arc::new(gguf.tensors().iter().map(info).collect());
        let model = Self { config, family, weights, rope, rope_local };
        model.check_all_used(gguf, &used)?;
        Ok(model)
    }

    /// Builds a plan once, which checks every tensor, and refuses tensors it leaves out.
    fn check_all_used(&self, gguf: &Gguf, used: &[&str]) -> Result<(), ModelError> {
        let options = PlanOptions::ONE_TOKEN;
        let plans: Vec<Plan> =
            [Some(self.plan(&options)?), self.mtp_plan(&options)?].into_iter().flatten().collect();
        let mut names: HashSet<&str> = used.iter().copied().collect();
        for plan in &plans {
            let weights = plan.tensors_where(|tensor| tensor.kind == TensorKind::Weight);
            names.extend(weights.map(|(_, tensor)| tensor.name.as_str()));
        }
        match gguf.tensors().iter().find(|tensor| !names.contains(tensor.name.as_str())) {
            Some(tensor) => Err(ModelError::UnusedTensor {
                name: tensor.name.clone(),
                arch: self.config.arch.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Sizes and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The plan of one step, prefill and decode alike. Its computed tensors have stable names:
    /// `embed`, `blk.N.attn_q`, …, `blk.N.out`, `final_norm`, `logits`.
    ///
    /// # Errors
    /// A missing tensor, a wrong shape, or a plan rule.
    pub fn plan(&self, options: &PlanOptions) -> Result<Plan, ModelError> {
        let graph = Graph::new(self, options)?;
        (self.family.build)(graph)
    }

    /// As [`Model::plan`], with a second output: the hidden state after the final norm, `final_norm`,
    /// which has a row for every token there, not only for those whose logits are wanted. The logits
    /// are the same.
    ///
    /// # Errors
    /// As [`Model::plan`].
    pub fn plan_with_hidden(&self, options: &PlanOptions) -> Result<Plan, ModelError> {
        let mut graph = Graph::new(self, options)?;
        graph.gives_hidden = true;
        (self.family.build)(graph)
    }

    /// The plan of the block of multi-token prediction, when the file has one. For a token and the
    /// hidden state `final_norm` of the token before it, it gives the logits of the token after;
    /// its own `final_norm` is the hidden state for a further step. Its cache is its own: the
    /// second token of a sequence is at position 0.
    ///
    /// # Errors
    /// As [`Model::plan`].
    pub fn mtp_plan(&self, options: &PlanOptions) -> Result<Option<Plan>, ModelError> {
        match self.family.build_mtp.filter(|_| self.config.n_mtp_layers > 0) {
            Some(build) => build(Graph::new(self, options)?).map(Some),
            None => Ok(None),
        }
    }

    /// Row of the rope table for a sequence of `seq_len` tokens in all. When a growing sequence
    /// changes rows, its cache must be computed anew: the result is defined by one full pass over
    /// the sequence with one row.
    pub fn rope_variant(&self, seq_len: u32) -> i32 {
        i32::from(self.rope.long_after.is_some_and(|limit| seq_len > limit))
    }

    /// Names of the residual stream in the plan: before the first layer, after each layer, and
    /// after the final norm.
    pub fn hidden_tensors(&self) -> Vec<String> {
        let layers = (0..self.config.n_layers).map(|layer| format!("blk.{layer}.out"));
        std::iter::once("embed".into())
            .chain(layers)
            .chain(std::iter::once("final_norm".into()))
            .collect()
    }

    pub(crate) fn weight(&self, name: &str) -> Option<&WeightInfo> {
        self.weights.get(name)
    }

    pub(crate) fn rope_table(&self) -> &[f32] {
        &self.rope.data
    }

    /// Table of the layers that rotate differently.
    pub(crate) fn rope_local_table(&self) -> Option<&[f32]> {
        self.rope_local.as_ref().map(|table| table.data.as_slice())
    }
}
