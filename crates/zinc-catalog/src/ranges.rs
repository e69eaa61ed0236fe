//! Which bytes of a file are there.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Disjoint ranges in ascending order, none empty, none touching the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Whether the ranges are as they must be, and inside a file of `len` bytes; they come from a file.
    pub(crate) fn are_sound(&self, len: u64) -> bool {
        self.0.iter().all(|(start, end)| start < end && *end <= len)
            && self.0.windows(2).all(|pair| pair[0].1 < pair[1].0)
    }

    /// Adds `start..end`.
    pub(crate) fn add(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let first = self.0.partition_point(|range| range.1 < start);
        let past = self.0.partition_point(|range| range.0 <= end);
        let mut merged = (start, end);
        for range in &self.0[first..past] {
            merged = (merged.0.min(range.0), merged.1.max(range.1));
        }
        self.0.splice(first..past, [merged]);
    }

    /// Bytes in all ranges.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// Where the range that begins at 0 ends.
    pub(crate) fn prefix(&self) -> u64 {
        self.0.first().filter(|range| range.0 == 0).map_or(0, |range| range.1)
    }

    /// What is missing of `0..len`, in pieces of at most `piece` bytes.
    pub(crate) fn missing(&self, len: u64, piece: u64) -> Vec<Range<u64>> {
        let ends = self.0.iter().copied().chain([(len, len)]);
        let mut missing = Vec::new();
        let mut at = 0;
        for (start, end) in ends {
            while at < start {
                let next = start.min(at.saturating_add(piece));
                missing.push(at..next);
                at = next;
            }
            at = end;
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge() {
        let mut ranges = Ranges::default();
        for (start, end) in [(10, 20), (30, 40), (20, 25), (0, 5), (24, 30), (7, 7)] {
            ranges.add(start, end);
            assert!(ranges.are_sound(40));
        }
        assert_eq!(ranges, Ranges(vec![(0, 5), (10, 40)]));
        assert_eq!((ranges.total(), ranges.prefix()), (35, 5));
        assert_eq!(ranges.missing(50, 4), [5..9, 9..10, 40..44, 44..48, 48..50]);
        ranges.add(0, 100);
        assert_eq!(ranges.missing(100, 7), []);
        assert!(!Ranges(vec![(0, 5), (5, 6)]).are_sound(9));
        assert!(!Ranges(vec![(0, 10)]).are_sound(9));
    }

    #[test]
    fn against_a_set_of_bytes() {
        let mut state = 1u64;
        let mut random = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let (mut ranges, mut bytes) = (Ranges::default(), [false; 200]);
        for _ in 0..60 {
            let start = random(200);
            let end = (start + random(12)).min(200);
            ranges.add(start, end);
            bytes[start as usize..end as usize].fill(true);
            assert!(ranges.are_sound(200));
            assert_eq!(ranges.total(), bytes.iter().filter(|there| **there).count() as u64);
            let missing = ranges.missing(200, 3);
            let n_missing: u64 = missing.iter().map(|range| range.end - range.start).sum();
            assert_eq!(n_missing, 200 - ranges.total());
        }
    }
}
