//! The tokens still in question and the samplers that remove some of them.
//!
//! Nothing here orders the whole vocabulary unless it has to: top-k keeps the best while it reads
//! the logits, top-p and typical-p select a front and sort only that. Candidates are either in id
//! order or sorted by falling logit with the lower id first, never in an order that a selection
//! algorithm left behind, so sums over them, and with them a seed's text, do not depend on the
//! standard library's version.

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

/// Candidates with the scratch space of the samplers, reused from token to token.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    items: Vec<Candidate>,
    max: f32,
    weights: Vec<f64>,
    scored: Vec<(f64, Candidate)>,
}

impl Candidates {
    /// Takes the tokens that top-n-sigma and top-k leave; false if every logit is -∞.
    ///
    /// Top-n-sigma keeps logits of at least `max - n * standard deviation` (Tang et al. 2024),
    /// top-k the `k` largest, the lower id of equals; 0 switches either off. Both keep an upper
    /// part of the same order, so one pass serves both.
    pub fn load(&mut self, logits: &[f32], top_n_sigma: f32, top_k: u32) -> bool {
        self.items.clear();
        self.max = math::max(logits) + 0.0;
        if self.max == f32::NEG_INFINITY {
            return false;
        }
        let floor =
            if top_n_sigma > 0.0 { sigma_floor(logits, self.max, top_n_sigma) } else { f32::MIN };
        let k = if top_k == 0 { usize::MAX } else { top_k as usize };
        self.gather(logits, floor, k);
        if self.items.len() > k {
            self.items.select_nth_unstable_by(k - 1, rank);
            self.items.truncate(k);
        }
        if k < logits.len() {
            self.sort();
        }
        true
    }

    /// Takes these tokens: ids and logits of the largest, in order, as [`Candidates::load`] leaves them
    /// after top-k.
    pub fn load_largest(&mut self, ids: &[f32], logits: &[f32]) {
        self.items.clear();
        let items = ids.iter().zip(logits);
        self.items
            .extend(items.map(|(id, logit)| Candidate { id: *id as u32, logit: logit + 0.0 }));
        self.max = self.items.first().map_or(f32::NEG_INFINITY, |first| first.logit);
    }

    /// Takes logits of at least `floor`; of more than `k`, the `k` largest and up to about `k`
    /// others.
    fn gather(&mut self, logits: &[f32], mut floor: f32, k: usize) {
        // Most of a vocabulary is below what has been seen already and falls in a comparison of
        // whole blocks.
        const BLOCK: usize = 32;
        for (block_idx, block) in logits.chunks(BLOCK).enumerate() {
            if block.iter().fold(true, |below, &logit| below & (logit < floor)) {
                continue;
            }
            for (i, &logit) in block.iter().enumerate() {
                if logit >= floor {
                    // Adding zero turns -0 into 0, which must be equal for the order of equals.
                    self.items
                        .push(Candidate { id: (block_idx * BLOCK + i) as u32, logit: logit + 0.0 });
                }
            }
            if self.items.len() / 2 >= k {
                self.items.select_nth_unstable_by(k - 1, rank);
                self.items.truncate(k);
                // Equals of the k-th have higher ids from here on.
                floor = self.items[k - 1].logit.next_up();
            }
        }
    }

    /// Keeps the tokens whose surprise -ln p is nearest to the entropy, until their share exceeds
    /// `p` (Meister et al. 2022, "Locally Typical Sampling").
    pub fn typical(&mut self, p: f32) {
        if p >= 1.0 {
            return;
        }
        let total = self.total_weight();
        let ln_total = math::ln(total);
        let max = f64::from(self.max);
        let surprise = |c: &Candidate| ln_total - (f64::from(c.logit) - max);
        let probability = |c: &Candidate| math::exp(f64::from(c.logit) - max) / total;
        let entropy: f64 = self.items.iter().map(|c| probability(c) * surprise(c)).sum();
        self.scored.clear();
        self.scored.extend(self.items.iter().map(|c| ((surprise(c) - entropy).abs(), *c)));
        let order = |a: &(f64, Candidate), b: &(f64, Candidate)| {
            a.0.total_cmp(&b.0).then_with(|| rank(&a.1, &b.1))
        };
        let weight = |scored: &(f64, Candidate)| probability(&scored.1);
        let n_kept = sorted_front(&mut self.scored, order, weight, |share| share > f64::from(p));
        self.items.clear();
        self.items.extend(self.scored[..n_kept].iter().map(|(_, candidate)| *candidate));
        self.sort();
    }

    /// Keeps the most probable tokens until their share reaches `p`, at least one (Holtzman et al.
    /// 2020, "nucleus").
    pub fn top_p(&mut self, p: f32) {
        if p >= 1.0 {
            return;
        }
        let enough = f64::from(p) * self.total_weight();
        let max = f64::from(self.max);
        let weight = |c: &Candidate| math::exp(f64::from(c.logit) - max);
        let n_kept = sorted_front(&mut self.items, rank, weight, |sum| sum >= enough);
        self.items.truncate(n_kept);
    }

    /// Keeps tokens with `p ≥ min_p * p_max` (Nguyen et al. 2024, "Min-p").
    pub fn min_p(&mut self, min_p: f32) {
        if min_p <= 0.0 {
            return;
        }
        let least = f64::from(self.max) + math::ln(f64::from(min_p));
        self.items.retain(|c| f64::from(c.logit) >= least);
    }

    /// Of the tokens with a probability of at least `threshold`, if there are several, keeps the
    /// least probable only.
    pub fn exclude_top_choices(&mut self, threshold: f32) {
        let total = self.total_weight();
        let max = f64::from(self.max);
        let is_top =
            |c: &Candidate| math::exp(f64::from(c.logit) - max) >= f64::from(threshold) * total;
        let mut top = self.items.iter().copied().filter(is_top);
        let Some(first) = top.next() else { return };
        let last = top.fold(first, |last, c| if rank(&c, &last).is_gt() { c } else { last });
        self.items.retain(|c| !is_top(c) || c.id == last.id);
        self.max = self.items.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max);
    }

    /// Picks by `exp(logit / temperature)` where the running sum passes `draw` (in [0, 1)) of the
    /// total.
    pub fn pick(&mut self, temperature: f32, draw: f64) -> u32 {
        let (max, temperature) = (f64::from(self.max), f64::from(temperature));
        self.weights.clear();
        self.weights
            .extend(self.items.iter().map(|c| math::exp((f64::from(c.logit) - max) / temperature)));
        let mut total = 0.0;
        for weight in &mut self.weights {
            total += *weight;
            *weight = total;
        }
        // `draw * total` may round up to `total`; then the last one that added anything is meant.
        let target = draw * total;
        let at = self.weights.partition_point(|&sum| sum <= target);
        let at = at.min(self.weights.partition_point(|&sum| sum < total));
        self.items[at].id
    }

    /// The `n` largest of `logits` as `(id, logit)`, falling; replaces what the candidates held.
    pub fn largest(&mut self, logits: &[f32], n: u32) -> impl Iterator<Item = (u32, f32)> {
        if n > 0 && self.load(logits, 0.0, n) {
            self.sort();
        } else {
            self.items.clear();
        }
        self.items.iter().map(|c| (c.id, c.logit))
    }

    /// Σ exp(logit - max), in the candidates' order.
    fn total_weight(&self) -> f64 {
        let max = f64::from(self.max);
        self.items.iter().map(|c| math::exp(f64::from(c.logit) - max)).sum()
    }

    fn sort(&mut self) {
        self.items.sort_unstable_by(rank);
        self.max = self.items[0].logit;
    }

    #[cfg(test)]
    pub fn ids(&self) -> Vec<u32> {
        self.items.iter().map(|c| c.id).collect()
    }
}

/// Orders the front of `items` until the running sum of their weights is enough, and returns the
/// length of that front; all of them if it never is.
fn sorted_front<T>(
    items: &mut [T],
    order: impl Fn(&T, &T) -> Ordering,
    weight: impl Fn(&T) -> f64,
    is_enough: impl Fn(f64) -> bool,
) -> usize {
    // A few tokens usually hold the share asked for, so the front starts short and grows fourfold.
    let (mut n_sorted, mut front) = (0, 64);
    let mut sum = 0.0;
    while n_sorted < items.len() {
        front = front.min(items.len());
        if front < items.len() {
            items[n_sorted..].select_nth_unstable_by(front - 1 - n_sorted, &order);
        }
        items[n_sorted..front].sort_unstable_by(&order);
        for (i, item) in items[..front].iter().enumerate().skip(n_sorted) {
            sum += weight(item);
            if is_enough(sum) {
                return i + 1;
            }
        }
        (n_sorted, front) = (front, 4 * front);
    }
    items.len()
}

/// The smallest logit that is at least `max - n * standard deviation` of the logits that are not
/// -∞.
fn sigma_floor(logits: &[f32], max: f32, n: f32) -> f32 {
    let finite =
        || logits.iter().filter(|logit| **logit > f32::NEG_INFINITY).map(|&logit| f64::from(logit));
    let count = finite().count() as f64;
    let mean = finite().sum::<f64>() / count;
    let variance = finite().map(|logit| (logit - mean) * (logit - mean)).sum::<f64>() / count;
    let least = f64::from(max) - f64::from(n) * variance.sqrt();
    let floor = least as f32;
    if f64::from(floor) < least { floor.next_up() } else { floor.max(f32::MIN) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded_with(logits: &[f32], top_n_sigma: f32, top_k: u32) -> Candidates {
        let mut candidates = Candidates::default();
        assert!(candidates.load(logits, top_n_sigma, top_k));
        candidates
    }

    fn loaded(logits: &[f32]) -> Candidates {
        loaded_with(logits, 0.0, 0)
    }

    /// Logits with the given probabilities.
    fn from_probabilities(p: &[f64]) -> Candidates {
        loaded(&p.iter().map(|p| p.ln() as f32).collect::<Vec<_>>())
    }

    fn noise(n: usize) -> Vec<f32> {
        (0..n).map(|i| (super::super::rng::draws(3, i as u64).pick * 12.0) as f32).collect()
    }

    #[test]
    fn top_k_equals_a_full_sort() {
        for n in [1, 5, 100, 1000] {
            let mut logits = noise(n);
            logits[n / 2] = logits[0];
            let mut sorted: Vec<u32> = (0..n as u32).collect();
            sorted.sort_by(|&a, &b| {
                logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b))
            });
            for k in [1, 2, 3, 7, 40, 999] {
                let candidates = loaded_with(&logits, 0.0, k);
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
        let candidates = loaded_with(&[0.0, -0.0, 0.0, -0.0], 0.0, 2);
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
        for (p, expected) in
            [(0.2, &[1u32][..]), (0.5, &[0, 1]), (0.95, &[0, 1, 2]), (1.0, &[0, 1, 2])]
        {
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
            let candidates = loaded_with(&logits, n, 0);
            assert_eq!(candidates.ids().len(), expected, "{n}");
        }
    }

    #[test]
    fn xtc_leaves_the_least_probable_top_choice() {
        for (threshold, expected) in
            [(0.1, &[0u32, 3][..]), (0.25, &[0, 2, 3]), (0.45, &[0, 1, 2, 3]), (0.0, &[3])]
        {
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
        assert!(!Candidates::default().load(&[f32::NEG_INFINITY; 3], 1.0, 1));
    }
}
