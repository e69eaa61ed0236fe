//! Where rows of states lie.

use std::collections::HashMap;
use std::ops::Range;

use zinc_plan::{Dim, Plan, TensorKind};

use crate::DeviceError;

/// The states of a plan in its order, for a device's [`StateAccess`](crate::StateAccess).
#[derive(Clone, Debug, Default)]
pub struct StateLayout {
    states: Vec<StateRows>,
    by_name: HashMap<String, usize>,
}

#[derive(Clone, Debug)]
struct StateRows {
    name: String,
    dim: Dim,
    row_bytes: usize,
    n_rows: u64,
}

/// Bytes for rows of one state.
#[derive(Clone, Debug)]
pub struct StatePart<'a> {
    /// Its place in the plan's order.
    pub idx: usize,
    /// Where in the state they belong.
    pub range: Range<usize>,
    /// What belongs there.
    pub bytes: &'a [u8],
}

impl StateLayout {
    /// That of the states which `plan` names.
    pub fn of(plan: &Plan) -> StateLayout {
        let states = plan.tensors_where(|tensor| tensor.kind == TensorKind::State);
        let rows = states.map(|(_, tensor)| StateRows {
            name: tensor.name.clone(),
            dim: tensor.shape.rows,
            row_bytes: tensor.row_bytes(),
            n_rows: plan.limits.bound(tensor.shape.rows),
        });
        let states: Vec<_> = rows.collect();
        let names = states.iter().enumerate().map(|(idx, state)| (state.name.clone(), idx));
        StateLayout { by_name: names.collect(), states }
    }

    /// The place of the state called `name`.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The states whose rows are `dim`, by their place in the plan's order, with the bytes of `rows` in each.
    ///
    /// # Errors
    /// [`DeviceError::Binding`] for rows outside a state.
    pub fn ranges(
        &self,
        dim: Dim,
        rows: &Range<u32>,
    ) -> Result<Vec<(usize, Range<usize>)>, DeviceError> {
        let of_dim = self.states.iter().enumerate().filter(|(_, state)| state.dim == dim);
        let range = |(idx, state): (usize, &StateRows)| {
            if rows.start > rows.end || u64::from(rows.end) > state.n_rows {
                let reason = format!("has {} rows, {rows:?} are asked for", state.n_rows);
                return Err(DeviceError::Binding { name: state.name.clone(), reason });
            }
            let bytes = |row: u32| row as usize * state.row_bytes;
            Ok((idx, bytes(rows.start)..bytes(rows.end)))
        };
        of_dim.map(range).collect()
    }

    /// As [`StateLayout::ranges`], with the part of `bytes` that belongs to each state.
    ///
    /// # Errors
    /// As there; [`DeviceError::Binding`] if `bytes` are not as many as those rows have.
    pub fn parts<'a>(
        &self,
        dim: Dim,
        rows: &Range<u32>,
        bytes: &'a [u8],
    ) -> Result<Vec<StatePart<'a>>, DeviceError> {
        let ranges = self.ranges(dim, rows)?;
        let n_needed: usize = ranges.iter().map(|(_, range)| range.len()).sum();
        if n_needed != bytes.len() {
            let reason = format!("{} bytes for rows of {n_needed}", bytes.len());
            return Err(DeviceError::Binding { name: format!("{dim:?}"), reason });
        }
        let mut rest = bytes;
        let part = |(idx, range): (usize, Range<usize>)| {
            let (bytes, others) = rest.split_at(range.len());
            rest = others;
            StatePart { idx, range, bytes }
        };
        Ok(ranges.into_iter().map(part).collect())
    }
}
