//! Draws tokens at random from what a guide allows.

use zinc_engine::{Allowed, Steer};
use zinc_token::Tokenizer;

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The guide said so, or allowed a token that ends it.
    Complete,
    /// At the limit of tokens.
    Truncated,
}

/// What ends a text between tags; begun by chance, it is likely to go on.
const ENDINGS: [&[u8]; 2] = [b"</parameter>\n", b"<|\"|>"];

/// A source of random numbers.
pub struct Draw(u64);

impl Draw {
    /// Equal seeds give equal numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }

    /// An answer, its control tokens as text.
    pub fn answer(
        &mut self,
        guide: &mut dyn Steer,
        tokenizer: &Tokenizer,
        max_tokens: usize,
    ) -> (String, Ended) {
        let vocab = tokenizer.vocab();
        let mut bytes = Vec::new();
        let mut ended = Ended::Truncated;
        for n in 0..max_tokens {
            let id = match guide.next().unwrap() {
                Allowed::End => {
                    ended = Ended::Complete;
                    break;
                }
                Allowed::Forced(id) => id,
                Allowed::Any => self.below(vocab.n_tokens()) as u32,
                Allowed::Mask(mask) => self.from_mask(mask, tokenizer, &bytes, n),
            };
            guide.accept(id).unwrap();
            if vocab.is_end_of_generation(id) {
                ended = Ended::Complete;
                break;
            }
            bytes.extend_from_slice(vocab.piece(id));
        }
        (String::from_utf8_lossy(&bytes).into_owned(), ended)
    }

    /// A token of a mask: sooner one that ends something, the sooner the longer the answer is.
    fn from_mask(&mut self, mask: &[u32], tokenizer: &Tokenizer, said: &[u8], n: usize) -> u32 {
        let vocab = tokenizer.vocab();
        let has =
            |id: u32| mask.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1);
        // A number such as 1e999 is JSON, but none that serde_json reads.
        let in_exponent = exponent_digits(said).is_some_and(|n| n > 0);
        let is_readable = |id: &u32| {
            let piece = vocab.piece(*id);
            !(in_exponent && piece.first().is_some_and(u8::is_ascii_digit))
                && exponent_digits(piece).is_none_or(|n| n == 0)
        };
        let all = (0..vocab.n_tokens() as u32).filter(|id| has(*id));
        let allowed: Vec<u32> = all.filter(is_readable).collect();
        assert!(!allowed.is_empty(), "a mask allows something");
        let order = match self.below(2) {
            0 => [ENDINGS[0], ENDINGS[1]],
            _ => [ENDINGS[1], ENDINGS[0]],
        };
        let next = order.iter().find_map(|ending| {
            let begun = (1..ending.len()).rev().find(|n| said.ends_with(&ending[..*n]))?;
            allowed.iter().find(|id| vocab.piece(**id) == &ending[begun..=begun]).copied()
        });
        if let Some(id) = next.filter(|_| self.below(100) < 97) {
            return id;
        }
        let ends = |id: &&u32| {
            let piece = vocab.piece(**id);
            vocab.is_end_of_generation(**id)
                || [&b"\""[..], b"}", b"]", b"null", b"n", b"<", b"<|\"|>"].contains(&piece)
        };
        let closing: Vec<u32> = allowed.iter().filter(ends).copied().collect();
        if !closing.is_empty() && self.below(100) < (10 + n).min(90) {
            return closing[self.below(closing.len())];
        }
        allowed[self.below(allowed.len())]
    }
}

/// Digits of the exponent that a text ends with.
fn exponent_digits(text: &[u8]) -> Option<usize> {
    let n = text.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let rest = &text[..text.len() - n];
    let rest = rest.strip_suffix(b"-").or(rest.strip_suffix(b"+")).unwrap_or(rest);
    let digits = rest.strip_suffix(b"e").or(rest.strip_suffix(b"E"))?;
    digits.last().is_none_or(u8::is_ascii_digit).then_some(n)
}
