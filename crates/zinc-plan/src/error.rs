use thiserror::Error;

/// Why a plan could not be built, verified or prepared for a device.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum PlanError {
    /// An operation was given operands whose shapes or types it does not accept.
    #[error("{label}: {op}: {reason}")]
    Operand {
        /// Label of the node, such as `blk.3.attn_q`.
        label: String,
        /// Name of the operation.
        op: &'static str,
        /// What is wrong, with the shapes or types involved.
        reason: String,
    },
    /// The plan breaks one of its own rules (single writer, defined before use, unique names).
    #[error("plan rule broken at {at}: {reason}")]
    Invalid {
        /// Node label or tensor name.
        at: String,
        /// The rule and how it is broken.
        reason: String,
    },
    /// The device lacks an operation or a data type that the plan needs.
    #[error("device {device} cannot run {op} of {label}: {reason}")]
    Unsupported {
        /// Device name, such as `cpu`.
        device: String,
        /// Name of the operation.
        op: &'static str,
        /// Label of the node.
        label: String,
        /// The data type or attribute that is missing.
        reason: String,
    },
}
