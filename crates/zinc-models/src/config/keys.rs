//! Metadata below the architecture's prefix.

use std::ops::RangeInclusive;

use zinc_gguf::{Metadata, Value};

use super::{MAX_LAYERS, MAX_WIDTH};
use crate::ModelError;

/// Reads keys below the architecture's prefix.
pub(crate) struct Keys<'a> {
    metadata: &'a Metadata,
    arch: &'a str,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(metadata: &'a Metadata, arch: &'a str) -> Self {
        Self { metadata, arch }
    }

    pub(crate) fn arch(&self) -> &'a str {
        self.arch
    }

    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    pub(crate) fn error(&self, name: &str, reason: impl Into<String>) -> ModelError {
        ModelError::Config { key: self.key(name), reason: reason.into() }
    }

    pub(crate) fn u32(&self, name: &str) -> Result<Option<u32>, ModelError> {
        Ok(self.metadata.u32(&self.key(name))?)
    }

    pub(crate) fn f32(&self, name: &str) -> Result<Option<f32>, ModelError> {
        let value = self.metadata.f32(&self.key(name))?;
        match value {
            Some(value) if !value.is_finite() => Err(self.error(name, "is not finite")),
            other => Ok(other),
        }
    }

    pub(crate) fn str(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        Ok(self.metadata.str(&self.key(name))?)
    }

    /// A count that must be there and lie in `1 ..= max`.
    pub(crate) fn count(&self, name: &str, max: u32) -> Result<u32, ModelError> {
        let value = self.metadata.require_u32(&self.key(name))?;
        self.check_count(name, value, max)
    }

    pub(crate) fn check_count(&self, name: &str, value: u32, max: u32) -> Result<u32, ModelError> {
        self.check_range(name, value, 1..=max)
    }

    fn check_range(
        &self,
        name: &str,
        value: u32,
        range: RangeInclusive<u32>,
    ) -> Result<u32, ModelError> {
        if range.contains(&value) {
            return Ok(value);
        }
        let (min, max) = range.into_inner();
        Err(self.error(name, format!("is {value}, must be {min} to {max}")))
    }

    /// A count that lies in `1 ..= max` if it is there.
    pub(crate) fn optional_count(&self, name: &str, max: u32) -> Result<Option<u32>, ModelError> {
        let value = self.u32(name)?;
        value.map(|value| self.check_count(name, value, max)).transpose()
    }

    /// The width of a block, which must be there.
    pub(crate) fn count_width(&self, name: &str) -> Result<u32, ModelError> {
        self.count(name, MAX_WIDTH)
    }

    /// A number that must be positive if it is there.
    pub(crate) fn positive(&self, name: &str) -> Result<Option<f32>, ModelError> {
        match self.f32(name)? {
            Some(value) if value <= 0.0 => {
                Err(self.error(name, format!("is {value}, must be positive")))
            }
            other => Ok(other),
        }
    }

    pub(crate) fn bool(&self, name: &str) -> Result<Option<bool>, ModelError> {
        Ok(self.metadata.bool(&self.key(name))?)
    }

    fn is_array(&self, name: &str) -> bool {
        matches!(self.metadata.get(&self.key(name)), Some(Value::Array(_)))
    }

    fn check_len(&self, name: &str, len: usize, n_layers: u32) -> Result<(), ModelError> {
        if len == n_layers as usize {
            return Ok(());
        }
        Err(self.error(name, format!("has {len} entries for {n_layers} blocks")))
    }

    /// A count for each layer in `1 ..= max`, written as one number for all or as an array.
    pub(crate) fn counts(
        &self,
        name: &str,
        n_layers: u32,
        range: RangeInclusive<u32>,
    ) -> Result<Option<Vec<u32>>, ModelError> {
        let values = match self.is_array(name) {
            true => self.metadata.u32s(&self.key(name))?.unwrap_or_default(),
            false => match self.u32(name)? {
                Some(value) => vec![value; n_layers as usize],
                None => return Ok(None),
            },
        };
        self.check_len(name, values.len(), n_layers)?;
        for value in &values {
            self.check_range(name, *value, range.clone())?;
        }
        Ok(Some(values))
    }

    /// A flag for each layer.
    pub(crate) fn flags(&self, name: &str, n_layers: u32) -> Result<Option<Vec<bool>>, ModelError> {
        let values = self.metadata.bools(&self.key(name))?;
        if let Some(values) = &values {
            self.check_len(name, values.len(), n_layers)?;
        }
        Ok(values)
    }

    /// Whether each layer is a sliding-window layer: an array of flags, or the period of a pattern
    /// whose last layer is a global one.
    pub(crate) fn window_pattern(
        &self,
        n_layers: u32,
        default_period: u32,
    ) -> Result<Vec<bool>, ModelError> {
        let name = "attention.sliding_window_pattern";
        if self.is_array(name) {
            return Ok(self.flags(name, n_layers)?.unwrap_or_default());
        }
        let period = self.optional_count(name, MAX_LAYERS)?.unwrap_or(default_period);
        Ok((0..n_layers).map(|layer| layer % period < period - 1).collect())
    }
}
