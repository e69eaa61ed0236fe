//! Token ids on the command line.

/// A list of token ids, such as `1,2,3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenList(pub Vec<u32>);

impl std::str::FromStr for TokenList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id = |part: &str| {
            let part = part.trim();
            part.parse().map_err(|_| format!("{part:?} is no token id; expected ids such as 1,2,3"))
        };
        // The output of `zinc tokenize` is taken as it is.
        let text = text.trim().trim_start_matches('[').trim_end_matches(']');
        text.split(',').map(id).collect::<Result<_, _>>().map(Self)
    }
}

/// `n` fixed pseudo-random ids below `n_vocab`: the same on every machine.
pub fn pseudo_random(n: usize, n_vocab: u32) -> Vec<u32> {
    // Knuth's MMIX linear congruential generator; its high bits are the good ones.
    let mut state = 0x7a69_6e63_u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % u64::from(n_vocab.max(1))) as u32
    };
    (0..n).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!("1,2, 3".parse(), Ok(TokenList(vec![1, 2, 3])));
        assert_eq!("[7]".parse(), Ok(TokenList(vec![7])));
        for wrong in ["", "1,,2", "-1", "a", "4294967296"] {
            assert!(wrong.parse::<TokenList>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn random_ids_lie_in_the_vocabulary() {
        let ids = pseudo_random(1000, 7);
        assert!(ids.iter().all(|id| *id < 7));
        assert!((0..7).all(|id| ids.contains(&id)));
    }
}
