//! GGUF architecture name to family. A new family is one file and one line here.

use zinc_plan::{Plan, RopeMode};

use crate::ModelError;
use crate::graph::Graph;

/// A model family.
pub(crate) struct Family {
    /// `general.architecture` in the file.
    pub arch: &'static str,
    /// Which elements the rotation pairs.
    pub rope_mode: RopeMode,
    /// Builds the plan.
    pub build: fn(Graph<'_>) -> Result<Plan, ModelError>,
}

static FAMILIES: [Family; 4] =
    [crate::llama::FAMILY, crate::phi3::FAMILY, crate::qwen2::FAMILY, crate::qwen3::FAMILY];

/// The architectures zinc runs.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.arch)
}

pub(crate) fn find(arch: &str) -> Result<&'static Family, ModelError> {
    FAMILIES.iter().find(|family| family.arch == arch).ok_or_else(|| {
        ModelError::UnknownArchitecture {
            arch: arch.to_owned(),
            known: architectures().collect::<Vec<_>>().join(", "),
        }
    })
}
