//! Samplers that look at the text so far: repetition, presence and frequency penalties, and DRY.
//!
//! Each touches only the logits of tokens that occurred, in time linear in the window.

use super::math;
use super::params::{DryParams, SamplingParams};

/// The end of `history` that a window of `last_n` tokens covers.
fn window(history: &[u32], last_n: Option<u32>) -> &[u32] {
    let n = last_n.map_or(history.len(), |n| history.len().min(n as usize));
    &history[history.len() - n..]
}

/// Whether repetition, presence or frequency penalty does anything.
pub(super) fn penalties_active(params: &SamplingParams) -> bool {
    params.penalty_last_n != Some(0)
        && (params.repetition_penalty != 1.0
            || params.presence_penalty != 0.0
            || params.frequency_penalty != 0.0)
}

/// Repetition, presence and frequency penalties over the window, once per distinct token:
/// `l' = (l > 0 ? l / repetition : l * repetition) - count * frequency - presence`.
///
/// Multiplying below zero keeps the penalty a penalty there (Keskar et al. 2019 only divide).
/// `counts` holds one zero per vocabulary entry and does so again afterwards.
pub(super) fn apply_penalties(
    params: &SamplingParams,
    history: &[u32],
    logits: &mut [f32],
    counts: &mut [u32],
) {
    let window = window(history, params.penalty_last_n);
    for &id in window {
        // An id without a logit cannot be sampled, so there is nothing to penalise.
        if let Some(count) = counts.get_mut(id as usize) {
            *count += 1;
        }
    }
    for &id in window {
        let Some(count) = counts.get_mut(id as usize) else {
            continue;
        };
        let n = std::mem::take(count);
        if n == 0 {
            continue;
        }
        let logit = &mut logits[id as usize];
        let scaled = if *logit > 0.0 {
            *logit / params.repetition_penalty
        } else {
            *logit * params.repetition_penalty
        };
        let penalised = scaled - n as f32 * params.frequency_penalty - params.presence_penalty;
        *logit = keep_finite(*logit, penalised);
    }
}

/// DRY over the window. `n_since_break` is the number of tokens at the end of `history` after the
/// last sequence breaker.
///
/// For every earlier place whose last n tokens equal the text's last n tokens, the token that
/// followed there would continue the repeat: it loses `multiplier * base^(n - allowed_length)` for
/// the largest such n that is at least `allowed_length`.
pub(super) fn apply_dry(
    params: &DryParams,
    history: &[u32],
    n_since_break: usize,
    logits: &mut [f32],
    repeats: &mut [u32],
    z: &mut Vec<u32>,
) {
    let window = window(history, params.last_n);
    let limit = n_since_break.min(window.len());
    if limit < params.allowed_length as usize {
        return;
    }
    suffix_repeats(window, z);
    // The token at an index followed the repeat that ends just before it.
    for (&id, &n_repeated) in window.iter().zip(z.iter()) {
        if let Some(repeat) = repeats.get_mut(id as usize) {
            *repeat = (*repeat).max(n_repeated.min(limit as u32));
        }
    }
    for &id in window {
        let Some(repeat) = repeats.get_mut(id as usize) else {
            continue;
        };
        let n = std::mem::take(repeat);
        if n >= params.allowed_length {
            let penalty = f64::from(params.multiplier)
                * math::powi(f64::from(params.base), n - params.allowed_length);
            let logit = &mut logits[id as usize];
            *logit = keep_finite(*logit, (f64::from(*logit) - penalty) as f32);
        }
    }
}

/// For each `end`, how many tokens before `tokens[end]` equal the last tokens of the whole: the Z
/// function (Gusfield 1997, chapter 1) of the reversed text, in linear time. `z[0]` is 0.
fn suffix_repeats(tokens: &[u32], z: &mut Vec<u32>) {
    let n = tokens.len();
    let reversed = |i: usize| tokens[n - 1 - i];
    z.clear();
    z.resize(n, 0);
    // In terms of the reversed text: z_at(i) is the length of the common prefix of the text and its
    // part from i on. It is kept at index n - i, the token that followed that place.
    let (mut left, mut right) = (0, 0);
    for i in 1..n {
        let known = if i < right { (z[n - (i - left)] as usize).min(right - i) } else { 0 };
        let mut length = known;
        while i + length < n && reversed(length) == reversed(i + length) {
            length += 1;
        }
        z[n - i] = length as u32;
        if i + length > right {
            (left, right) = (i, i + length);
        }
    }
}

/// `new`, unless it overflowed: a banned logit stays banned and a finite one stays finite.
pub(super) fn keep_finite(old: f32, new: f32) -> f32 {
    if old == f32::NEG_INFINITY { old } else { new.clamp(f32::MIN, f32::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn penalties_follow_their_formulas() {
        let params = SamplingParams {
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            penalty_last_n: Some(4),
            ..SamplingParams::default()
        };
        let mut logits = [1.0, -1.0, 4.0, 3.0];
        let mut counts = [0; 4];
        // The leading 3s are outside the window; 9 has no logit.
        apply_penalties(&params, &[3, 3, 0, 1, 1, 9], &mut logits, &mut counts);
        assert_eq!(logits, [0.5 - 0.25 - 0.5, -2.0 - 0.5 - 0.5, 4.0, 3.0]);
        assert_eq!(counts, [0; 4]);
    }

    #[test]
    fn penalties_never_leave_the_finite_range() {
        let params = SamplingParams {
            repetition_penalty: 100.0,
            penalty_last_n: None,
            ..SamplingParams::default()
        };
        let mut logits = [-3e38, f32::NEG_INFINITY];
        apply_penalties(&params, &[0, 1], &mut logits, &mut [0; 2]);
        assert_eq!(logits, [f32::MIN, f32::NEG_INFINITY]);
    }

    fn slow_suffix_repeats(tokens: &[u32]) -> Vec<u32> {
        let n = tokens.len();
        let common = |end: usize| {
            (0..end).take_while(|&i| tokens[end - 1 - i] == tokens[n - 1 - i]).count() as u32
        };
        (0..n).map(common).collect()
    }

    #[test]
    fn suffix_repeats_equal_the_direct_count() {
        let mut state = 1u32;
        for n in 0..60 {
            for alphabet in 1..4 {
                let tokens: Vec<u32> = (0..n)
                    .map(|_| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        (state >> 16) % alphabet
                    })
                    .collect();
                let mut z = Vec::new();
                suffix_repeats(&tokens, &mut z);
                assert_eq!(z, slow_suffix_repeats(&tokens), "{tokens:?}");
            }
        }
    }

    #[test]
    fn dry_penalises_the_continuation_of_a_repeat() {
        let params =
            DryParams { multiplier: 1.0, base: 2.0, allowed_length: 2, ..DryParams::default() };
        // "a b c c b c y a b c": after "a b c" came c, after "b c" came y, after "c" came c and b.
        let history = [0, 1, 2, 2, 1, 2, 3, 0, 1, 2];
        let check = |n_since_break, expected: [f32; 4]| {
            let mut logits = [0.0; 4];
            let mut repeats = [0; 4];
            apply_dry(&params, &history, n_since_break, &mut logits, &mut repeats, &mut Vec::new());
            assert_eq!(logits, expected, "{n_since_break}");
            assert_eq!(repeats, [0; 4]);
        };
        check(10, [0.0, 0.0, -2.0, -1.0]);
        check(2, [0.0, 0.0, -1.0, -1.0]);
        check(1, [0.0; 4]);
    }

    #[test]
    fn dry_does_not_overflow() {
        let params =
            DryParams { multiplier: 100.0, base: 100.0, allowed_length: 1, ..DryParams::default() };
        let mut logits = [1.0, 0.0];
        apply_dry(&params, &[0; 5000], 5000, &mut logits, &mut [0; 2], &mut Vec::new());
        assert_eq!(logits, [f32::MIN, 0.0]);
    }
}
