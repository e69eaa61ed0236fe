//! Which tokens of which sequences the next step computes.
//!
//! A pure function of what it is told: the same sequences give the same batch, so a run can be simulated and repeated.
//!
//! The policy, in order: sequences that decode take one token each, so that a long prompt of one never stalls the answer of
//! another; what is left of the step's tokens goes to prompts, oldest first; a waiting sequence begins when there is a free
//! sequence slot and a token to spare for it.

use crate::sequence::{Sequence, SequenceId, SequenceState};

/// What one step can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepLimits {
    /// Tokens over all sequences: the chunk size of prefill.
    pub max_tokens: u32,
    /// Sequences with a cache; at most `max_tokens`, so that every one of them can decode in each step.
    pub max_seqs: u32,
}

/// What the scheduler looks at of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Its name.
    pub seq: SequenceId,
    /// Whether it has begun and owns a cache.
    pub is_running: bool,
    /// Whether the only token to compute is the newest one.
    pub is_decoding: bool,
    /// Tokens to compute before another can be chosen.
    pub n_pending: u32,
}

impl Pending {
    /// Of a sequence that is not finished.
    pub fn of(sequence: &Sequence) -> Pending {
        let is_decoding = *sequence.state() == SequenceState::Decoding && sequence.n_pending() == 1;
        let is_running = *sequence.state() != SequenceState::Waiting;
        Pending {
            seq: sequence.id(),
            is_running,
            is_decoding,
            n_pending: sequence.n_pending() as u32,
        }
    }
}

/// One sequence's share of a step: its next `n_tokens` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchEntry {
    /// Whose tokens.
    pub seq: SequenceId,
    /// How many of its pending tokens.
    pub n_tokens: u32,
    /// Whether they are all of its pending tokens, so that the last one's logits are wanted.
    pub wants_logits: bool,
}

/// Fills `batch` with the next step's shares; `sequences` come in order of arrival. Empty if there is nothing to do.
pub fn schedule(
    sequences: impl Iterator<Item = Pending> + Clone,
    limits: StepLimits,
    batch: &mut Vec<BatchEntry>,
) {
    batch.clear();
    let mut n_left = limits.max_tokens;
    let mut n_slots = limits.max_seqs;
    for pending in sequences.clone().filter(|p| p.is_running) {
        n_slots = n_slots.saturating_sub(1);
        if pending.is_decoding && n_left > 0 {
            batch.push(BatchEntry {
                seq: pending.seq,
                n_tokens: 1,
                wants_logits: true,
            });
            n_left -= 1;
        }
    }
    for pending in sequences.filter(|p| !p.is_decoding) {
        if n_left == 0 {
            break;
        }
        if !pending.is_running {
            if n_slots == 0 {
                continue;
            }
            n_slots -= 1;
        }
        let n_tokens = pending.n_pending.min(n_left);
        batch.push(BatchEntry {
            seq: pending.seq,
            n_tokens,
            wants_logits: n_tokens == pending.n_pending,
        });
        n_left -= n_tokens;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sequences as `(is_running, is_decoding, n_pending)`, numbered from 0; batch as `(number, n_tokens, wants_logits)`.
    fn check(
        sequences: &[(bool, bool, u32)],
        max_tokens: u32,
        max_seqs: u32,
        expected: &[(u64, u32, bool)],
    ) {
        let pending =
            sequences
                .iter()
                .enumerate()
                .map(|(i, &(is_running, is_decoding, n_pending))| Pending {
                    seq: SequenceId(i as u64),
                    is_running,
                    is_decoding,
                    n_pending,
                });
        let mut batch = Vec::new();
        schedule(
            pending,
            StepLimits {
                max_tokens,
                max_seqs,
            },
            &mut batch,
        );
        let got: Vec<_> = batch
            .iter()
            .map(|e| (e.seq.0, e.n_tokens, e.wants_logits))
            .collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn one_at_a_time() {
        check(&[], 16, 1, &[]);
        check(&[(false, false, 5)], 16, 1, &[(0, 5, true)]);
        check(
            &[(false, false, 40), (false, false, 5)],
            16,
            1,
            &[(0, 16, false)],
        );
        check(
            &[(true, false, 24), (false, false, 5)],
            16,
            1,
            &[(0, 16, false)],
        );
        check(
            &[(true, false, 8), (false, false, 5)],
            16,
            1,
            &[(0, 8, true)],
        );
        check(
            &[(true, true, 1), (false, false, 5)],
            16,
            1,
            &[(0, 1, true)],
        );
        check(&[(true, false, 1)], 1, 1, &[(0, 1, true)]);
    }

    #[test]
    fn decoding_goes_first_and_prompts_fill_the_rest() {
        check(
            &[
                (true, false, 100),
                (true, true, 1),
                (false, false, 7),
                (true, true, 1),
            ],
            8,
            4,
            &[(1, 1, true), (3, 1, true), (0, 6, false)],
        );
        check(
            &[(true, true, 1), (false, false, 3), (false, false, 9)],
            8,
            3,
            &[(0, 1, true), (1, 3, true), (2, 4, false)],
        );
        check(
            &[(true, true, 1), (false, false, 3), (false, false, 9)],
            8,
            2,
            &[(0, 1, true), (1, 3, true)],
        );
    }

    #[test]
    fn more_decoding_than_tokens_keeps_the_order() {
        check(
            &[(true, true, 1), (true, true, 1), (true, true, 1)],
            2,
            3,
            &[(0, 1, true), (1, 1, true)],
        );
    }

    /// Random arrivals and lengths: everybody finishes, no step is larger than its limits, nobody's tokens are skipped.
    #[test]
    fn a_simulated_run_finishes() {
        let limits = StepLimits {
            max_tokens: 16,
            max_seqs: 3,
        };
        let prompts = [1u32, 40, 16, 7, 100, 3, 33, 2];
        let mut sequences: Vec<Sequence> = prompts
            .iter()
            .enumerate()
            .map(|(i, &n)| Sequence::new(SequenceId(i as u64), &vec![0; n as usize], 200))
            .collect();
        let mut batch = Vec::new();
        let mut finished = Vec::new();
        for _ in 0..1000 {
            let open = sequences
                .iter()
                .filter(|s| !s.is_finished())
                .map(Pending::of);
            schedule(open, limits, &mut batch);
            assert!(batch.iter().map(|e| e.n_tokens).sum::<u32>() <= limits.max_tokens);
            assert!(batch.len() <= limits.max_seqs as usize);
            for entry in &batch {
                let sequence = &mut sequences[entry.seq.0 as usize];
                if *sequence.state() == SequenceState::Waiting {
                    sequence.start(0);
                }
                assert_eq!(
                    sequence.advance(entry.n_tokens as usize),
                    entry.wants_logits
                );
                if entry.wants_logits {
                    sequence.push(1);
                    if sequence.n_generated() == 10 {
                        sequence.finish(crate::sequence::FinishReason::Length);
                        finished.push(entry.seq.0);
                    }
                }
            }
            if batch.is_empty() {
                break;
            }
        }
        finished.sort_unstable();
        assert_eq!(finished, (0..prompts.len() as u64).collect::<Vec<_>>());
    }
}
