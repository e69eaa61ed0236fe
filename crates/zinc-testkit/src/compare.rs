//! How far two results are apart.

/// Normalised mean square error: `sum (a - b)^2 / sum b^2`, with `b` the expected values.
/// Zero for equal values, infinite when a value that should be finite is not.
pub fn nmse(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let (mut error, mut power) = (0.0, 0.0);
    for (a, b) in found.iter().zip(expected) {
        if a.to_bits() == b.to_bits() || a == b {
            power += f64::from(*b) * f64::from(*b);
            continue;
        }
        let difference = f64::from(*a) - f64::from(*b);
        error += difference * difference;
        power += f64::from(*b) * f64::from(*b);
    }
    if error == 0.0 {
        return 0.0;
    }
    let ratio = error / power;
    if ratio.is_nan() { f64::INFINITY } else { ratio }
}

/// Largest absolute difference and where it is; infinite when the lengths differ or one is NaN.
pub fn max_abs(found: &[f32], expected: &[f32]) -> (f32, usize) {
    if found.len() != expected.len() {
        return (f32::INFINITY, found.len().min(expected.len()));
    }
    let mut worst = (0.0, 0);
    for (idx, (a, b)) in found.iter().zip(expected).enumerate() {
        let difference = (a - b).abs();
        if difference.is_nan() {
            return (f32::INFINITY, idx);
        }
        if difference > worst.0 {
            worst = (difference, idx);
        }
    }
    worst
}

/// Whether the bits are equal, or the index of the first element where they are not.
///
/// # Errors
/// The index.
pub fn same_bits(a: &[f32], b: &[f32]) -> Result<(), usize> {
    if a.len() != b.len() {
        return Err(a.len().min(b.len()));
    }
    match (0..a.len()).find(|idx| a[*idx].to_bits() != b[*idx].to_bits()) {
        Some(idx) => Err(idx),
        None => Ok(()),
    }
}

/// Mean over the rows of `KL(softmax(expected) || softmax(found))` in nats.
pub fn mean_kl(found: &[f32], expected: &[f32], n_vocab: usize) -> f64 {
    let rows = found.chunks_exact(n_vocab).zip(expected.chunks_exact(n_vocab));
    let n_rows = rows.len().max(1);
    let total: f64 = rows
        .map(|(found, expected)| {
            let (p, q) = (log_softmax(expected), log_softmax(found));
            p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
        })
        .sum();
    total / n_rows as f64
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = || logits.iter().map(|v| f64::from(*v) - f64::from(max));
    let log_sum = shifted().map(f64::exp).sum::<f64>().ln();
    shifted().map(|v| v - log_sum).collect()
}

/// Index of the largest value, the first of equal ones.
pub fn argmax(logits: &[f32]) -> usize {
    let better = |best: usize, idx: usize| {
        if logits[idx] > logits[best] { idx } else { best }
    };
    (1..logits.len()).fold(0, better)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nmse_sees_every_kind_of_difference() {
        assert_eq!(nmse(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
        assert_eq!(nmse(&[0.0], &[0.0]), 0.0);
        assert_eq!(nmse(&[1.0, 1.0], &[1.0, 2.0]), 0.2);
        assert_eq!(nmse(&[1.0], &[0.0]), f64::INFINITY);
        assert_eq!(nmse(&[f32::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(nmse(&[1.0], &[1.0, 2.0]), f64::INFINITY);
    }

    #[test]
    fn kl_is_zero_for_shifted_logits() {
        let a = [1.0, 2.0, 3.0];
        let b = [2.0, 3.0, 4.0];
        assert!(mean_kl(&a, &b, 3).abs() < 1e-12);
        assert!(mean_kl(&a, &[3.0, 2.0, 1.0], 3) > 0.5);
    }

    #[test]
    fn argmax_takes_the_first() {
        assert_eq!(argmax(&[0.0, 3.0, 3.0]), 1);
    }
}
