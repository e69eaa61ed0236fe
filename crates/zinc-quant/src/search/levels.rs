//! The sets of numbers that formats choose from, before scaling.

use crate::IQ4_VALUES;

/// A set of numbers around 0.
pub(crate) trait Levels {
    /// The least of them.
    const LOW: f32;
    /// The greatest.
    const HIGH: f32;
    /// How many there are.
    const N_LEVELS: i32 = 16;

    /// The level nearest to `value`, which may be infinite but not NaN.
    fn nearest(value: f32) -> f32;
}

/// All integers from `LOW` to `HIGH`.
pub(crate) struct Integers<const LOW: i32, const HIGH: i32>;

impl<const LOW: i32, const HIGH: i32> Levels for Integers<LOW, HIGH> {
    const LOW: f32 = LOW as f32;
    const HIGH: f32 = HIGH as f32;
    const N_LEVELS: i32 = HIGH - LOW + 1;

    #[inline(always)]
    fn nearest(value: f32) -> f32 {
        round(clamp(value, Self::LOW, Self::HIGH))
    }
}

/// As `f32::clamp` but `low` for NaN: the form that is two instructions.
#[inline(always)]
pub(crate) fn clamp(value: f32, low: f32, high: f32) -> f32 {
    let value = if value > low { value } else { low };
    if value < high { value } else { high }
}

/// Nearest integer, ties to even, of |value| < 2²²: the sum has no bits below 1. Unlike `f32::round` it
/// takes two instructions on every machine, of as many lanes as there are.
#[inline(always)]
pub(crate) fn round(value: f32) -> f32 {
    const ROUNDER: f32 = 12_582_912.0; // 1.5 · 2²³
    (value + ROUNDER) - ROUNDER
}

/// [`IQ4_VALUES`].
pub(crate) struct Iq4;

impl Levels for Iq4 {
    const LOW: f32 = IQ4_VALUES[0] as f32;
    const HIGH: f32 = IQ4_VALUES[15] as f32;

    #[inline(always)]
    fn nearest(value: f32) -> f32 {
        static LEVELS: [f32; Iq4::N_HALVES] = {
            let mut levels = [0.0; Iq4::N_HALVES];
            let mut half = 0;
            while half < levels.len() {
                levels[half] = IQ4_VALUES[Iq4::CODES[half] as usize] as f32;
                half += 1;
            }
            levels
        };
        LEVELS[Self::half(value)]
    }
}

impl Iq4 {
    /// Halves from the least level to the greatest.
    const N_HALVES: usize = 2 * (113 + 127) + 1;

    /// Nearest code in each half: the midpoints of neighbours are whole or half numbers.
    const CODES: [u8; Self::N_HALVES] = {
        let mut codes = [0; Self::N_HALVES];
        let (mut half, mut code) = (0, 0);
        while half < codes.len() {
            let doubled = half as i32 - 2 * 127;
            while code < 15 && doubled >= IQ4_VALUES[code] as i32 + IQ4_VALUES[code + 1] as i32 {
                code += 1;
            }
            codes[half] = code as u8;
            half += 1;
        }
        codes
    };

    #[inline(always)]
    fn half(value: f32) -> usize {
        ((clamp(value, Self::LOW, Self::HIGH) + 127.0) * 2.0) as usize
    }

    /// Index in [`IQ4_VALUES`] of the level nearest to `value`.
    pub(crate) fn code(value: f32) -> u8 {
        static CODES: [u8; Iq4::N_HALVES] = Iq4::CODES;
        CODES[Self::half(value)]
    }
}

/// [`FP4_VALUES`](crate::FP4_VALUES).
pub(crate) struct Fp4;

impl Levels for Fp4 {
    const LOW: f32 = -12.0;
    const HIGH: f32 = 12.0;

    /// In steps of 1 up to 4, of 2 up to 8, then 12. All three are computed, which lanes can do.
    #[inline(always)]
    fn nearest(value: f32) -> f32 {
        let magnitude = clamp(value.abs(), 0.0, 12.0);
        let (fine, middle) = (round(magnitude), 2.0 * round(0.5 * magnitude));
        let coarse = 4.0 * round(0.25 * magnitude);
        let upper = if magnitude < 8.0 { middle } else { coarse };
        let nearest = if magnitude < 4.0 { fine } else { upper };
        nearest.copysign(value)
    }
}

impl Fp4 {
    /// Index in [`FP4_VALUES`](crate::FP4_VALUES) of the level nearest to `value`, of zeros the first.
    pub(crate) fn code(value: f32) -> u8 {
        const OF_MAGNITUDE: [u8; 13] = [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7];
        let level = Self::nearest(value);
        let code = OF_MAGNITUDE[level.abs() as usize];
        if level < 0.0 { code | 8 } else { code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FP4_VALUES;

    fn check<L: Levels>(levels: &[i8]) {
        for step in -3000..3000 {
            let value = step as f32 * 0.05;
            let distance = |level: f32| (level - value).abs();
            let best = levels.iter().map(|&level| distance(level.into())).fold(f32::MAX, f32::min);
            let found = L::nearest(value);
            assert!(distance(found) <= best + 1e-5, "{value}: {found}");
            assert!(levels.contains(&(found as i8)), "{value}: {found}");
        }
        assert_eq!(L::nearest(f32::INFINITY), L::HIGH);
        assert_eq!(L::nearest(f32::NEG_INFINITY), L::LOW);
    }

    #[test]
    fn codes_are_those_of_the_levels() {
        for step in -3000..3000 {
            let value = step as f32 * 0.05;
            assert_eq!(f32::from(IQ4_VALUES[usize::from(Iq4::code(value))]), Iq4::nearest(value));
            assert_eq!(f32::from(FP4_VALUES[usize::from(Fp4::code(value))]), Fp4::nearest(value));
        }
    }

    #[test]
    fn nearest_levels() {
        check::<Iq4>(&IQ4_VALUES);
        check::<Fp4>(&FP4_VALUES);
        check::<Integers<-8, 7>>(&(-8..8).collect::<Vec<_>>());
        check::<Integers<0, 31>>(&(0..32).collect::<Vec<_>>());
    }
}
