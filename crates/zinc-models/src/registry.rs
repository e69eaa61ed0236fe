//! GGUF architecture name to family. A new family is one file and one line here.

use zinc_plan::{Plan, RopeMode};

use crate::config::Keys;
use crate::graph::Graph;
use crate::{ModelConfig, ModelError};

/// A model family.
pub(crate) struct Family {
    /// `general.architecture` in the file.
    pub arch: &'static str,
    /// Which elements the rotation pairs.
    pub rope_mode: RopeMode,
    /// Completes the configuration with what only this family has.
    pub configure: fn(&Keys<'_>, &mut ModelConfig) -> Result<(), ModelError>,
    /// Builds the plan.
    pub build: fn(Graph<'_>) -> Result<Plan, ModelError>,
    /// Builds the plan of the block of multi-token prediction, for families that may have one.
    pub build_mtp: Option<fn(Graph<'_>) -> Result<Plan, ModelError>>,
}

/// For families with nothing of their own to configure.
pub(crate) fn nothing_more(_: &Keys<'_>, _: &mut ModelConfig) -> Result<(), ModelError> {
    Ok(())
}

static FAMILIES: [Family; 13] = [
    crate::deepseek2::FAMILY,
    crate::gemma2::FAMILY,
    crate::gemma3::FAMILY,
    crate::gemma4::FAMILY,
    crate::gpt_oss::FAMILY,
    crate::llama::FAMILY,
    crate::phi3::FAMILY,
    crate::qwen2::FAMILY,
    crate::qwen3::FAMILY,
    crate::qwen35::DENSE,
    crate::qwen35::MOE,
    crate::qwen3_moe::FAMILY,
    crate::qwen3_next::FAMILY,
];

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
