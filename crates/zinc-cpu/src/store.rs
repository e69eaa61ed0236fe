//! Weights where the file is mapped, and states in memory of their own.

use crate::NAME;
use crate::memory::{AlignedBytes, Buffer, Quiet, Rows};
use bytes::Bytes;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use zinc_backend::{DeviceError, StateLayout, StatePart, WeightSource};
use zinc_plan::{Dim, Plan, TensorId, TensorInfo, TensorKind};
use zinc_quant::GgmlType;

fn binding(tensor: &TensorInfo, reason: impl Into<String>) -> DeviceError {
    DeviceError::Binding { name: tensor.name.clone(), reason: reason.into() }
}

/// Whether a weight cannot be read where the file is mapped.
pub(crate) fn is_copied(source: &WeightSource) -> bool {
    source.dtype == GgmlType::F32 && !source.data.as_ptr().cast::<f32>().is_aligned()
}

/// A model's weights by name, read in place.
pub(crate) struct WeightStore {
    by_name: HashMap<String, WeightSource>,
}

impl WeightStore {
    /// Checks sizes. Only f32 tensors that do not lie on a multiple of four bytes are copied.
    pub(crate) fn new(
        sources: Vec<WeightSource>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<WeightStore, DeviceError> {
        let total = sources.iter().map(|source| source.data.len() as u64).sum();
        let mut by_name = HashMap::with_capacity(sources.len());
        let mut done = 0;
        for mut source in sources {
            let row_bytes =
                usize::try_from(source.cols).ok().and_then(|cols| source.dtype.row_bytes(cols));
            let expected = row_bytes.and_then(|bytes| (bytes as u64).checked_mul(source.rows));
            done += source.data.len() as u64;
            if expected != Some(source.data.len() as u64) {
                let reason = match expected {
                    Some(expected) => {
                        format!("has {} bytes, its shape needs {expected}", source.data.len())
                    }
                    None => format!("{} columns are no whole {} blocks", source.cols, source.dtype),
                };
                return Err(DeviceError::Binding { name: source.name, reason });
            }
            if is_copied(&source) {
                let copy = AlignedBytes::copy_of(&source.data).ok_or_else(|| {
                    DeviceError::OutOfMemory {
                        device: NAME.into(),
                        what: format!("an aligned copy of {}", source.name),
                        needed: source.data.len() as u64,
                        available: 0,
                    }
                })?;
                source.data = Bytes::from_owner(copy);
            }
            by_name.insert(source.name.clone(), source);
            progress(done, total);
        }
        Ok(WeightStore { by_name })
    }

    /// The weight that `plan` calls `id`, if its type and shape are what the plan says.
    pub(crate) fn bind(&self, plan: &Plan, id: TensorId) -> Result<&WeightSource, DeviceError> {
        let tensor = plan.tensor(id);
        let source = self
            .by_name
            .get(&tensor.name)
            .ok_or_else(|| binding(tensor, "is not among the bound weights"))?;
        let rows = plan.limits.bound(tensor.shape.rows);
        if source.dtype != tensor.dtype
            || source.rows != rows
            || source.cols != u64::from(tensor.shape.cols)
        {
            let reason = format!(
                "is {} [{}, {}], the plan says {} [{rows}, {}]",
                source.dtype, source.rows, source.cols, tensor.dtype, tensor.shape.cols
            );
            return Err(binding(tensor, reason));
        }
        Ok(source)
    }
}

/// One cache.
struct State {
    dtype: GgmlType,
    row_bytes: usize,
    n_rows: usize,
    buffer: Buffer,
}

/// A model's states by name.
pub(crate) struct StateStore {
    /// In the order of the plan.
    states: Vec<State>,
    layout: StateLayout,
    /// Held during a step: executables that share states take turns.
    pub turn: Mutex<()>,
}

impl StateStore {
    pub(crate) fn new(plan: &Plan, available: u64) -> Result<StateStore, DeviceError> {
        let mut states = Vec::new();
        for (id, tensor) in plan.tensors_where(|tensor| tensor.kind == TensorKind::State) {
            let needed = plan.max_bytes(id);
            let buffer = usize::try_from(needed).ok().and_then(Buffer::new);
            let buffer = buffer.ok_or_else(|| DeviceError::OutOfMemory {
                device: NAME.into(),
                what: format!("cache {}", tensor.name),
                needed,
                available,
            })?;
            let n_rows = plan.limits.bound(tensor.shape.rows) as usize;
            let (dtype, row_bytes) = (tensor.dtype, tensor.row_bytes());
            states.push(State { dtype, row_bytes, n_rows, buffer });
        }
        Ok(StateStore { states, layout: StateLayout::of(plan), turn: Mutex::new(()) })
    }

    /// As [`zinc_backend::StateAccess::read_rows`].
    pub(crate) fn read_rows(
        &self,
        dim: Dim,
        rows: Range<u32>,
        out: &mut Vec<u8>,
    ) -> Result<(), DeviceError> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        for (idx, range) in self.layout.ranges(dim, &rows)? {
            out.extend_from_slice(Quiet::new(&turn, &self.states[idx].buffer, range).bytes());
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
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        for StatePart { idx, range, bytes } in self.layout.parts(dim, &rows, bytes)? {
            Quiet::new(&turn, &self.states[idx].buffer, range).bytes_mut().copy_from_slice(bytes);
        }
        Ok(())
    }

    /// The rows of the state that `plan` calls `id`, if it has the type and size the plan says.
    pub(crate) fn bind(&self, plan: &Plan, id: TensorId) -> Result<Rows, DeviceError> {
        let tensor = plan.tensor(id);
        let state = self.layout.find(&tensor.name).and_then(|idx| self.states.get(idx));
        let state = state.ok_or_else(|| binding(tensor, "is not among the states"))?;
        let n_rows = plan.limits.bound(tensor.shape.rows) as usize;
        if state.dtype != tensor.dtype
            || state.row_bytes != tensor.row_bytes()
            || state.n_rows != n_rows
        {
            return Err(binding(tensor, "has another type or size than the plan says"));
        }
        Ok(state.buffer.rows(0, n_rows, state.row_bytes, state.row_bytes))
    }
}
