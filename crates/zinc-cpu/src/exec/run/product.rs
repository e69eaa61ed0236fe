//! Matrix products: a task is some panels of one matrix times a part of its rows.
//!
//! Tasks walk the panels of a part first and then the next part, so that weights stream through once per part. A part
//! is up to [`MAX_ROWS`] rows of one matrix: of all rows, of a head, or of a chosen expert.

use super::{CpuExecutable, Scratch};
use crate::kernels::act::{ActBlock, ActSuper};
use crate::kernels::experts::Chunk;
use crate::kernels::matmul::{Activations, MAX_ROWS, MatMulTask, Panels};
use crate::kernels::panel::{ROWS, WeightRows};
use crate::lower::{Grouping, Matrices, Operand, Product, StackOperand};
use crate::memory::Rows;
use std::ops::Range;
use zinc_quant::GgmlType;

/// Most panels of one task.
const MAX_PANELS: usize = 16;
/// Tasks for each thread, so that none waits long for the last.
const TASKS_PER_THREAD: usize = 8;

/// Where the rows of a part lie.
pub(in crate::exec) struct Places {
    /// Index in x of the first value or block.
    starts: Vec<usize>,
    /// Row and first column of the results.
    results: Vec<(usize, usize)>,
}

impl Places {
    pub(in crate::exec) fn new() -> Places {
        Places { starts: Vec::with_capacity(MAX_ROWS), results: Vec::with_capacity(MAX_ROWS) }
    }
}

/// Part `idx` of a product: its matrix, and the rows of x and their columns that the matrix multiplies.
#[derive(Clone, Copy)]
enum Part<'a> {
    /// Neighbouring rows; columns of head `matrix`.
    Rows { matrix: usize, first: usize, n: usize },
    /// Pairs of a row and a slot.
    Pairs { matrix: usize, pairs: &'a [i32], n_slots: usize, wide: bool },
}

impl CpuExecutable {
    pub(super) fn product_tasks(&self, product: &Product, n_rows: usize) -> usize {
        let n_parts = n_parts(product, n_rows);
        let n_panels = product.n_out.div_ceil(ROWS);
        n_parts * n_panels.div_ceil(self.panels_per_task(n_parts, n_panels))
    }

    /// Sixteen-row panels of weights that one task takes.
    fn panels_per_task(&self, n_parts: usize, n_panels: usize) -> usize {
        let n_tasks = self.pool.n_threads() * TASKS_PER_THREAD;
        (n_parts * n_panels / n_tasks).clamp(1, MAX_PANELS)
    }

    pub(super) fn product_task(
        &self,
        product: &Product,
        n_rows: usize,
        task: usize,
        scratch: &mut Scratch,
    ) {
        let n_panels = product.n_out.div_ceil(ROWS);
        let per_task = self.panels_per_task(n_parts(product, n_rows), n_panels);
        let tasks_per_part = n_panels.div_ceil(per_task);
        let part = part(product, n_rows, task / tasks_per_part);
        let (matrix, places) = (part.matrix(), &mut scratch.places);
        part.place(product, places);
        let x = activations(&product.x, n_rows);
        let first_panel = task % tasks_per_part * per_task;
        for panel in first_panel..n_panels.min(first_panel + per_task) {
            let outs = panel * ROWS..product.n_out.min((panel + 1) * ROWS);
            self.isa.run(MatMulTask {
                matrix: panels(&product.weight, matrix, outs.clone()),
                up: product.up.as_ref().map(|(up, act)| (panels(up, matrix, outs.clone()), *act)),
                x,
                n_in: product.n_in,
                starts: &places.starts,
                scratch: &mut scratch.matmul,
            });
            for ((row, col), acc) in places.results.iter().zip(&scratch.matmul.acc) {
                store(product, *row, col + outs.start..col + outs.end, acc);
            }
        }
    }
}

/// Parts of a product of `n_rows` rows.
fn n_parts(product: &Product, n_rows: usize) -> usize {
    match product.matrices {
        Matrices::One => n_rows.div_ceil(MAX_ROWS),
        Matrices::Heads(n_heads) => n_heads * n_rows.div_ceil(MAX_ROWS),
        // The router has not run: there is nothing to choose for.
        Matrices::Experts { .. } if n_rows == 0 => 0,
        // SAFETY: the plan: the router comes before a barrier.
        Matrices::Experts { grouping, .. } => unsafe {
            grouping.n_chunks.row::<i32>(0)[0] as usize
        },
    }
}

fn part<'a>(product: &Product, n_rows: usize, idx: usize) -> Part<'a> {
    match product.matrices {
        Matrices::One | Matrices::Heads(_) => {
            // The parts of one head are neighbours.
            let n_parts = n_rows.div_ceil(MAX_ROWS);
            let first = idx % n_parts * MAX_ROWS;
            Part::Rows { matrix: idx / n_parts, first, n: MAX_ROWS.min(n_rows - first) }
        }
        Matrices::Experts { grouping, wide } => {
            let Grouping { n_slots, pairs, chunks, .. } = grouping;
            // SAFETY: the plan: the router comes before a barrier.
            let (chunk, pairs) = unsafe { (chunks.row::<Chunk>(0)[idx], pairs.row::<i32>(0)) };
            let pairs = &pairs[chunk.first as usize..][..chunk.n as usize];
            Part::Pairs { matrix: chunk.expert as usize, pairs, n_slots, wide }
        }
    }
}

impl Part<'_> {
    fn matrix(self) -> usize {
        match self {
            Part::Rows { matrix, .. } | Part::Pairs { matrix, .. } => matrix,
        }
    }

    /// Fills `places`.
    fn place(self, product: &Product, places: &mut Places) {
        let (per_element, per_start) = elements(product.x.dtype);
        let row_len = product.x.rows.stride / per_start;
        let part_len = product.n_in / per_element;
        places.starts.clear();
        places.results.clear();
        let mut place = |row: usize, part: usize, slot: usize| {
            places.starts.push(row * row_len + part * part_len);
            places.results.push((row, slot * product.n_out));
        };
        match self {
            Part::Rows { matrix, first, n } => {
                (first..first + n).for_each(|row| place(row, matrix, matrix));
            }
            Part::Pairs { pairs, n_slots, wide, .. } => {
                for pair in pairs {
                    let (row, slot) = (*pair as usize / n_slots, *pair as usize % n_slots);
                    place(row, if wide { slot } else { 0 }, slot);
                }
            }
        }
    }
}

/// Values and bytes of what activations of type `dtype` consist of.
fn elements(dtype: GgmlType) -> (usize, usize) {
    match dtype {
        GgmlType::Q8_K => (256, size_of::<ActSuper>()),
        GgmlType::Q8_1 => (32, size_of::<ActBlock>()),
        _ => (1, size_of::<f32>()),
    }
}

fn activations<'a>(x: &Operand, n_rows: usize) -> Activations<'a> {
    // SAFETY: the plan.
    unsafe {
        match x.dtype {
            GgmlType::Q8_K => Activations::Supers(x.rows.span(n_rows)),
            GgmlType::Q8_1 => Activations::Blocks(x.rows.span(n_rows)),
            _ => Activations::F32(x.rows.span(n_rows)),
        }
    }
}

/// Rows `outs` of matrix `matrix`.
fn panels(stack: &StackOperand, matrix: usize, outs: Range<usize>) -> Panels<'_> {
    let rows = &stack.weight.rows;
    let first = stack.first + matrix * stack.distance;
    // SAFETY: weights are never written, and the executable keeps them.
    let data = unsafe { rows.span::<u8>(first + outs.end) };
    let row_bytes = rows.stride;
    let weights = WeightRows {
        ty: stack.weight.dtype,
        data: &data[(first + outs.start) * row_bytes..],
        row_bytes,
        n_rows: outs.len(),
    };
    // SAFETY: as above.
    let bias = |bias: Rows| unsafe { &bias.row::<f32>(matrix)[outs] };
    Panels { weights, bias: stack.bias.map(bias) }
}

/// Columns `cols` of row `row`: the product, plus residual.
fn store(product: &Product, row: usize, cols: Range<usize>, acc: &[f32; 16]) {
    // SAFETY: the plan; the task owns these columns of this row.
    let out = unsafe { product.out.cols_mut::<f32>(row, cols.clone()) };
    out.copy_from_slice(&acc[..cols.len()]);
    if let Some(residual) = product.residual {
        // SAFETY: the plan.
        let residual = unsafe { &residual.row::<f32>(row)[cols] };
        out.iter_mut().zip(residual).for_each(|(out, residual)| *out += residual);
    }
}
