use std::path::PathBuf;

use thiserror::Error;

/// Why a check could not be made, or what it found.
#[derive(Debug, Error)]
pub enum TestError {
    /// A file of test data is missing or malformed.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The model file cannot be read.
    #[error(transparent)]
    Gguf(#[from] zinc_gguf::GgufError),
    /// The model is not understood.
    #[error(transparent)]
    Model(#[from] zinc_models::ModelError),
    /// The plan cannot be built or prepared.
    #[error(transparent)]
    Plan(#[from] zinc_plan::PlanError),
    /// The device refuses or fails.
    #[error(transparent)]
    Device(#[from] zinc_backend::DeviceError),
    /// Results differ.
    #[error("{0}")]
    Mismatch(String),
}

impl TestError {
    /// Whether the device says that it lacks an operation or a type, rather than failing.
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self,
            TestError::Plan(zinc_plan::PlanError::Unsupported { .. })
                | TestError::Device(zinc_backend::DeviceError::Plan { .. })
        )
    }
}
