//! The counter-based generator behind every random choice: Philox4x32-10 (Salmon, Moraes, Dror and
//! Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//!
//! Counter-based, because the numbers of step `n` then depend on the seed and `n` alone: not on
//! which samplers ran before, nor on tokens that were drafted and thrown away, nor on where the
//! step ran. Philox, because GPUs compute the same 32-bit integer arithmetic exactly, so a device
//! can draw what the host would have drawn.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Key increments: the golden ratio and sqrt(3) - 1 as 32-bit fractions.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const N_ROUNDS: usize = 10;

/// The four random words for `counter` under `key`.
pub(crate) fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let mut c = counter;
    let mut k = key;
    for _ in 0..N_ROUNDS {
        let p0 = u64::from(MULTIPLIERS[0]) * u64::from(c[0]);
        let p1 = u64::from(MULTIPLIERS[1]) * u64::from(c[2]);
        c = [
            (p1 >> 32) as u32 ^ c[1] ^ k[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ c[3] ^ k[1],
            p0 as u32,
        ];
        k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
    }
    c
}

/// The random numbers of one sampling step, each uniform in [0, 1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StepDraws {
    /// Picks the token: words 0 and 1, the top 53 bits.
    pub pick: f64,
    /// Decides whether XTC acts: word 2.
    pub xtc: f64,
}

/// Draws for sampling step `step` (0 for the first token generated) of a request with this seed.
///
/// The counter is `[step low, step high, 0, 0]`, the key `[seed low, seed high]`.
pub(crate) fn draws(seed: u64, step: u64) -> StepDraws {
    let words =
        philox([step as u32, (step >> 32) as u32, 0, 0], [seed as u32, (seed >> 32) as u32]);
    let bits = (u64::from(words[0]) << 32 | u64::from(words[1])) >> 11;
    StepDraws {
        pick: bits as f64 / (1u64 << 53) as f64,
        xtc: f64::from(words[2]) / (1u64 << 32) as f64,
    }
}

/// A seed nobody chose, for requests that name none.
pub(crate) fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library keys each hasher from the operating system's randomness; that is enough
    // here and needs no crate.
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_published_vectors() {
        // From the known-answer file of the authors' Random123 library, philox 4x32 with 10 rounds.
        let cases: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox(counter, key), expected);
        }
    }

    #[test]
    fn draws_are_uniform_and_distinct() {
        let n = 20_000;
        let mean = (0..n).map(|step| draws(7, step).pick).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        assert!((0..n).all(|step| (0.0..1.0).contains(&draws(7, step).xtc)));
        assert_ne!(draws(1, 0), draws(2, 0));
        assert_ne!(draws(1, 0), draws(1, 1 << 32));
    }
}
