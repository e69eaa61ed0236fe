//! Rows of logits as devices give them: whole, or the largest of each.
//!
//! A row of a large vocabulary is 600 KB, which takes longer to bring to the host and to look through
//! than a step of many sequences may take in all. The device finds the [largest](zinc_plan::Op::TopK) of
//! every row, and only the rows of requests that [read more](super::Sampler::reads_all) come whole.

/// Most logits that a device gives of a row that does not come whole: enough for usual values of top-k.
pub const N_LARGEST: u32 = 64;

/// What is known of a row of logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Logits<'a> {
    /// All, by id.
    All(&'a [f32]),
    /// The largest, in the order of [`Op::TopK`](zinc_plan::Op::TopK).
    Largest {
        /// Their ids; every id is a whole number that f32 holds exactly.
        ids: &'a [f32],
        /// Themselves.
        values: &'a [f32],
    },
}

/// Rows that a step gave, in order.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// Whole rows of `n_cols` values.
    Whole { values: &'a [f32], n_cols: usize },
    /// The `k` largest of each row.
    Largest { ids: &'a [f32], values: &'a [f32], k: usize },
}

impl<'a> Rows<'a> {
    /// The first `n` rows, and the others; fewer if there are not as many.
    pub fn split_at(self, n: usize) -> (Rows<'a>, Rows<'a>) {
        let cut =
            |values: &'a [f32], n_cols: usize| values.split_at((n * n_cols).min(values.len()));
        match self {
            Rows::Whole { values, n_cols } => {
                let (first, others) = cut(values, n_cols);
                let whole = |values| Rows::Whole { values, n_cols };
                (whole(first), whole(others))
            }
            Rows::Largest { ids, values, k } => {
                let (first_ids, other_ids) = cut(ids, k);
                let (first, others) = cut(values, k);
                let largest = |ids, values| Rows::Largest { ids, values, k };
                (largest(first_ids, first), largest(other_ids, others))
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Rows::Whole { values, n_cols: n } | Rows::Largest { values, k: n, .. } => {
                values.len() / n.max(&1)
            }
        }
    }

    /// Row `at`.
    pub fn get(&self, at: usize) -> Option<Logits<'a>> {
        let row = |values: &'a [f32], n: usize| values.chunks_exact(n.max(1)).nth(at);
        match *self {
            Rows::Whole { values, n_cols } => row(values, n_cols).map(Logits::All),
            Rows::Largest { ids, values, k } => {
                Some(Logits::Largest { ids: row(ids, k)?, values: row(values, k)? })
            }
        }
    }

    /// The values of whole rows, one row after the other; none of others.
    pub fn whole(&self) -> &'a [f32] {
        match *self {
            Rows::Whole { values, .. } => values,
            Rows::Largest { .. } => &[],
        }
    }
}

/// What is left of the rows of a step while its shares take theirs in order.
pub(crate) struct StepRows<'a> {
    whole: Rows<'a>,
    largest: Rows<'a>,
}

impl<'a> StepRows<'a> {
    /// The outputs of a step that gives `n_rows` rows: rows of `n_cols` values; and ids and values of the
    /// largest of each row, if the plan gives them.
    pub fn new(outputs: &'a [Vec<f32>], n_cols: u32, n_rows: usize) -> StepRows<'a> {
        let output = |at: usize| outputs.get(at).map_or(&[][..], Vec::as_slice);
        let k = output(1).len() / n_rows.max(1);
        StepRows {
            whole: Rows::Whole { values: output(0), n_cols: n_cols as usize },
            largest: Rows::Largest { ids: output(1), values: output(2), k },
        }
    }

    /// The next `n` rows, which came whole or not.
    pub fn take(&mut self, n: usize, whole: bool) -> Rows<'a> {
        let (largest, others) = self.largest.split_at(n);
        self.largest = others;
        if !whole {
            return largest;
        }
        let (rows, others) = self.whole.split_at(n);
        self.whole = others;
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_take_their_rows_in_order() {
        let outputs = [
            vec![0.0, 1.0, 2.0, 10.0, 11.0, 12.0],
            vec![2.0, 1.0, 0.0, 2.0, 1.0, 0.0],
            vec![5.0, 4.0, 7.0, 6.0, 9.0, 8.0],
        ];
        let mut rows = StepRows::new(&outputs, 3, 3);
        let first = rows.take(1, true);
        assert_eq!((first.len(), first.get(0)), (1, Some(Logits::All(&[0.0, 1.0, 2.0]))));
        let second = rows.take(1, false);
        let largest = Logits::Largest { ids: &[0.0, 2.0], values: &[7.0, 6.0] };
        assert_eq!((second.len(), second.get(0), second.get(1)), (1, Some(largest), None));
        let third = rows.take(1, true);
        assert_eq!((third.len(), third.whole()), (1, &[10.0, 11.0, 12.0][..]));
        assert_eq!(rows.take(2, true).len(), 0);
    }
}
