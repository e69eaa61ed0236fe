//! What routers chose: whether their own scores say so, and whether both sides chose alike.

use std::borrow::Cow;

use anyhow::Context;
use zinc_engine::{Router, Tapped};

use super::outcome::{Found, What};
use super::rows::{Rows, row_of};

/// The choices of one router on both sides.
#[derive(Debug)]
pub struct Choices {
    /// The first choice that is not what the router's definition says of the scores that it read.
    pub wrong: Option<Found>,
    /// The first token with other experts on the two sides, of those still compared.
    pub other: Option<Found>,
    /// Tokens with other experts though each side's are right by its own scores.
    pub parted: Vec<usize>,
    /// Of each token, the slot that each of the checked device's experts has on the other side.
    orders: Vec<Vec<usize>>,
}

impl Choices {
    /// Judges each side by its own scores, and compares the sets of experts of the rows that are left.
    pub fn of(
        router: &Router,
        rows: &Rows,
        found: &[Tapped],
        expected: &[Tapped],
    ) -> anyhow::Result<Choices> {
        let ids = [tensor(found, &router.ids)?, tensor(expected, &router.ids)?];
        let scores = [tensor(found, &router.scores)?, tensor(expected, &router.scores)?];
        let n_rows = ids[0].n_rows();
        let mut orders = Vec::with_capacity(n_rows);
        let (mut wrong, mut other, mut parted) = (None, None, Vec::new());
        for row in 0..n_rows {
            let chosen = ids.map(|ids| ids_of(ids, row));
            let mut is_right = true;
            for (idx, what) in [(0, What::Choice), (1, What::ChoiceAgainst)] {
                let scores = row_of(scores[idx], row);
                let found = wrong_choice(router, scores, &chosen[idx], what);
                is_right &= found.is_none();
                wrong = wrong.or(found.map(|found| Found { row, ..found }));
            }
            let order = order(&chosen);
            if order.is_none() && rows.is_kept(row) {
                let differs = other_choice(router, &chosen[1], &chosen[0], What::Experts);
                other = other.or(Some(Found { row, ..differs }));
                parted.extend(is_right.then_some(row));
            }
            orders.push(order.unwrap_or_else(|| (0..chosen[0].len()).collect()));
        }
        Ok(Choices { wrong, other, parted, orders })
    }

    /// The other side's tensor of blocks, one for each expert, with each row's blocks in the order of the checked
    /// device's experts.
    pub fn in_order<'a>(&self, expected: &'a Tapped) -> Cow<'a, Tapped> {
        if self.orders.iter().all(|order| order.is_sorted()) {
            return Cow::Borrowed(expected);
        }
        let mut values = Vec::with_capacity(expected.values.len());
        for (row, order) in self.orders.iter().enumerate() {
            let width = expected.n_cols / order.len();
            let block = |slot: &usize| &row_of(expected, row)[slot * width..][..width];
            values.extend(order.iter().flat_map(block));
        }
        Cow::Owned(Tapped { values, name: expected.name.clone(), ..*expected })
    }
}

/// The tensor called `name`.
pub fn tensor<'a>(tapped: &'a [Tapped], name: &str) -> anyhow::Result<&'a Tapped> {
    let found = tapped.iter().find(|tensor| tensor.name == name);
    found.with_context(|| format!("{name} was not computed"))
}

/// A row of ids; what is none is larger than any.
fn ids_of(ids: &Tapped, row: usize) -> Vec<usize> {
    let id = |value: &f32| if *value >= 0.0 { *value as usize } else { usize::MAX };
    row_of(ids, row).iter().map(id).collect()
}

/// The slot on the second side of each expert of the first, if both have the same experts.
fn order([found, expected]: &[Vec<usize>; 2]) -> Option<Vec<usize>> {
    let sorted = |ids: &[usize]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    if found == expected {
        return Some((0..found.len()).collect());
    }
    if sorted(found) != sorted(expected) {
        return None;
    }
    found.iter().map(|id| expected.iter().position(|other| other == id)).collect()
}

/// What is wrong with a choice by these scores.
fn wrong_choice(router: &Router, scores: &[f32], ids: &[usize], what: What) -> Option<Found> {
    let bias = router.bias.as_deref();
    if zinc_reference::may_choose(&router.op, scores, bias, ids) {
        return None;
    }
    let right = zinc_reference::chosen_experts(&router.op, scores, bias);
    Some(other_choice(router, &right, ids, what))
}

/// The first slot of `ids` that is no expert of `right`, or is one once more, and an expert of `right` that is not
/// in `ids`.
fn other_choice(router: &Router, right: &[usize], ids: &[usize], what: What) -> Found {
    let is_other = |(slot, id): &(usize, &usize)| !right.contains(id) || ids[..*slot].contains(id);
    let (column, id) = ids.iter().enumerate().find(is_other).unwrap_or((0, &ids[0]));
    let missing = right.iter().find(|id| !ids.contains(id)).unwrap_or(&right[0]);
    Found {
        tensor: router.ids.clone(),
        what,
        allowed: 0.0,
        nmse: f64::INFINITY,
        max_abs: f32::INFINITY,
        row: 0,
        column,
        value: *id as f32,
        expected: *missing as f32,
    }
}
