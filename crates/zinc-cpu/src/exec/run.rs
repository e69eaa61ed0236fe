//! The tasks of each node: how a node is split, and which kernel a task calls.
//!
//! Every access to shared rows below rests on one argument. The plan's barriers separate each node from all earlier
//! ones that write what it reads or touch what it writes, and concurrent nodes have disjoint results; tasks of one
//! node write disjoint rows (or, for products and attention, disjoint columns of a row). `exec` keeps the memory
//! alive, and `states.turn` keeps other executables away from the states. The `SAFETY` comments call this *the plan*.

use super::{CpuExecutable, Scratch};
use crate::kernels::act::{ActBlock, ActSuper, QuantizeBlocks, QuantizeSupers};
use crate::kernels::attention::{AttentionTask, Keys, MAX_COLUMNS, Tile, Work};
use crate::kernels::cache::Cache;
use crate::kernels::elementwise::{Add, GatedAct, RmsNorm, Rope, rope_turns};
use crate::kernels::matmul::{Activations, MAX_ROWS, MatMulTask};
use crate::kernels::panel::{ROWS, WeightRows};
use crate::lower::{AttentionStep, Kind, Operand, Product, Step};
use crate::memory::Rows;
use std::sync::atomic::Ordering;
use zinc_plan::Attention;
use zinc_quant::{GgmlType, dequantize, quantize};

/// Query heads of one group that a task takes together.
pub(super) fn heads_per_task(attention: &Attention) -> usize {
    ((attention.n_heads / attention.n_kv_heads) as usize).min(MAX_COLUMNS)
}

/// Tasks of one tile: each group of heads in parts of [`heads_per_task`].
fn tasks_per_tile(attention: &Attention) -> usize {
    let group = (attention.n_heads / attention.n_kv_heads) as usize;
    attention.n_kv_heads as usize * group.div_ceil(heads_per_task(attention))
}

impl CpuExecutable {
    /// Number of tasks of a step of the present size.
    pub(super) fn n_tasks(&self, step: &Step) -> usize {
        let n_rows = self.sizes.rows(step.rows, &self.plan);
        match &step.kind {
            Kind::MatMul(product) => {
                n_rows.div_ceil(MAX_ROWS)
                    * product.n_out.div_ceil(ROWS).div_ceil(product.panels_per_task)
            }
            Kind::Attention(attention) => {
                self.tiles.len()
                    * tasks_per_tile(&attention.attention)
                    * self.key_splits(&attention.attention)
            }
            _ => n_rows,
        }
    }

    /// Runs task `task` of a step; for most kinds that is one row.
    pub(super) fn task(&self, step: &Step, task: usize, scratch: &mut Scratch) {
        match &step.kind {
            Kind::MatMul(product) => self.product_task(step, product, task, scratch),
            Kind::Attention(attention) => self.attention_task(attention, task, scratch),
            Kind::Embed { table, ids, scale, out } => self.embed(table, *ids, *scale, *out, task),
            Kind::KvWrite { values, slots, caches } => self.kv_write(values, *slots, caches, task),
            kind => self.row(kind, task),
        }
    }

    /// One row of an operation on f32 rows.
    fn row(&self, kind: &Kind, row: usize) {
        // All arms: a task owns row `row` of the result.
        // SAFETY: the plan.
        unsafe {
            match *kind {
                Kind::GatherRows { x, rows, out } => {
                    let from = rows.row::<i32>(row)[0] as usize;
                    out.row_mut::<f32>(row).copy_from_slice(x.row(from));
                }
                Kind::Add { a, b, out } => {
                    self.isa.run(Add { a: a.row(row), b: b.row(row), out: out.row_mut(row) });
                }
                Kind::GatedAct { act, gate, up, out } => {
                    self.isa.run(GatedAct {
                        act,
                        gate: gate.row(row),
                        up: up.row(row),
                        out: out.row_mut(row),
                    });
                }
                Kind::RmsNorm { x, w, eps, out } => {
                    self.isa.run(RmsNorm {
                        x: x.row(row),
                        w: w.row(0),
                        eps,
                        out: out.row_mut(row),
                    });
                }
                Kind::QuantizeAct { x, dtype: GgmlType::Q8_K, out } => {
                    self.isa.run(QuantizeSupers { x: x.row(row), out: out.row_mut(row) });
                }
                Kind::QuantizeAct { x, out, .. } => {
                    self.isa.run(QuantizeBlocks { x: x.row(row), out: out.row_mut(row) });
                }
                Kind::RopeTurns { positions, variants, table, out } => {
                    let variant = variants.row::<i32>(row)[0] as usize;
                    rope_turns(positions.row::<i32>(row)[0], table.row(variant), out.row_mut(row));
                }
                Kind::Rope { mode, head_dim, x, turns, out } => {
                    let (x, turns) = (x.row(row), turns.row(row));
                    self.isa.run(Rope { mode, head_dim, x, turns, out: out.row_mut(row) });
                }
                Kind::MatMul(_)
                | Kind::Attention(_)
                | Kind::Embed { .. }
                | Kind::KvWrite { .. } => {
                    unreachable!("not an operation on f32 rows");
                }
            }
        }
    }

    fn embed(&self, table: &Operand, ids: Rows, scale: f32, out: Rows, row: usize) {
        // SAFETY: the plan; a task owns row `row` of the result.
        let (id, out) = unsafe { (ids.row::<i32>(row)[0] as usize, out.row_mut::<f32>(row)) };
        // SAFETY: weights are never written.
        let bytes = unsafe { table.rows.row::<u8>(id) };
        if let Err(error) = dequantize(table.dtype, bytes, out) {
            // Reported as a lost device, by way of the pool.
            panic!("embedding table: {error}");
        }
        if scale != 1.0 {
            out.iter_mut().for_each(|x| *x *= scale);
        }
    }

    fn kv_write(&self, values: &[Rows; 2], slots: Rows, caches: &[Operand; 2], row: usize) {
        for (values, cache) in values.iter().zip(caches) {
            // SAFETY: the plan; `StepInputs::check` keeps the slots of a step apart, so the task owns the cache row.
            let (x, out) = unsafe {
                let slot = slots.row::<i32>(row)[0] as usize;
                (values.row::<f32>(row), cache.rows.row_mut::<u8>(slot))
            };
            if let Err(error) = quantize(cache.dtype, x, out) {
                // Reported as a lost device, by way of the pool.
                panic!("key/value cache: {error}");
            }
        }
    }

    /// Tasks walk the panels first and then the next part of the rows, so that weights stream through once per part.
    fn product_task(&self, step: &Step, product: &Product, task: usize, scratch: &mut Scratch) {
        let n_rows = self.sizes.rows(step.rows, &self.plan);
        let n_panels = product.n_out.div_ceil(ROWS);
        let tasks_per_part = n_panels.div_ceil(product.panels_per_task);
        let first = task / tasks_per_part * MAX_ROWS;
        let first_panel = task % tasks_per_part * product.panels_per_task;
        // SAFETY: the plan.
        let x = unsafe {
            match product.x.dtype {
                GgmlType::Q8_K => Activations::Supers(product.x.rows.span::<ActSuper>(n_rows)),
                GgmlType::Q8_1 => Activations::Blocks(product.x.rows.span::<ActBlock>(n_rows)),
                _ => {
                    let stride = product.x.rows.stride / size_of::<f32>();
                    Activations::F32 { data: product.x.rows.span(n_rows), stride }
                }
            }
        };
        for panel in first_panel..n_panels.min(first_panel + product.panels_per_task) {
            let outs = panel * ROWS..product.n_out.min((panel + 1) * ROWS);
            let n_here = MAX_ROWS.min(n_rows - first);
            self.isa.run(MatMulTask {
                weights: weight_rows(&product.weight, outs.clone()),
                up: product.up.as_ref().map(|(up, act)| (weight_rows(up, outs.clone()), *act)),
                x,
                n_in: product.x.cols,
                first,
                n_rows: n_here,
                scratch: &mut scratch.matmul,
            });
            for (row, acc) in (first..).zip(&scratch.matmul.acc[..n_here]) {
                store_product(product, row, outs.clone(), acc);
            }
        }
    }

    /// How many tasks share the keys of one tile and head: one, unless there are fewer of those than threads.
    fn key_splits(&self, attention: &Attention) -> usize {
        let n_jobs = self.tiles.len() * tasks_per_tile(attention);
        let wanted = self.pool.n_threads().div_ceil(n_jobs.max(1));
        if wanted == 1 || self.n_key_blocks * self.sizes.tokens > self.split_blocks {
            return 1;
        }
        wanted.min(self.n_key_blocks)
    }

    fn attention_task(&self, step: &AttentionStep, task: usize, scratch: &mut Scratch) {
        let attention = step.attention;
        let n_jobs = self.tiles.len() * tasks_per_tile(&attention);
        let (job, split, n_splits) = (task % n_jobs, task / n_jobs, self.key_splits(&attention));
        // Neighbouring tasks share a head, and so its part of the cache.
        let (rows, part) = (self.tiles[job % self.tiles.len()], job / self.tiles.len());
        let mut positions = [0; MAX_COLUMNS];
        let tile = self.tile(step, rows, part, &mut positions);
        let out =
            &mut scratch.attention_out[..rows.n_rows * tile.n_heads * attention.v_dim as usize];
        let mut attend = |work| {
            let scratch = &mut scratch.attention;
            self.isa.run(AttentionTask { tile, scratch, work });
        };
        if n_splits == 1 {
            attend(Work::Whole { out: &mut *out });
            return store_heads(step, rows, &tile, out);
        }
        let blocks = tile.blocks();
        let cut = |split: usize| blocks.start + blocks.len() * split / n_splits;
        let mine = cut(split)..cut(split + 1);
        let part_len = tile.part_len();
        // SAFETY: each job has a row of parts, and its tasks have disjoint blocks of it.
        let parts = unsafe {
            let first = (mine.start - blocks.start) * part_len;
            self.parts.cols_mut::<[f32; 16]>(job, first..first + mine.len() * part_len)
        };
        attend(Work::Part { blocks: mine, parts });
        // Whoever finishes last merges; the order of merging is that of the blocks.
        let arrived = &self.arrived[job].0;
        if arrived.fetch_add(1, Ordering::AcqRel) + 1 == n_splits {
            arrived.store(0, Ordering::Relaxed);
            // SAFETY: all tasks of the job have written their parts, seen through `arrived`.
            let parts = unsafe { &self.parts.row::<[f32; 16]>(job)[..blocks.len() * part_len] };
            attend(Work::Merge { parts, out: &mut *out });
            store_heads(step, rows, &tile, out);
        }
    }

    /// Operands of the heads `part` of the rows `rows`; their positions are copied to `positions`.
    fn tile<'a>(
        &self,
        step: &AttentionStep,
        rows: super::Tile,
        part: usize,
        positions: &'a mut [i32; MAX_COLUMNS],
    ) -> Tile<'a> {
        let attention = step.attention;
        let group = (attention.n_heads / attention.n_kv_heads) as usize;
        let per_task = heads_per_task(&attention);
        let parts_per_group = group.div_ceil(per_task);
        let first_head = part / parts_per_group * group + part % parts_per_group * per_task;
        let n_heads = per_task.min((first_head / group + 1) * group - first_head);
        let positions = &mut positions[..rows.n_rows];
        // SAFETY: the plan.
        unsafe {
            for (row, position) in positions.iter_mut().enumerate() {
                *position = step.positions.row::<i32>(rows.first + row)[0];
            }
            let seq = step.seq_of.row::<i32>(rows.first)[0] as usize;
            let keys = |q: &Rows, cache: &Operand, n_kv_heads: u32| {
                let q_stride = q.stride / size_of::<f32>();
                let q = &q.span::<f32>(rows.first + rows.n_rows)[rows.first * q_stride..];
                Keys { q, q_stride, cache: open_cache(cache), dim: cache.cols / n_kv_heads as usize }
            };
            Tile {
                attention,
                first_head,
                n_heads,
                k: keys(&step.q, &step.k, attention.n_kv_heads),
                k_rope: step.rope.map(|(q, cache)| keys(&q, &cache, 1)),
                v: open_cache(&step.v),
                sinks: step.sinks.map(|sinks| &sinks.row::<f32>(0)[first_head..][..n_heads]),
                positions,
                pages: step.pages.row(seq),
            }
        }
    }
}

/// Copies the results of a tile's heads to their columns.
fn store_heads(step: &AttentionStep, rows: super::Tile, tile: &Tile<'_>, out: &[f32]) {
    let v_dim = step.attention.v_dim as usize;
    let cols = tile.first_head * v_dim..(tile.first_head + tile.n_heads) * v_dim;
    for (row, out) in (rows.first..).zip(out.chunks_exact(cols.len())) {
        // SAFETY: the plan; the task owns these columns of these rows.
        unsafe { step.out.cols_mut(row, cols.clone()) }.copy_from_slice(out);
    }
}

fn weight_rows(weight: &Operand, outs: std::ops::Range<usize>) -> WeightRows<'_> {
    // SAFETY: weights are never written, and the executable keeps them.
    let data = unsafe { weight.rows.span::<u8>(outs.end) };
    let row_bytes = weight.rows.stride;
    WeightRows {
        ty: weight.dtype,
        data: &data[outs.start * row_bytes..],
        row_bytes,
        n_rows: outs.len(),
    }
}

/// Columns `outs` of row `row`: the product, plus bias, plus residual, in that order.
fn store_product(product: &Product, row: usize, outs: std::ops::Range<usize>, acc: &[f32; 16]) {
    // SAFETY: the plan; the task owns these columns of this row.
    let out = unsafe { product.out.cols_mut::<f32>(row, outs.clone()) };
    out.copy_from_slice(&acc[..outs.len()]);
    if let Some(bias) = product.bias {
        // SAFETY: weights are never written.
        let bias = unsafe { &bias.row::<f32>(0)[outs.clone()] };
        out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
    }
    if let Some(residual) = product.residual {
        // SAFETY: the plan.
        let residual = unsafe { &residual.row::<f32>(row)[outs] };
        out.iter_mut().zip(residual).for_each(|(out, residual)| *out += residual);
    }
}

/// # Safety
/// No step writes the cache meanwhile.
unsafe fn open_cache<'a>(operand: &Operand) -> Cache<'a> {
    // SAFETY: as the function demands.
    unsafe {
        match operand.dtype {
            GgmlType::F32 => Cache::F32(operand.rows.all()),
            GgmlType::F16 => Cache::F16(operand.rows.all()),
            GgmlType::BF16 => Cache::BF16(operand.rows.all()),
            GgmlType::Q4_0 => Cache::Q4_0(operand.rows.all()),
            _ => Cache::Q8_0(operand.rows.all()),
        }
    }
}
