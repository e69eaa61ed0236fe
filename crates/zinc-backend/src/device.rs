//! The three traits of a backend.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use zinc_plan::{Caps, Dim, Plan};
use zinc_quant::GgmlType;

use crate::{DeviceError, Profile, Profiling, StepInputs, StepOutputs};

/// A kind of device, such as the CPU or all CUDA cards.
pub trait Backend: Send + Sync {
    /// The devices of this kind that the machine has.
    fn devices(&self) -> Vec<DeviceInfo>;

    /// Opens the device called `name`.
    ///
    /// # Errors
    /// [`DeviceError::Unknown`] or [`DeviceError::Unavailable`].
    fn open(&self, name: &str) -> Result<Arc<dyn Device>, DeviceError>;
}

/// What people and the memory plan need to know of a device.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Name for `--device`, such as `cpu` or `cuda0`.
    pub name: String,
    /// What it is, such as the processor's model name.
    pub description: String,
    /// Bytes of memory the device has.
    pub memory_total: u64,
    /// Bytes of memory that are free now.
    pub memory_free: u64,
    /// Further facts, such as `("threads", "8")`.
    pub facts: Vec<(String, String)>,
}

/// A weight in the model file.
#[derive(Clone, Debug)]
pub struct WeightSource {
    /// Name that plans bind it by.
    pub name: String,
    /// Element type.
    pub dtype: GgmlType,
    /// Rows, the matrices of a stack of experts folded in.
    pub rows: u64,
    /// Elements of one row.
    pub cols: u64,
    /// The bytes: a view of the mapped file.
    pub data: Bytes,
}

/// Bytes that the weights of a model take on a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WeightNeed {
    /// Read where the file is mapped: memory of the machine that holds the file, as long as nothing
    /// else wants it.
    pub mapped: u64,
    /// Copied into memory of the device's own.
    pub copied: u64,
    /// Taken besides while they are loaded, and free again before there are states.
    pub loading: u64,
}

impl WeightNeed {
    /// Bytes of all weights.
    pub fn total(&self) -> u64 {
        self.mapped + self.copied
    }
}

/// Weights of one model on one device. What is inside belongs to the device.
#[derive(Clone)]
pub struct Weights(pub Arc<dyn Any + Send + Sync>);

/// Caches and other states of one model on one device. What is inside belongs to the device.
#[derive(Clone)]
pub struct States(pub Arc<dyn Any + Send + Sync>);

impl States {
    /// What is inside, for the device that made it.
    ///
    /// # Errors
    /// [`DeviceError::Binding`] if another one did.
    pub fn of_device<T: Any>(&self) -> Result<&T, DeviceError> {
        self.0.downcast_ref().ok_or_else(|| DeviceError::Binding {
            name: "states".into(),
            reason: "belong to another device".into(),
        })
    }
}

/// What a plan is compiled against.
pub struct Bindings<'a> {
    /// Holds every weight that the plan names.
    pub weights: &'a Weights,
    /// Holds every state that the plan names.
    pub states: &'a States,
}

/// Copies of states between a device and the host's memory, between steps.
pub trait StateAccess {
    /// Appends `rows` of every state whose rows are `dim` to `out`: state by state, in the order of
    /// the plan that they were allocated for.
    ///
    /// # Errors
    /// [`DeviceError::Binding`] for rows outside a state, [`DeviceError::Lost`].
    fn read_rows(
        &self,
        states: &States,
        dim: Dim,
        rows: Range<u32>,
        out: &mut Vec<u8>,
    ) -> Result<(), DeviceError>;

    /// Writes what [`StateAccess::read_rows`] gave of as many rows.
    ///
    /// # Errors
    /// As there; [`DeviceError::Binding`] if `bytes` are not as many as those rows have.
    fn write_rows(
        &self,
        states: &States,
        dim: Dim,
        rows: Range<u32>,
        bytes: &[u8],
    ) -> Result<(), DeviceError>;
}

/// An opened device.
pub trait Device: Send + Sync {
    /// Facts about the device.
    fn info(&self) -> &DeviceInfo;

    /// What the plan passes may ask of it.
    fn caps(&self) -> &Caps;

    /// What [`Device::bind_weights`] will take for `sources`.
    fn weight_need(&self, sources: &[WeightSource]) -> WeightNeed {
        let copied = sources.iter().map(|source| source.data.len() as u64).sum();
        WeightNeed { copied, ..WeightNeed::default() }
    }

    /// What [`Device::compile`] will take for a prepared plan besides its arena.
    fn scratch_need(&self, plan: &Plan) -> u64 {
        let _ = plan;
        0
    }

    /// Takes a model's weights: in place where the device can read the mapped file, else copied or
    /// repacked. `progress` is told bytes done and bytes in all.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`], [`DeviceError::Binding`] or [`DeviceError::Lost`].
    fn bind_weights(
        &self,
        sources: Vec<WeightSource>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Weights, DeviceError>;

    /// Allocates the states that `plan` names, at the size its limits give. Plans of one model
    /// that share states must agree on names, types and the limits of the cache.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] or [`DeviceError::Lost`].
    fn alloc_states(&self, plan: &Plan) -> Result<States, DeviceError>;

    /// Copies of states to the host and back, if the device has them.
    fn state_access(&self) -> Option<&dyn StateAccess> {
        None
    }

    /// Bytes per second that the device reads from the memory its weights lie in, measured now, which
    /// takes some of that memory and a moment: what rates of profiles are a share of.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] or [`DeviceError::Lost`].
    fn measure_read_bandwidth(&self) -> Result<f64, DeviceError>;

    /// The same device with each choice among its kernels that it can be told to make, its own first.
    /// Weights and states of one are those of all, and several may choose alike ([`NodeTime::kernels`] tells).
    /// Empty where there is no choice.
    fn variants(&self) -> Vec<Variant> {
        Vec::new()
    }

    /// Turns a plan prepared with this device's [`Device::caps`] into something that runs.
    ///
    /// # Errors
    /// [`DeviceError::Plan`], [`DeviceError::Binding`] or [`DeviceError::OutOfMemory`].
    fn compile(
        &self,
        plan: Arc<Plan>,
        bind: &Bindings<'_>,
    ) -> Result<Box<dyn Executable>, DeviceError>;
}

/// A choice among a device's kernels.
#[derive(Clone)]
pub struct Variant {
    /// What is chosen, such as `avx2`.
    pub name: String,
    /// Makes that choice.
    pub device: Arc<dyn Device>,
}

/// A submitted step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket(pub u64);

/// A compiled plan.
pub trait Executable: Send {
    /// The plan it runs.
    fn plan(&self) -> &Plan;

    /// Starts a step. Never waits for it or a recent one; a device without a queue of its own may do the
    /// whole step here.
    ///
    /// # Errors
    /// [`DeviceError::Step`] for inputs outside the plan's limits, [`DeviceError::Lost`].
    fn submit(&mut self, inputs: &StepInputs) -> Result<Ticket, DeviceError>;

    /// Waits for a submitted step and fetches its outputs.
    ///
    /// # Errors
    /// [`DeviceError::Lost`].
    fn wait(&mut self, ticket: Ticket, outputs: &mut StepOutputs) -> Result<(), DeviceError>;

    /// Chooses what the next steps measure.
    fn set_profiling(&mut self, what: Profiling);

    /// What the newest step measured; nothing if profiling was off. A step under
    /// [`Profiling::Nodes`] is over when [`Executable::submit`] returns.
    fn profile(&self) -> Profile;
}
