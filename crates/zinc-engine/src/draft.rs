//! Speculative decoding: tokens drafted ahead, all verified in one step.
//!
//! A step computes the newest token of a sequence and the tokens drafted after it, and gives logits of
//! all of them. The sampler then chooses token by token, each from the logits of the row before it and
//! with the random numbers of its own step; as long as it chooses what was drafted, the next row is
//! valid and gives the token after it. The first other choice ends the step, and the caches go back to
//! before the refused tokens.
//!
//! **Nothing changes but the time.** What is chosen is what would have been chosen without a draft, from
//! the same logits, by the same sampler in the same state: token for token, greedy or sampled, with
//! penalties, log-probabilities and steering. A draft is a distribution with all its weight on one
//! token, for which rejection sampling (Leviathan, Kalman and Matias, "Fast inference from transformers
//! via speculative decoding", ICML 2023) accepts with that token's probability and otherwise samples from
//! the rest; choosing first and comparing does just that.
//!
//! **Only where it pays.** A row more in a step costs a part of a step: little where a step is bound by
//! reading weights, much where experts are read for each row. Each sequence keeps an estimate of the
//! share of drafted tokens that are accepted, stops drafting when it falls below [`PAYS_NO_MORE`], tries
//! again now and then, and goes on when it has risen above [`PAYS_AGAIN`].

/// Most tokens drafted at a time.
pub(crate) const N_DRAFT_MAX: u32 = 8;

/// Most sequences that decode while any drafts: with more of them a step has its rows anyway.
pub(crate) const N_SEQS_MAX: usize = 4;

/// Whether and how tokens are drafted ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Speculation {
    /// Not.
    #[default]
    Off,
    /// As [`Speculation::Lookup`], but not for models with experts, of which each row reads its own.
    Auto,
    /// Prompt lookup: what followed the last tokens where they stood before in the text.
    Lookup,
}

/// Accepted share below which a sequence stops drafting.
const PAYS_NO_MORE: f32 = 0.25;
/// Accepted share above which it drafts again.
const PAYS_AGAIN: f32 = 0.5;
/// Weight of the newest draft in the estimate.
const NEWEST: f32 = 0.25;
/// Tokens between two tries of a sequence that has stopped.
const REST: u32 = 48;
/// Tokens drafted by a sequence of which little is known.
const N_DRAFT_FIRST: usize = 3;
/// Tokens that must have stood together before.
const N_MATCH: usize = 3;

/// Drafts for one sequence.
#[derive(Debug)]
pub(crate) struct Drafter {
    ids: Vec<u32>,
    /// Estimate of the accepted share.
    accepted: f32,
    is_on: bool,
    /// Tokens until the next try, while off.
    rest: u32,
    /// Tokens to draft.
    n: usize,
}

impl Drafter {
    pub fn new() -> Drafter {
        Drafter {
            ids: Vec::with_capacity(N_DRAFT_MAX as usize),
            accepted: PAYS_AGAIN,
            is_on: true,
            rest: 0,
            n: N_DRAFT_FIRST,
        }
    }

    /// The tokens drafted last.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Forgets the draft.
    pub fn clear(&mut self) {
        self.ids.clear();
    }

    /// Drafts up to `n_max` tokens that may follow `tokens`.
    pub fn draft(&mut self, tokens: &[u32], n_max: usize) {
        self.ids.clear();
        if !self.is_on && self.rest > 0 {
            self.rest -= 1;
            return;
        }
        let n = self.n.min(n_max).min(N_DRAFT_MAX as usize);
        self.ids.extend_from_slice(lookup(tokens, n));
    }

    /// Of the drafted tokens `n_tried` were verified and the first `n_accepted` accepted.
    pub fn judge(&mut self, n_tried: usize, n_accepted: usize) {
        self.ids.clear();
        if n_tried == 0 {
            return;
        }
        let share = n_accepted as f32 / n_tried as f32;
        self.accepted += NEWEST * (share - self.accepted);
        self.n = match n_accepted == n_tried {
            true => (self.n * 2).min(N_DRAFT_MAX as usize),
            false => (n_accepted + 1).max(2),
        };
        if self.is_on && self.accepted < PAYS_NO_MORE {
            self.is_on = false;
        } else if !self.is_on && self.accepted > PAYS_AGAIN {
            self.is_on = true;
        }
        self.rest = if self.is_on { 0 } else { REST };
    }
}

/// Up to `n` tokens that followed the last [`N_MATCH`] tokens where they stood last before.
fn lookup(tokens: &[u32], n: usize) -> &[u32] {
    let Some(begin) = tokens.len().checked_sub(N_MATCH) else { return &[] };
    let (known, last) = (&tokens[..tokens.len() - 1], &tokens[begin..]);
    let found = known.windows(N_MATCH).rposition(|window| window == last);
    let Some(at) = found else { return &[] };
    let follow = &tokens[at + N_MATCH..];
    &follow[..n.min(follow.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_drafted() {
        let text = [9, 1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 1, 2, 3];
        assert_eq!(lookup(&text, 4), [6, 7, 1, 2]);
        assert_eq!(lookup(&text, 1), [6]);
        assert_eq!(lookup(&text, 100), [6, 7, 1, 2, 3]);
        assert!(lookup(&text[..6], 4).is_empty());
        assert!(lookup(&[1, 2], 4).is_empty());
        assert!(lookup(&[1, 2, 3], 4).is_empty());
        // A run of equal tokens is found one token earlier.
        assert_eq!(lookup(&[5, 5, 5, 5], 4), [5]);
    }

    #[test]
    fn drafting_stops_where_it_does_not_pay_and_comes_back() {
        let text = [1, 2, 3, 4, 1, 2, 3];
        let mut drafter = Drafter::new();
        let mut n_refused = 0;
        loop {
            drafter.draft(&text, 8);
            if drafter.ids().is_empty() {
                break;
            }
            drafter.judge(drafter.ids().len(), 0);
            n_refused += 1;
        }
        assert!((2..6).contains(&n_refused), "{n_refused}");
        // Tries again after a rest, and goes on once tries are accepted.
        let mut n_tries = 0;
        for _ in 0..20 * REST {
            drafter.draft(&text, 8);
            let n = drafter.ids().len();
            n_tries += usize::from(n > 0);
            drafter.judge(n, n);
        }
        assert!(drafter.is_on && n_tries > 10 * REST as usize, "{n_tries}");
        drafter.draft(&text, 8);
        assert_eq!(drafter.ids(), [4, 1, 2, 3]);
    }
}
