//! Byte-pair encoding: the merge table of a vocabulary.

use hashbrown::HashMap;

use crate::merge::{Merge, NO_ID, Symbol};
use crate::vocab::{Spelling, TextIndex, Vocab};

/// Which pairs merge, by symbol id.
///
/// Symbols are tokens, and also the strings that merges name although no token has that text: those get ids behind the
/// last token and fall back to bytes if they are still there at the end.
pub(crate) struct MergeTable {
    by_ids: HashMap<u64, Merge>,
    /// The same for pairs of single bytes, which every word starts with: `[left * 256 + right]`.
    by_bytes: Vec<Merge>,
}

impl MergeTable {
    /// Reads merges, best first, each "left right" in the spelling of the token texts. Of equal pairs the first counts;
    /// an entry that is not a pair merges nothing.
    pub(crate) fn build(
        merges: &[&[u8]],
        spelling: Spelling,
        vocab: &mut Vocab,
        index: &mut TextIndex,
    ) -> Self {
        let mut by_ids = HashMap::with_capacity(merges.len());
        let mut by_bytes = vec![Merge::NONE; 256 * 256];
        let mut joined = Vec::new();
        for (rank, merge) in merges.iter().enumerate() {
            // A text may itself begin with a blank.
            let Some(blank) = merge.iter().skip(1).position(|&b| b == b' ') else {
                continue;
            };
            let (left, right) = (&merge[..=blank], &merge[blank + 2..]);
            joined.clear();
            spelling.decode(left, &mut joined);
            let middle = joined.len();
            spelling.decode(right, &mut joined);
            if middle == joined.len() {
                continue;
            }
            let left = vocab.symbol(index, &joined[..middle]);
            let right = vocab.symbol(index, &joined[middle..]);
            let merge = Merge {
                rank: rank as u32,
                id: vocab.symbol(index, &joined),
            };
            let first = *by_ids.entry(pair_key(left, right)).or_insert(merge);
            if let [a, b] = joined[..] {
                by_bytes[usize::from(a) << 8 | usize::from(b)] = first;
            }
        }
        Self { by_ids, by_bytes }
    }

    /// What two adjacent symbols become.
    #[inline]
    pub(crate) fn pair(&self, left: Symbol, right: Symbol) -> Merge {
        if left.id == NO_ID || right.id == NO_ID {
            return Merge::NONE;
        }
        self.by_ids
            .get(&pair_key(left.id, right.id))
            .copied()
            .unwrap_or(Merge::NONE)
    }

    /// [`MergeTable::pair`] for symbols inside `word`, faster where both are single bytes. Only for vocabularies whose
    /// merges start from bytes.
    #[inline]
    pub(crate) fn pair_in(&self, word: &[u8], left: Symbol, right: Symbol) -> Merge {
        if right.end - left.start == 2 {
            let at = left.start as usize;
            return self.by_bytes[usize::from(word[at]) << 8 | usize::from(word[at + 1])];
        }
        self.pair(left, right)
    }
}

fn pair_key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}
