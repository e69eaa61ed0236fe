//! From the hidden states of a prompt's tokens to one vector.

use crate::EngineError;
use crate::request::Pooling;

/// The hidden states of a prompt, pooled step by step.
#[derive(Debug)]
pub(crate) struct Pooled {
    pooling: Pooling,
    /// Sum of the states so far, or the last one. In f64 and in order of position, so that chunks
    /// change no bit.
    sums: Vec<f64>,
    n_rows: usize,
    values: Vec<f32>,
}

impl Pooled {
    /// Of no token yet.
    pub fn new(pooling: Pooling) -> Pooled {
        Pooled { pooling, sums: Vec::new(), n_rows: 0, values: Vec::new() }
    }

    /// Forgets all rows.
    pub fn reset(&mut self) {
        self.sums.clear();
        self.n_rows = 0;
    }

    /// Whether only the last token's state counts.
    pub fn is_last(&self) -> bool {
        self.pooling == Pooling::Last
    }

    /// Adds rows of `d_model` values.
    pub fn push(&mut self, rows: &[f32], d_model: usize) {
        for row in rows.chunks_exact(d_model) {
            self.n_rows += 1;
            if self.is_last() || self.n_rows == 1 {
                self.sums.clear();
                self.sums.extend(row.iter().map(|value| f64::from(*value)));
            } else {
                let sums = self.sums.iter_mut().zip(row);
                sums.for_each(|(sum, value)| *sum += f64::from(*value));
            }
        }
    }

    /// The pooled vector at length 1. The mean has the direction of the sum.
    ///
    /// # Errors
    /// [`EngineError::Embedding`].
    pub fn normalised(&mut self) -> Result<&[f32], EngineError> {
        let length = self.sums.iter().map(|sum| sum * sum).sum::<f64>().sqrt();
        if !length.is_finite() || length == 0.0 {
            return Err(EngineError::Embedding { length });
        }
        self.values.clear();
        self.values.extend(self.sums.iter().map(|sum| (sum / length) as f32));
        Ok(&self.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_and_mean() {
        let rows = [3.0, 4.0, 0.0, 1.0, 6.0, 8.0];
        let pool = |pooling, cuts: &[usize]| {
            let mut pooled = Pooled::new(pooling);
            let mut begin = 0;
            for end in cuts.iter().copied().chain([rows.len()]) {
                pooled.push(&rows[begin..end], 2);
                begin = end;
            }
            pooled.normalised().unwrap().to_vec()
        };
        assert_eq!(pool(Pooling::Last, &[]), [0.6, 0.8]);
        assert_eq!(pool(Pooling::Last, &[2, 4]), [0.6, 0.8]);
        let mean = pool(Pooling::Mean, &[]);
        assert_eq!(mean, pool(Pooling::Mean, &[4]));
        assert!((mean[0] / mean[1] - 9.0 / 13.0).abs() < 1e-6);
        let mut zero = Pooled::new(Pooling::Mean);
        zero.push(&[0.0, 0.0], 2);
        assert!(zero.normalised().is_err());
    }
}
