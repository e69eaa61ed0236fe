//! The seam between the engine and the devices.
//!
//! A [`Backend`] finds devices and opens them. A [`Device`] takes weights, holds states, and turns
//! a prepared [`zinc_plan::Plan`] into an [`Executable`]; there is no other way to compute. An
//! executable runs one step for one [`StepInputs`]: dispatch is dynamic once per step and static
//! inside.
//!
//! **Contract.** `submit` never waits for its step; `wait` does, in the order of submission.
//! Errors are operating errors (no memory, device lost); a step whose inputs break the plan's
//! limits is refused with [`DeviceError::Step`] before anything runs. States are shared by all
//! executables of a model and change only inside steps, and where [`StateAccess`] writes rows between
//! them.

mod device;
mod error;
mod profile;
mod size;
mod states;
mod step;

pub use device::{
    Backend, Bindings, Device, DeviceInfo, Executable, StateAccess, States, Ticket, Variant,
    WeightNeed, WeightSource, Weights,
};
pub use error::DeviceError;
pub use profile::{NodeTime, Profile, Profiling, host_read_bandwidth};
pub use size::human_bytes;
pub use states::{StateLayout, StatePart};
pub use step::{Returned, StepInputs, StepOutputs, StepSizes};
pub use zinc_plan::{ActivationType, Caps};
