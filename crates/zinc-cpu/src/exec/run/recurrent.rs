//! Operations with states: a task is some channels or columns of all rows of a sequence.
//!
//! A task reads and writes only its own columns of the states, and reads them before it writes; a sequence does not
//! read what another one writes (`StepInputs::check`).

use super::super::{CpuExecutable, Tile};
use crate::kernels::Cols;
use crate::kernels::conv::ConvRow;
use crate::kernels::delta_net::{DeltaRows, MAX_ROWS};
use crate::lower::{ConvStep, DeltaStep, Recurrence};
use crate::memory::Rows;
use std::ops::Range;
use zinc_plan::{GatedDeltaNet, HeadOrder, Op, Plan};

/// Channels of a task of the convolution.
const CHANNELS: usize = 256;

/// Working memory of one worker.
pub(in crate::exec) struct RecurrentScratch {
    /// The latest rows of the convolution's channels.
    window: Vec<f32>,
    /// Panels of a head's state.
    state: Vec<[f32; 16]>,
    /// Results of some rows.
    out: Vec<[f32; 16]>,
}

impl RecurrentScratch {
    /// Room for the nodes of `plan`.
    pub(in crate::exec) fn new(plan: &Plan) -> RecurrentScratch {
        let (mut window, mut state, mut out) = (0, 0, 0);
        for node in &plan.nodes {
            match node.op {
                Op::CausalConv1d(conv) => window = window.max(conv.kernel as usize * CHANNELS),
                Op::GatedDeltaNet(net) => {
                    let n_panels = (net.v_dim as usize).div_ceil(16);
                    state = state.max(n_panels * net.k_dim as usize);
                    out = out.max(n_panels * MAX_ROWS);
                }
                _ => (),
            }
        }
        RecurrentScratch {
            window: vec![0.0; window],
            state: vec![[0.0; 16]; state],
            out: vec![[0.0; 16]; out],
        }
    }
}

/// Where a sequence finds and leaves its state.
struct Place {
    /// None for zeros.
    from: Option<usize>,
    to: usize,
}

impl Recurrence {
    fn place(&self, rows: Tile) -> Place {
        // SAFETY: inputs are not written during a step.
        let (position, from, to) = unsafe {
            let seq = self.seq_of.row::<i32>(rows.first)[0] as usize;
            let position = self.positions.row::<i32>(rows.first)[0];
            (position, self.from.row::<i32>(seq)[0], self.to.row::<i32>(seq)[0])
        };
        Place { from: (position > 0).then_some(from as usize), to: to as usize }
    }

    /// Row for the state after row `row`, if it is wanted.
    fn save(&self, row: usize) -> Option<usize> {
        // SAFETY: inputs are not written during a step.
        let slot = unsafe { self.saves.row::<i32>(row)[0] };
        usize::try_from(slot).ok()
    }

    /// Columns of a state.
    fn load(&self, slot: usize, cols: Range<usize>) -> &[f32] {
        // SAFETY: the columns belong to the running task, which does not write while it reads them.
        unsafe { self.states.cols(slot, cols) }
    }

    /// Sets columns of a state.
    fn store(&self, slot: usize, start: usize, values: &[f32]) {
        // SAFETY: the columns belong to the running task, which holds no view of them.
        unsafe { self.states.cols_mut(slot, start..start + values.len()) }.copy_from_slice(values);
    }
}

impl CpuExecutable {
    /// Tasks of a convolution in a step of the present size.
    pub(super) fn conv_tasks(&self, step: &ConvStep) -> usize {
        self.runs.len() * step.x.cols.div_ceil(CHANNELS)
    }

    pub(super) fn conv_task(&self, step: &ConvStep, task: usize, scratch: &mut RecurrentScratch) {
        let (n_cols, recurrence) = (step.x.cols, &step.recurrence);
        let n_blocks = n_cols.div_ceil(CHANNELS);
        let (rows, start) = (self.runs[task / n_blocks], task % n_blocks * CHANNELS);
        let cols = start..n_cols.min(start + CHANNELS);
        let width = cols.len();
        let place = recurrence.place(rows);
        let window = &mut scratch.window[..step.n_taps * width];
        let n_before = (step.n_taps - 1) * width;
        for (i, row) in window[..n_before].chunks_exact_mut(width).enumerate() {
            match place.from {
                Some(slot) => {
                    let at = i * n_cols + start;
                    row.copy_from_slice(recurrence.load(slot, at..at + width));
                }
                None => row.fill(0.0),
            }
        }
        let store = |slot: usize, window: &[f32]| {
            for (i, row) in window[..n_before].chunks_exact(width).enumerate() {
                recurrence.store(slot, i * n_cols + start, row);
            }
        };
        for row in rows.first..rows.first + rows.n_rows {
            // SAFETY: the plan; the task owns these columns of the result.
            let (x, out, taps) = unsafe {
                let out = step.out.cols_mut(row, cols.clone());
                (step.x.rows.cols(row, cols.clone()), out, step.taps.span(step.n_taps))
            };
            window[n_before..].copy_from_slice(x);
            self.isa.run(ConvRow {
                taps: Cols { data: taps, stride: n_cols, first: start, len: width },
                x: Cols { data: window, stride: width, first: 0, len: width },
                out,
            });
            window.copy_within(width.., 0);
            if let Some(slot) = recurrence.save(row) {
                store(slot, window);
            }
        }
        store(place.to, window);
    }

    /// How many tasks share the columns of a head: one, unless there are few heads for the threads.
    fn delta_parts(&self, net: &GatedDeltaNet) -> usize {
        let n_jobs = self.runs.len() * net.n_v_heads as usize;
        let wanted = match self.pool.n_threads() {
            1 => 1,
            n_threads => (4 * n_threads).div_ceil(n_jobs.max(1)),
        };
        wanted.min((net.v_dim as usize).div_ceil(16))
    }

    /// Tasks of a recurrence in a step of the present size.
    pub(super) fn delta_tasks(&self, net: &GatedDeltaNet) -> usize {
        self.runs.len() * net.n_v_heads as usize * self.delta_parts(net)
    }

    pub(super) fn delta_task(&self, step: &DeltaStep, task: usize, scratch: &mut RecurrentScratch) {
        let (net, n_parts) = (&step.net, self.delta_parts(&step.net));
        let (job, part) = (task / n_parts, task % n_parts);
        let (rows, head) = (self.runs[job / net.n_v_heads as usize], job % net.n_v_heads as usize);
        let n_panels = (net.v_dim as usize).div_ceil(16);
        let cut = |part: usize| (net.v_dim as usize).min(n_panels * part / n_parts * 16);
        let head = Head { step, head, cols: cut(part)..cut(part + 1) };
        let place = step.recurrence.place(rows);
        let n_panels = head.cols.len().div_ceil(16);
        let state = &mut scratch.state[..n_panels * net.k_dim as usize];
        match place.from {
            Some(slot) => head.load(slot, state),
            None => state.fill([0.0; 16]),
        }
        let end = rows.first + rows.n_rows;
        let mut first = rows.first;
        while first < end {
            // Up to the next row whose state is wanted.
            let most = first..end.min(first + MAX_ROWS);
            let saved = most.clone().find_map(|row| Some((row, step.recurrence.save(row)?)));
            let n_rows = saved.map_or(most.end, |(row, _)| row + 1) - first;
            let out = &mut scratch.out[..n_rows * n_panels];
            self.isa.run(head.rows(first, n_rows, state, out));
            for (row, out) in (first..).zip(out.as_flattened().chunks_exact(16 * n_panels)) {
                head.store_row(row, out);
            }
            if let Some((_, slot)) = saved {
                head.store(slot, state);
            }
            first += n_rows;
        }
        head.store(place.to, state);
    }
}

/// Some columns of one value head.
struct Head<'a> {
    step: &'a DeltaStep,
    head: usize,
    cols: Range<usize>,
}

impl Head<'_> {
    /// The rows of the head's matrix, each with the columns of the state that hold its part.
    fn state_rows(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let (k_dim, v_dim) = (self.step.net.k_dim as usize, self.step.net.v_dim as usize);
        (0..k_dim).map(move |r| {
            let start = (self.head * k_dim + r) * v_dim;
            (r, start + self.cols.start..start + self.cols.end)
        })
    }

    fn load(&self, slot: usize, state: &mut [[f32; 16]]) {
        let k_dim = self.step.net.k_dim as usize;
        for (r, cols) in self.state_rows() {
            let row = self.step.recurrence.load(slot, cols);
            for (panel, values) in row.chunks(16).enumerate() {
                let vector = &mut state[panel * k_dim + r];
                vector[..values.len()].copy_from_slice(values);
                vector[values.len()..].fill(0.0);
            }
        }
    }

    fn store(&self, slot: usize, state: &[[f32; 16]]) {
        let k_dim = self.step.net.k_dim as usize;
        for (r, cols) in self.state_rows() {
            for (panel, start) in cols.clone().step_by(16).enumerate() {
                let n = 16.min(cols.end - start);
                self.step.recurrence.store(slot, start, &state[panel * k_dim + r][..n]);
            }
        }
    }

    /// Results of one row.
    fn store_row(&self, row: usize, out: &[f32]) {
        let start = self.head * self.step.net.v_dim as usize;
        let cols = start + self.cols.start..start + self.cols.end;
        let n = cols.len();
        // SAFETY: the plan; the task owns these columns of the result.
        unsafe { self.step.out.cols_mut(row, cols) }.copy_from_slice(&out[..n]);
    }

    /// The kernel's arguments for `n_rows` rows from `first` on.
    fn rows<'a>(
        &'a self,
        first: usize,
        n_rows: usize,
        state: &'a mut [[f32; 16]],
        out: &'a mut [[f32; 16]],
    ) -> DeltaRows<'a> {
        let (step, net, head) = (self.step, &self.step.net, self.head);
        let (k_dim, v_dim) = (net.k_dim as usize, net.v_dim as usize);
        let k_head = match net.order {
            HeadOrder::Grouped => head / (net.n_v_heads / net.n_k_heads) as usize,
            HeadOrder::Tiled => head % net.n_k_heads as usize,
        };
        let cols = |rows: &Rows, cols: Range<usize>| {
            let stride = rows.stride / size_of::<f32>();
            // SAFETY: the plan.
            let data = &unsafe { rows.span::<f32>(first + n_rows) }[first * stride..];
            Cols { data, stride, first: cols.start, len: cols.len() }
        };
        let keys = k_head * k_dim..(k_head + 1) * k_dim;
        let values = head * v_dim + self.cols.start..head * v_dim + self.cols.end;
        DeltaRows {
            n_rows,
            scale: net.scale,
            q: cols(&step.q, keys.clone()),
            k: cols(&step.k, keys),
            v: cols(&step.v, values),
            g: cols(&step.g, head..head + 1),
            beta: cols(&step.beta, head..head + 1),
            state,
            out,
        }
    }
}
