//! The tokens still in question and the samplers that remove some of them.
//!
//! Nothing here orders the whole vocabulary unless it has to: top-k and top-p select the front and sort only that. Candidates
//! are either in id order or sorted by falling logit with the lower id first, never in an order that a selection algorithm
//! left behind, so sums over them, and with them a seed's text, do not depend on the standard library's version.

use std::cmp::Ordering;

use super::math;

/// A token and its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub id: u32,
    pub logit: f32,
}

/// Falling logit, then rising id: a total order, as logits here are never NaN and never -0.
fn rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// First front that top-p looks at; it grows fourfold until it holds the share asked for.
const TOP_P_FRONT: usize = 64;

/// Candidates with the scratch space of the samplers, reused from token to token.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    items: Vec<Candidate>,
    sorted: bool,
    max: f32,
    weights: Vec<f64>,
    scored: Vec<(f64, Candidate)>,
}

impl Candidates {
    /// Takes every token whose logit is not -∞; false if there is none.
    pub fn load(&mut self, logits: &[f32]) -> bool {
        self.items.clear();
        self.sorted = false;
        self.max = f32::NEG_INFINITY;
        for (id, &logit) in logits.iter().enumerate() {
            if logit > f32::NEG_INFINITY {
                // Adding zero turns -0 into 0, which must be equal for the order of equals.
                self.items.push(Candidate {
                    id: id as u32,
                    logit: logit + 0.0,
                });
                self.max = self.max.max(logit);
            }
        }
        !self.items.is_empty()
    }

    /// Keeps logits of at least `max - n * standard deviation` (Tang et al. 2024, "Top-nσ").
    pub fn top_n_sigma(&mut self, n: f32) {
        if n <= 0.0 {
            return;
        }
        let count = self.items.len() as f64;
        let mean = self.items.iter().map(|c| f64::from(c.logit)).sum::<f64>() / count;
        let variance = self
            .items
            .iter()
            .map(|c| (f64::from(c.logit) - mean) * (f64::from(c.logit) - mean))
            .sum::<f64>()
            / count;
        let least = f64::from(self.max) - f64::from(n) * variance.sqrt();
        self.items.retain(|c| f64::from(c.logit) >= least);
    }

    /// Keeps the `k` largest logits (the lower id of equals) and sorts them.
    pub fn top_k(&mut self, k: u32) {
        let k = k as usize;
        if k == 0 || k >= self.items.len() {
            return;
        }
        // One pass: whatever is behind the k-th best seen so far is dropped, and every time another k have gathered, that
        // threshold is drawn anew. Most of a vocabulary falls at the first comparison.
        let mut n = 0;
        let mut threshold: Option<Candidate> = None;
        for i in 0..self.items.len() {
            let candidate = self.items[i];
            if threshold.is_some_and(|t| rank(&candidate, &t).is_gt()) {
                continue;
            }
            self.items[n] = candidate;
            n += 1;
            if n == 2 * k {
                self.items[..n].select_nth_unstable_by(k - 1, rank);
                threshold = Some(self.items[k - 1]);
                n = k;
            }
        }
        if n > k {
            self.items[..n].select_nth_unstable_by(k - 1, rank);
        }
        self.items.truncate(k);
        self.sort();
    }

    /// Keeps the tokens whose surprise -ln p is nearest to the entropy, until their share exceeds `p` (Meister et al. 2022,
    /// "Locally Typical Sampling").
    pub fn typical(&mut self, p: f32) {
        if p >= 1.0 {
            return;
        }
        let total = self.total_weight();
        let ln_total = math::ln(total);
        let max = f64::from(self.max);
        let surprise = |c: &Candidate| ln_total - (f64::from(c.logit) - max);
        let probability = |c: &Candidate| math::exp(f64::from(c.logit) - max) / total;
        let entropy: f64 = self
            .items
            .iter()
            .map(|c| probability(c) * surprise(c))
            .sum();
        self.scored.clear();
        self.scored.extend(
            self.items
                .iter()
                .map(|c| ((surprise(c) - entropy).abs(), *c)),
        );
        self.scored
            .sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then_with(|| rank(&a.1, &b.1)));
        let mut share = 0.0;
        self.items.clear();
        for (_, candidate) in &self.scored {
            self.items.push(*candidate);
            share += math::exp(f64::from(candidate.logit) - max) / total;
            if share > f64::from(p) {
                break;
            }
        }
        self.sort();
    }

    /// Keeps the most probable tokens until their share reaches `p`, at least one (Holtzman et al. 2020, "nucleus").
    pub fn top_p(&mut self, p: f32) {
        if p >= 1.0 {
            return;
        }
        let enough = f64::from(p) * self.total_weight();
        let n_items = self.items.len();
        let mut share = 0.0;
        let mut n_sorted = 0;
        while n_sorted < n_items {
            let front = if self.sorted {
                n_items
            } else {
                (4 * n_sorted)
                    .clamp(TOP_P_FRONT, n_items.max(TOP_P_FRONT))
                    .min(n_items)
            };
            if !self.sorted {
                if front < n_items {
                    self.items[n_sorted..].select_nth_unstable_by(front - 1 - n_sorted, rank);
                }
                self.items[n_sorted..front].sort_unstable_by(rank);
            }
            for i in n_sorted..front {
                share += math::exp(f64::from(self.items[i].logit) - f64::from(self.items[0].logit));
                if share >= enough {
                    self.items.truncate(i + 1);
                    self.finish_sorted();
                    return;
                }
            }
            n_sorted = front;
        }
        self.finish_sorted();
    }

    /// Keeps tokens with `p ≥ min_p * p_max` (Nguyen et al. 2024, "Min-p").
    pub fn min_p(&mut self, min_p: f32) {
        if min_p <= 0.0 {
            return;
        }
        let least = f64::from(self.max) + math::ln(f64::from(min_p));
        self.items.retain(|c| f64::from(c.logit) >= least);
    }

    /// Of the tokens with a probability of at least `threshold`, if there are several, keeps the least probable only.
    pub fn exclude_top_choices(&mut self, threshold: f32) {
        let total = self.total_weight();
        let max = f64::from(self.max);
        let is_top =
            |c: &Candidate| math::exp(f64::from(c.logit) - max) >= f64::from(threshold) * total;
        let mut top = self.items.iter().copied().filter(is_top);
        let Some(first) = top.next() else { return };
        let last = top.fold(
            first,
            |last, c| if rank(&c, &last).is_gt() { c } else { last },
        );
        self.items.retain(|c| !is_top(c) || c.id == last.id);
        self.max = self
            .items
            .iter()
            .map(|c| c.logit)
            .fold(f32::NEG_INFINITY, f32::max);
    }

    /// Picks by `exp(logit / temperature)` where the running sum passes `draw` (in [0, 1)) of the total.
    pub fn pick(&mut self, temperature: f32, draw: f64) -> u32 {
        let max = f64::from(self.max);
        self.weights.clear();
        let mut total = 0.0;
        for candidate in &self.items {
            total += math::exp((f64::from(candidate.logit) - max) / f64::from(temperature));
            self.weights.push(total);
        }
        // `draw * total` may round up to `total`; then the last one that added anything is meant.
        let target = draw * total;
        let at = self.weights.partition_point(|&sum| sum <= target);
        let at = at.min(self.weights.partition_point(|&sum| sum < total));
        self.items[at].id
    }

    /// Σ exp(logit - max), in the candidates' order.
    fn total_weight(&self) -> f64 {
        self.items
            .iter()
            .map(|c| math::exp(f64::from(c.logit) - f64::from(self.max)))
            .sum()
    }

    /// The `n` largest of `logits` as `(id, logit)`, falling; replaces what the candidates held.
    pub fn largest(&mut self, logits: &[f32], n: u32) -> impl Iterator<Item = (u32, f32)> {
        self.load(logits);
        if n == 0 {
            self.items.clear();
        }
        self.top_k(n);
        self.items.sort_unstable_by(rank);
        self.items.iter().map(|c| (c.id, c.logit))
    }

    fn sort(&mut self) {
        self.items.sort_unstable_by(rank);
        self.finish_sorted();
    }

    fn finish_sorted(&mut self) {
        self.sorted = true;
        self.max = self.items[0].logit;
    }

    #[cfg(test)]
    pub fn ids(&self) -> Vec<u32> {
        self.items.iter().map(|c| c.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(logits: &[f32]) -> Candidates {
        let mut candidates = Candidates::default();
        assert!(candidates.load(logits));
        candidates
    }

    /// Logits with the given probabilities.
    fn from_probabilities(p: &[f64]) -> Candidates {
        loaded(&p.iter().map(|p| p.ln() as f32).collect::<Vec<_>>())
    }

    fn noise(n: usize) -> Vec<f32> {
        (0..n)
            .map(|i| (super::super::rng::draws(3, i as u64).pick * 12.0) as f32)
            .collect()
    }

    #[test]
    fn top_k_equals_a_full_sort() {
        for n in [1, 5, 100, 1000] {
            let mut logits = noise(n);
            logits[n / 2] = logits[0];
            let mut sorted: Vec<u32> = (0..n as u32).collect();
            sorted.sort_by(|&a, &b| {
                logits[b as usize]
                    .total_cmp(&logits[a as usize])
                    .then(a.cmp(&b))
            });
            for k in [1, 2, 3, 7, 40, 999] {
                let mut candidates = loaded(&logits);
                candidates.top_k(k);
                if (k as usize) < n {
                    assert_eq!(candidates.ids(), sorted[..k as usize], "n {n}, k {k}");
                } else {
                    assert_eq!(candidates.ids().len(), n);
                }
            }
        }
    }

    #[test]
    fn equal_logits_keep_the_lower_ids() {
        let mut candidates = loaded(&[0.0, -0.0, 0.0, -0.0]);
        candidates.top_k(2);
        assert_eq!(candidates.ids(), [0, 1]);
    }

    #[test]
    fn top_p_keeps_the_token_that_reaches_the_share() {
        for (p, expected) in [
            (0.0, &[1u32][..]),
            (0.49, &[1]),
            (0.6, &[1, 2]),
            (0.79, &[1, 2]),
            (0.9, &[1, 2, 0]),
            (1.0, &[0, 1, 2, 3]),
        ] {
            let mut candidates = from_probabilities(&[0.15, 0.5, 0.3, 0.05]);
            candidates.top_p(p);
            assert_eq!(candidates.ids(), expected, "{p}");
        }
    }

    #[test]
    fn top_p_is_the_same_from_sorted_candidates() {
        let logits = noise(3000);
        for p in [0.1, 0.5, 0.9, 0.99, 0.9999] {
            let mut direct = loaded(&logits);
            direct.top_p(p);
            let mut sorted = loaded(&logits);
            sorted.sort();
            sorted.top_p(p);
            assert_eq!(direct.ids(), sorted.ids(), "{p}");
        }
    }

    #[test]
    fn min_p_is_relative_to_the_largest() {
        let mut candidates = from_probabilities(&[0.1, 0.5, 0.3, 0.1]);
        candidates.min_p(0.5);
        assert_eq!(candidates.ids(), [1, 2]);
        candidates.min_p(1.0);
        assert_eq!(candidates.ids(), [1]);
    }

    #[test]
    fn typical_prefers_the_expected_surprise() {
        // Entropy is 0.94 nats; surprises are 0.51, 1.20, 2.30: distances 0.43, 0.27, 1.37.
        let probabilities = [0.6, 0.3, 0.1];
        for (p, expected) in [
            (0.2, &[1u32][..]),
            (0.5, &[0, 1]),
            (0.95, &[0, 1, 2]),
            (1.0, &[0, 1, 2]),
        ] {
            let mut candidates = from_probabilities(&probabilities);
            candidates.typical(p);
            assert_eq!(candidates.ids(), expected, "{p}");
        }
    }

    #[test]
    fn top_n_sigma_cuts_at_the_deviation() {
        // Mean 1, deviation sqrt(12): the largest is 2 deviations up.
        let logits = [7.0, 0.0, 0.0, 0.0, -1.0, 0.0];
        for (n, expected) in [(0.0, 6), (1.0, 1), (100.0, 6)] {
            let mut candidates = loaded(&logits);
            candidates.top_n_sigma(n);
            assert_eq!(candidates.ids().len(), expected, "{n}");
        }
    }

    #[test]
    fn xtc_leaves_the_least_probable_top_choice() {
        for (threshold, expected) in [
            (0.1, &[0u32, 3][..]),
            (0.25, &[0, 2, 3]),
            (0.45, &[0, 1, 2, 3]),
            (0.0, &[3]),
        ] {
            let mut candidates = from_probabilities(&[0.2, 0.4, 0.35, 0.05]);
            candidates.exclude_top_choices(threshold);
            assert_eq!(candidates.ids(), expected, "{threshold}");
        }
    }

    #[test]
    fn picks_in_proportion() {
        let mut candidates = from_probabilities(&[0.25, 0.5, 0.25]);
        let picked = [0.0, 0.24, 0.26, 0.74, 0.76, 1.0 - f64::EPSILON]
            .map(|draw| candidates.pick(1.0, draw));
        assert_eq!(picked, [0, 0, 1, 1, 2, 2]);
        // Towards 0 the largest takes everything, whatever is drawn.
        assert_eq!(candidates.pick(1e-6, 1.0 - f64::EPSILON), 1);
    }

    #[test]
    fn banned_tokens_are_no_candidates() {
        assert_eq!(loaded(&[f32::NEG_INFINITY, 1.0]).ids(), [1]);
        assert!(!Candidates::default().load(&[f32::NEG_INFINITY; 3]));
    }
}
