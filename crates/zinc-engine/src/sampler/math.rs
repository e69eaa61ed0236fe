//! `exp` and `ln` from additions, multiplications and divisions only.
//!
//! The standard library's versions come from the platform's C library and differ in the last bit
//! between platforms, and one bit can move a cumulative sum across a random number. These give the
//! same bits wherever IEEE 754 doubles do.

use std::f64::consts::{LN_2, LOG2_E, SQRT_2};

/// The upper 32 bits of ln 2: its product with an exponent is exact.
const LN_2_HIGH: f64 = f64::from_bits(0x3FE6_2E42_FEE0_0000);
/// What is left of ln 2.
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// Adding and subtracting this rounds a number of magnitude below 2^51 to the nearest integer,
/// without a call to a rounding function; while added, the integer is in the low bits.
const ROUNDER: f64 = 1.5 * (1u64 << 52) as f64;

/// 1/n! for n = 13 down to 2.
const INVERSE_FACTORIALS: [f64; 12] = [
    1.0 / 6_227_020_800.0,
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    1.0 / 2.0,
];

/// e^x for x ≤ 0 (a difference to the maximum), within 2 units in the last place; 0 where the
/// result would be subnormal.
///
/// Free of branches and calls, so that loops over a vocabulary vectorise.
#[inline]
pub(crate) fn exp(x: f64) -> f64 {
    debug_assert!(x <= 0.0, "exp is only for differences to a maximum, got {x}");
    let clamped = if x < -708.0 { -708.0 } else { x };
    let shifted = clamped * LOG2_E + ROUNDER;
    let k = shifted - ROUNDER;
    let r = (clamped - k * LN_2_HIGH) - k * LN_2_LOW;
    // Taylor series by Horner: |r| ≤ ln(2)/2, where the first term left out is below 1e-17.
    let mut sum = INVERSE_FACTORIALS[0];
    for coefficient in &INVERSE_FACTORIALS[1..] {
        sum = sum * r + coefficient;
    }
    let sum = (sum * r + 1.0) * r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(1023);
    let result = sum * f64::from_bits(exponent << 52);
    if x < -708.0 { 0.0 } else { result }
}

/// The largest of `values`, none of which is NaN; -∞ if there are none.
pub(crate) fn max(values: &[f32]) -> f32 {
    // Lanes of their own, so that the compiler needs no particular order.
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = values.chunks_exact(lanes.len());
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    rest.iter()
        .chain(&lanes)
        .fold(f32::NEG_INFINITY, |max, &value| if value > max { value } else { max })
}

/// Natural logarithm of a positive normal number, within a few units in the last place.
pub(crate) fn ln(x: f64) -> f64 {
    debug_assert!(x.is_normal() && x > 0.0, "ln of {x}");
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7FF) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | 1023 << 52);
    if mantissa > SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    // ln m = 2 artanh(s), s = (m - 1) / (m + 1), |s| ≤ 0.172: the series is good to 1e-18 after
    // s^21.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let s2 = s * s;
    let mut sum = 0.0;
    for n in (1..=21).rev().step_by(2) {
        sum = sum * s2 + 1.0 / f64::from(n);
    }
    exponent as f64 * LN_2 + 2.0 * s * sum
}

/// `base` to a whole power by repeated squaring; overflows to infinity.
pub(crate) fn powi(base: f64, exponent: u32) -> f64 {
    let (mut result, mut factor, mut n) = (1.0, base, exponent);
    while n > 0 {
        if n & 1 == 1 {
            result *= factor;
        }
        factor *= factor;
        n >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_to_the_platforms_functions() {
        for i in 0..200_000 {
            let x = -f64::from(i) * 0.0035;
            let (got, expected) = (exp(x), x.exp());
            assert!(
                (got - expected).abs() <= 4.0 * f64::EPSILON * expected,
                "exp({x}) = {got}, {expected}"
            );
            let y = 1e-12 * 1.0003f64.powi(i % 180_000);
            let (got, expected) = (ln(y), y.ln());
            assert!(
                (got - expected).abs() <= 4.0 * f64::EPSILON * expected.abs().max(0.5),
                "ln({y}) = {got}, {expected}"
            );
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1e9), 0.0);
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn largest_value() {
        for n in 0..40 {
            let values: Vec<f32> = (0..n).map(|i| ((i * 7) % 23) as f32 - 11.0).collect();
            assert_eq!(max(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }

    #[test]
    fn whole_powers() {
        assert_eq!(powi(1.75, 0), 1.0);
        assert_eq!(powi(2.0, 10), 1024.0);
        assert_eq!(powi(2.0, 100_000), f64::INFINITY);
        assert_eq!(powi(1.0, u32::MAX), 1.0);
    }

    #[test]
    fn bits_are_fixed() {
        // A change of these bits would change what a seed produces.
        assert_eq!(exp(-1.0).to_bits(), 0x3FD7_8B56_362C_EF38);
        assert_eq!(ln(0.05).to_bits(), 0xC007_F742_7B73_E391);
    }
}
