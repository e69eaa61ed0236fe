//! Attention: a task is some heads of a tile of rows, or a part of their keys.

use super::{CpuExecutable, Scratch};
use crate::kernels::attention::{AttentionTask, Keys, MAX_COLUMNS, Tile, Work};
use crate::kernels::cache::Cache;
use crate::lower::{AttentionStep, Operand};
use crate::memory::Rows;
use std::sync::atomic::Ordering;
use zinc_plan::Attention;
use zinc_quant::GgmlType;

/// Query heads of one group that a task takes together.
pub(in crate::exec) fn heads_per_task(attention: &Attention) -> usize {
    ((attention.n_heads / attention.n_kv_heads) as usize).min(MAX_COLUMNS)
}

/// Tasks of one tile: each group of heads in parts of [`heads_per_task`].
fn tasks_per_tile(attention: &Attention) -> usize {
    let group = (attention.n_heads / attention.n_kv_heads) as usize;
    attention.n_kv_heads as usize * group.div_ceil(heads_per_task(attention))
}

impl CpuExecutable {
    /// How many tasks share the keys of one tile and head: one, unless there are fewer of those than threads.
    fn key_splits(&self, attention: &Attention) -> usize {
        let n_jobs = self.tiles.len() * tasks_per_tile(attention);
        let wanted = self.pool.n_threads().div_ceil(n_jobs.max(1));
        if wanted == 1 || self.n_key_blocks * self.sizes.tokens > self.split_blocks {
            return 1;
        }
        wanted.min(self.n_key_blocks)
    }

    /// Tasks of a step of the present size.
    pub(super) fn attention_tasks(&self, attention: &Attention) -> usize {
        self.tiles.len() * tasks_per_tile(attention) * self.key_splits(attention)
    }

    pub(super) fn attention_task(&self, step: &AttentionStep, task: usize, scratch: &mut Scratch) {
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
            let keys = |q: &Rows, cache: &Operand, dim: usize| {
                let q_stride = q.stride / size_of::<f32>();
                let q = &q.span::<f32>(rows.first + rows.n_rows)[rows.first * q_stride..];
                Keys { q, q_stride, cache: open_cache(cache), dim }
            };
            Tile {
                attention,
                first_head,
                n_heads,
                k: keys(&step.q, &step.k, attention.k_dim as usize),
                k_rope: step.rope.map(|(q, cache)| keys(&q, &cache, cache.cols)),
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

/// # Safety
/// No step writes the cache meanwhile.
unsafe fn open_cache<'a>(operand: &Operand) -> Cache<'a> {
    // SAFETY: as the function demands.
    unsafe {
        match operand.dtype {
            GgmlType::F32 => Cache::F32(operand.rows.all()),
            GgmlType::F16 => Cache::F16(operand.rows.all()),
            GgmlType::BF16 => Cache::BF16(operand.rows.all()),
            GgmlType::F8_E4M3 => Cache::F8(operand.rows.all()),
            GgmlType::Q4_0 => Cache::Q4_0(operand.rows.all()),
            _ => Cache::Q8_0(operand.rows.all()),
        }
    }
}
