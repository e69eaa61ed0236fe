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

/// Symbols of a merge: left, right, joined.
type Triple = [u32; 3];

/// Merges that are worth a thread of their own.
const MERGES_PER_THREAD: usize = 1 << 16;

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
        let mut buffer = Vec::new();
        for (rank, symbols) in find_all(merges, spelling, vocab, index).into_iter().enumerate() {
            let [left, right, id] = if symbols.contains(&NO_ID) {
                let Some(middle) = decode(merges[rank], spelling, &mut buffer) else {
                    continue;
                };
                [&buffer[..middle], &buffer[middle..], &buffer]
                    .map(|text| vocab.symbol(index, text))
            } else {
                symbols
            };
            by_ids.entry(pair_key(left, right)).or_insert(Merge { rank: rank as u32, id });
        }
        let by_bytes = if spelling == Spelling::ByteAlphabet {
            pairs_of_bytes(&by_ids, vocab, index)
        } else {
            Vec::new()
        };
        Self { by_ids, by_bytes }
    }

    /// What two adjacent symbols become.
    #[inline]
    pub(crate) fn pair(&self, left: Symbol, right: Symbol) -> Merge {
        if left.id == NO_ID || right.id == NO_ID {
            return Merge::NONE;
        }
        self.by_ids.get(&pair_key(left.id, right.id)).copied().unwrap_or(Merge::NONE)
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

/// Looks up the symbols of every merge; [`NO_ID`] for a text that is not indexed yet. Half a million merges miss the
/// processor's caches millions of times, so several threads do it.
fn find_all(merges: &[&[u8]], spelling: Spelling, vocab: &Vocab, index: &TextIndex) -> Vec<Triple> {
    let find = |merge: &&[u8], buffer: &mut Vec<u8>| match decode(merge, spelling, buffer) {
        Some(middle) => [&buffer[..middle], &buffer[middle..], buffer]
            .map(|text| vocab.lookup(index, text).unwrap_or(NO_ID)),
        None => [NO_ID; 3],
    };
    let n_threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let per_thread = merges.len().div_ceil(n_threads).max(MERGES_PER_THREAD);
    let mut found = vec![[NO_ID; 3]; merges.len()];
    std::thread::scope(|scope| {
        for (part, found) in merges.chunks(per_thread).zip(found.chunks_mut(per_thread)) {
            let work = move || {
                let mut buffer = Vec::new();
                for (merge, found) in part.iter().zip(found) {
                    *found = find(merge, &mut buffer);
                }
            };
            if merges.len() <= per_thread {
                work();
            } else {
                scope.spawn(work);
            }
        }
    });
    found
}

/// Writes the bytes of both sides of a merge to `joined` and returns where the right side starts. `None` if there are
/// no two sides.
fn decode(merge: &[u8], spelling: Spelling, joined: &mut Vec<u8>) -> Option<usize> {
    // A text may itself begin with a blank.
    let blank = 1 + merge.iter().skip(1).position(|&b| b == b' ')?;
    joined.clear();
    spelling.decode(&merge[..blank], joined);
    let middle = joined.len();
    spelling.decode(&merge[blank + 1..], joined);
    (middle < joined.len()).then_some(middle)
}

fn pairs_of_bytes(
    by_ids: &HashMap<u64, Merge>,
    vocab: &mut Vocab,
    index: &mut TextIndex,
) -> Vec<Merge> {
    let symbols: Vec<u32> = (0..=255).map(|byte| vocab.symbol(index, &[byte])).collect();
    let pairs =
        symbols.iter().flat_map(|&left| symbols.iter().map(move |&right| pair_key(left, right)));
    pairs.map(|key| by_ids.get(&key).copied().unwrap_or(Merge::NONE)).collect()
}

fn pair_key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}
