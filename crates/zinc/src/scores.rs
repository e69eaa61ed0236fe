//! How well rows of logits predict the tokens that follow, and how far they are from those of
//! another model: log-softmax, Kullback-Leibler divergence, and statistics over many rows.

use anyhow::Context;

use crate::saved_logits::SavedRow;

/// A row beside the base model's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Minus the logarithm of the next token's probability.
    pub nll: f64,
    /// The same by the base model.
    pub nll_base: f64,
    /// KL(base || this) in nats.
    pub kl: f64,
    /// Whether both hold the same token for the most probable one.
    pub same_top: bool,
}

impl Comparison {
    /// How much more probable the next token is than by the base model.
    pub fn p_difference(&self) -> f64 {
        (-self.nll).exp() - (-self.nll_base).exp()
    }
}

/// Logarithm of the sum of the exponentials; not finite if the row holds NaN or an infinity.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - max).exp())).sum();
    f64::from(max) + sum.ln()
}

/// Minus the logarithm of the probability that `logits` give the token `next`.
pub fn nll(logits: &[f32], next: u32) -> f64 {
    log_sum_exp(logits) - f64::from(logits[next as usize])
}

/// Compares `logits` with the base model's log-probabilities of the same row.
///
/// Tokens that the base holds for less probable than e^-16 are left out: their stored values are
/// bounds, not values. The stored probabilities of the others are divided by their sum, so that the
/// divergence is one of distributions: not negative, and blind to the rounding of the stored
/// values but for its square.
pub fn compare(logits: &[f32], base: SavedRow<'_>, next: u32) -> Comparison {
    const LOG_PROB_MIN: f32 = -16.0;
    let log_sum = log_sum_exp(logits);
    let (mut weighted, mut mass) = (0.0, 0.0);
    let mut base_max = f32::NEG_INFINITY;
    let (mut top, mut base_at_top) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for (&logit, log_base) in logits.iter().zip(base.log_probs()) {
        if log_base > LOG_PROB_MIN {
            let p_base = f64::from(log_base.exp());
            weighted += p_base * (f64::from(log_base) - f64::from(logit) + log_sum);
            mass += p_base;
        }
        base_max = base_max.max(log_base);
        if logit > top {
            (top, base_at_top) = (logit, log_base);
        }
    }
    Comparison {
        nll: log_sum - f64::from(logits[next as usize]),
        nll_base: f64::from(base.nll(next)),
        kl: weighted / mass - mass.ln(),
        // Stored values are rounded: the base may hold several tokens for equally probable.
        same_top: base_at_top == base_max,
    }
}

/// `f` of each of `n` rows, on several threads; in order, whatever the number of threads.
///
/// # Errors
/// A thread panicked.
pub fn in_parallel<T: Send>(
    n: usize,
    n_threads: usize,
    f: impl Fn(usize) -> T + Sync,
) -> anyhow::Result<Vec<T>> {
    let n_threads = n_threads.clamp(1, n.max(1));
    if n_threads == 1 {
        return Ok((0..n).map(f).collect());
    }
    let f = &f;
    let begin = |thread: usize| thread * n / n_threads;
    std::thread::scope(|scope| {
        let part = |thread: usize| {
            let rows = begin(thread)..begin(thread + 1);
            scope.spawn(move || rows.map(f).collect::<Vec<T>>())
        };
        let threads: Vec<_> = (0..n_threads).map(part).collect();
        let mut results = Vec::with_capacity(n);
        for thread in threads {
            results.extend(thread.join().ok().context("a thread failed")?);
        }
        Ok(results)
    })
}

/// Mean of values with the uncertainty that their number leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    n: u64,
    mean: f64,
    /// Sum of squared distances from the mean.
    spread: f64,
}

impl Mean {
    /// Adds a value (Welford's method: no cancellation between large sums).
    pub fn add(&mut self, value: f64) {
        self.n += 1;
        let distance = value - self.mean;
        self.mean += distance / self.n as f64;
        self.spread += distance * (value - self.mean);
    }

    /// Number of values.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// The mean.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Standard error of the mean; 0 for fewer than two values.
    pub fn error(&self) -> f64 {
        match self.n {
            0 | 1 => 0.0,
            n => (self.spread / n as f64 / (n - 1) as f64).max(0.0).sqrt(),
        }
    }
}

/// The value below which the share `fraction` of `sorted` lies, between neighbours in proportion;
/// 0 of nothing.
pub fn percentile(sorted: &[f64], fraction: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let at = fraction.clamp(0.0, 1.0) * last as f64;
    let below = at as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (at - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores() {
        // Probabilities 1/2, 1/4, 1/4.
        let logits = [2f32.ln() + 100.0, 100.0, 100.0];
        assert!((nll(&logits, 0) - 2f64.ln()).abs() < 1e-6);
        assert!((nll(&logits, 2) - 4f64.ln()).abs() < 1e-6);
        for broken in [f32::NAN, f32::INFINITY] {
            assert!(!nll(&[0.0, broken, 1.0], 0).is_finite());
        }
        assert_eq!(nll(&[0.0, f32::NEG_INFINITY], 0), 0.0);
    }

    #[test]
    fn threads_keep_the_order() {
        for n in [0, 1, 2, 7, 100] {
            for n_threads in [1, 2, 3, 200] {
                let found = in_parallel(n, n_threads, |row| row * row).unwrap();
                assert_eq!(found, (0..n).map(|row| row * row).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn means_and_percentiles() {
        let mut mean = Mean::default();
        assert_eq!((mean.mean(), mean.error()), (0.0, 0.0));
        [1.0, 2.0, 3.0, 6.0].into_iter().for_each(|value| mean.add(value));
        // Variance of the population 3.5, of the mean 3.5 / 3.
        assert_eq!((mean.n(), mean.mean()), (4, 3.0));
        assert!((mean.error() - (3.5f64 / 3.0).sqrt()).abs() < 1e-12);

        let sorted = [1.0, 2.0, 4.0];
        let at = |fraction| percentile(&sorted, fraction);
        assert_eq!([at(0.0), at(0.5), at(0.75), at(1.0)], [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
