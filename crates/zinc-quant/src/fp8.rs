//! OCP 8-bit floating point, E4M3: one byte an element, no scale. Caches only; files never have it.
//!
//! Source: OCP 8-bit Floating Point Specification (OFP8), revision 1.0. A sign, four bits of exponent with
//! bias 7 and three of mantissa: x = 2^(e - 7) · (1 + m / 8), or 2^-6 · m / 8 where e is 0. There are no
//! infinities, 0x7f and 0xff are NaN, and the largest number is 448.

/// Its code without the sign.
const MAX: u32 = 0x7e;
const NAN: u8 = 0x7f;

/// Exponents of f32 are larger by the difference of the biases.
const REBIAS: u32 = 127 - 7;

/// The value of a code, exactly.
#[inline]
pub fn e4m3_to_f32(code: u8) -> f32 {
    let (sign, low) = (u32::from(code & 0x80) << 24, u32::from(code & 0x7f));
    let normal = (low << 20) + (REBIAS << 23);
    // 2^-9 is the smallest number. Not the product of a small f32: those take processors long.
    let subnormal = (low as f32 * (1.0 / 512.0)).to_bits();
    let bits = if low < 8 { subnormal } else { normal };
    let bits = if low == u32::from(NAN) { f32::NAN.to_bits() } else { bits };
    f32::from_bits(bits | sign)
}

/// The code of the nearest number, ties to even; ±448 for what is larger, infinities included.
#[inline]
pub fn e4m3_from_f32(value: f32) -> u8 {
    let bits = value.to_bits();
    let (sign, low) = ((bits >> 24) as u8 & 0x80, bits & 0x7fff_ffff);
    if value.is_nan() {
        return sign | NAN;
    }
    let code = if low < (REBIAS + 1) << 23 {
        // Neighbours of 2^14 are 2^-9 apart: the sum is rounded to what the mantissa counts.
        const TO_STEPS: f32 = 16384.0;
        (f32::from_bits(low) + TO_STEPS).to_bits() - TO_STEPS.to_bits()
    } else {
        // The 20 bits that go; a carry into the exponent is as it should be.
        let rounded = (low + 0x7_ffff + (low >> 20 & 1)) >> 20;
        (rounded - (REBIAS << 3)).min(MAX)
    };
    sign | code as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, in f64, of the finite codes without a sign.
    fn values() -> [f64; 0x7f] {
        std::array::from_fn(|code| {
            let (e, m) = (code as i32 >> 3, (code & 7) as f64);
            match e {
                0 => m / 8.0 * 2f64.powi(-6),
                _ => (1.0 + m / 8.0) * 2f64.powi(e - 7),
            }
        })
    }

    /// The nearest of all numbers by distance, the even code of two.
    fn nearest(values: &[f64; 0x7f], value: f32) -> u8 {
        let magnitude = f64::from(value.abs());
        let above = values.iter().position(|found| *found >= magnitude).unwrap_or(0x7e);
        let below = above.saturating_sub(1);
        let [low, high] = [below, above].map(|code| (values[code] - magnitude).abs());
        let takes_low = low < high || low == high && below % 2 == 0;
        let code = if takes_low { below } else { above } as u8;
        code | if value.is_sign_negative() { 0x80 } else { 0 }
    }

    #[test]
    fn every_code_has_its_value_and_comes_back() {
        let values = values();
        for code in 0..=255 {
            let value = e4m3_to_f32(code);
            assert_eq!(value.is_sign_negative(), code >= 0x80, "{code:#x}");
            match code & 0x7f {
                NAN => assert!(value.is_nan(), "{code:#x}"),
                low => assert_eq!(f64::from(value.abs()), values[usize::from(low)], "{code:#x}"),
            }
            assert_eq!(e4m3_from_f32(value), code);
        }
    }

    /// Between all neighbours: the middle, and the f32 on both sides of it and of the numbers.
    #[test]
    fn rounds_to_nearest_even() {
        let values = values();
        for code in 0..MAX as u8 {
            let [low, high] = [code, code + 1].map(e4m3_to_f32);
            let middle = (low + high) / 2.0;
            for value in [low, middle, high] {
                for value in [value.next_down(), value, value.next_up()] {
                    for value in [value, -value] {
                        assert_eq!(e4m3_from_f32(value), nearest(&values, value), "{value:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn rounds_all_kinds_of_numbers() {
        let values = values();
        // Every exponent and the first bits of every mantissa, with ends of all forms.
        for high in 0..=0x7fffu32 {
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(high << 16 | low);
                for value in [value, -value].into_iter().filter(|value| value.is_finite()) {
                    assert_eq!(e4m3_from_f32(value), nearest(&values, value), "{value:e}");
                }
            }
        }
    }

    #[test]
    fn saturates_and_keeps_nan() {
        for value in [448.0, 464.0, 464.1, 480.0, 1e30, f32::MAX, f32::INFINITY] {
            assert_eq!(e4m3_to_f32(e4m3_from_f32(value)), 448.0);
            assert_eq!(e4m3_to_f32(e4m3_from_f32(-value)), -448.0);
        }
        assert_eq!(e4m3_from_f32(f32::NAN) & 0x7f, NAN);
        assert_eq!(e4m3_from_f32(f32::from_bits(0x7f80_0001)) & 0x7f, NAN);
        assert_eq!([0.0, -0.0, 1e-9, -1e-9].map(e4m3_from_f32), [0, 0x80, 0, 0x80]);
    }
}
