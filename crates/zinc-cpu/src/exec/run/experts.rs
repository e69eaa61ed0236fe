//! The choice of experts: a task is a row, and the last one to finish orders the work that follows from the choices.

use super::CpuExecutable;
use crate::exec::Scratch;
use crate::kernels::experts::{group_by_expert, route};
use crate::kernels::matmul::MAX_ROWS;
use crate::lower::RouterStep;
use std::sync::atomic::Ordering;

impl CpuExecutable {
    pub(super) fn route(
        &self,
        step: &RouterStep,
        n_rows: usize,
        row: usize,
        scratch: &mut Scratch,
    ) {
        // SAFETY: the plan; a task owns row `row` of the results.
        unsafe {
            let bias = step.bias.map(|bias| bias.row(0));
            let chosen = (step.ids.row_mut(row), step.weights.row_mut(row));
            route(&step.router, step.logits.row(row), bias, &mut scratch.experts, chosen);
        }
        let finished = &self.routed[step.idx].0;
        if finished.fetch_add(1, Ordering::AcqRel) + 1 == n_rows {
            self.group(step, n_rows);
        }
    }

    /// Called by one task, when all rows of the router are finished.
    fn group(&self, step: &RouterStep, n_rows: usize) {
        let (grouping, n_slots) = (step.grouping, step.grouping.n_slots);
        // SAFETY: all ids are written, seen through `routed`; the grouping is the router's own, and its readers come
        // after a barrier, because they read the ids as well.
        unsafe {
            let id = |pair: usize| step.ids.row::<i32>(pair / n_slots)[pair % n_slots];
            let pairs = grouping.pairs.cols_mut(0, 0..n_rows * n_slots);
            let (counts, chunks) = (grouping.counts.row_mut(0), grouping.chunks.row_mut(0));
            let n_chunks = group_by_expert(id, counts, pairs, chunks, MAX_ROWS);
            grouping.n_chunks.row_mut::<i32>(0)[0] = n_chunks as i32;
        }
    }
}
