//! The merge loop that byte-pair encoding and SentencePiece share: join the best-ranked adjacent pair until none is left.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Rank of a pair that does not merge.
pub(crate) const NO_MERGE: u32 = u32::MAX;
/// Stands for a symbol that is no token and takes part in no merge.
pub(crate) const NO_ID: u32 = u32::MAX;

/// Up to this many symbols a linear search for the best pair beats a heap (and needs no allocation).
const MAX_SCANNED: usize = 48;

/// A piece of the word: its bytes and the token they make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Symbol {
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) id: u32,
}

/// What an adjacent pair becomes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Merge {
    /// Lower merges first; equal ranks merge left to right. [`NO_MERGE`] if the pair does not merge.
    pub(crate) rank: u32,
    /// Id of the joined symbol.
    pub(crate) id: u32,
}

impl Merge {
    pub(crate) const NONE: Self = Self { rank: NO_MERGE, id: NO_ID };
}

/// Working memory, kept between words.
#[derive(Default)]
pub(crate) struct MergeBuffers {
    merges: Vec<Merge>,
    previous: Vec<u32>,
    next: Vec<u32>,
    queue: Vec<Reverse<u64>>,
}

/// Merges `symbols` in place. `pair` says what two adjacent symbols become.
///
/// Time O(n log n) for n symbols, whatever the pairs.
pub(crate) fn merge_all(
    symbols: &mut Vec<Symbol>,
    buffers: &mut MergeBuffers,
    pair: impl Fn(Symbol, Symbol) -> Merge,
) {
    buffers.merges.clear();
    buffers.merges.extend(symbols.windows(2).map(|two| pair(two[0], two[1])));
    if symbols.len() <= MAX_SCANNED {
        merge_scanning(symbols, &mut buffers.merges, pair);
    } else {
        merge_queued(symbols, buffers, pair);
    }
}

/// `merges[i]` belongs to the pair `symbols[i], symbols[i + 1]`.
fn merge_scanning(
    symbols: &mut Vec<Symbol>,
    merges: &mut Vec<Merge>,
    pair: impl Fn(Symbol, Symbol) -> Merge,
) {
    loop {
        let mut best = 0;
        let mut best_rank = NO_MERGE;
        for (i, merge) in merges.iter().enumerate() {
            if merge.rank < best_rank {
                best_rank = merge.rank;
                best = i;
            }
        }
        if best_rank == NO_MERGE {
            return;
        }
        symbols[best] =
            Symbol { start: symbols[best].start, end: symbols[best + 1].end, id: merges[best].id };
        symbols.remove(best + 1);
        merges.remove(best);
        if best < merges.len() {
            merges[best] = pair(symbols[best], symbols[best + 1]);
        }
        if best > 0 {
            merges[best - 1] = pair(symbols[best - 1], symbols[best]);
        }
    }
}

const GONE: u32 = u32::MAX;

/// The same with a queue of (rank, left position) and a linked list of the symbols that are left. An entry is stale
/// when the pair at its position no longer has its rank.
fn merge_queued(
    symbols: &mut Vec<Symbol>,
    buffers: &mut MergeBuffers,
    pair: impl Fn(Symbol, Symbol) -> Merge,
) {
    let n = symbols.len();
    let MergeBuffers { merges, previous, next, queue } = buffers;
    merges.push(Merge::NONE);
    previous.clear();
    previous.extend((0..n as u32).map(|i| i.wrapping_sub(1)));
    next.clear();
    next.extend((1..=n as u32).map(|i| if i == n as u32 { GONE } else { i }));
    queue.clear();
    let entry = |rank: u32, left: usize| Reverse(u64::from(rank) << 32 | left as u64);
    queue.extend(
        merges
            .iter()
            .enumerate()
            .filter(|(_, m)| m.rank != NO_MERGE)
            .map(|(i, m)| entry(m.rank, i)),
    );
    let mut heap = BinaryHeap::from(std::mem::take(queue));

    while let Some(Reverse(best)) = heap.pop() {
        let (rank, left) = ((best >> 32) as u32, best as u32 as usize);
        if merges[left].rank != rank {
            continue;
        }
        let right = next[left] as usize;
        symbols[left].end = symbols[right].end;
        symbols[left].id = merges[left].id;
        merges[right].rank = NO_MERGE;
        symbols[right].start = GONE;
        next[left] = next[right];
        merges[left] = Merge::NONE;
        if next[left] != GONE {
            let after = next[left] as usize;
            previous[after] = left as u32;
            merges[left] = pair(symbols[left], symbols[after]);
            if merges[left].rank != NO_MERGE {
                heap.push(entry(merges[left].rank, left));
            }
        }
        if left > 0 {
            let before = previous[left] as usize;
            merges[before] = pair(symbols[before], symbols[left]);
            if merges[before].rank != NO_MERGE {
                heap.push(entry(merges[before].rank, before));
            }
        }
    }
    *queue = heap.into_vec();
    symbols.retain(|symbol| symbol.start != GONE);
}
