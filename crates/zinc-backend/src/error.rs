use thiserror::Error;

use crate::size::human_bytes;

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
    #[error(
        "{device} has no memory for {what}{}; hint: free memory, or take a shorter context (--ctx), a smaller --chunk \
         or a smaller quantisation",
        room(*.needed, *.available)
    )]
    OutOfMemory {
        /// Device name.
        device: String,
        /// What the memory is for.
        what: String,
        /// Bytes asked for; 0 where only the driver knows.
        needed: u64,
        /// Bytes that could be had; 0 where nobody knows.
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

/// `: 3.0 GiB needed, 1.0 GiB free`, as far as it is known.
fn room(needed: u64, available: u64) -> String {
    let known = [(needed, "needed"), (available, "free")].into_iter().filter(|(n, _)| *n > 0);
    let parts: Vec<_> = known.map(|(n, what)| format!("{} {what}", human_bytes(n))).collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!(": {}", parts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_there_is_told_in_words() {
        let text = |needed, available| {
            let (device, what) = ("cuda0".into(), "the weights".into());
            DeviceError::OutOfMemory { device, what, needed, available }.to_string()
        };
        let hint = "; hint: free memory, or take a shorter context (--ctx), a smaller --chunk or a smaller quantisation";
        let what = "cuda0 has no memory for the weights";
        assert_eq!(text(3 << 30, 1 << 20), format!("{what}: 3.0 GiB needed, 1.0 MiB free{hint}"));
        assert_eq!(text(3 << 30, 0), format!("{what}: 3.0 GiB needed{hint}"));
        assert_eq!(text(0, 0), format!("{what}{hint}"));
    }
}
