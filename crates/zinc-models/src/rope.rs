//! Rotation tables: one row per variant, `rope_dims / 2` frequencies and the factor on cos and sin.

use zinc_gguf::Gguf;
use zinc_quant::GgmlType;

use crate::ModelError;
use crate::config::{LocalRope, ModelConfig, RopeScaling};

/// Divisors of the frequencies that Llama 3 files carry.
pub(crate) const FACTORS: &str = "rope_freqs.weight";
/// Divisors up to the original context length.
pub(crate) const FACTORS_SHORT: &str = "rope_factors_short.weight";
/// Divisors beyond it.
pub(crate) const FACTORS_LONG: &str = "rope_factors_long.weight";

/// The rope table of a model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RopeTable {
    /// Row-major `[variants, rope_dims / 2 + 1]`.
    pub data: Vec<f32>,
    /// Sequences longer than this use the second row.
    pub long_after: Option<u32>,
}

impl RopeTable {
    /// The frequencies `theta^(-2i/dims)` as they are.
    pub(crate) fn plain(rope: &LocalRope) -> Self {
        let base = base_frequencies(rope.dims, rope.theta);
        Self { data: row(base, 1.0), long_after: None }
    }

    /// Computes the table; tensors it reads are added to `used`.
    pub(crate) fn new(
        gguf: &Gguf,
        config: &ModelConfig,
        used: &mut Vec<&'static str>,
    ) -> Result<Self, ModelError> {
        let n = config.rope_dims as usize / 2;
        let mut divisors = |name: &'static str| {
            used.push(name);
            read_divisors(gguf, name, n)
        };
        let require = |name: &str, found: Option<Vec<f32>>| {
            found.ok_or_else(|| ModelError::MissingTensor { name: name.into() })
        };
        let base = base_frequencies(config.rope_dims, config.rope_theta);
        let (variants, long_after) = match config.rope_scaling {
            RopeScaling::None => {
                let factors = divisors(FACTORS)?;
                (vec![row(divide(&base, factors.as_deref()), 1.0)], None)
            }
            RopeScaling::Linear { factor } => {
                let stretched = base.iter().map(|freq| freq / f64::from(factor)).collect();
                (vec![row(stretched, 1.0)], None)
            }
            RopeScaling::Yarn { .. } => (vec![yarn(config, &base)], None),
            RopeScaling::LongRope { n_ctx_orig, attn_factor } => {
                let short = require(FACTORS_SHORT, divisors(FACTORS_SHORT)?)?;
                let long = require(FACTORS_LONG, divisors(FACTORS_LONG)?)?;
                let variants = [short, long]
                    .iter()
                    .map(|factors| row(divide(&base, Some(factors)), attn_factor))
                    .collect();
                (variants, Some(n_ctx_orig))
            }
        };
        Ok(Self { data: variants.concat(), long_after })
    }
}

/// theta^(-2i/d).
fn base_frequencies(dims: u32, theta: f32) -> Vec<f64> {
    let (n, theta) = (f64::from(dims), f64::from(theta));
    (0..dims / 2).map(|i| theta.powf(-2.0 * f64::from(i) / n)).collect()
}

fn divide(base: &[f64], divisors: Option<&[f32]>) -> Vec<f64> {
    match divisors {
        Some(divisors) => base.iter().zip(divisors).map(|(f, d)| f / f64::from(*d)).collect(),
        None => base.to_vec(),
    }
}

fn row(frequencies: Vec<f64>, magnitude: f32) -> Vec<f32> {
    frequencies.into_iter().map(|freq| freq as f32).chain([magnitude]).collect()
}

/// YaRN, "NTK-by-parts".
fn yarn(config: &ModelConfig, base: &[f64]) -> Vec<f32> {
    let RopeScaling::Yarn { factor, n_ctx_orig, beta_fast, beta_slow, attn_factor, truncate } =
        config.rope_scaling
    else {
        unreachable!("called for yarn only");
    };
    let dims = f64::from(config.rope_dims);
    let log_theta = f64::from(config.rope_theta).ln();
    // Index of the frequency that turns `rotations` times over the original context.
    let index = |rotations: f32| {
        let turns = f64::from(n_ctx_orig) / (f64::from(rotations) * std::f64::consts::TAU);
        dims * turns.ln() / (2.0 * log_theta)
    };
    let (low, high) = (index(beta_fast), index(beta_slow));
    let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
    let (low, high) = (low.max(0.0), high.min(dims - 1.0));
    let width = (high - low).max(0.001);
    let stretched = (0u32..).zip(base).map(|(i, freq)| {
        let ramp = ((f64::from(i) - low) / width).clamp(0.0, 1.0);
        freq / f64::from(factor) * ramp + freq * (1.0 - ramp)
    });
    row(stretched.collect(), attn_factor)
}

fn read_divisors(gguf: &Gguf, name: &str, n: usize) -> Result<Option<Vec<f32>>, ModelError> {
    let Some(tensor) = gguf.tensor(name) else {
        return Ok(None);
    };
    if tensor.ty != GgmlType::F32 || tensor.dims != [n as u64] {
        return Err(ModelError::TensorShape {
            name: name.into(),
            found: format!("{} {:?}", tensor.ty, tensor.dims),
            expected: format!("f32 [{n}]"),
        });
    }
    let bytes = gguf.data(tensor);
    let values: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    if let Some(bad) = values.iter().find(|value| !value.is_finite() || **value <= 0.0) {
        let reason = format!("holds the divisor {bad}, which is not positive");
        return Err(ModelError::Config { key: name.into(), reason });
    }
    Ok(Some(values))
}
