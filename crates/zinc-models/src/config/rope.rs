//! Frequency scaling of the rotary embedding.

use super::keys::Keys;
use crate::ModelError;

/// Frequency scaling of the rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as they are, divided by `rope_freqs.weight` where the file has it (Llama 3).
    None,
    /// All frequencies divided by the factor.
    Linear {
        /// Stretch of the context.
        factor: f32,
    },
    /// YaRN (arXiv 2309.00071): low frequencies stretched, high ones kept, a ramp between, and
    /// cos and sin scaled.
    Yarn {
        /// Stretch of the context.
        factor: f32,
        /// Context length before stretching.
        n_ctx_orig: u32,
        /// Rotations over the original context above which a frequency is kept.
        beta_fast: f32,
        /// Rotations below which a frequency is stretched in full.
        beta_slow: f32,
        /// Factor on cos and sin, the paper's `0.1 ln(factor) + 1` included.
        attn_factor: f32,
        /// The ends of the ramp are rounded outwards to whole frequencies, as the reference
        /// implementation does.
        truncate: bool,
    },
    /// Phi-3's longrope: per-frequency divisors, one set up to the original context length and
    /// another beyond, and cos and sin scaled.
    LongRope {
        /// Longest sequence that uses the short divisors.
        n_ctx_orig: u32,
        /// Factor on cos and sin.
        attn_factor: f32,
    },
}

impl RopeScaling {
    pub(super) fn read(keys: &Keys<'_>, has_long_factors: bool) -> Result<Self, ModelError> {
        let factor = keys.positive("rope.scaling.factor")?;
        let legacy_factor = keys.positive("rope.scale_linear")?;
        let n_ctx_orig = keys.u32("rope.scaling.original_context_length")?.filter(|n| *n > 0);
        let need_orig = || {
            n_ctx_orig
                .ok_or_else(|| keys.error("rope.scaling.original_context_length", "is missing"))
        };
        let attn_factor = keys.positive("rope.scaling.attn_factor")?;
        let name = keys.str("rope.scaling.type")?.unwrap_or(match legacy_factor {
            _ if has_long_factors => "longrope",
            Some(_) => "linear",
            None => "none",
        });
        match name {
            "none" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: factor.or(legacy_factor).unwrap_or(1.0) }),
            "yarn" => {
                let factor =
                    factor.ok_or_else(|| keys.error("rope.scaling.factor", "is missing"))?;
                // A factor of the file's own stands in for the paper's.
                let magnitude = keys.positive("rope.scaling.yarn_attn_factor")?;
                let magnitude = magnitude.unwrap_or(0.1 * factor.ln() + 1.0);
                Ok(RopeScaling::Yarn {
                    factor,
                    n_ctx_orig: need_orig()?,
                    beta_fast: keys.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                    beta_slow: keys.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                    attn_factor: magnitude * attn_factor.unwrap_or(1.0),
                    truncate: true,
                })
            }
            "longrope" => Ok(RopeScaling::LongRope {
                n_ctx_orig: need_orig()?,
                attn_factor: attn_factor.unwrap_or(1.0),
            }),
            other => {
                let reason =
                    format!("{other} is not supported; known: none, linear, yarn, longrope");
                Err(keys.error("rope.scaling.type", reason))
            }
        }
    }
}
