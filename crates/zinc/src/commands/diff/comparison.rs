//! Compares what two sides computed, tensor by tensor, up to the first that differs.

use std::borrow::Cow;

use zinc_engine::{Router, Tapped};

use super::choices::{Choices, tensor};
use super::outcome::{Found, Outcome, What};
use super::rows::{Compared, Rows};
use crate::compare::{NMSE_EXACT, behind_parted};

/// What is compared, and how far it may differ.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Tensors to compare, in the order of the plan, and the ids of all routers before them.
    pub names: &'a [String],
    /// Those of them that are asked for.
    pub in_range: &'a [String],
    /// The routers whose ids are among them.
    pub routers: &'a [Router],
    /// Largest normalised squared error.
    pub tolerance: f64,
}

/// A comparison on its way.
///
/// Where devices may differ by more than rounding, a router's nearly equal experts change places now and then. A
/// router that is wrong shows in that its own scores say something else; where they do not, scores differ within the
/// tolerance, and the token's rows have nothing to do with each other from there on.
pub struct Comparison<'a> {
    terms: Terms<'a>,
    rows: Rows,
    /// Of the routers passed so far.
    choices: Vec<(&'a Router, Choices)>,
    /// What was found.
    pub outcome: Outcome,
}

impl<'a> Comparison<'a> {
    /// A comparison that has seen nothing yet.
    pub fn new(terms: Terms<'a>) -> Comparison<'a> {
        let outcome = Outcome { tolerance: terms.tolerance, ..Outcome::default() };
        Comparison { terms, rows: Rows::default(), choices: Vec::new(), outcome }
    }

    /// Compares in the order of the plan up to the first tensor that differs.
    ///
    /// # Errors
    /// A tensor is missing or has another shape on one side.
    pub fn tapped(&mut self, found: &[Tapped], expected: &[Tapped]) -> anyhow::Result<()> {
        for name in self.terms.names {
            let is_asked = self.terms.in_range.contains(name);
            let pair = [tensor(found, name)?, tensor(expected, name)?];
            let is_left = self.is_left(pair)?;
            if is_asked && is_left {
                self.outcome.n_compared += 1;
            } else if is_asked {
                self.outcome.ended_at.get_or_insert_with(|| name.clone());
            }
            let router = self.terms.routers.iter().find(|router| router.ids == *name);
            match router {
                Some(router) => self.choices(router, is_asked, found, expected)?,
                None if is_asked && is_left => self.values(pair),
                None => {}
            }
            if self.outcome.first.is_some() {
                break;
            }
        }
        self.outcome.n_parted = self.rows.n_parted();
        Ok(())
    }

    /// Compares the logits of a step with nothing tapped with the other side's, if all else agreed.
    ///
    /// Such a step may round otherwise than a tapped one, and its routers choose otherwise. If logits differ, `again`
    /// computes with what its routers read and wrote tapped, and nothing else, to know of such tokens.
    ///
    /// # Errors
    /// Logits have another shape on one side; what `again` returns.
    pub fn untapped(
        &mut self,
        logits: &Tapped,
        expected: &[Tapped],
        tolerance: f64,
        again: impl FnOnce() -> anyhow::Result<Vec<Tapped>>,
    ) -> anyhow::Result<()> {
        let pair = [logits, tensor(expected, &logits.name)?];
        if self.outcome.first.is_some() || !self.is_left(pair)? {
            return Ok(());
        }
        let mut compared = self.rows.compare(pair[1], pair[0], tolerance);
        if compared.first.is_some() && tolerance > NMSE_EXACT && !self.terms.routers.is_empty() {
            let (again, mut rows) = (again()?, self.rows.clone());
            for router in self.terms.routers {
                let parted = Choices::of(router, &rows, &again, expected)?.parted;
                rows.part(parted);
            }
            if rows.kept(logits.n_rows()).next().is_some() {
                compared = rows.compare(pair[1], pair[0], tolerance);
            }
        }
        let what = |first: Found| match first.what {
            What::Values => Found { what: What::Untapped, ..first },
            _ => first,
        };
        self.outcome.n_compared += 1;
        self.outcome.untapped_nmse = Some(compared.nmse.max(compared.nmse_behind));
        self.outcome.first = compared.first.map(what);
        Ok(())
    }

    /// Whether a token of a tensor is left to compare.
    fn is_left(&self, [found, expected]: [&Tapped; 2]) -> anyhow::Result<bool> {
        let shape = |tensor: &Tapped| (tensor.n_cols, tensor.values.len());
        anyhow::ensure!(
            shape(found) == shape(expected),
            "{} has another shape on each side",
            found.name
        );
        Ok(self.rows.kept(found.n_rows()).next().is_some())
    }

    /// Compares a tensor of values.
    fn values(&mut self, [found, expected]: [&Tapped; 2]) {
        let of_slots = |(router, _): &&(&Router, Choices)| router.by_slot.contains(&found.name);
        let choices = self.choices.iter().find(of_slots);
        let expected = match choices {
            Some((_, choices)) => choices.in_order(expected),
            None => Cow::Borrowed(expected),
        };
        let Compared { nmse, nmse_behind, first } =
            self.rows.compare(&expected, found, self.terms.tolerance);
        let outcome = &mut self.outcome;
        outcome.worst_nmse = outcome.worst_nmse.max(nmse);
        if let Some(worst) = &mut outcome.worst_nmse_behind_parted {
            *worst = worst.max(nmse_behind);
        }
        outcome.first = first;
    }

    /// Judges a router, and parts the tokens to which it gave other experts.
    fn choices(
        &mut self,
        router: &'a Router,
        is_asked: bool,
        found: &[Tapped],
        expected: &[Tapped],
    ) -> anyhow::Result<()> {
        let mut choices = Choices::of(router, &self.rows, found, expected)?;
        let is_exact = self.terms.tolerance <= NMSE_EXACT;
        if is_asked {
            let other = choices.other.take().filter(|_| is_exact);
            self.outcome.first = choices.wrong.take().or(other);
        }
        if !is_exact && self.outcome.first.is_none() && !choices.parted.is_empty() {
            self.outcome.parted_at.get_or_insert_with(|| router.ids.clone());
            self.outcome.tolerance_behind_parted = Some(behind_parted(self.terms.tolerance));
            self.outcome.worst_nmse_behind_parted.get_or_insert(0.0);
            self.rows.part(choices.parted.iter().copied());
        }
        self.choices.push((router, choices));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
