//! The choice of experts, the order of the work for them, and the sum of their results.
//!
//! Choosing is scalar and in f64 where the definition is, so that close scores are ordered as they are defined: some
//! microseconds for a row. The sum over `k` slots moves `4·(k + 1)` bytes per value and is memory bound.

use super::elementwise::padded;
use super::top_k::insert;
use crate::simd::{Kernel, Simd};
use zinc_plan::{ExpertGroups, Gating, GroupScore, RouterTopK};

/// Rows of one expert that are multiplied together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(crate) struct Chunk {
    pub expert: i32,
    /// First of the pairs.
    pub first: i32,
    /// Number of pairs.
    pub n: i32,
}

/// Working memory of one worker.
pub(crate) struct Scratch {
    exps: Vec<f64>,
    probs: Vec<f32>,
    scores: Vec<f32>,
    /// Values of the groups, and the ones that are kept.
    groups: Vec<f32>,
    kept: Vec<i32>,
}

impl Scratch {
    /// For routers over up to `n_experts`.
    pub(crate) fn new(n_experts: usize) -> Scratch {
        Scratch {
            exps: vec![0.0; n_experts],
            probs: vec![0.0; n_experts],
            scores: vec![0.0; n_experts],
            groups: vec![0.0; n_experts],
            kept: vec![0; n_experts],
        }
    }
}

/// Ids and weights of the experts that a row of logits chooses.
pub(crate) fn route(
    router: &RouterTopK,
    logits: &[f32],
    bias: Option<&[f32]>,
    scratch: &mut Scratch,
    (ids, weights): (&mut [i32], &mut [f32]),
) {
    let n_experts = logits.len();
    let probs = &mut scratch.probs[..n_experts];
    probs.copy_from_slice(logits);
    match router.gating {
        Gating::Softmax => softmax(probs, &mut scratch.exps),
        Gating::Sigmoid => probs.iter_mut().for_each(|prob| *prob = 1.0 / (1.0 + (-*prob).exp())),
        Gating::TopKSoftmax => {}
    }
    let scores = &mut scratch.scores[..n_experts];
    scores.copy_from_slice(probs);
    if let Some(bias) = bias {
        scores.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
    }
    if let Some(groups) = router.groups {
        keep_best_groups(groups, scores, &mut scratch.groups, &mut scratch.kept);
    }
    top_k(scores, ids);
    for (weight, id) in weights.iter_mut().zip(&*ids) {
        *weight = probs[*id as usize];
    }
    if router.gating == Gating::TopKSoftmax {
        softmax(weights, &mut scratch.exps);
    }
    let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let divisor = if router.normalize { (sum + 1e-20) as f32 } else { 1.0 };
    weights.iter_mut().for_each(|weight| *weight = *weight / divisor * router.scale);
}

fn softmax(x: &mut [f32], exps: &mut [f64]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for (exp, x) in exps.iter_mut().zip(&*x) {
        *exp = f64::from(*x - max).exp();
        sum += *exp;
    }
    for (x, exp) in x.iter_mut().zip(exps) {
        *x = (*exp / sum) as f32;
    }
}

/// Indices of the `best.len()` largest values, largest first, the lower index first among equals.
fn top_k(values: &[f32], best: &mut [i32]) {
    let mut n = 0;
    for (idx, value) in values.iter().enumerate() {
        insert(best, &mut n, idx as i32, |other| values[other as usize].total_cmp(value).is_lt());
    }
}

/// Puts the scores of all groups but the best out of reach.
fn keep_best_groups(
    groups: ExpertGroups,
    scores: &mut [f32],
    values: &mut [f32],
    kept: &mut [i32],
) {
    let group_size = scores.len() / groups.n_groups as usize;
    let values = &mut values[..groups.n_groups as usize];
    for (value, group) in values.iter_mut().zip(scores.chunks_exact(group_size)) {
        let mut best = [0; 2];
        let best = &mut best[..group_size.min(2)];
        top_k(group, best);
        *value = match groups.score {
            GroupScore::Max => group[best[0] as usize],
            GroupScore::TopTwo => best.iter().map(|idx| group[*idx as usize]).sum(),
        };
    }
    let kept = &mut kept[..groups.n_groups_used as usize];
    top_k(values, kept);
    for (idx, group) in scores.chunks_exact_mut(group_size).enumerate() {
        if !kept.contains(&(idx as i32)) {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

/// Orders pairs by the expert that `id` gives for them, the lower pair first, and cuts each expert's pairs into chunks
/// of at most `max_rows`. `counts` has an element for each expert. Returns the number of chunks.
pub(crate) fn group_by_expert(
    id: impl Fn(usize) -> i32,
    counts: &mut [i32],
    pairs: &mut [i32],
    chunks: &mut [Chunk],
    max_rows: usize,
) -> usize {
    counts.fill(0);
    for pair in 0..pairs.len() {
        counts[id(pair) as usize] += 1;
    }
    let (mut n_chunks, mut first) = (0, 0);
    for (expert, count) in counts.iter_mut().enumerate() {
        let end = first + *count;
        *count = first;
        while first < end {
            let n = (end - first).min(max_rows as i32);
            chunks[n_chunks] = Chunk { expert: expert as i32, first, n };
            n_chunks += 1;
            first += n;
        }
    }
    for pair in 0..pairs.len() {
        let at = &mut counts[id(pair) as usize];
        pairs[*at as usize] = pair as i32;
        *at += 1;
    }
    n_chunks
}

/// `out = Σ_j factor(j)·x_j` over the parts `x_j` of `x`, in the order of j.
pub(crate) struct Combine<'a> {
    pub x: &'a [f32],
    pub weights: &'a [f32],
    /// The ids of the experts, and a factor for each expert.
    pub scale: Option<(&'a [i32], &'a [f32])>,
    pub out: &'a mut [f32],
}

impl Kernel for Combine<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let out = self.out;
        out.fill(0.0);
        let (out_16, out_rest) = out.as_chunks_mut::<16>();
        let n_cols = out_16.len() * 16 + out_rest.len();
        for (slot, x) in self.x.chunks_exact(n_cols).enumerate() {
            let factor = self.scale.map_or(1.0, |(ids, scale)| scale[ids[slot] as usize]);
            let factor = s.splat(self.weights[slot] * factor);
            let (x, x_rest) = x.as_chunks::<16>();
            for (out, x) in out_16.iter_mut().zip(x) {
                let sum = s.mul_add(factor, s.load(x), s.load(out));
                s.store(out, sum);
            }
            let sum = s.mul_add(factor, s.load(&padded(x_rest)), s.load(&padded(out_rest)));
            let mut rest = [0.0; 16];
            s.store(&mut rest, sum);
            out_rest.copy_from_slice(&rest[..out_rest.len()]);
        }
    }
}
