//! A compiled plan: steps copied in, replayed, copied out. Several may be under way.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use zinc_backend::{
    Bindings, DeviceError, Executable, NodeTime, Profile, Profiling, Returned, StepInputs,
    StepOutputs, StepSizes, Ticket,
};
use zinc_plan::{InputKind, Plan, TensorId};
use zinc_quant::GgmlType;

use crate::device::Shared;
use crate::driver::{DriverError, Event, Stream};
use crate::lower::{self, Bucket, InputLayout, Lowered, Lowering, Nowhere, Places};
use crate::measure;
use crate::memory::{DeviceBuffer, PinnedBuffer, lost};
use crate::pipeline::Ready;
use crate::record::Recording;
use crate::store::{StateStore, WeightStore};
use crate::turns::Turns;

/// Steps that may be under way, results of older ones being no longer held, and one that is queued ahead.
const N_SLOTS: usize = 4 + 1;

/// More turns than these steps may take, with one that is given up between any two; a power of two, as turns come round.
const N_TURNS: u32 = 16;

/// What the number of turns takes on the card.
const TURNS_BYTES: u64 = 256;

/// Most bytes of the inputs of a plan whose steps bring them themselves, and may be queued ahead.
const MOST_BROUGHT: u64 = 64 << 10;

/// Addresses of one executable.
struct Addresses {
    weights: Arc<WeightStore>,
    states: Arc<StateStore>,
    constants: Vec<u64>,
    arena: u64,
    inputs: u64,
    scratch: u64,
}

impl Places for Addresses {
    fn weight(&self, plan: &Plan, id: TensorId) -> Result<u64, DeviceError> {
        self.weights.bind(plan, id)
    }

    fn state(&self, plan: &Plan, id: TensorId) -> Result<u64, DeviceError> {
        self.states.bind(plan, id)
    }

    fn constant(&self, idx: u32) -> u64 {
        self.constants[idx as usize]
    }

    fn arena(&self) -> u64 {
        self.arena
    }

    fn inputs(&self) -> u64 {
        self.inputs
    }

    fn scratch(&self) -> u64 {
        self.scratch
    }
}

/// What a plan needs for its largest bucket.
pub(crate) fn needs(plan: &Plan, shared: &Shared) -> Result<Lowered, DeviceError> {
    let mut lowering = Lowering::new(plan, Bucket::largest(plan), shared.card, &Nowhere, 0);
    lowering.batch_invariant = shared.batch_invariant;
    lowering.run()
}

/// Bytes besides the arena.
pub(crate) fn scratch_need(plan: &Plan, shared: &Shared) -> u64 {
    let scratch =
        needs(plan, shared).map_or(0, |needs| needs.persistent_bytes + needs.transient_bytes);
    let constants: u64 = plan.consts.iter().map(|table| table.data.len() as u64 * 4).sum();
    scratch + constants + InputLayout::of(plan).n_bytes + TURNS_BYTES
}

/// A step under way.
struct Slot {
    outputs: PinnedBuffer,
    done: Event,
    sizes: StepSizes,
    /// See [`StepInputs::whole_rows`].
    whole_rows: Vec<i32>,
    ticket: u64,
}

/// An output on the card and in the slots.
struct Output {
    address: u64,
    row_bytes: u64,
    stride: u64,
    dtype: GgmlType,
    rows: zinc_plan::Dim,
    /// See [`Plan::has_top_k`].
    has_top_k: bool,
    /// In the pinned memory of a slot.
    at: usize,
}

pub(crate) struct CudaExecutable {
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    addresses: Addresses,
    input_layout: InputLayout,
    input_buffer: DeviceBuffer,
    persistent_bytes: u64,
    transient_bytes: u64,
    recordings: HashMap<Bucket, Recording>,
    outputs: Vec<Output>,
    slots: Vec<Slot>,
    n_steps: u64,
    turns: Turns,
    /// The newest of them that has begun, or been given up.
    turn: u32,
    /// Whether steps bring their inputs, and take turns on the card.
    brings: bool,
    /// Whether the step after the newest is queued, as one like the newest.
    is_ahead: bool,
    /// Set while a step is queued, and for good if that fails: host and card may then count turns differently.
    is_broken: bool,
    profiling: Profiling,
    profile: Profile,
    /// The kernel that launches queue up behind when they are timed.
    hold: Option<Ready>,
    _buffers: Vec<DeviceBuffer>,
}

impl CudaExecutable {
    pub(crate) fn new(
        plan: Arc<Plan>,
        bind: &Bindings<'_>,
        shared: &Arc<Shared>,
    ) -> Result<CudaExecutable, DeviceError> {
        let refuse =
            |reason: &str| DeviceError::Plan { plan: plan.name.clone(), reason: reason.into() };
        let weights = Arc::clone(&bind.weights.0).downcast::<WeightStore>();
        let weights = weights.map_err(|_| refuse("bound to weights of another device"))?;
        let states = Arc::clone(&bind.states.0).downcast::<StateStore>();
        let states = states.map_err(|_| refuse("bound to states of another device"))?;
        let memory = plan
            .memory
            .as_ref()
            .ok_or_else(|| refuse("is not prepared: it has no memory layout"))?;
        let needs = needs(&plan, shared)?;
        let new = |what: &str, n_bytes: u64| {
            DeviceBuffer::new(&shared.context, &shared.name, what, n_bytes)
        };
        let arena = new("activations", memory.arena_bytes)?;
        let input_layout = InputLayout::of(&plan);
        // Behind the inputs the number of turns.
        let input_buffer = new("step inputs", input_layout.n_bytes + TURNS_BYTES)?;
        input_buffer.zero().map_err(|error| lost(&shared.name, &error))?;
        let brings = input_layout.n_bytes <= MOST_BROUGHT;
        let n_bytes = usize::try_from(input_layout.n_bytes).unwrap_or(usize::MAX);
        let n_turns = if brings { N_TURNS } else { N_TURNS / 2 };
        let turns = Turns::new(&shared.context, &shared.name, n_bytes, n_turns)?;
        let scratch = new("scratch", needs.persistent_bytes + needs.transient_bytes)?;
        let (constant_buffer, constants) = upload_constants(&plan, shared)?;
        let addresses = Addresses {
            weights,
            states,
            constants,
            arena: arena.address(),
            inputs: input_buffer.address(),
            scratch: scratch.address(),
        };
        let mut exec = CudaExecutable {
            addresses,
            input_layout,
            input_buffer,
            persistent_bytes: needs.persistent_bytes,
            transient_bytes: needs.transient_bytes,
            recordings: HashMap::new(),
            outputs: Vec::new(),
            slots: Vec::new(),
            n_steps: 0,
            turns,
            turn: 0,
            brings,
            is_ahead: false,
            is_broken: false,
            profiling: Profiling::Off,
            profile: Profile::default(),
            hold: None,
            _buffers: vec![arena, scratch, constant_buffer],
            shared: Arc::clone(shared),
            plan,
        };
        exec.place_outputs()?;
        Ok(exec)
    }

    fn lost(&self, error: &DriverError) -> DeviceError {
        lost(&self.shared.name, error)
    }

    /// Finds the outputs on the card and makes the slots.
    fn place_outputs(&mut self) -> Result<(), DeviceError> {
        let plan = Arc::clone(&self.plan);
        let lowering = self.lowering(Bucket::largest(&plan));
        let mut outputs = Vec::new();
        let mut at = 0;
        for id in &plan.outputs {
            let operand = lowering.operand(*id)?;
            let row_bytes = plan.tensor(*id).row_bytes() as u64;
            let max_rows = plan.limits.bound(operand.rows);
            outputs.push(Output {
                address: operand.address,
                row_bytes,
                stride: operand.stride,
                dtype: operand.dtype,
                rows: operand.rows,
                has_top_k: plan.has_top_k(*id),
                at,
            });
            at += usize::try_from(max_rows * operand.stride).unwrap_or(usize::MAX / 2);
        }
        self.outputs = outputs;
        let Shared { context, name, .. } = &*self.shared;
        let slot = |_| {
            Ok(Slot {
                outputs: PinnedBuffer::new(context, name, "step outputs", at)?,
                done: context.event(false).map_err(|error| lost(name, &error))?,
                sizes: StepSizes { tokens: 0, seqs: 0, out_rows: 0 },
                whole_rows: Vec::new(),
                ticket: 0,
            })
        };
        self.slots = (0..N_SLOTS).map(slot).collect::<Result<_, DeviceError>>()?;
        Ok(())
    }

    fn lowering(&self, bucket: Bucket) -> Lowering<'_> {
        let shared = &self.shared;
        let mut lowering =
            Lowering::new(&self.plan, bucket, shared.card, &self.addresses, self.persistent_bytes);
        lowering.batch_invariant = shared.batch_invariant;
        lowering
    }

    /// Records the launches of a bucket that has not occurred yet, and loads what timing them takes.
    fn prepare(&mut self, bucket: Bucket) -> Result<(), DeviceError> {
        if self.profiling == Profiling::Nodes && self.hold.is_none() {
            self.hold = Some(self.shared.pipeline.function(&measure::hold_launch(0))?);
        }
        if self.recordings.contains_key(&bucket) {
            return Ok(());
        }
        let mut lowered = self.lowering(bucket).run()?;
        let (persistent, transient) = (lowered.persistent_bytes, lowered.transient_bytes);
        if persistent != self.persistent_bytes || transient > self.transient_bytes {
            let reason = format!(
                "{bucket:?} takes {persistent} and {transient} bytes of scratch, the largest {} and {}",
                self.persistent_bytes, self.transient_bytes
            );
            return Err(DeviceError::Plan { plan: self.plan.name.clone(), reason });
        }
        if self.brings {
            // What reads inputs before it waits must not begin earlier.
            lowered.launches.iter_mut().take(1).for_each(|first| first.overlaps = false);
            let count = self.input_buffer.address() + self.input_layout.n_bytes;
            lowered.launches.insert(0, self.turns.launch(count, self.input_buffer.address()));
        }
        let shared = &self.shared;
        let recording = Recording::new(&shared.context, &shared.name, &shared.pipeline, lowered)?;
        self.recordings.insert(bucket, recording);
        Ok(())
    }

    /// Has a step begin: the one that is queued ahead, if it is like this one.
    fn start(
        &mut self,
        bucket: Bucket,
        sizes: StepSizes,
        inputs: &StepInputs,
        slot: usize,
    ) -> Result<(), DeviceError> {
        if std::mem::take(&mut self.is_ahead) {
            self.turn = self.turn.wrapping_add(1);
            if self.take_turn(sizes, inputs, slot) {
                return Ok(());
            }
            // It does nothing, in this slot.
            self.shared.context.stream().map(drop).map_err(|error| self.lost(&error))?;
        }
        // The step that used the slot before is over.
        self.slots[slot].done.wait().map_err(|error| self.lost(&error))?;
        self.slots[slot].ticket = 0;
        self.slots[slot].sizes = sizes;
        self.slots[slot].whole_rows.clone_from(&inputs.whole_rows);
        self.turn = self.turn.wrapping_add(1);
        self.turns.begin(self.turn);
        let bytes = self.turns.inputs(self.turn);
        let n_bytes = write_inputs(bytes, &self.input_layout, inputs, sizes);
        self.turns.go().store(self.turn, Ordering::Release);
        self.queue(bucket, n_bytes, slot).map_err(|error| self.lost(&error))
    }

    /// Has the turn that is queued ahead go on with these inputs, if it waits for such ones. Whether it does.
    fn take_turn(&mut self, sizes: StepSizes, inputs: &StepInputs, slot: usize) -> bool {
        let of_slot = &self.slots[slot];
        if of_slot.sizes != sizes
            || of_slot.whole_rows != inputs.whole_rows
            || self.profiling != Profiling::Off
        {
            return false;
        }
        self.turns.go_on(&self.shared.context, self.turn, |bytes| {
            write_inputs(bytes, &self.input_layout, inputs, sizes);
        })
    }

    /// Queues a step: inputs, launches, outputs, mark.
    fn queue(&mut self, bucket: Bucket, n_bytes: usize, slot: usize) -> Result<(), DriverError> {
        self.profile.nodes.clear();
        let Some(recording) = self.recordings.get(&bucket) else { return Ok(()) };
        let shared = Arc::clone(&self.shared);
        let mut stream = shared.context.stream()?;
        if !self.brings {
            self.turns.upload(&stream, self.turn, n_bytes, &self.input_buffer)?;
        }
        match (self.profiling, &self.hold) {
            (Profiling::Nodes, Some(hold)) => {
                drop(stream);
                time_nodes(&shared, recording, hold, &mut self.profile)?;
                stream = shared.context.stream()?;
            }
            _ => {
                stream.replay(&recording.graph)?;
                self.profile.n_submissions = 1;
            }
        }
        self.profile.n_copies = u64::from(!self.brings) + self.queue_outputs(&stream, slot)?;
        Ok(())
    }

    /// Queues what follows the launches of a step: its outputs, and its mark. How many copies that takes.
    fn queue_outputs(&mut self, stream: &Stream<'_>, slot: usize) -> Result<u64, DriverError> {
        let Slot { outputs: pinned, whole_rows, sizes, done, .. } = &mut self.slots[slot];
        let mut n_copies = 0;
        for output in &self.outputs {
            let n_rows = sizes.rows(output.rows, &self.plan);
            let returned = Returned::new(output.has_top_k, n_rows, whole_rows);
            for rows in returned.spans() {
                let start = rows.start as u64 * output.stride;
                let n_bytes = match output.dtype {
                    // Quants and scales lie apart.
                    GgmlType::Q8_1 => self.plan.limits.bound(output.rows) * output.row_bytes,
                    _ => (rows.len() as u64 - 1) * output.stride + output.row_bytes,
                };
                let n_bytes = usize::try_from(n_bytes).unwrap_or(usize::MAX);
                let at = output.at + rows.start * output.stride as usize;
                pinned.download(stream, at, output.address + start, n_bytes)?;
                n_copies += 1;
            }
        }
        stream.mark(done)?;
        Ok(n_copies)
    }

    /// Queues the next step before it is known if it will be like the newest one: one token for each sequence, after a
    /// step that was the same and nobody else's between.
    fn queue_ahead(&mut self, bucket: Bucket) -> Result<(), DriverError> {
        let slot_of = |ticket: u64| (ticket % N_SLOTS as u64) as usize;
        let slot = slot_of(self.n_steps + 1);
        let [last, newest] =
            [self.n_steps - 1, self.n_steps].map(|step| &self.slots[slot_of(step)]);
        let (sizes, whole_rows) = (newest.sizes, newest.whole_rows.clone());
        let is_alike = last.sizes == sizes && last.whole_rows == whole_rows;
        let is_alone = self.shared.context.was_last_used_by(self.input_buffer.address());
        let is_decode = sizes.tokens == sizes.seqs && self.brings;
        let Some(recording) = self.recordings.get(&bucket) else { return Ok(()) };
        if !(is_alike && is_alone && is_decode && self.turns.pay())
            || self.profiling != Profiling::Off
        {
            return Ok(());
        }
        self.slots[slot].done.wait()?;
        self.slots[slot].ticket = 0;
        self.slots[slot].sizes = sizes;
        self.slots[slot].whole_rows = whole_rows;
        let turn = self.turn.wrapping_add(1);
        self.turns.begin(turn);
        let shared = Arc::clone(&self.shared);
        let mut stream = shared.context.stream()?;
        stream.close(self.turns.go(), turn);
        stream.replay(&recording.graph)?;
        self.queue_outputs(&stream, slot)?;
        self.is_ahead = true;
        Ok(())
    }
}

/// What is told of nodes that another one's launch computes.
const JOINED: &str = "joined";

/// Runs the launches one by one with marks between the spans of nodes.
fn time_nodes(
    shared: &Shared,
    recording: &Recording,
    hold_function: &Ready,
    profile: &mut Profile,
) -> Result<(), DriverError> {
    let context = &shared.context;
    // All launches are queued before the first one runs; else short ones would wait for this thread.
    let hold = measure::hold_launch(recording.launches.len());
    let marks = (0..=recording.spans.len()).map(|_| context.event(true));
    let marks = marks.collect::<Result<Vec<_>, _>>()?;
    let stream = context.stream()?;
    stream.launch(hold_function, &hold.shape(), &hold.params)?;
    stream.mark(&marks[0])?;
    let mut launches = recording.launches.iter().peekable();
    for (span, mark) in recording.spans.iter().zip(&marks[1..]) {
        while let Some((launch, function)) = launches.next_if(|(launch, _)| launch.node < span.end)
        {
            stream.launch(function, &launch.shape(), &launch.params)?;
        }
        stream.mark(mark)?;
    }
    stream.synchronize()?;
    let mut launches = recording.launches.iter().map(|(launch, _)| launch).peekable();
    for (span, pair) in recording.spans.iter().zip(marks.windows(2)) {
        let seconds = f64::from(pair[1].ms_since(&pair[0])?.max(0.0)) / 1e3;
        let time = Duration::from_secs_f64(seconds);
        let of_span = std::iter::from_fn(|| launches.next_if(|launch| launch.node < span.end));
        let mut kernels: Vec<_> = of_span.map(ToString::to_string).collect();
        if kernels.is_empty() {
            kernels.push(JOINED.into());
        }
        profile.nodes.push(NodeTime { nodes: span.clone(), time, kernels });
    }
    profile.n_submissions = recording.launches.len() as u64;
    Ok(())
}

/// Writes header and inputs; returns the bytes up to the last one that is used, in whole words of 16.
fn write_inputs(
    bytes: &mut [u8],
    layout: &InputLayout,
    inputs: &StepInputs,
    sizes: StepSizes,
) -> usize {
    let mut end = lower::HEADER_BYTES as usize;
    for (kind, offset, _) in &layout.parts {
        let values: &[u8] = match kind {
            InputKind::Hidden => bytemuck::cast_slice(&inputs.hidden),
            kind => bytemuck::cast_slice(inputs.get(*kind)),
        };
        let start = *offset as usize;
        bytes[start..start + values.len()].copy_from_slice(values);
        end = (start + values.len()).next_multiple_of(16);
    }
    let header = lower::header(sizes, end);
    bytes[..lower::HEADER_BYTES as usize].copy_from_slice(bytemuck::cast_slice(&header));
    end
}

/// The plan's tables on the card.
fn upload_constants(plan: &Plan, shared: &Shared) -> Result<(DeviceBuffer, Vec<u64>), DeviceError> {
    let failed = |error: DriverError| lost(&shared.name, &error);
    let mut offsets = Vec::new();
    let mut n_bytes = 0usize;
    for table in &plan.consts {
        offsets.push(n_bytes);
        n_bytes = (n_bytes + table.data.len() * 4).next_multiple_of(256);
    }
    let buffer = DeviceBuffer::new(&shared.context, &shared.name, "tables", n_bytes as u64)?;
    let mut pinned = PinnedBuffer::new(&shared.context, &shared.name, "tables", n_bytes)?;
    for (table, offset) in plan.consts.iter().zip(&offsets) {
        let bytes: &[u8] = bytemuck::cast_slice(&table.data);
        pinned.bytes_mut()[*offset..*offset + bytes.len()].copy_from_slice(bytes);
    }
    let upload = || {
        let stream = shared.context.stream()?;
        if n_bytes > 0 {
            pinned.upload(&stream, 0..n_bytes, &buffer, 0)?;
        }
        stream.synchronize()
    };
    upload().map_err(failed)?;
    let addresses = offsets.iter().map(|offset| buffer.address() + *offset as u64).collect();
    Ok((buffer, addresses))
}

impl Drop for CudaExecutable {
    fn drop(&mut self) {
        // A step may be queued that was never asked for, and reads what goes now.
        let _ = self.shared.context.stream().and_then(|stream| stream.synchronize());
    }
}

impl Executable for CudaExecutable {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn submit(&mut self, inputs: &StepInputs) -> Result<Ticket, DeviceError> {
        let sizes = inputs.check(&self.plan)?;
        let bucket = Bucket::of(&sizes, &self.plan);
        if self.is_broken {
            let reason = "an earlier step could not be queued; restart zinc".into();
            return Err(DeviceError::Lost { device: self.shared.name.clone(), reason });
        }
        self.prepare(bucket)?;
        let ticket = self.n_steps + 1;
        let slot = (ticket % N_SLOTS as u64) as usize;
        self.is_broken = true;
        self.start(bucket, sizes, inputs, slot)?;
        self.slots[slot].ticket = ticket;
        self.n_steps = ticket;
        self.queue_ahead(bucket).map_err(|error| self.lost(&error))?;
        self.is_broken = false;
        Ok(Ticket(ticket))
    }

    fn wait(&mut self, ticket: Ticket, outputs: &mut StepOutputs) -> Result<(), DeviceError> {
        let slot = &self.slots[(ticket.0 % N_SLOTS as u64) as usize];
        if slot.ticket != ticket.0 || ticket.0 == 0 {
            let reason = format!("step {} is no longer held", ticket.0);
            return Err(DeviceError::Lost { device: self.shared.name.clone(), reason });
        }
        slot.done.wait().map_err(|error| self.lost(&error))?;
        outputs.values.resize_with(self.outputs.len(), Vec::new);
        for (output, values) in self.outputs.iter().zip(&mut outputs.values) {
            values.clear();
            let n_rows = slot.sizes.rows(output.rows, &self.plan);
            let returned = Returned::new(output.has_top_k, n_rows, &slot.whole_rows);
            let max_rows = self.plan.limits.bound(output.rows) as usize;
            for rows in returned.spans() {
                fetch(&slot.outputs.bytes()[output.at..], output, rows, max_rows, values);
            }
        }
        Ok(())
    }

    fn set_profiling(&mut self, what: Profiling) {
        self.profiling = what;
    }

    fn profile(&self) -> Profile {
        match self.profiling {
            Profiling::Off => Profile::default(),
            Profiling::Steps | Profiling::Nodes => self.profile.clone(),
        }
    }
}

/// Appends the rows of an output as f32.
fn fetch(
    bytes: &[u8],
    output: &Output,
    rows: Range<usize>,
    max_rows: usize,
    values: &mut Vec<f32>,
) {
    let (row_bytes, stride) = (output.row_bytes as usize, output.stride as usize);
    match output.dtype {
        GgmlType::Q8_1 => {
            let cols = row_bytes / 36 * 32;
            for block in rows.start * cols / 32..rows.end * cols / 32 {
                let at = max_rows * cols + block * 4;
                let scale: f32 = bytemuck::pod_read_unaligned(&bytes[at..at + 4]);
                let quants = &bytes[block * 32..block * 32 + 32];
                values.extend(quants.iter().map(|quant| f32::from(*quant as i8) * scale));
            }
        }
        GgmlType::I32 => {
            for row in rows {
                let row = &bytes[row * stride..row * stride + row_bytes];
                values.extend(
                    row.chunks_exact(4).map(|id| bytemuck::pod_read_unaligned::<i32>(id) as f32),
                );
            }
        }
        _ => {
            for row in rows {
                let row = &bytes[row * stride..row * stride + row_bytes];
                values.extend_from_slice(bytemuck::cast_slice(row));
            }
        }
    }
}
