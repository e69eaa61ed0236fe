//! A plan builder that knows the model: weights are looked up by name and checked.

use zinc_plan::{Builder, Plan, PlanError, RmsNorm, TensorId};
use zinc_quant::GgmlType;

use crate::ModelError;
use crate::config::ModelConfig;
use crate::model::{Model, PlanOptions};

/// A plan under construction for one model.
pub(crate) struct Graph<'a> {
    pub b: Builder,
    pub kv_type: GgmlType,
    pub rope_table: TensorId,
    model: &'a Model,
}

impl<'a> Graph<'a> {
    pub(crate) fn new(model: &'a Model, options: &PlanOptions) -> Result<Self, PlanError> {
        let config = model.config();
        let mut b = Builder::new(config.arch.as_str(), options.limits);
        let table = model.rope_table().to_vec();
        let rope_table = b.constant("rope_table", config.rope_dims / 2 + 1, table)?;
        Ok(Self { b, kv_type: options.kv_type, rope_table, model })
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
        let Some(info) = self.model.weight(name) else {
            return Ok(None);
        };
        let expected = [u64::from(n_in), u64::from(n_out)];
        // A vector is written with one dimension; some files have [n, 1].
        let is_vector = n_out == 1 && info.dims == expected[..1];
        if info.dims != expected && !is_vector {
            return Err(wrong_shape(name, &info.dims, &expected[..2 - usize::from(n_out == 1)]));
        }
        Ok(Some(self.b.weight(name, info.dtype, n_out, n_in)?))
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
        let dtype = self.model.weight(name).map(|info| info.dtype);
        if let Some(dtype) = dtype.filter(|dtype| *dtype != GgmlType::F32) {
            let reason = format!("is {dtype}; norms and biases must be f32");
            return Err(ModelError::Config { key: name.into(), reason });
        }
        self.optional(name, 1, n)
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

    pub(crate) fn finish(self, logits: TensorId) -> Plan {
        self.b.finish(vec![logits])
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
