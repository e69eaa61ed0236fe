//! A compiled plan: one hand-over to the pool per step; inside, every worker walks the same list of nodes and takes
//! tasks from a counter of each node, and waits only where the plan has a barrier.

mod run;

use crate::NAME;
use crate::kernels::act::{self, ActBlock, ActSuper};
use crate::kernels::{attention, experts, matmul};
use crate::lower::{Lowering, Operand, Step, one_key_head};
use crate::memory::{Buffer, Plain, Rows};
use crate::pool::{Pool, Worker};
use crate::simd::Isa;
use crate::store::{StateStore, WeightStore};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use zinc_backend::{
    Bindings, DeviceError, Executable, NodeTime, Profile, Profiling, Returned, StepInputs,
    StepOutputs, StepSizes, Ticket, Weights,
};
use zinc_plan::{InputKind, Op, Plan, TensorId};
use zinc_quant::GgmlType;

/// Working memory of one worker.
struct Scratch {
    matmul: matmul::Scratch,
    /// Where the rows of a product begin, and where their results go.
    places: run::Places,
    experts: experts::Scratch,
    attention: attention::Scratch,
    /// Results of an attention task.
    attention_out: Vec<f32>,
    recurrent: run::RecurrentScratch,
}

/// Consecutive rows of one sequence that are taken together.
#[derive(Clone, Copy)]
struct Tile {
    first: usize,
    n_rows: usize,
}

/// A counter on a cache line of its own.
#[repr(align(64))]
#[derive(Default)]
struct Counter(AtomicUsize);

pub(crate) struct CpuExecutable {
    plan: Arc<Plan>,
    pool: Arc<Pool>,
    isa: Isa,
    steps: Vec<Step>,
    /// Next task of each step.
    counters: Vec<Counter>,
    /// Finished rows of each router.
    routed: Vec<Counter>,
    /// With what [`Plan::has_top_k`] says of each.
    outputs: Vec<(Operand, bool)>,
    inputs: Vec<(InputKind, Rows)>,
    tiles: Vec<Tile>,
    rows_per_tile: usize,
    /// All rows of each sequence.
    runs: Vec<Tile>,
    /// Blocks of keys of the longest sequence of the step.
    n_key_blocks: usize,
    /// Tokens times blocks of keys up to which the keys of one head may be split among threads.
    split_blocks: usize,
    /// Results of split keys, one row for each tile and part of the heads.
    parts: Rows,
    /// Finished tasks of each such row.
    arrived: Vec<Counter>,
    scratch: Vec<Mutex<Scratch>>,
    sizes: StepSizes,
    /// Of the latest step: see [`StepInputs::whole_rows`].
    whole_rows: Vec<i32>,
    n_steps: u64,
    profiling: Profiling,
    /// When the newest step began.
    begin: Instant,
    /// Nanoseconds from there to the end of each of `steps`, when they are timed; 0 if it had nothing to do.
    ends: Vec<AtomicU64>,
    states: Arc<StateStore>,
    // Kept alive for the addresses in `steps` and `inputs`.
    _weights: Weights,
    _buffers: Vec<Buffer>,
}

impl CpuExecutable {
    pub(crate) fn new(
        plan: Arc<Plan>,
        bind: &Bindings<'_>,
        pool: Arc<Pool>,
        isa: Isa,
    ) -> Result<CpuExecutable, DeviceError> {
        let refuse =
            |reason: &str| DeviceError::Plan { plan: plan.name.clone(), reason: reason.into() };
        let weights = bind.weights.0.downcast_ref::<WeightStore>();
        let weights = weights.ok_or_else(|| refuse("bound to weights of another device"))?;
        let states = Arc::clone(&bind.states.0).downcast::<StateStore>();
        let states = states.map_err(|_| refuse("bound to states of another device"))?;
        let memory = plan
            .memory
            .as_ref()
            .ok_or_else(|| refuse("is not prepared: it has no memory layout"))?;
        let arena = new_buffer("activations", memory.arena_bytes)?;
        let (input_buffer, inputs) = input_buffer(&plan)?;
        let mut lowering = Lowering::new(&plan, weights, &states, &arena, &inputs);
        let steps = lowering.steps()?;
        let output = |id: &TensorId| Ok((lowering.operand(*id)?, plan.has_top_k(*id)));
        let outputs = plan.outputs.iter().map(output).collect::<Result<Vec<_>, _>>()?;
        let n_routers = lowering.n_routers();
        let mut buffers = lowering.buffers;
        buffers.extend([arena, input_buffer]);
        let (k_dim, v_dim, heads) = attention_limits(&plan);
        let split = SplitKeys::new(&plan, pool.n_threads(), v_dim, heads)?;
        let parts = split.rows();
        let (split_blocks, n_jobs) = (split.n_blocks, split.n_jobs);
        buffers.push(split.buffer);
        let new_scratch = || {
            let attention = attention::Scratch::new(k_dim, v_dim);
            let attention_out = vec![0.0; attention::MAX_COLUMNS * v_dim];
            Mutex::new(Scratch {
                matmul: matmul::Scratch::new(),
                places: run::Places::new(),
                experts: experts::Scratch::new(most_experts(&plan)),
                attention,
                attention_out,
                recurrent: run::RecurrentScratch::new(&plan),
            })
        };
        Ok(CpuExecutable {
            counters: steps.iter().map(|_| Counter::default()).collect(),
            scratch: (0..pool.n_threads()).map(|_| new_scratch()).collect(),
            tiles: Vec::with_capacity(plan.limits.max_tokens as usize),
            runs: Vec::with_capacity(plan.limits.max_seqs as usize),
            rows_per_tile: (attention::MAX_COLUMNS / heads).max(1),
            n_key_blocks: 0,
            split_blocks,
            parts,
            routed: (0..n_routers).map(|_| Counter::default()).collect(),
            arrived: (0..n_jobs).map(|_| Counter::default()).collect(),
            sizes: StepSizes { tokens: 0, seqs: 0, out_rows: 0 },
            whole_rows: Vec::with_capacity(plan.limits.max_out_rows as usize),
            n_steps: 0,
            profiling: Profiling::Off,
            begin: Instant::now(),
            ends: steps.iter().map(|_| AtomicU64::new(0)).collect(),
            _weights: bind.weights.clone(),
            _buffers: buffers,
            plan,
            pool,
            isa,
            steps,
            outputs,
            inputs,
            states,
        })
    }

    /// Copies the inputs to where the nodes read them, and groups the rows for attention.
    fn load(&mut self, inputs: &StepInputs) {
        fn copy<T: Plain>(from: &[T], rows: &Rows) {
            let per_row = rows.row_bytes / size_of::<T>();
            for (row, values) in from.chunks_exact(per_row).enumerate() {
                // SAFETY: the buffer belongs to this executable and no step is running: `load` has `&mut self`.
                unsafe { rows.row_mut::<T>(row) }.copy_from_slice(values);
            }
        }
        for (kind, rows) in &self.inputs {
            match kind {
                InputKind::Hidden => copy(&inputs.hidden, rows),
                kind => copy(inputs.get(*kind), rows),
            }
        }
        let last = inputs.positions.iter().max().map_or(0, |last| *last as usize);
        self.n_key_blocks = last / attention::KEY_BLOCK + 1;
        group(&inputs.seq_of, self.rows_per_tile, &mut self.tiles);
        group(&inputs.seq_of, usize::MAX, &mut self.runs);
        let finished = self.arrived.iter_mut().chain(&mut self.routed);
        for counter in self.counters.iter_mut().chain(finished) {
            *counter.0.get_mut() = 0;
        }
    }

    /// One worker's walk through the nodes.
    fn work(&self, worker: &Worker<'_>) {
        // One worker per scratch: nobody else holds the lock, and a panic leaves nothing that the next task relies on.
        let mut scratch = self.scratch[worker.idx].lock().unwrap_or_else(PoisonError::into_inner);
        let is_timed = self.profiling == Profiling::Nodes;
        for ((step, counter), end) in self.steps.iter().zip(&self.counters).zip(&self.ends) {
            // Timed nodes run one after the other.
            if (step.barrier || is_timed) && worker.barrier().is_err() {
                return;
            }
            let n_tasks = self.n_tasks(step);
            let mut n_done = 0;
            loop {
                let task = counter.0.fetch_add(1, Ordering::Relaxed);
                if task >= n_tasks {
                    break;
                }
                self.task(step, task, &mut scratch);
                n_done += 1;
            }
            // A worker that comes too late to take a task does not say when the node was done.
            if is_timed && n_done > 0 {
                let nanoseconds = self.begin.elapsed().as_nanos() as u64;
                end.fetch_max(nanoseconds, Ordering::Relaxed);
            }
        }
    }
}

impl Executable for CpuExecutable {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn submit(&mut self, inputs: &StepInputs) -> Result<Ticket, DeviceError> {
        self.sizes = inputs.check(&self.plan)?;
        self.whole_rows.clone_from(&inputs.whole_rows);
        self.load(inputs);
        if self.profiling == Profiling::Nodes {
            self.ends.iter_mut().for_each(|end| *end.get_mut() = 0);
            self.begin = Instant::now();
        }
        let exec = &*self;
        let result = {
            let _turn = exec.states.turn.lock().unwrap_or_else(PoisonError::into_inner);
            exec.pool.run(&|worker| exec.work(worker))
        };
        result.map_err(|panicked| DeviceError::Lost { device: NAME.into(), reason: panicked.0 })?;
        self.n_steps += 1;
        Ok(Ticket(self.n_steps))
    }

    fn wait(&mut self, ticket: Ticket, outputs: &mut StepOutputs) -> Result<(), DeviceError> {
        if ticket.0 != self.n_steps {
            let reason = format!("step {} is no longer held", ticket.0);
            return Err(DeviceError::Lost { device: NAME.into(), reason });
        }
        outputs.values.resize_with(self.outputs.len(), Vec::new);
        for ((id, (operand, has_top_k)), values) in
            self.plan.outputs.iter().zip(&self.outputs).zip(&mut outputs.values)
        {
            let n_rows = self.sizes.rows(self.plan.tensor(*id).shape.rows, &self.plan);
            let returned = Returned::new(*has_top_k, n_rows, &self.whole_rows);
            values.clear();
            for row in returned.spans().flatten() {
                fetch(operand, row, values);
            }
        }
        Ok(())
    }

    fn set_profiling(&mut self, what: Profiling) {
        self.profiling = what;
    }

    fn profile(&self) -> Profile {
        let n_submissions = u64::from(self.profiling != Profiling::Off);
        if self.profiling != Profiling::Nodes {
            return Profile { n_submissions, ..Profile::default() };
        }
        let mut nanoseconds = vec![0; self.plan.nodes.len()];
        let mut last = 0;
        for (step, end) in self.steps.iter().zip(&self.ends) {
            // From the end of the one before, so that no time is lost between them.
            let end = end.load(Ordering::Relaxed).max(last);
            nanoseconds[step.node] += end - last;
            last = end;
        }
        let time = |(node, time): (usize, u64)| NodeTime {
            nodes: node..node + 1,
            time: Duration::from_nanos(time),
            kernels: Vec::new(),
        };
        let nodes = nanoseconds.into_iter().enumerate().map(time).collect();
        Profile { n_submissions, n_copies: 0, nodes }
    }
}

/// Neighbouring rows of one sequence, at most `most` of them together.
fn group(seq_of: &[i32], most: usize, tiles: &mut Vec<Tile>) {
    tiles.clear();
    for (row, seq) in seq_of.iter().enumerate() {
        match tiles.last_mut() {
            Some(tile) if tile.n_rows < most && seq_of[tile.first] == *seq => tile.n_rows += 1,
            _ => tiles.push(Tile { first: row, n_rows: 1 }),
        }
    }
}

/// Appends a row of an output as f32.
fn fetch(operand: &Operand, row: usize, values: &mut Vec<f32>) {
    let append = |values: &mut Vec<f32>, d: f32, q: &[i32]| {
        values.extend(act::values(q).map(|q| f32::from(q) * d));
    };
    // SAFETY (all arms): the arena lives as long as the executable, and no step runs while `wait` has `&mut self`.
    match operand.dtype {
        GgmlType::Q8_K => {
            // SAFETY: as above.
            let blocks = unsafe { operand.rows.row::<ActSuper>(row) };
            blocks.iter().for_each(|block| append(values, block.d, &block.q));
        }
        GgmlType::Q8_1 => {
            // SAFETY: as above.
            let blocks = unsafe { operand.rows.row::<ActBlock>(row) };
            blocks.iter().for_each(|block| append(values, block.d(), &block.q));
        }
        GgmlType::I32 => {
            // SAFETY: as above.
            let ids = unsafe { operand.rows.row::<i32>(row) };
            values.extend(ids.iter().map(|id| *id as f32));
        }
        // SAFETY: as above.
        _ => values.extend_from_slice(unsafe { operand.rows.row::<f32>(row) }),
    }
}

fn new_buffer(what: &str, needed: u64) -> Result<Buffer, DeviceError> {
    usize::try_from(needed).ok().and_then(Buffer::new).ok_or_else(|| DeviceError::OutOfMemory {
        device: NAME.into(),
        what: what.into(),
        needed,
        available: crate::machine::memory().1,
    })
}

/// Most rows of an input that the plan reads, and bytes of a row.
fn input_size(plan: &Plan, kind: InputKind) -> (usize, usize) {
    let shape = kind.shape(&plan.limits);
    // The model's width of hidden states is in their tensor. All others follow from the limits, which an estimate
    // changes and tensors do not.
    let hidden = (kind == InputKind::Hidden).then(|| plan.find(kind.name())).flatten();
    let cols = hidden.map_or(shape.cols, |id| plan.tensor(id).shape.cols);
    // Ids are i32 and hidden states f32.
    (plan.limits.bound(shape.rows) as usize, cols as usize * size_of::<i32>())
}

/// One buffer for the inputs that the plan reads, at their largest size.
fn input_buffer(plan: &Plan) -> Result<(Buffer, Vec<(InputKind, Rows)>), DeviceError> {
    let bytes_of = |kind: InputKind| {
        let (n_rows, row_bytes) = input_size(plan, kind);
        (n_rows * row_bytes).next_multiple_of(64)
    };
    let kinds = plan.inputs();
    let total: usize = kinds.iter().copied().map(bytes_of).sum();
    let buffer = new_buffer("step inputs", total as u64)?;
    let mut inputs = Vec::new();
    let mut offset = 0;
    for kind in kinds {
        let (n_rows, row_bytes) = input_size(plan, kind);
        inputs.push((kind, buffer.rows(offset, n_rows, row_bytes, row_bytes)));
        offset += bytes_of(kind);
    }
    Ok((buffer, inputs))
}

/// Room for the results of attention when the keys of one head are split among threads.
struct SplitKeys {
    buffer: Buffer,
    /// Blocks of keys, times tokens, that fit one row.
    n_blocks: usize,
    /// Rows: jobs are only split when there are fewer of them than threads.
    n_jobs: usize,
    row_bytes: usize,
}

impl SplitKeys {
    fn new(
        plan: &Plan,
        n_threads: usize,
        v_dim: usize,
        heads: usize,
    ) -> Result<SplitKeys, DeviceError> {
        let (n_blocks, row_bytes, n_jobs) = SplitKeys::sizes(plan, n_threads, v_dim, heads);
        let buffer = new_buffer("attention", row_bytes.saturating_mul(n_jobs) as u64)?;
        Ok(SplitKeys { buffer, n_blocks, n_jobs, row_bytes })
    }

    /// Blocks that fit one row, bytes of a row, and number of rows.
    fn sizes(plan: &Plan, n_threads: usize, v_dim: usize, heads: usize) -> (usize, usize, usize) {
        let keys = u64::from(plan.limits.pages_per_seq) * u64::from(plan.limits.page_size);
        let n_blocks = usize::try_from(keys).unwrap_or(usize::MAX).div_ceil(attention::KEY_BLOCK);
        let vectors = n_blocks.saturating_mul(heads * (1 + v_dim.div_ceil(16)));
        let row_bytes = vectors.saturating_mul(size_of::<[f32; 16]>());
        // One thread never splits, and a plan without attention needs nothing.
        let n_jobs = if v_dim == 0 { 0 } else { n_threads - 1 };
        (n_blocks, row_bytes, n_jobs)
    }

    fn rows(&self) -> Rows {
        self.buffer.rows(0, self.n_jobs, self.row_bytes, self.row_bytes)
    }
}

/// Bytes that grow with the context, besides the arena: page tables, and room for split keys.
pub(crate) fn scratch_need(plan: &Plan, n_threads: usize) -> u64 {
    let (_, v_dim, heads) = attention_limits(plan);
    let (_, row_bytes, n_jobs) = SplitKeys::sizes(plan, n_threads, v_dim, heads);
    let inputs = plan.inputs().into_iter().map(|kind| input_size(plan, kind));
    let input_bytes = inputs.map(|(n_rows, row_bytes)| n_rows as u64 * row_bytes as u64);
    input_bytes.sum::<u64>().saturating_add(row_bytes.saturating_mul(n_jobs) as u64)
}

/// Largest part of a key head, largest value head, and query heads of one task, over all attention nodes.
fn attention_limits(plan: &Plan) -> (usize, usize, usize) {
    let mut limits = (0, 0, 1);
    for node in &plan.nodes {
        let (attention, rope_dim) = match node.op {
            Op::Attention(attention) => (attention, 0),
            Op::LatentAttention(latent) => (one_key_head(&latent), latent.rope_dim),
            _ => continue,
        };
        limits.0 = limits.0.max(attention.k_dim.max(rope_dim) as usize);
        limits.1 = limits.1.max(attention.v_dim as usize);
        limits.2 = limits.2.max(run::heads_per_task(&attention));
    }
    limits
}

/// Experts of the largest router.
fn most_experts(plan: &Plan) -> usize {
    let routers = plan.nodes.iter().filter(|node| matches!(node.op, Op::RouterTopK(_)));
    routers.map(|node| plan.tensor(node.reads[0]).shape.cols as usize).max().unwrap_or(0)
}
