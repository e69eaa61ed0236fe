//! Judging another router's choice of experts by the scores that it read.

use std::collections::BTreeSet;

use zinc_plan::{ExpertGroups, Gating, RouterTopK};

use crate::ops::moe::{choose, group_values, probs_and_scores};

/// How far probabilities may be off, as a share of them, for exponentials in f32 and sums in any order.
const ROUNDING: f32 = 64.0 * f32::EPSILON;

/// The experts that `router` chooses by one row of `logits` and its selection bias, best first.
pub fn chosen_experts(router: &RouterTopK, logits: &[f32], bias: Option<&[f32]>) -> Vec<usize> {
    choose(router, probs_and_scores(router, logits, bias).1)
}

/// Whether a device that is right may choose `ids`, in any order, by one row of `logits`: those that
/// [`chosen_experts`] gives, or others instead whose selection scores are as good to within rounding.
///
/// Logits that are not finite give no order to hold a device to, so by them anything may be chosen.
pub fn may_choose(
    router: &RouterTopK,
    logits: &[f32],
    bias: Option<&[f32]>,
    ids: &[usize],
) -> bool {
    if logits.iter().any(|logit| !logit.is_finite()) {
        return true;
    }
    let chosen: BTreeSet<usize> = ids.iter().copied().collect();
    let exist = chosen.iter().all(|id| *id < logits.len());
    if !exist || ids.len() != router.n_experts_used as usize || chosen.len() != ids.len() {
        return false;
    }
    let (lowest, highest) = bounds(router, logits, bias);
    let kept = match router.groups {
        Some(groups) => kept_groups(groups, &lowest, &highest, &chosen),
        None => Some((0..logits.len()).collect()),
    };
    let Some(candidates) = kept else { return false };
    let worst = chosen.iter().map(|id| highest[*id]).fold(f32::INFINITY, f32::min);
    candidates.iter().all(|id| chosen.contains(id) || lowest[*id] <= worst)
}

/// The lowest and the highest selection score that rounding may make of each expert's.
fn bounds(router: &RouterTopK, logits: &[f32], bias: Option<&[f32]>) -> (Vec<f32>, Vec<f32>) {
    let (probs, scores) = probs_and_scores(router, logits, bias);
    // Logits are compared as they are, and a sum of two values has one rounding only.
    let share = if router.gating == Gating::TopKSoftmax { 0.0 } else { ROUNDING };
    let room = |idx: usize| share * (probs[idx].abs() + bias.map_or(0.0, |bias| bias[idx].abs()));
    let lowest = scores.iter().enumerate().map(|(idx, score)| score - room(idx));
    let highest = scores.iter().enumerate().map(|(idx, score)| score + room(idx));
    (lowest.collect(), highest.collect())
}

/// The experts that `chosen` must be the best of: those of the groups that are kept however scores are
/// rounded, and of the groups that were chosen from. `None` if no such groups are kept together.
fn kept_groups(
    groups: ExpertGroups,
    lowest: &[f32],
    highest: &[f32],
    chosen: &BTreeSet<usize>,
) -> Option<Vec<usize>> {
    let group_size = lowest.len() / groups.n_groups as usize;
    let n_kept = groups.n_groups_used as usize;
    let [least, most] = [group_values(groups, lowest), group_values(groups, highest)];
    let count =
        |is_better: &dyn Fn(usize) -> bool| (0..least.len()).filter(|g| is_better(*g)).count();
    let is_kept = |group: usize| count(&|g| g != group && most[g] >= least[group]) < n_kept;
    let may_be_kept = |group: usize| count(&|g| least[g] > most[group]) < n_kept;
    let used: BTreeSet<usize> = chosen.iter().map(|id| id / group_size).collect();
    let kept: BTreeSet<usize> =
        (0..least.len()).filter(|group| is_kept(*group) || used.contains(group)).collect();
    let fits = used.iter().all(|group| may_be_kept(*group)) && kept.len() <= n_kept;
    let experts = |group: usize| group * group_size..(group + 1) * group_size;
    fits.then(|| kept.into_iter().flat_map(experts).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zinc_plan::GroupScore;

    fn router(gating: Gating, groups: Option<ExpertGroups>) -> RouterTopK {
        RouterTopK { n_experts_used: 2, gating, bias: true, groups, normalize: false, scale: 1.0 }
    }

    #[test]
    fn the_best_in_any_order_and_nothing_else() {
        for gating in [Gating::Softmax, Gating::Sigmoid, Gating::TopKSoftmax] {
            let router = router(gating, None);
            let may = |ids: &[usize]| may_choose(&router, &[0.5, 2.0, -1.0, 1.0], None, ids);
            assert!(may(&[1, 3]) && may(&[3, 1]), "{gating:?}");
            for wrong in [&[1, 0][..], &[1, 1], &[1], &[1, 3, 0], &[1, 4]] {
                assert!(!may(wrong), "{gating:?}: {wrong:?}");
            }
        }
    }

    #[test]
    fn a_bias_decides_and_ties_do_not() {
        let router = router(Gating::Sigmoid, None);
        let logits = [4.0, 3.0, 0.0, -1.0];
        let bias = [-1.0, 0.0, 0.5, 0.0];
        assert_eq!(chosen_experts(&router, &logits, Some(&bias)), [2, 1]);
        let may = |logits: &[f32], bias: &[f32], ids: &[usize]| {
            may_choose(&router, logits, Some(bias), ids)
        };
        assert!(may(&logits, &bias, &[1, 2]) && !may(&logits, &bias, &[0, 1]));
        // Sigmoids of large logits are 1, or the value before that.
        let tied = [30.0, 20.0, 25.0, 1.0];
        assert!(may(&tied, &[0.0; 4], &[0, 1]) && may(&tied, &[0.0; 4], &[2, 1]));
        assert!(!may(&tied, &[0.0; 4], &[0, 3]));
        assert!(may(&[f32::NAN; 4], &bias, &[0, 1]));
    }

    #[test]
    fn groups_bound_the_choice() {
        for score in [GroupScore::Max, GroupScore::TopTwo] {
            let groups = ExpertGroups { n_groups: 3, n_groups_used: 1, score };
            let router = router(Gating::TopKSoftmax, Some(groups));
            let may = |logits: &[f32], ids: &[usize]| may_choose(&router, logits, None, ids);
            let logits = [1.0, 0.9, 5.0, 4.0, 4.5, 4.0];
            assert_eq!(chosen_experts(&router, &logits, None), [2, 3]);
            assert!(may(&logits, &[2, 3]), "{score:?}");
            assert!(!may(&logits, &[2, 4]) && !may(&logits, &[4, 5]), "{score:?}");
            // Either of two groups that are worth the same, but not both.
            let tied = [1.0, 0.9, 5.0, 4.0, 5.0, 4.0];
            assert!(may(&tied, &[2, 3]) && may(&tied, &[5, 4]) && !may(&tied, &[2, 4]));
        }
    }
}
