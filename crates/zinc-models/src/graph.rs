//! A plan builder that knows the model: weights are looked up by name and checked.

use std::collections::HashMap;

use zinc_plan::{Builder, Plan, PlanError, RmsNorm, Rope, TensorId};
use zinc_quant::GgmlType;

use crate::ModelError;
use crate::config::ModelConfig;
use crate::model::{Model, PlanOptions};

/// A plan under construction for one model.
pub(crate) struct Graph<'a> {
    pub b: Builder,
    pub kv_type: GgmlType,
    /// The hidden state after the final norm of every token is an output, too.
    pub gives_hidden: bool,
    rope_table: TensorId,
    rope_local: Option<TensorId>,
    /// Vector of ones for norms without a weight, by length.
    ones: HashMap<u32, TensorId>,
    model: &'a Model,
}

impl<'a> Graph<'a> {
    pub(crate) fn new(model: &'a Model, options: &PlanOptions) -> Result<Self, PlanError> {
        let config = model.config();
        let mut b = Builder::new(config.arch.as_str(), options.limits);
        let table = model.rope_table().to_vec();
        let rope_table = b.constant("rope_table", config.rope_dims / 2 + 1, table)?;
        let rope_local = match (model.rope_local_table(), config.rope_local) {
            (Some(table), Some(rope)) => {
                Some(b.constant("rope_local_table", rope.dims / 2 + 1, table.to_vec())?)
            }
            _ => None,
        };
        Ok(Self {
            b,
            kv_type: options.kv_type,
            gives_hidden: false,
            rope_table,
            rope_local,
            ones: HashMap::new(),
            model,
        })
    }

    pub(crate) fn config(&self) -> &'a ModelConfig {
        self.model.config()
    }

    /// The matrix `name` of `n_out` rows and `n_in` columns.
    pub(crate) fn matrix(
        &mut self,
        name: &str,
        n_out: u32,
        n_in: u32,
    ) -> Result<TensorId, ModelError> {
        self.optional(name, n_out, n_in)?.ok_or_else(|| missing(name))
    }

    /// The matrix `name` if the file has it.
    pub(crate) fn optional(
        &mut self,
        name: &str,
        n_out: u32,
        n_in: u32,
    ) -> Result<Option<TensorId>, ModelError> {
        // A vector is written with one dimension; some files have [n, 1].
        let dims = [u64::from(n_in), u64::from(n_out)];
        let as_vector = &dims[..2 - usize::from(n_out == 1)];
        self.checked(name, &[as_vector, &dims], (n_out, n_in))
    }

    /// `n` matrices of `n_out` rows stacked in one tensor; their rows are one after another.
    pub(crate) fn stack(
        &mut self,
        name: &str,
        n: u32,
        [n_out, n_in]: [u32; 2],
    ) -> Result<TensorId, ModelError> {
        let rows = n.checked_mul(n_out).ok_or_else(|| ModelError::Config {
            key: name.into(),
            reason: format!("{n} matrices of {n_out} rows are too many"),
        })?;
        let dims = [n_in, n_out, n].map(u64::from);
        self.checked(name, &[&dims], (rows, n_in))?.ok_or_else(|| missing(name))
    }

    /// The weight `name` as `rows` of `cols`, if the file has it with one of the `allowed`
    /// dimensions.
    fn checked(
        &mut self,
        name: &str,
        allowed: &[&[u64]],
        (rows, cols): (u32, u32),
    ) -> Result<Option<TensorId>, ModelError> {
        let Some(info) = self.model.weight(name) else {
            return Ok(None);
        };
        if !allowed.contains(&info.dims.as_slice()) {
            return Err(wrong_shape(name, &info.dims, allowed[0]));
        }
        Ok(Some(self.b.weight(name, info.dtype, rows, cols)?))
    }

    /// Whether the file has the tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.model.weight(name).is_some()
    }

    /// The f32 vector `name` of `n` elements.
    pub(crate) fn vector(&mut self, name: &str, n: u32) -> Result<TensorId, ModelError> {
        self.optional_vector(name, n)?.ok_or_else(|| missing(name))
    }

    /// The f32 vector `name` if the file has it.
    pub(crate) fn optional_vector(
        &mut self,
        name: &str,
        n: u32,
    ) -> Result<Option<TensorId>, ModelError> {
        self.require_f32(name)?;
        self.optional(name, 1, n)
    }

    /// The f32 matrix `name` of `rows` and `cols`.
    pub(crate) fn f32_matrix(
        &mut self,
        name: &str,
        rows: u32,
        cols: u32,
    ) -> Result<TensorId, ModelError> {
        self.require_f32(name)?;
        self.matrix(name, rows, cols)
    }

    fn require_f32(&self, name: &str) -> Result<(), ModelError> {
        let dtype = self.model.weight(name).map(|info| info.dtype);
        match dtype.filter(|dtype| *dtype != GgmlType::F32) {
            None => Ok(()),
            Some(dtype) => Err(ModelError::Config {
                key: name.into(),
                reason: format!("is {dtype}; norms, biases and small tables must be f32"),
            }),
        }
    }

    /// RMS norm over groups of `group` columns with the weight `{label}.weight`.
    pub(crate) fn rms_norm(
        &mut self,
        label: &str,
        x: TensorId,
        group: u32,
    ) -> Result<TensorId, ModelError> {
        let weight = self.vector(&format!("{label}.weight"), group)?;
        let attributes = RmsNorm { eps: self.config().rms_eps, group };
        Ok(self.b.rms_norm(label, attributes, x, weight)?)
    }

    /// RMS norm over groups of `group` columns without a weight.
    pub(crate) fn rms_norm_plain(
        &mut self,
        label: &str,
        x: TensorId,
        group: u32,
    ) -> Result<TensorId, ModelError> {
        let ones = match self.ones.get(&group) {
            Some(ones) => *ones,
            None => {
                let data = vec![1.0; group as usize];
                let ones = self.b.constant(&format!("ones_{group}"), group, data)?;
                self.ones.insert(group, ones);
                ones
            }
        };
        let attributes = RmsNorm { eps: self.config().rms_eps, group };
        Ok(self.b.rms_norm(label, attributes, x, ones)?)
    }

    /// Rotation of the heads of `layer`.
    pub(crate) fn rope(
        &mut self,
        label: &str,
        layer: u32,
        x: TensorId,
    ) -> Result<TensorId, ModelError> {
        let config = self.config();
        let layer = config.layer(layer);
        let attributes =
            Rope { mode: config.rope_mode, head_dim: layer.head_dim, n_dims: layer.rope_dims };
        let table = match self.rope_local {
            Some(table) if layer.local_rope => table,
            _ => self.rope_table,
        };
        Ok(self.b.rope(label, attributes, x, table)?)
    }

    /// Rotation of heads that hold nothing but their rotated elements.
    pub(crate) fn rope_whole(&mut self, label: &str, x: TensorId) -> Result<TensorId, ModelError> {
        let config = self.config();
        let attributes =
            Rope { mode: config.rope_mode, head_dim: config.rope_dims, n_dims: config.rope_dims };
        Ok(self.b.rope(label, attributes, x, self.rope_table)?)
    }

    /// `{label}.weight` times x, plus `{label}.bias` if the file has it.
    pub(crate) fn linear(
        &mut self,
        label: &str,
        x: TensorId,
        n_out: u32,
        n_in: u32,
    ) -> Result<TensorId, ModelError> {
        let weight = self.matrix(&format!("{label}.weight"), n_out, n_in)?;
        let bias = self.optional_vector(&format!("{label}.bias"), n_out)?;
        Ok(self.b.matmul(label, weight, x, bias)?)
    }

    /// The plan of what was built: its logits, and the hidden states if they are wanted.
    pub(crate) fn finish(self, logits: TensorId, hidden: TensorId) -> Plan {
        match self.gives_hidden {
            true => self.b.finish(vec![logits, hidden]),
            false => self.b.finish(vec![logits]),
        }
    }
}

fn missing(name: &str) -> ModelError {
    ModelError::MissingTensor { name: name.into() }
}

fn wrong_shape(name: &str, found: &[u64], expected: &[u64]) -> ModelError {
    ModelError::TensorShape {
        name: name.into(),
        found: format!("{found:?}"),
        expected: format!("{expected:?}"),
    }
}
