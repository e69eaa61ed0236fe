//! What a drafted token costs, measured in the steps themselves.

use std::time::Duration;

use super::N_SEQS_MAX;

/// Times of steps with and without drafts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cost {
    /// Seconds of a step without drafts, by the number of sequences less one.
    plain: [Option<f32>; N_SEQS_MAX],
    /// What a drafted token takes, drafting and verifying, as a share of the time of a token without
    /// drafts.
    share: Option<f32>,
    /// Steps with drafts since the last one without.
    n_drafted: u32,
}

/// Weight of the newest step in an estimate.
const NEWEST: f32 = 0.125;
/// Steps with drafts after which one without is measured: a step grows with its text.
const N_DRAFTED_MAX: u32 = 64;
/// What a token is never thought to cost less or more than, whatever the clock says.
const BOUNDS: [f32; 2] = [0.05, 0.9];

impl Cost {
    /// Share of the drafted tokens that must be accepted where no times are known. A token that is
    /// accepted saves one step of one sequence, so this is what a drafted token is thought to cost.
    pub const UNKNOWN: f32 = 0.25;

    /// Whether the next step of `n_seqs` sequences should go without drafts, to be measured.
    pub fn wants_plain(&self, n_seqs: usize) -> bool {
        let known = n_seqs.checked_sub(1).and_then(|at| *self.plain.get(at)?);
        known.is_none() || self.n_drafted >= N_DRAFTED_MAX
    }

    /// Share of the drafted tokens that must be accepted for drafts to pay.
    pub fn pays(&self) -> f32 {
        self.share.unwrap_or(Cost::UNKNOWN)
    }

    /// A step of `n_seqs` sequences that decode, with `n_draft` drafted tokens, took `time`, the
    /// drafting included.
    pub fn add(&mut self, n_seqs: usize, n_draft: usize, time: Duration) {
        let Some(plain) = n_seqs.checked_sub(1).and_then(|at| self.plain.get_mut(at)) else {
            return;
        };
        let time = time.as_secs_f32();
        if n_draft == 0 {
            self.n_drafted = 0;
            *plain = Some(average(*plain, time));
            return;
        }
        self.n_drafted += 1;
        let Some(plain) = plain.filter(|plain| *plain > 0.0) else { return };
        let token = plain / n_seqs as f32;
        let share = (time - plain) / n_draft as f32 / token;
        let [least, most] = BOUNDS;
        self.share = Some(average(self.share, share.clamp(least, most)));
    }
}

fn average(before: Option<f32>, newest: f32) -> f32 {
    before.map_or(newest, |before| before + NEWEST * (newest - before))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_token_costs_what_the_step_took_longer() {
        let mut cost = Cost::default();
        assert!(cost.wants_plain(1) && cost.pays() == Cost::UNKNOWN);
        cost.add(1, 0, ms(100));
        assert!(!cost.wants_plain(1) && cost.wants_plain(2));
        cost.add(1, 4, ms(140));
        assert!((cost.pays() - 0.1).abs() < 1e-3, "{cost:?}");
        // Of two sequences a token takes half of a step.
        cost.add(2, 0, ms(100));
        (0..60).for_each(|_| cost.add(2, 4, ms(180)));
        assert!((cost.pays() - 0.4).abs() < 1e-2, "{cost:?}");
        // Steps that are bound by computing: each row takes a step.
        (0..60).for_each(|_| cost.add(1, 2, ms(300)));
        assert!(cost.pays() > 0.85, "{cost:?}");
    }

    #[test]
    fn steps_without_drafts_are_measured_again() {
        let mut cost = Cost::default();
        cost.add(1, 0, ms(10));
        (0..N_DRAFTED_MAX - 1).for_each(|_| cost.add(1, 1, ms(11)));
        assert!(!cost.wants_plain(1));
        cost.add(1, 1, ms(11));
        assert!(cost.wants_plain(1));
        cost.add(1, 0, ms(10));
        assert!(!cost.wants_plain(1));
        // More sequences than ever draft, and none.
        cost.add(N_SEQS_MAX + 1, 0, ms(10));
        cost.add(0, 0, ms(10));
        assert!(cost.wants_plain(0) && cost.wants_plain(N_SEQS_MAX + 1));
    }
}
