//! Rows of tensors, one for each token, that are compared still.

use std::collections::BTreeSet;

use zinc_engine::Tapped;

use super::outcome::{Found, What};
use crate::compare::{behind_parted, compare_part, energy};

/// The rows of tokens that had the same experts on both sides so far.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    parted: BTreeSet<usize>,
}

/// What comparing a tensor's rows gave.
#[derive(Debug, Default)]
pub struct Compared {
    /// Squared error of the rows before the first parted one, over the energy of all rows compared.
    pub nmse: f64,
    /// That of the rows behind it, likewise.
    pub nmse_behind: f64,
    /// What differs, if anything does.
    pub first: Option<Found>,
}

impl Rows {
    /// Leaves out these rows from now on.
    pub fn part(&mut self, rows: impl IntoIterator<Item = usize>) {
        self.parted.extend(rows);
    }

    /// Number of rows that are left out.
    pub fn n_parted(&self) -> usize {
        self.parted.len()
    }

    /// Whether a row is left.
    pub fn is_kept(&self, row: usize) -> bool {
        !self.parted.contains(&row)
    }

    /// The rows of `n` that are left.
    pub fn kept(&self, n: usize) -> impl Iterator<Item = usize> + '_ {
        (0..n).filter(|row| self.is_kept(*row))
    }

    /// Compares what is left of a tensor. A token sees those before it only, so rows before the first that is left
    /// out keep the plain tolerance, which is a share of the energy of all rows compared: the fewer they are, the
    /// more they differ from each other. What is left out must be finite still.
    pub fn compare(&self, expected: &Tapped, found: &Tapped, tolerance: f64) -> Compared {
        let mut compared = Compared::default();
        let first_parted = self.parted.first().copied().unwrap_or(usize::MAX);
        let kept: Vec<_> = self.kept(found.n_rows()).collect();
        let (before, behind) = kept.split_at(kept.partition_point(|row| *row < first_parted));
        let whole = energy(&values(expected, &kept));
        let mut add = |rows, allowed| compared.add(rows, [expected, found], whole, allowed);
        let [nmse, nmse_behind] = [add(before, tolerance), add(behind, behind_parted(tolerance))];
        (compared.nmse, compared.nmse_behind) = (nmse, nmse_behind);
        for row in self.parted.iter().take_while(|row| **row < found.n_rows()) {
            let column = row_of(found, *row).iter().position(|value| !value.is_finite());
            if let Some(column) = column.filter(|_| compared.first.is_none()) {
                compared.first = Some(Found {
                    what: What::NotFinite,
                    allowed: tolerance,
                    nmse: f64::INFINITY,
                    max_abs: f32::INFINITY,
                    ..Found::at(*row, column, expected, found)
                });
            }
        }
        compared
    }
}

impl Compared {
    /// Compares some rows of tensors, where all rows compared have the energy `whole`, and returns their error.
    fn add(
        &mut self,
        rows: &[usize],
        [expected, found]: [&Tapped; 2],
        whole: f64,
        allowed: f64,
    ) -> f64 {
        let difference = compare_part(&values(expected, rows), &values(found, rows), whole);
        if difference.nmse > allowed && self.first.is_none() {
            let row = rows[difference.worst / found.n_cols];
            let at = Found::at(row, difference.worst % found.n_cols, expected, found);
            let is_finite = at.value.is_finite() && at.expected.is_finite();
            self.first = Some(Found {
                what: if is_finite { What::Values } else { What::NotFinite },
                allowed,
                nmse: difference.nmse,
                max_abs: difference.max_abs,
                ..at
            });
        }
        difference.nmse
    }
}

/// The values of some rows.
fn values(tensor: &Tapped, rows: &[usize]) -> Vec<f32> {
    rows.iter().flat_map(|row| row_of(tensor, *row)).copied().collect()
}

/// A row of a tensor.
pub fn row_of(tensor: &Tapped, row: usize) -> &[f32] {
    &tensor.values[row * tensor.n_cols..][..tensor.n_cols]
}
