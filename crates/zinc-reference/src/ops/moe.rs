//! Mixture of experts.

use zinc_backend::{DeviceError, WeightSource};
use zinc_plan::{ExpertGroups, ExpertMatMul, Gating, GroupScore, RouterTopK};

use super::{dot, softmax, weight_row};
use crate::exec::Matrix;
use crate::ops::elementwise::sigmoid;

/// Indices of the `k` largest values, largest first, the lower index first among equals.
fn top_k(values: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(k);
    order
}

/// What each group of experts is worth.
pub(crate) fn group_values(groups: ExpertGroups, scores: &[f32]) -> Vec<f32> {
    let group_size = scores.len() / groups.n_groups as usize;
    let value = |group: &[f32]| {
        let best = top_k(group, 2);
        match groups.score {
            GroupScore::Max => group[best[0]],
            GroupScore::TopTwo => best.iter().map(|idx| group[*idx]).sum(),
        }
    };
    scores.chunks_exact(group_size).map(value).collect()
}

/// Puts the scores of all groups but the best out of reach.
fn keep_best_groups(groups: ExpertGroups, scores: &mut [f32]) {
    let group_size = scores.len() / groups.n_groups as usize;
    let kept = top_k(&group_values(groups, scores), groups.n_groups_used as usize);
    for (idx, group) in scores.chunks_exact_mut(group_size).enumerate() {
        if !kept.contains(&idx) {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

/// What experts weigh before the choice, and the scores that they are chosen by before groups are
/// looked at, of one row.
pub(crate) fn probs_and_scores(
    router: &RouterTopK,
    logits: &[f32],
    bias: Option<&[f32]>,
) -> (Vec<f32>, Vec<f32>) {
    let mut probs = logits.to_vec();
    match router.gating {
        Gating::Softmax => softmax(&mut probs, None),
        Gating::Sigmoid => probs.iter_mut().for_each(|prob| *prob = sigmoid(*prob)),
        Gating::TopKSoftmax => {}
    }
    let mut scores = probs.clone();
    if let Some(bias) = bias {
        scores.iter_mut().zip(bias).for_each(|(s, b)| *s += b);
    }
    (probs, scores)
}

/// Experts of the best scores, best first.
pub(crate) fn choose(router: &RouterTopK, mut scores: Vec<f32>) -> Vec<usize> {
    if let Some(groups) = router.groups {
        keep_best_groups(groups, &mut scores);
    }
    top_k(&scores, router.n_experts_used as usize)
}

/// Ids (as f32) and weights of the chosen experts.
pub(crate) fn router_top_k(
    router: &RouterTopK,
    logits: &Matrix,
    bias: Option<&Matrix>,
) -> [Matrix; 2] {
    let k = router.n_experts_used as usize;
    let [mut ids, mut weights] = [Matrix::zeros(0, k), Matrix::zeros(0, k)];
    for logits in logits.rows() {
        let (probs, scores) = probs_and_scores(router, logits, bias.map(|bias| &bias.data[..]));
        let chosen = choose(router, scores);
        let mut chosen_weights: Vec<f32> = chosen.iter().map(|idx| probs[*idx]).collect();
        if router.gating == Gating::TopKSoftmax {
            softmax(&mut chosen_weights, None);
        }
        let sum: f64 = chosen_weights.iter().map(|w| f64::from(*w)).sum();
        let divisor = if router.normalize { (sum + 1e-20) as f32 } else { 1.0 };
        ids.data.extend(chosen.iter().map(|idx| *idx as f32));
        let scaled = chosen_weights.iter().map(|w| w / divisor * router.scale);
        weights.data.extend(scaled);
    }
    [ids, weights]
}

pub(crate) fn expert_matmul(
    matmul: ExpertMatMul,
    weight: &WeightSource,
    x: &Matrix,
    ids: &Matrix,
    bias: Option<&Matrix>,
) -> Result<Matrix, DeviceError> {
    let n_in = weight.cols as usize;
    let n_out = weight.rows as usize / matmul.n_experts as usize;
    let mut y = Matrix::zeros(ids.data.len() / ids.cols, ids.cols * n_out);
    let mut row = vec![0.0; n_in];
    for ((y, x), ids) in y.rows_mut().zip(x.rows()).zip(ids.rows()) {
        for (slot, (y, id)) in y.chunks_exact_mut(n_out).zip(ids).enumerate() {
            let expert = *id as usize;
            let x = if x.len() == n_in { x } else { &x[slot * n_in..][..n_in] };
            for (out, y) in y.iter_mut().enumerate() {
                weight_row(weight, expert * n_out + out, &mut row)?;
                *y = dot(&row, x) + bias.map_or(0.0, |bias| bias.row(expert)[out]);
            }
        }
    }
    Ok(y)
}

/// `scale` holds the ids and the factor of each expert.
pub(crate) fn expert_combine(
    x: &Matrix,
    weights: &Matrix,
    scale: Option<(&Matrix, &Matrix)>,
) -> Matrix {
    let cols = x.cols / weights.cols;
    let mut y = Matrix::zeros(weights.data.len() / weights.cols, cols);
    for (t, y) in y.rows_mut().enumerate() {
        for (col, y) in y.iter_mut().enumerate() {
            let mut sum = 0.0f64;
            for (slot, weight) in weights.row(t).iter().enumerate() {
                let factor =
                    scale.map_or(1.0, |(ids, scale)| scale.data[ids.row(t)[slot] as usize]);
                sum += f64::from(weight * factor) * f64::from(x.row(t)[slot * cols + col]);
            }
            *y = sum as f32;
        }
    }
    y
}
