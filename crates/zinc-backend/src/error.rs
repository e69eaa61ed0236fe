use thiserror::Error;

/// Why a device could not be opened, loaded or run.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// No device has this name.
    #[error("no device called {name}; available: {available}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// Names of the devices there are.
        available: String,
    },
    /// The device's library or driver is missing or too old.
    #[error("{device} is not available: {reason}")]
    Unavailable {
        /// Device name.
        device: String,
        /// What is missing, and how to get it.
        reason: String,
    },
    /// The device has not enough memory.
    #[error("{device}: {what} needs {needed} bytes, {available} are free")]
    OutOfMemory {
        /// Device name.
        device: String,
        /// What the memory is for.
        what: String,
        /// Bytes asked for.
        needed: u64,
        /// Bytes that could be had.
        available: u64,
    },
    /// A tensor that the plan names is not bound, or has another type or shape than the plan says.
    #[error("tensor {name}: {reason}")]
    Binding {
        /// Tensor name.
        name: String,
        /// What does not fit.
        reason: String,
    },
    /// The plan has not been prepared for this device.
    #[error("plan {plan}: {reason}")]
    Plan {
        /// Plan name.
        plan: String,
        /// What is missing or unsupported.
        reason: String,
    },
    /// The inputs of a step break the plan's limits.
    #[error("step input {input}: {reason}")]
    Step {
        /// Name of the input tensor.
        input: &'static str,
        /// What is out of range.
        reason: String,
    },
    /// The device failed while running; it must be opened anew.
    #[error("{device} failed: {reason}")]
    Lost {
        /// Device name.
        device: String,
        /// What the driver or runtime said.
        reason: String,
    },
}
