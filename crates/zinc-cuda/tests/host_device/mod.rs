//! A device that runs the launches of the CUDA backend on the host: the same lowering and the same kernels, compiled
//! as C++. Every value has memory of its own between gaps that nobody may write, and holds NaNs until it is written;
//! or values lie packed as on a card.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use zinc_backend::{
    Bindings, Caps, Device, DeviceError, DeviceInfo, Executable, NodeTime, Profile, Profiling,
    Returned, States, StepInputs, StepOutputs, StepSizes, Ticket, Variant, WeightSource, Weights,
};
use zinc_cuda::launch::Launch;
use zinc_cuda::lower::{Bucket, Card, InputLayout, Lowered, Lowering, Places, header};
use zinc_cuda::store::{RowLayout, repack_launch};
use zinc_plan::{InputKind, Plan, TensorId, TensorKind};
use zinc_quant::GgmlType;
use zinc_testkit::kernel_host::{HostBuffer, KernelHost, LaunchShape, Schedule};
use zinc_testkit::{TestError, paths};

/// Bytes between two values.
const GAP: u64 = 256;

/// The kernels of this crate, compiled once.
pub fn kernels() -> Arc<KernelHost> {
    static BUILT: Mutex<Option<Arc<KernelHost>>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let build = || {
        let kernels = paths::workspace().join("crates/zinc-cuda/kernels");
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
        KernelHost::build(&kernels, &out).unwrap_or_else(|error| panic!("{error}"))
    };
    Arc::clone(built.get_or_insert_with(build))
}

/// How the host device runs.
#[derive(Clone, Copy)]
pub struct Options {
    /// Whether only variants are used whose rows do not depend on the number of rows.
    pub batch_invariant: bool,
    /// Order of the threads.
    pub schedule: Schedule,
    /// What launches are shaped by.
    pub card: Card,
    /// Whether values lie where the plan has put them, later ones over earlier ones.
    pub packed: bool,
}

pub struct HostDevice {
    info: DeviceInfo,
    caps: Caps,
    shared: Arc<Shared>,
}

struct Shared {
    kernels: Arc<KernelHost>,
    options: Options,
    /// Seconds by kernel.
    times: Mutex<HashMap<&'static str, (Duration, u64)>>,
}

impl HostDevice {
    pub fn new(options: Options) -> HostDevice {
        let info = DeviceInfo {
            name: format!("cuda kernels, {:?}", options.schedule),
            description: "CUDA kernels as C++".into(),
            memory_total: 0,
            memory_free: 0,
            facts: Vec::new(),
        };
        let caps = zinc_cuda::caps(&info.name, options.card.capability, options.batch_invariant);
        let shared = Shared { kernels: kernels(), options, times: Mutex::default() };
        HostDevice { info, caps, shared: Arc::new(shared) }
    }

    /// Where the time went, the most expensive kernels first.
    pub fn print_times(&self) {
        let times = self.shared.times.lock().unwrap_or_else(PoisonError::into_inner);
        let mut times: Vec<_> = times.iter().collect();
        times.sort_by_key(|(_, (time, _))| std::cmp::Reverse(*time));
        for (kernel, (time, n)) in times.into_iter().take(12) {
            eprintln!("{kernel}: {n} launches, {:.2} s", time.as_secs_f64());
        }
    }
}

fn failed(error: TestError) -> DeviceError {
    DeviceError::Lost { device: "the host's kernels".into(), reason: error.to_string() }
}

impl Shared {
    fn run(&self, launch: &Launch) -> Result<(), DeviceError> {
        let shape = LaunchShape { grid: launch.grid, block: launch.block, shared: launch.shared };
        let start = Instant::now();
        let name = launch.kernel.name;
        self.kernels.launch(name, shape, &launch.params, self.options.schedule).map_err(failed)?;
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let of_kernel = times.entry(name).or_default();
        *of_kernel = (of_kernel.0 + start.elapsed(), of_kernel.1 + 1);
        Ok(())
    }

    fn buffer(&self, n_bytes: u64) -> Result<HostBuffer, DeviceError> {
        self.kernels.buffer(n_bytes as usize).map_err(failed)
    }
}

/// Weights or states by name.
type Named = HashMap<String, HostBuffer>;

fn find(named: &Named, plan: &Plan, id: TensorId) -> Result<u64, DeviceError> {
    let name = &plan.tensor(id).name;
    let missing = || DeviceError::Binding { name: name.clone(), reason: "is not bound".into() };
    Ok(named.get(name).ok_or_else(missing)?.address())
}

impl Device for HostDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn bind_weights(
        &self,
        sources: Vec<WeightSource>,
        _: &mut dyn FnMut(u64, u64),
    ) -> Result<Weights, DeviceError> {
        let mut named = Named::new();
        for source in sources {
            let raw = self.shared.buffer(source.data.len() as u64)?;
            raw.write(0, &source.data);
            let (cols, rows) = (source.cols as u32, source.rows as u32);
            let weight = match RowLayout::of(source.dtype, cols) {
                None => raw,
                Some(layout) => {
                    let planes = self.shared.buffer(layout.row_bytes * source.rows)?;
                    let (from, to) = (raw.address(), planes.address());
                    if let Some(launch) = repack_launch(source.dtype, cols, rows, from, to) {
                        self.shared.run(&launch)?;
                    }
                    planes
                }
            };
            named.insert(source.name, weight);
        }
        Ok(Weights(Arc::new(named)))
    }

    fn alloc_states(&self, plan: &Plan) -> Result<States, DeviceError> {
        let mut named = Named::new();
        for (id, tensor) in plan.tensors_where(|tensor| tensor.kind == TensorKind::State) {
            let buffer = self.shared.buffer(plan.max_bytes(id))?;
            buffer.fill(0);
            named.insert(tensor.name.clone(), buffer);
        }
        Ok(States(Arc::new(named)))
    }

    /// Of the host: its own memory stands for the card's.
    fn measure_read_bandwidth(&self) -> Result<f64, DeviceError> {
        Ok(zinc_backend::host_read_bandwidth(1, 1 << 20))
    }

    fn variants(&self) -> Vec<Variant> {
        let own = self.shared.options.batch_invariant;
        let variant = |batch_invariant: bool| Variant {
            name: if batch_invariant { "invariant" } else { "by size" }.into(),
            device: Arc::new(HostDevice::new(Options { batch_invariant, ..self.shared.options })),
        };
        [own, !own].map(variant).into()
    }

    fn compile(
        &self,
        plan: Arc<Plan>,
        bind: &Bindings<'_>,
    ) -> Result<Box<dyn Executable>, DeviceError> {
        let lost = |_| DeviceError::Plan { plan: plan.name.clone(), reason: "foreign".into() };
        let weights = Arc::clone(&bind.weights.0).downcast::<Named>().map_err(lost)?;
        let states = Arc::clone(&bind.states.0).downcast::<Named>().map_err(lost)?;
        let packed = self.shared.options.packed;
        let plan = if packed { plan } else { Arc::new(spread(&plan)) };
        let arena_bytes = plan.memory.as_ref().map_or(0, |memory| memory.arena_bytes);
        let constants = plan.consts.iter().map(|table| {
            let bytes: &[u8] = bytemuck::cast_slice(&table.data);
            let buffer = self.shared.buffer(bytes.len() as u64)?;
            buffer.write(0, bytes);
            Ok(buffer)
        });
        let constants = constants.collect::<Result<Vec<_>, DeviceError>>()?;
        let memory = Memory {
            arena: self.shared.buffer(arena_bytes)?,
            inputs: self.shared.buffer(InputLayout::of(&plan).n_bytes)?,
            scratch: self.shared.buffer(0)?,
            constants,
            weights,
            states,
        };
        let mut exec = HostExecutable {
            shared: Arc::clone(&self.shared),
            persistent_bytes: 0,
            transient_bytes: 0,
            plan,
            memory,
            outputs: StepOutputs::default(),
            n_steps: 0,
            profiling: Profiling::Off,
            profile: Profile::default(),
        };
        let needs = exec.lowering(Bucket::largest(&exec.plan)).run()?;
        exec.persistent_bytes = needs.persistent_bytes;
        exec.transient_bytes = needs.transient_bytes;
        exec.memory.scratch = self.shared.buffer(needs.persistent_bytes + needs.transient_bytes)?;
        Ok(Box::new(exec))
    }
}

/// The plan with values apart from each other.
fn spread(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    let mut at = 0;
    let sizes: Vec<u64> =
        (0..plan.tensors.len() as u32).map(|id| plan.max_bytes(TensorId(id))).collect();
    if let Some(memory) = &mut plan.memory {
        for (offset, size) in memory.offsets.iter_mut().zip(sizes) {
            if let Some(offset) = offset {
                *offset = at;
                at = (at + size + GAP).next_multiple_of(GAP);
            }
        }
        memory.arena_bytes = at;
    }
    plan
}

struct Memory {
    weights: Arc<Named>,
    states: Arc<Named>,
    constants: Vec<HostBuffer>,
    arena: HostBuffer,
    inputs: HostBuffer,
    scratch: HostBuffer,
}

impl Places for Memory {
    fn weight(&self, plan: &Plan, id: TensorId) -> Result<u64, DeviceError> {
        find(&self.weights, plan, id)
    }

    fn state(&self, plan: &Plan, id: TensorId) -> Result<u64, DeviceError> {
        find(&self.states, plan, id)
    }

    fn constant(&self, idx: u32) -> u64 {
        self.constants[idx as usize].address()
    }

    fn arena(&self) -> u64 {
        self.arena.address()
    }

    fn inputs(&self) -> u64 {
        self.inputs.address()
    }

    fn scratch(&self) -> u64 {
        self.scratch.address()
    }
}

struct HostExecutable {
    shared: Arc<Shared>,
    plan: Arc<Plan>,
    memory: Memory,
    persistent_bytes: u64,
    transient_bytes: u64,
    outputs: StepOutputs,
    n_steps: u64,
    profiling: Profiling,
    profile: Profile,
}

impl HostExecutable {
    fn lowering(&self, bucket: Bucket) -> Lowering<'_> {
        let Options { batch_invariant, card, .. } = self.shared.options;
        let mut lowering =
            Lowering::new(&self.plan, bucket, card, &self.memory, self.persistent_bytes);
        lowering.batch_invariant = batch_invariant;
        lowering
    }

    fn write_inputs(&self, inputs: &StepInputs, sizes: StepSizes) {
        let buffer = &self.memory.inputs;
        buffer.fill(0xff);
        buffer.write(0, bytemuck::cast_slice(&header(sizes, 0)));
        for (kind, offset, _) in InputLayout::of(&self.plan).parts {
            let values: &[u8] = match kind {
                InputKind::Hidden => bytemuck::cast_slice(&inputs.hidden),
                kind => bytemuck::cast_slice(inputs.get(kind)),
            };
            buffer.write(offset as usize, values);
        }
    }

    /// Runs the launches, and takes the times of the spans of nodes that they name if asked for.
    fn run(&mut self, lowered: &Lowered) -> Result<(), DeviceError> {
        let mut launches = lowered.launches.iter().peekable();
        let mut nodes = Vec::new();
        for span in &lowered.spans {
            let start = Instant::now();
            while let Some(launch) = launches.next_if(|launch| launch.node == span.start) {
                self.shared.run(launch)?;
            }
            let time = start.elapsed();
            nodes.push(NodeTime { nodes: span.clone(), time, kernels: Vec::new() });
        }
        if let Some(launch) = launches.next() {
            let reason = format!("{launch} of node {} belongs to no span", launch.node);
            return Err(failed(TestError::Mismatch(reason)));
        }
        self.profile.n_submissions = lowered.launches.len() as u64;
        self.profile.nodes = nodes;
        Ok(())
    }

    /// Nobody may have written between the values.
    fn check_gaps(&self) -> Result<(), DeviceError> {
        let spread = !self.shared.options.packed;
        let Some(memory) = self.plan.memory.as_ref().filter(|_| spread) else { return Ok(()) };
        for (id, offset) in (0..).map(TensorId).zip(&memory.offsets) {
            let Some(offset) = offset else { continue };
            let start = offset + self.plan.max_bytes(id);
            let gap = self.memory.arena.read(start as usize, GAP as usize);
            if gap.iter().any(|byte| *byte != 0xff) {
                let reason = format!("a kernel wrote past {}", self.plan.tensor(id).name);
                return Err(failed(TestError::Mismatch(reason)));
            }
        }
        Ok(())
    }

    fn read_output(
        &self,
        id: TensorId,
        sizes: StepSizes,
        whole_rows: &[i32],
    ) -> Result<Vec<f32>, DeviceError> {
        let operand = self.lowering(Bucket::largest(&self.plan)).operand(id)?;
        let (n_rows, max_rows) =
            (sizes.rows(operand.rows, &self.plan), self.plan.limits.bound(operand.rows) as usize);
        let (cols, stride) = (operand.cols as usize, operand.stride as usize);
        let start = (operand.address - self.memory.arena.address()) as usize;
        let mut values = Vec::new();
        let returned = Returned::new(self.plan.has_top_k(id), n_rows, whole_rows);
        for row in returned.spans().flatten() {
            if operand.dtype == GgmlType::Q8_1 {
                let quants = self.memory.arena.read(start + row * cols, cols);
                let scales = start + max_rows * cols + row * cols / 32 * 4;
                let scales = self.memory.arena.read(scales, cols / 32 * 4);
                let scales = scales.chunks_exact(4).map(bytemuck::pod_read_unaligned::<f32>);
                let blocks = quants.chunks_exact(32).zip(scales);
                values.extend(blocks.flat_map(|(quants, scale)| {
                    quants.iter().map(move |quant| f32::from(*quant as i8) * scale)
                }));
                continue;
            }
            let row = self.memory.arena.read(start + row * stride, 4 * cols);
            values.extend(row.chunks_exact(4).map(|value| match operand.dtype {
                GgmlType::I32 => bytemuck::pod_read_unaligned::<i32>(value) as f32,
                _ => bytemuck::pod_read_unaligned::<f32>(value),
            }));
        }
        Ok(values)
    }
}

impl Executable for HostExecutable {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn submit(&mut self, inputs: &StepInputs) -> Result<Ticket, DeviceError> {
        let sizes = inputs.check(&self.plan)?;
        let lowered = self.lowering(Bucket::of(&sizes, &self.plan)).run()?;
        if sizes.tokens == sizes.seqs {
            // Such a step may have been queued before it was known, and then not come.
            let nothing = StepSizes { tokens: 0, seqs: 0, out_rows: 0 };
            self.write_inputs(&StepInputs::default(), nothing);
            self.memory.arena.fill(0xff);
            self.run(&lowered)?;
            let n_bytes = self.plan.memory.as_ref().map_or(0, |memory| memory.arena_bytes);
            let arena = self.memory.arena.read(0, n_bytes as usize);
            assert!(arena.iter().all(|byte| *byte == 0xff), "a step of nothing wrote something");
        }
        self.write_inputs(inputs, sizes);
        self.memory.arena.fill(0xff);
        self.memory.scratch.fill(0xff);
        assert_eq!(lowered.persistent_bytes, self.persistent_bytes, "of every bucket");
        assert!(lowered.transient_bytes <= self.transient_bytes, "the largest takes the most");
        self.run(&lowered)?;
        self.check_gaps()?;
        let read = |id: &TensorId| self.read_output(*id, sizes, &inputs.whole_rows);
        let outputs = self.plan.outputs.iter().map(read);
        self.outputs.values = outputs.collect::<Result<_, _>>()?;
        self.n_steps += 1;
        Ok(Ticket(self.n_steps))
    }

    fn wait(&mut self, _: Ticket, outputs: &mut StepOutputs) -> Result<(), DeviceError> {
        outputs.values.clone_from(&self.outputs.values);
        Ok(())
    }

    fn set_profiling(&mut self, what: Profiling) {
        self.profiling = what;
    }

    fn profile(&self) -> Profile {
        match self.profiling {
            Profiling::Off => Profile::default(),
            Profiling::Steps => Profile { nodes: Vec::new(), ..self.profile.clone() },
            Profiling::Nodes => self.profile.clone(),
        }
    }
}
