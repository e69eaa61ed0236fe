//! How far apart two tensors are, and how far they may be.

use zinc_backend::{ActivationType, Device};
use zinc_engine::Model;
use zinc_quant::GgmlType;

/// Allowed where both devices multiply in f32: rounding in another order, through all layers.
pub const NMSE_EXACT: f64 = 1e-9;
/// Allowed where a device quantises activations to 8 bits: about 0.4 % noise per product.
const NMSE_QUANTIZED: f64 = 5e-3;

/// The same in models with gated DeltaNets: their results are divided by their size, however small that is, and the
/// noise with them. Up to 1.1e-2 in golden models of few tokens.
const NMSE_QUANTIZED_RECURRENT: f64 = 2e-2;
/// By how much more values may differ behind a token with other experts, whose keys, values and states they see: as
/// the golden data allows ten times the divergence where a router chooses.
const PARTED: f64 = 10.0;

/// Allowed where a device rounds queries and weights of attention to 16 bits: its operation alone may be off by 1e-6,
/// and layers add up.
const NMSE_F16_ATTENTION: f64 = 1e-5;

/// Allowed where keys and values are rounded to 16 bits or less: what differs in the last bit of f32 is
/// rounded apart now and then, and devices multiply f16 as it is.
fn nmse_of_cache(ty: GgmlType) -> f64 {
    match ty {
        GgmlType::F32 => NMSE_EXACT,
        GgmlType::F16 => 1e-6,
        GgmlType::BF16 | GgmlType::Q8_0 => 1e-4,
        _ => 2e-2,
    }
}

/// Distance of two tensors.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// Squared error, summed, over the sum of the expected squares.
    pub nmse: f64,
    /// Largest absolute error.
    pub max_abs: f32,
    /// Where that is.
    pub worst: usize,
}

/// Sum of the squares of what is finite.
pub fn energy(values: &[f32]) -> f64 {
    let finite = values.iter().filter(|value| value.is_finite());
    finite.map(|value| f64::from(*value) * f64::from(*value)).sum()
}

/// Compares `found` with `expected`; both have the same length. A value that is not finite is
/// infinitely far off, even if both sides have it: a model that computes one is broken.
pub fn compare(expected: &[f32], found: &[f32]) -> Difference {
    compare_part(expected, found, energy(expected))
}

/// As [`compare`], of a part of a tensor of this [`energy`].
pub fn compare_part(expected: &[f32], found: &[f32], energy: f64) -> Difference {
    let mut error = 0.0;
    let mut difference = Difference { nmse: 0.0, max_abs: 0.0, worst: 0 };
    for (idx, (a, b)) in expected.iter().zip(found).enumerate() {
        let finite = a.is_finite() && b.is_finite();
        let delta = if finite { (a - b).abs() } else { f32::INFINITY };
        error += f64::from(delta) * f64::from(delta);
        if delta > difference.max_abs {
            difference.max_abs = delta;
            difference.worst = idx;
        }
    }
    difference.nmse = if error == 0.0 { 0.0 } else { error / energy.max(f64::MIN_POSITIVE) };
    difference
}

/// Largest normalised error allowed between two devices that run `model` with caches of type `kv`.
///
/// `alike` says that both are one device that computes the same rows the same way on both sides. Otherwise even one
/// device quantises activations that differ in their last bits, and what it rounds depends on the steps.
pub fn tolerance(devices: [&dyn Device; 2], model: &Model, kv: GgmlType, alike: bool) -> f64 {
    let quantizes = |device: &dyn Device| {
        model.gguf().tensors().iter().any(|tensor| {
            let cols = tensor.dims.first().and_then(|n| u32::try_from(*n).ok()).unwrap_or(0);
            matches!(device.caps().activation(tensor.ty, cols), Some(ActivationType::Quantized(_)))
        })
    };
    // Products in f16 (`Caps::f16_products`) are of weights with quantised activations, so they are covered, too.
    let of_products = match !alike && devices.iter().any(|device| quantizes(*device)) {
        true if model.config().delta_net.is_some() => NMSE_QUANTIZED_RECURRENT,
        true => NMSE_QUANTIZED,
        false => NMSE_EXACT,
    };
    let of_attention =
        match !alike && devices.iter().any(|device| device.caps().rounds_attention(kv)) {
            true => NMSE_F16_ATTENTION,
            false => NMSE_EXACT,
        };
    of_products.max(of_attention).max(nmse_of_cache(kv))
}

/// Largest normalised error allowed behind a token with other experts, where `tolerance` is allowed before it: ten
/// times as much, but not more than 8 bits explain.
pub fn behind_parted(tolerance: f64) -> f64 {
    tolerance.max((tolerance * PARTED).min(NMSE_QUANTIZED * PARTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let same = compare(&[1.0, -2.0], &[1.0, -2.0]);
        assert_eq!((same.nmse, same.max_abs), (0.0, 0.0));
        let off = compare(&[3.0, 4.0], &[3.0, 4.5]);
        assert_eq!((off.nmse, off.max_abs, off.worst), (0.01, 0.5, 1));
        for broken in [f32::NAN, f32::INFINITY] {
            for expected in [1.0, broken] {
                let found = compare(&[1.0, expected, 1.0], &[1.0, broken, 9.0]);
                assert_eq!((found.nmse, found.worst), (f64::INFINITY, 1), "{expected} {broken}");
            }
        }
        assert_eq!(compare(&[0.0], &[0.0]).nmse, 0.0);
    }
    #[test]
    fn room_behind_other_experts_is_bounded() {
        assert_eq!(behind_parted(NMSE_QUANTIZED), NMSE_QUANTIZED * PARTED);
        assert_eq!(behind_parted(NMSE_QUANTIZED_RECURRENT), NMSE_QUANTIZED * PARTED);
        assert_eq!(behind_parted(0.1), 0.1);
    }
}
