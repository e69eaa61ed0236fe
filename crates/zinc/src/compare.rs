//! How far apart two tensors are, and how far they may be.

use zinc_backend::{ActivationType, Device};
use zinc_engine::Model;
use zinc_quant::GgmlType;

/// Allowed where both devices multiply in f32: rounding in another order, through all layers.
pub const NMSE_EXACT: f64 = 1e-9;
/// Allowed where a device quantises activations to 8 bits: about 0.4 % noise per product.
const NMSE_QUANTIZED: f64 = 5e-3;

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

/// Compares `found` with `expected`; both have the same length. A value that is not finite is
/// infinitely far off, even if both sides have it: a model that computes one is broken.
pub fn compare(expected: &[f32], found: &[f32]) -> Difference {
    let (mut error, mut scale) = (0.0, 0.0);
    let mut difference = Difference { nmse: 0.0, max_abs: 0.0, worst: 0 };
    for (idx, (a, b)) in expected.iter().zip(found).enumerate() {
        let finite = a.is_finite() && b.is_finite();
        let delta = if finite { (a - b).abs() } else { f32::INFINITY };
        error += f64::from(delta) * f64::from(delta);
        if a.is_finite() {
            scale += f64::from(*a) * f64::from(*a);
        }
        if delta > difference.max_abs {
            difference.max_abs = delta;
            difference.worst = idx;
        }
    }
    difference.nmse = if error == 0.0 { 0.0 } else { error / scale.max(f64::MIN_POSITIVE) };
    difference
}

/// Largest normalised error allowed between two devices that run `model` with caches of type `kv`.
pub fn tolerance(a: &dyn Device, b: &dyn Device, model: &Model, kv: GgmlType) -> f64 {
    let quantizes = |device: &dyn Device| {
        model.gguf().tensors().iter().any(|tensor| {
            let cols = tensor.dims.first().and_then(|n| u32::try_from(*n).ok()).unwrap_or(0);
            matches!(device.caps().activation(tensor.ty, cols), Some(ActivationType::Quantized(_)))
        })
    };
    let of_products = if quantizes(a) == quantizes(b) { NMSE_EXACT } else { NMSE_QUANTIZED };
    of_products.max(nmse_of_cache(kv))
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
}
