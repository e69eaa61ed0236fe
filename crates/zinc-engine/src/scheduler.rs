//! Which tokens of which sequences the next step computes.
//!
//! A pure function of what it is told: the same sequences give the same batch, so a run can be
//! simulated and repeated.
//!
//! The policy: sequences that decode take one token each, so that a long prompt of one never stalls
//! the answer of another; what is left of the step's tokens goes to prompts, oldest first.
//! Sequences that wait for a cache are not looked at.

use crate::sequence::SequenceId;

/// What the scheduler looks at of a sequence that owns a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Its name.
    pub seq: SequenceId,
    /// Whether the only token to compute is the newest one.
    pub is_decoding: bool,
    /// Tokens to compute before another can be chosen.
    pub n_pending: u32,
    /// How many of them, from the first on, need no logits.
    pub n_silent: u32,
}

/// One sequence's share of a step: its next `n_tokens` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchEntry {
    /// Whose tokens.
    pub seq: SequenceId,
    /// How many of its pending tokens.
    pub n_tokens: u32,
    /// Rows of logits that are wanted: those of the last tokens.
    pub n_rows: u32,
}

/// Fills `batch` with the next step's shares, at most `max_tokens` tokens and `max_rows` rows of
/// logits in all; `sequences` come in order of arrival. Empty if there is nothing to do. With `max_tokens` and
/// `max_rows` at least the number of sequences, every decoding sequence has its share.
pub fn schedule(
    sequences: impl Iterator<Item = Pending> + Clone,
    max_tokens: u32,
    max_rows: u32,
    batch: &mut Vec<BatchEntry>,
) {
    batch.clear();
    let decoding = sequences.clone().filter(|pending| pending.is_decoding);
    let prefilling = sequences.filter(|pending| !pending.is_decoding);
    let (mut n_left, mut rows_left) = (max_tokens, max_rows);
    for pending in decoding.chain(prefilling) {
        let by_rows = pending.n_silent.saturating_add(rows_left);
        let n_tokens = pending.n_pending.min(n_left).min(by_rows);
        if n_tokens > 0 {
            let n_rows = n_tokens.saturating_sub(pending.n_silent);
            batch.push(BatchEntry { seq: pending.seq, n_tokens, n_rows });
            n_left -= n_tokens;
            rows_left -= n_rows;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::{FinishReason, Sequence, SequenceState};

    fn pending(sequence: &Sequence) -> Pending {
        let n_pending = sequence.n_pending() as u32;
        let is_decoding = *sequence.state() == SequenceState::Decoding && n_pending == 1;
        Pending { seq: sequence.id(), is_decoding, n_pending, n_silent: n_pending - 1 }
    }

    /// Sequences as `(is_decoding, n_pending)`, numbered from 0; batch as `(number, n_tokens,
    /// whether it is all of them)`.
    fn check(sequences: &[(bool, u32)], max_tokens: u32, expected: &[(u64, u32, bool)]) {
        let numbered = sequences.iter().enumerate();
        let pending = numbered.map(|(i, &(is_decoding, n_pending))| Pending {
            seq: SequenceId(i as u64),
            is_decoding,
            n_pending,
            n_silent: n_pending - 1,
        });
        let mut batch = Vec::new();
        schedule(pending, max_tokens, 16, &mut batch);
        let got: Vec<_> = batch.iter().map(|e| (e.seq.0, e.n_tokens, e.n_rows == 1)).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn one_sequence() {
        check(&[], 16, &[]);
        check(&[(false, 5)], 16, &[(0, 5, true)]);
        check(&[(false, 40)], 16, &[(0, 16, false)]);
        check(&[(false, 16)], 16, &[(0, 16, true)]);
        check(&[(true, 1)], 16, &[(0, 1, true)]);
        check(&[(false, 2)], 1, &[(0, 1, false)]);
    }

    #[test]
    fn decoding_goes_first_and_prompts_fill_the_rest() {
        check(
            &[(false, 100), (true, 1), (false, 7), (true, 1)],
            8,
            &[(1, 1, true), (3, 1, true), (0, 6, false)],
        );
        check(
            &[(true, 1), (false, 3), (false, 9)],
            8,
            &[(0, 1, true), (1, 3, true), (2, 4, false)],
        );
        check(&[(true, 1), (false, 7), (false, 9)], 8, &[(0, 1, true), (1, 7, true)]);
    }

    /// Random arrivals and lengths: everybody finishes, no step is larger than its limit, nobody's
    /// tokens are skipped.
    #[test]
    fn a_simulated_run_finishes() {
        const MAX_TOKENS: u32 = 16;
        const MAX_SEQS: usize = 3;
        let prompts = [1usize, 40, 16, 7, 100, 3, 33, 2];
        let numbered = prompts.iter().enumerate();
        let mut sequences: Vec<Sequence> =
            numbered.map(|(i, &n)| Sequence::new(SequenceId(i as u64), &vec![0; n], 200)).collect();
        let mut batch = Vec::new();
        let mut n_steps = 0;
        while sequences.iter().any(|s| !s.is_finished()) {
            let mut open: Vec<_> =
                sequences.iter_mut().filter(|s| !s.is_finished()).take(MAX_SEQS).collect();
            open.iter_mut()
                .filter(|s| *s.state() == SequenceState::Waiting)
                .for_each(|s| s.start(0));
            let pending: Vec<Pending> = open.iter().map(|s| pending(s)).collect();
            schedule(pending.iter().copied(), MAX_TOKENS, 16, &mut batch);
            assert!((1..=MAX_TOKENS).contains(&batch.iter().map(|e| e.n_tokens).sum()));
            assert!(pending.iter().all(|p| !p.is_decoding || batch.iter().any(|e| e.seq == p.seq)));
            for entry in &batch {
                let sequence = &mut sequences[entry.seq.0 as usize];
                let is_complete = sequence.advance(entry.n_tokens as usize);
                assert_eq!(is_complete, entry.n_rows == 1);
                if is_complete {
                    sequence.push(1);
                    if sequence.n_generated() == 10 {
                        sequence.finish(FinishReason::Length);
                    }
                }
            }
            n_steps += 1;
            assert!(n_steps < 1000, "the run does not end");
        }
    }
}
