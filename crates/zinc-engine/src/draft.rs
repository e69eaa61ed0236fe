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
//! **Where drafts come from** is a [`DraftSource`]; all else is the same for each: how many tokens a
//! [`Drafter`] asks for, how they are verified, and what is learned from it.
//!
//! **Only where it pays.** A row more in a step costs a part of a step: little where a step is bound by
//! reading weights, much where experts are read for each row. Each sequence keeps an estimate of the
//! share of drafted tokens that are accepted, stops drafting when it falls below what drafting
//! [costs](Cost), tries again after rests that grow while the tries fail, and goes on when it has risen well above.

mod cost;
mod head;

pub(crate) use cost::Cost;
pub(crate) use head::Head;

use crate::Model;

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
    /// By the head of multi-token prediction if the model has one, otherwise by prompt lookup; while
    /// what is accepted is worth the measured time. Not for models with experts, of which each row
    /// reads its own.
    Auto,
    /// [`DraftSource::Lookup`], while enough is accepted.
    Lookup,
    /// [`DraftSource::Mtp`], while enough is accepted.
    Mtp,
}

impl Speculation {
    /// What drafts for `model`; for [`Speculation::Mtp`] that is the head even if there is none.
    pub fn source(self, model: &Model) -> Option<DraftSource> {
        let config = model.config();
        match self {
            Speculation::Off => None,
            Speculation::Auto if config.experts.is_some() => None,
            Speculation::Auto if config.n_mtp_layers > 0 => Some(DraftSource::Mtp),
            Speculation::Auto | Speculation::Lookup => Some(DraftSource::Lookup),
            Speculation::Mtp => Some(DraftSource::Mtp),
        }
    }
}

/// Where drafted tokens come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DraftSource {
    /// Prompt lookup: what followed the last tokens where they stood before in the text.
    Lookup,
    /// The model's own head of multi-token prediction.
    Mtp,
}

impl DraftSource {
    /// What flags and metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            DraftSource::Lookup => "lookup",
            DraftSource::Mtp => "mtp",
        }
    }

    /// Tokens drafted by a sequence of which little is known, and after a draft of which nothing was
    /// accepted. What is looked up costs nothing, and a text that repeats itself goes on doing so; the
    /// head computes each token and guesses the later ones from earlier guesses.
    fn n_first_and_least(self) -> [usize; 2] {
        match self {
            DraftSource::Lookup => [3, 2],
            DraftSource::Mtp => [2, 1],
        }
    }
}

/// Weight of the newest draft in the estimate.
const NEWEST: f32 = 0.25;
/// Tokens before the first try of a sequence that has stopped. Each try that is worth less than it
/// costs makes the next rest twice as long.
const REST: u32 = 48;
/// The longest rest: a text may begin to repeat itself at any place.
const REST_MAX: u32 = 1024;
/// Tokens that must have stood together before.
const N_MATCH: usize = 3;

/// The draft of one sequence, and what became of earlier ones.
#[derive(Debug)]
pub(crate) struct Drafter {
    ids: Vec<u32>,
    /// The head's hidden state of the row that gave the last of them.
    hidden: Vec<f32>,
    /// Tokens of the draft when it is whole.
    n_wanted: usize,
    /// Share of drafted tokens that must be accepted.
    pays: f32,
    /// Estimate of the accepted share.
    accepted: f32,
    is_on: bool,
    /// Tokens until the next try, while off.
    rest: u32,
    /// How long the next rest will be.
    next_rest: u32,
    /// Tokens to draft.
    n: usize,
    n_least: usize,
}

impl Drafter {
    pub fn new(source: DraftSource) -> Drafter {
        let [n, n_least] = source.n_first_and_least();
        Drafter {
            ids: Vec::with_capacity(N_DRAFT_MAX as usize),
            hidden: Vec::new(),
            n_wanted: 0,
            pays: Cost::UNKNOWN,
            accepted: again(Cost::UNKNOWN),
            is_on: true,
            rest: 0,
            next_rest: REST,
            n,
            n_least,
        }
    }

    /// The tokens drafted last.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The head's hidden state of the row that gave the last drafted token.
    pub fn hidden(&self) -> &[f32] {
        &self.hidden
    }

    /// Forgets the draft.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.n_wanted = 0;
    }

    /// Begins a draft of up to `n_max` tokens, of which the share `pays` must be accepted on average.
    pub fn begin(&mut self, n_max: usize, pays: f32) {
        self.clear();
        self.pays = pays;
        if !self.is_on && self.rest > 0 {
            self.rest -= 1;
            return;
        }
        self.n_wanted = self.n.min(n_max).min(N_DRAFT_MAX as usize);
    }

    /// Tokens that the draft lacks.
    pub fn n_missing(&self) -> usize {
        self.n_wanted - self.ids.len()
    }

    /// Looks for tokens that may follow `tokens`.
    pub fn look_up(&mut self, tokens: &[u32]) {
        if self.n_missing() > 0 {
            self.ids.extend_from_slice(lookup(tokens, self.n_wanted));
            self.n_wanted = self.ids.len();
        }
    }

    /// Takes a token that the head predicts, with the head's hidden state; without one the draft is
    /// as long as it is.
    pub fn push(&mut self, predicted: Option<u32>, hidden: &[f32]) {
        match predicted {
            Some(id) => {
                self.ids.push(id);
                self.hidden.clear();
                self.hidden.extend_from_slice(hidden);
            }
            None => self.end(),
        }
    }

    /// The draft is as long as it is.
    pub fn end(&mut self) {
        self.n_wanted = self.ids.len();
    }

    /// Of the drafted tokens `n_tried` were verified and the first `n_accepted` accepted.
    pub fn judge(&mut self, n_tried: usize, n_accepted: usize) {
        self.clear();
        if n_tried == 0 {
            return;
        }
        let share = n_accepted as f32 / n_tried as f32;
        self.accepted += NEWEST * (share - self.accepted);
        self.n = match n_accepted == n_tried {
            true => (self.n * 2).min(N_DRAFT_MAX as usize),
            false => (n_accepted + 1).max(self.n_least),
        };
        if self.is_on && self.accepted < self.pays {
            self.is_on = false;
        } else if !self.is_on && self.accepted > again(self.pays) {
            self.is_on = true;
        }
        if self.is_on || share > self.pays {
            self.next_rest = REST;
        }
        self.rest = 0;
        if !self.is_on {
            self.rest = self.next_rest;
            self.next_rest = (self.next_rest * 2).min(REST_MAX);
        }
    }
}

/// Accepted share above which a sequence that has stopped drafts again, where `pays` is enough: far
/// enough above it that a draft more or less does not decide.
fn again(pays: f32) -> f32 {
    pays + (1.0 - pays) / 3.0
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

    /// A draft of what the drafter asks for.
    fn draft(drafter: &mut Drafter, pays: f32) -> usize {
        drafter.begin(8, pays);
        (0..drafter.n_missing()).for_each(|id| drafter.push(Some(id as u32), &[]));
        assert_eq!(drafter.n_missing(), 0);
        drafter.ids().len()
    }

    #[test]
    fn drafting_stops_where_it_does_not_pay_and_comes_back() {
        for source in [DraftSource::Lookup, DraftSource::Mtp] {
            let mut drafter = Drafter::new(source);
            let mut n_refused = 0;
            loop {
                let n = draft(&mut drafter, Cost::UNKNOWN);
                if n == 0 {
                    break;
                }
                drafter.judge(n, 0);
                n_refused += 1;
            }
            assert!((2..6).contains(&n_refused), "{n_refused}");
            // Tries again after a rest, and goes on once tries are accepted.
            let mut n_tries = 0;
            for _ in 0..20 * REST {
                let n = draft(&mut drafter, Cost::UNKNOWN);
                n_tries += usize::from(n > 0);
                drafter.judge(n, n);
            }
            assert!(drafter.is_on && n_tries > 10 * REST as usize, "{n_tries}");
            assert_eq!(draft(&mut drafter, Cost::UNKNOWN), 8);
        }
    }

    #[test]
    fn rests_grow_until_a_try_is_accepted() {
        let mut drafter = Drafter::new(DraftSource::Lookup);
        // Tokens without a draft before the next one, of which `n_accepted` are accepted.
        let mut rest = |is_accepted: bool| {
            let mut n_rested = 0;
            loop {
                let n = draft(&mut drafter, Cost::UNKNOWN);
                drafter.judge(n, if is_accepted { n } else { 0 });
                if n > 0 {
                    return n_rested;
                }
                n_rested += 1;
            }
        };
        let rests: Vec<u32> = (0..12).map(|_| rest(false)).filter(|n| *n > 0).collect();
        assert_eq!(rests[..6], [REST, 2 * REST, 4 * REST, 8 * REST, 16 * REST, REST_MAX]);
        assert!(rests[6..].iter().all(|n| *n == REST_MAX), "{rests:?}");
        rest(true);
        assert_eq!(rest(false), REST);
        assert_eq!(rest(false), 2 * REST);
    }

    #[test]
    fn what_is_accepted_must_be_worth_what_it_costs() {
        let n_drafts = |pays: f32| {
            let mut drafter = Drafter::new(DraftSource::Mtp);
            let tries = (0..500).filter(|_| {
                let n = draft(&mut drafter, pays);
                drafter.judge(n, n.div_ceil(2));
                n > 0
            });
            tries.count()
        };
        assert_eq!(n_drafts(0.3), 500);
        assert!(n_drafts(0.8) < 30);
    }

    #[test]
    fn a_draft_may_end_early() {
        let mut drafter = Drafter::new(DraftSource::Mtp);
        drafter.begin(1, Cost::UNKNOWN);
        assert_eq!(drafter.n_missing(), 1);
        drafter.begin(8, Cost::UNKNOWN);
        drafter.push(Some(7), &[1.0]);
        assert_eq!((drafter.n_missing(), drafter.hidden()), (1, &[1.0][..]));
        drafter.push(None, &[f32::NAN]);
        assert_eq!((drafter.n_missing(), drafter.ids()), (0, &[7][..]));
        let mut drafter = Drafter::new(DraftSource::Lookup);
        drafter.begin(8, Cost::UNKNOWN);
        drafter.look_up(&[1, 2, 3, 4, 1, 2, 3]);
        assert_eq!((drafter.n_missing(), drafter.ids()), (0, &[4, 1, 2][..]));
    }
}
