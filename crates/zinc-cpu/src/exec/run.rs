//! The tasks of each node: how a node is split, and which kernel a task calls.
//!
//! Every access to shared rows below rests on one argument. The plan's barriers separate each node from all earlier
//! ones that write what it reads or touch what it writes, and concurrent nodes have disjoint results; tasks of one
//! node write disjoint rows (or, for products, attention and recurrences, disjoint columns of a row). `exec` keeps the memory
//! alive, and `states.turn` keeps other executables away from the states. The `SAFETY` comments call this *the plan*.

mod attention;
mod experts;
mod product;
mod recurrent;
mod rows;

use super::{CpuExecutable, Scratch, Tile};
use crate::lower::{Kind, Operand, Step};
use crate::memory::Rows;
use zinc_quant::{dequantize, quantize};

pub(super) use attention::heads_per_task;
pub(super) use product::Places;
pub(super) use recurrent::RecurrentScratch;

impl CpuExecutable {
    /// Number of tasks of a step of the present size.
    pub(super) fn n_tasks(&self, step: &Step) -> usize {
        let n_rows = self.sizes.rows(step.rows, &self.plan);
        match &step.kind {
            Kind::Product(product) => self.product_tasks(product, n_rows),
            Kind::Attention(attention) => self.attention_tasks(&attention.attention),
            Kind::Conv(conv) => self.conv_tasks(conv),
            Kind::DeltaNet(delta) => self.delta_tasks(&delta.net),
            Kind::Row(_) | Kind::Embed { .. } | Kind::KvWrite { .. } | Kind::Router(_) => n_rows,
        }
    }

    /// Runs task `task` of a step; for most kinds that is one row.
    pub(super) fn task(&self, step: &Step, task: usize, scratch: &mut Scratch) {
        let n_rows = self.sizes.rows(step.rows, &self.plan);
        match &step.kind {
            Kind::Router(router) => self.route(router, n_rows, task, scratch),
            Kind::Product(product) => self.product_task(product, n_rows, task, scratch),
            Kind::Attention(attention) => self.attention_task(attention, task, scratch),
            Kind::Conv(conv) => self.conv_task(conv, task, &mut scratch.recurrent),
            Kind::DeltaNet(delta) => self.delta_task(delta, task, &mut scratch.recurrent),
            Kind::Embed { table, ids, scale, out } => self.embed(table, *ids, *scale, *out, task),
            Kind::KvWrite { values, slots, caches } => self.kv_write(values, *slots, caches, task),
            Kind::Row(op) => self.row(op, task),
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
}
