//! SentencePiece's merging: any two neighbours whose joined text is a token merge, highest score first.

use crate::merge::{Merge, Symbol};
use crate::vocab::{TextIndex, Vocab};

/// Ranks of tokens by descending score; equal scores share a rank.
pub(crate) struct Scores {
    ranks: Vec<u32>,
}

impl Scores {
    /// `scores` by token id.
    pub(crate) fn new(scores: &[f32]) -> Self {
        let mut order: Vec<u32> = (0..scores.len() as u32).collect();
        let score = |id: u32| scores[id as usize] + 0.0; // -0 equals 0
        order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
        let mut ranks = vec![0; scores.len()];
        let mut rank = 0;
        for (i, &id) in order.iter().enumerate() {
            if i > 0 && score(order[i - 1]) != score(id) {
                rank += 1;
            }
            ranks[id as usize] = rank;
        }
        Self { ranks }
    }

    /// What two adjacent symbols of `word` become.
    #[inline]
    pub(crate) fn pair(
        &self,
        vocab: &Vocab,
        index: &TextIndex,
        word: &[u8],
        left: Symbol,
        right: Symbol,
    ) -> Merge {
        let joined = &word[left.start as usize..right.end as usize];
        match vocab.lookup(index, joined) {
            Some(id) => Merge { rank: self.ranks[id as usize], id },
            None => Merge::NONE,
        }
    }
}
