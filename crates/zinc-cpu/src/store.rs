//! Weights where the file is mapped, and states in memory of their own.

use crate::NAME;
use crate::memory::{AlignedBytes, Buffer, Quiet, Rows};
use bytes::Bytes;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use zinc_backend::{DeviceError, WeightSource};
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
    dim: Dim,
    dtype: GgmlType,
    row_bytes: usize,
    n_rows: usize,
    buffer: Buffer,
}

/// A model's states by name.
pub(crate) struct StateStore {
    by_name: HashMap<String, State>,
    /// Names in the order of the plan.
    names: Vec<String>,
    /// Held during a step: executables that share states take turns.
    pub turn: Mutex<()>,
}

impl StateStore {
    pub(crate) fn new(plan: &Plan, available: u64) -> Result<StateStore, DeviceError> {
        let (mut by_name, mut names) = (HashMap::new(), Vec::new());
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
            let (dim, dtype, row_bytes) = (tensor.shape.rows, tensor.dtype, tensor.row_bytes());
            let state = State { dim, dtype, row_bytes, n_rows, buffer };
            by_name.insert(tensor.name.clone(), state);
            names.push(tensor.name.clone());
        }
        Ok(StateStore { by_name, names, turn: Mutex::new(()) })
    }

    /// States whose rows are `dim`, in the order of the plan, with the bytes of `rows` in each.
    fn ranges(
        &self,
        dim: Dim,
        rows: &Range<u32>,
    ) -> Result<Vec<(&State, Range<usize>)>, DeviceError> {
        let states = self.names.iter().filter_map(|name| Some((name, self.by_name.get(name)?)));
        let range = |(name, state): (&String, &'_ State)| {
            if rows.start > rows.end || rows.end as usize > state.n_rows {
                let reason = format!("has {} rows, {rows:?} are asked for", state.n_rows);
                return Err(DeviceError::Binding { name: name.clone(), reason });
            }
            let bytes = |row: u32| row as usize * state.row_bytes;
            Ok(bytes(rows.start)..bytes(rows.end))
        };
        let states = states.filter(|(_, state)| state.dim == dim);
        states.map(|(name, state)| Ok((state, range((name, state))?))).collect()
    }

    /// As [`zinc_backend::StateAccess::read_rows`].
    pub(crate) fn read_rows(
        &self,
        dim: Dim,
        rows: Range<u32>,
        out: &mut Vec<u8>,
    ) -> Result<(), DeviceError> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        for (state, range) in self.ranges(dim, &rows)? {
            out.extend_from_slice(Quiet::new(&turn, &state.buffer, range).bytes());
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
        let ranges = self.ranges(dim, &rows)?;
        let n_needed: usize = ranges.iter().map(|(_, range)| range.len()).sum();
        if n_needed != bytes.len() {
            let reason = format!("{} bytes for rows of {n_needed}", bytes.len());
            return Err(DeviceError::Binding { name: format!("{dim:?}"), reason });
        }
        let mut rest = bytes;
        for (state, range) in ranges {
            let (own, others) = rest.split_at(range.len());
            Quiet::new(&turn, &state.buffer, range).bytes_mut().copy_from_slice(own);
            rest = others;
        }
        Ok(())
    }

    /// The rows of the state that `plan` calls `id`, if it has the type and size the plan says.
    pub(crate) fn bind(&self, plan: &Plan, id: TensorId) -> Result<Rows, DeviceError> {
        let tensor = plan.tensor(id);
        let state = self
            .by_name
            .get(&tensor.name)
            .ok_or_else(|| binding(tensor, "is not among the states"))?;
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
