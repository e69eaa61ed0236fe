//! Weights as they are in the file and caches in their own type, read row by row as f32.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use zinc_backend::{DeviceError, StateLayout, StatePart, WeightSource};
use zinc_plan::{Dim, Plan, TensorId, TensorKind};
use zinc_quant::GgmlType;

use crate::NAME;

/// Whether rows of this type can be dequantised.
pub(crate) fn is_readable(dtype: GgmlType) -> bool {
    let block = vec![0u8; dtype.block_bytes()];
    zinc_quant::dequantize(dtype, &block, &mut vec![0.0; dtype.block_len()]).is_ok()
}

/// Dequantises one row; `row` must hold whole blocks, which the plan has checked.
pub(crate) fn read_row(dtype: GgmlType, row: &[u8], out: &mut [f32]) -> Result<(), DeviceError> {
    zinc_quant::dequantize(dtype, row, out)
        .map_err(|error| DeviceError::Lost { device: NAME.into(), reason: error.to_string() })
}

/// A model's weights by name.
pub(crate) struct WeightStore {
    by_name: HashMap<String, Arc<WeightSource>>,
}

impl WeightStore {
    pub(crate) fn new(sources: Vec<WeightSource>) -> Result<Self, DeviceError> {
        let mut by_name = HashMap::new();
        for source in sources {
            let row_bytes =
                usize::try_from(source.cols).ok().and_then(|n| source.dtype.row_bytes(n));
            let n_bytes = row_bytes.and_then(|bytes| (bytes as u64).checked_mul(source.rows));
            if n_bytes != Some(source.data.len() as u64) {
                let reason = format!("has {} bytes, expected {n_bytes:?}", source.data.len());
                return Err(DeviceError::Binding { name: source.name, reason });
            }
            by_name.insert(source.name.clone(), Arc::new(source));
        }
        Ok(Self { by_name })
    }

    /// The weight that `plan` calls `id`, if its type and shape are what the plan says.
    pub(crate) fn bind(&self, plan: &Plan, id: TensorId) -> Result<Arc<WeightSource>, DeviceError> {
        let tensor = plan.tensor(id);
        let binding = |reason: &str| DeviceError::Binding {
            name: tensor.name.clone(),
            reason: reason.into(),
        };
        let source = self.by_name.get(&tensor.name).ok_or_else(|| binding("is not bound"))?;
        let rows = plan.limits.bound(tensor.shape.rows);
        let same = source.dtype == tensor.dtype
            && source.rows == rows
            && source.cols == u64::from(tensor.shape.cols);
        if !same {
            return Err(binding("has another type or shape than the plan says"));
        }
        Ok(source.clone())
    }
}

/// One cache: raw rows in its own type.
pub(crate) struct State {
    pub dtype: GgmlType,
    cols: usize,
    row_bytes: usize,
    bytes: Mutex<Vec<u8>>,
}

impl State {
    /// Row `row` as f32. The lock is held for one row only: keys and values may share a cache.
    pub(crate) fn read(&self, row: usize) -> Result<Vec<f32>, DeviceError> {
        let bytes = self.bytes.lock().map_err(|_| poisoned())?;
        let mut values = vec![0.0; self.cols];
        let place = &bytes[row * self.row_bytes..][..self.row_bytes];
        read_row(self.dtype, place, &mut values)?;
        Ok(values)
    }

    /// Replaces row `row`, converted to the state's type.
    pub(crate) fn write(&self, row: usize, values: &[f32]) -> Result<(), DeviceError> {
        let mut bytes = self.bytes.lock().map_err(|_| poisoned())?;
        let place = &mut bytes[row * self.row_bytes..][..self.row_bytes];
        zinc_quant::quantize(self.dtype, values, place)
            .map_err(|error| DeviceError::Lost { device: NAME.into(), reason: error.to_string() })
    }
}

fn poisoned() -> DeviceError {
    DeviceError::Lost { device: NAME.into(), reason: "a cache was left half written".into() }
}

/// A model's caches by name.
pub(crate) struct StateStore {
    /// In the order of the plan.
    states: Vec<Arc<State>>,
    layout: StateLayout,
}

impl StateStore {
    pub(crate) fn new(plan: &Plan) -> Result<Self, DeviceError> {
        let mut states = Vec::new();
        for (id, tensor) in plan.tensors_where(|tensor| tensor.kind == TensorKind::State) {
            let needed = plan.max_bytes(id);
            let mut bytes = Vec::new();
            let len = usize::try_from(needed).unwrap_or(usize::MAX);
            bytes.try_reserve_exact(len).map_err(|_| DeviceError::OutOfMemory {
                device: NAME.into(),
                what: format!("cache {}", tensor.name),
                needed,
                available: 0,
            })?;
            bytes.resize(len, 0);
            let state = State {
                dtype: tensor.dtype,
                cols: tensor.shape.cols as usize,
                row_bytes: tensor.row_bytes(),
                bytes: Mutex::new(bytes),
            };
            states.push(Arc::new(state));
        }
        Ok(Self { states, layout: StateLayout::of(plan) })
    }

    /// As [`zinc_backend::StateAccess::read_rows`].
    pub(crate) fn read_rows(
        &self,
        dim: Dim,
        rows: Range<u32>,
        out: &mut Vec<u8>,
    ) -> Result<(), DeviceError> {
        for (idx, range) in self.layout.ranges(dim, &rows)? {
            let held = self.states[idx].bytes.lock().map_err(|_| poisoned())?;
            out.extend_from_slice(&held[range]);
        }
        Ok(())
    }

    /// As [`zinc_backend::StateAccess::write_rows`].
    pub(crate) fn write_rows(
        &self,
        dim: Dim,
        rows: Range<u32>,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        for StatePart { idx, range, bytes } in self.layout.parts(dim, &rows, bytes)? {
            let mut held = self.states[idx].bytes.lock().map_err(|_| poisoned())?;
            held[range].copy_from_slice(bytes);
        }
        Ok(())
    }

    /// The cache that `plan` calls `id`, if it is large enough.
    pub(crate) fn bind(&self, plan: &Plan, id: TensorId) -> Result<Arc<State>, DeviceError> {
        let tensor = plan.tensor(id);
        let binding = |reason: &str| DeviceError::Binding {
            name: tensor.name.clone(),
            reason: reason.into(),
        };
        let state = self.layout.find(&tensor.name).and_then(|idx| self.states.get(idx));
        let state = state.ok_or_else(|| binding("is not allocated"))?;
        let len = state.bytes.lock().map_err(|_| binding("is poisoned"))?.len() as u64;
        if state.dtype != tensor.dtype || len != plan.max_bytes(id) {
            return Err(binding("has another type or size than the plan says"));
        }
        Ok(state.clone())
    }
}
