use thiserror::Error;
use zinc_gguf::GgufError;
use zinc_plan::PlanError;

/// Why a file cannot be run as a model.
#[derive(Debug, Error)]
pub enum ModelError {
    /// No family is registered for the file's architecture.
    #[error("architecture {arch} is not supported; zinc runs: {known}")]
    UnknownArchitecture {
        /// `general.architecture` of the file.
        arch: String,
        /// The registered architectures.
        known: String,
    },
    /// A metadata value is missing or cannot be read.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    /// A metadata value contradicts another, or asks for something zinc does not do.
    #[error("metadata key {key}: {reason}")]
    Config {
        /// The metadata key.
        key: String,
        /// What is wrong, and what would be accepted.
        reason: String,
    },
    /// A tensor of the architecture is not in the file.
    #[error("tensor {name} is missing: the file is incomplete or of another architecture")]
    MissingTensor {
        /// The tensor's name.
        name: String,
    },
    /// A tensor has dimensions that contradict the metadata.
    #[error("tensor {name} has dimensions {found}, expected {expected}")]
    TensorShape {
        /// The tensor's name.
        name: String,
        /// Dimensions in the file, innermost first.
        found: String,
        /// Dimensions the metadata ask for.
        expected: String,
    },
    /// The file has a tensor that the architecture does not use; leaving it out would give other
    /// results than the model's author meant.
    #[error("tensor {name} is not part of architecture {arch}; refusing to ignore it")]
    UnusedTensor {
        /// The tensor's name.
        name: String,
        /// The architecture.
        arch: String,
    },
    /// The plan built from the file breaks a rule.
    #[error(transparent)]
    Plan(#[from] PlanError),
}
