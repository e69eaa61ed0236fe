//! The chain as a whole; each sampler's own cases are beside it.

use super::*;

fn noise(seed: u64, n: usize) -> Vec<f32> {
    (0..n).map(|i| (rng::draws(seed, i as u64).pick * 16.0 - 8.0) as f32).collect()
}

fn sample_once(
    params: SamplingParams,
    history: &[u32],
    logits: &[f32],
) -> Result<Sampled, SamplerError> {
    Sampler::new(params, logits.len())?.sample(history, logits, &mut SamplerWorkspace::default())
}

/// `n` tokens sampled one after another from fixed noise.
fn generate(params: &SamplingParams, n: usize) -> Vec<u32> {
    let mut sampler = Sampler::new(params.clone(), 500).unwrap();
    let mut workspace = SamplerWorkspace::default();
    let mut history = vec![1, 2, 3];
    for step in 0..n {
        let sampled = sampler.sample(&history, &noise(step as u64, 500), &mut workspace).unwrap();
        sampler.accept(b"x");
        history.push(sampled.id);
    }
    history.split_off(3)
}

/// Every sampler on at once.
fn everything() -> SamplingParams {
    SamplingParams {
        logit_bias: vec![(7, 2.0), (8, f32::NEG_INFINITY)],
        repetition_penalty: 1.1,
        presence_penalty: 0.1,
        frequency_penalty: 0.1,
        penalty_last_n: None,
        dry: DryParams { multiplier: 0.8, ..DryParams::default() },
        top_n_sigma: 3.0,
        top_k: 100,
        typical_p: 0.98,
        top_p: 0.97,
        min_p: 0.01,
        xtc: XtcParams { probability: 0.5, threshold: 0.05 },
        temperature: 1.3,
        seed: Some(42),
        logprobs: None,
    }
}

#[test]
fn greedy_is_the_lowest_id_of_the_largest_logits() {
    let greedy = SamplingParams::greedy;
    assert_eq!(sample_once(greedy(), &[], &[1.0, 3.0, 3.0, 2.0]).unwrap().id, 1);
    assert_eq!(sample_once(greedy(), &[], &[-0.0, 0.0]).unwrap().id, 0);
    assert_eq!(sample_once(greedy(), &[], &[f32::MIN, f32::MIN]).unwrap().id, 0);
    // Samplers that remove tokens do not act on greedy, XTC least of all.
    let xtc = XtcParams { probability: 1.0, threshold: 0.0 };
    let params = SamplingParams { xtc, ..greedy() };
    assert_eq!(sample_once(params, &[], &[1.0, 3.0, 2.9]).unwrap().id, 1);
}

#[test]
fn greedy_comes_after_bias_penalties_and_dry() {
    let logits = [1.0, 3.0, 2.5];
    let bias = SamplingParams { logit_bias: vec![(0, 1.5), (0, 1.5)], ..SamplingParams::greedy() };
    assert_eq!(sample_once(bias, &[], &logits).unwrap().id, 0);
    let ban =
        SamplingParams { logit_bias: vec![(1, f32::NEG_INFINITY)], ..SamplingParams::greedy() };
    assert_eq!(sample_once(ban, &[], &logits).unwrap().id, 2);
    let penalty = SamplingParams { presence_penalty: 1.0, ..SamplingParams::greedy() };
    assert_eq!(sample_once(penalty, &[1], &logits).unwrap().id, 2);

    let dry = DryParams { multiplier: 2.0, ..DryParams::default() };
    let mut sampler = Sampler::new(SamplingParams { dry, ..SamplingParams::greedy() }, 3).unwrap();
    let history = [2, 0, 1, 2, 0];
    history.iter().for_each(|_| sampler.accept(b"x"));
    assert_eq!(sampler.sample(&history, &logits, &mut SamplerWorkspace::default()).unwrap().id, 2);
}

#[test]
fn a_sequence_breaker_across_tokens_ends_the_repeat() {
    let dry =
        DryParams { multiplier: 2.0, sequence_breakers: vec!["ab".into()], ..DryParams::default() };
    let params = SamplingParams { dry, ..SamplingParams::greedy() };
    let history = [2, 0, 1, 2, 0];
    for (pieces, expected) in [(["x", "x", "x", "x", "x"], 2), (["x", "x", "x", "xa", "bx"], 1)] {
        let mut sampler = Sampler::new(params.clone(), 3).unwrap();
        pieces.iter().for_each(|piece| sampler.accept(piece.as_bytes()));
        let sampled =
            sampler.sample(&history, &[1.0, 3.0, 2.5], &mut SamplerWorkspace::default()).unwrap();
        assert_eq!(sampled.id, expected, "{pieces:?}");
    }
}

#[test]
fn a_seed_reproduces_and_another_differs() {
    let params = everything();
    let first = generate(&params, 50);
    assert_eq!(first, generate(&params, 50));
    assert_ne!(first, generate(&SamplingParams { seed: Some(43), ..params.clone() }, 50));
    assert!(!first.contains(&8), "token 8 is banned");
}

#[test]
fn a_seeds_tokens_are_fixed() {
    // These are a promise to users: the same seed gives the same text in every version and on every
    // platform. The values come from a separate, naive implementation of the documented chain.
    let plain = SamplingParams { seed: Some(1), ..SamplingParams::default() };
    let untruncated =
        SamplingParams { top_k: 0, top_p: 1.0, min_p: 0.0, temperature: 1.0, ..plain.clone() };
    assert_eq!(generate(&plain, 8), PLAIN);
    assert_eq!(generate(&untruncated, 8), UNTRUNCATED);
    assert_eq!(generate(&everything(), 8), EVERYTHING);
}
const PLAIN: [u32; 8] = [26, 137, 326, 187, 29, 231, 422, 51];
const UNTRUNCATED: [u32; 8] = [413, 363, 164, 385, 113, 52, 207, 201];
const EVERYTHING: [u32; 8] = [484, 405, 480, 80, 137, 21, 194, 492];

#[test]
fn the_seed_in_use_is_reported() {
    let drawn = Sampler::new(SamplingParams::default(), 10).unwrap().seed();
    assert_ne!(drawn, Sampler::new(SamplingParams::default(), 10).unwrap().seed());
    let given = SamplingParams { seed: Some(5), ..SamplingParams::default() };
    assert_eq!(Sampler::new(given, 10).unwrap().seed(), 5);
}

#[test]
fn frequencies_follow_the_probabilities() {
    let params = SamplingParams {
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        temperature: 1.0,
        seed: Some(9),
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(params, 3).unwrap();
    let logits = [0.2f32.ln(), 0.5f32.ln(), 0.3f32.ln()];
    let mut counts = [0i32; 3];
    let mut workspace = SamplerWorkspace::default();
    for _ in 0..20_000 {
        counts[sampler.sample(&[], &logits, &mut workspace).unwrap().id as usize] += 1;
    }
    for (count, expected) in counts.iter().zip([4000, 10_000, 6000]) {
        assert!((count - expected).abs() < 300, "{counts:?}");
    }
}

/// Any valid parameters on any finite logits, the extreme ones too, give a token that may be
/// chosen.
#[test]
fn every_valid_request_gets_a_token() {
    let mut n_drawn = 0;
    let mut unit = || {
        n_drawn += 1;
        rng::draws(11, n_drawn).pick as f32
    };
    let extremes = [0.0, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, -1e-45, 88.0, 1e9];
    for case in 0..3000 {
        let n_vocab = 1 + (unit() * 100.0) as usize;
        let extreme = unit() < 0.3;
        let mut logit = || match extreme {
            true => extremes[(unit() * 9.0) as usize],
            false => unit() * 30.0 - 15.0,
        };
        let logits: Vec<f32> = (0..n_vocab).map(|_| logit()).collect();
        let history: Vec<u32> =
            (0..(unit() * 40.0) as usize).map(|_| (unit() * 5.0) as u32).collect();
        // Half of the values are at an end of their range, where samplers switch off or to their
        // utmost.
        let mut value = |min: f32, max: f32| match (unit() * 4.0) as u32 {
            0 => min,
            1 => max,
            _ => min + unit() * (max - min),
        };
        let banned = value(0.0, 99.0) as u32;
        let params = SamplingParams {
            logit_bias: if banned > 0 && (banned as usize) < n_vocab {
                vec![(banned, f32::NEG_INFINITY)]
            } else {
                vec![]
            },
            repetition_penalty: value(1e-6, 100.0),
            presence_penalty: value(-100.0, 100.0),
            frequency_penalty: value(-100.0, 100.0),
            penalty_last_n: Some(value(0.0, 50.0) as u32),
            dry: DryParams {
                multiplier: value(0.0, 100.0),
                base: value(1.0, 100.0),
                allowed_length: value(1.0, 4.0) as u32,
                last_n: Some(value(0.0, 50.0) as u32),
                sequence_breakers: vec!["b".into()],
            },
            top_n_sigma: value(0.0, 100.0),
            top_k: value(0.0, 120.0) as u32,
            typical_p: value(0.0, 1.0),
            top_p: value(0.0, 1.0),
            min_p: value(0.0, 1.0),
            xtc: XtcParams { probability: value(0.0, 1.0), threshold: value(0.0, 1.0) },
            temperature: value(0.0, 100.0),
            seed: Some(case),
            logprobs: Some(value(0.0, 128.0) as u32),
        };
        let mut sampler = Sampler::new(params, n_vocab).unwrap();
        history.iter().for_each(|&id| sampler.accept(if id == 3 { b"b" } else { b"x" }));
        let sampled = sampler.sample(&history, &logits, &mut SamplerWorkspace::default()).unwrap();
        assert!(
            (sampled.id as usize) < n_vocab && (banned == 0 || sampled.id != banned),
            "case {case}"
        );
        assert!(sampled.logprobs.unwrap().logprob <= 1e-6, "case {case}");
    }
}

#[test]
fn logits_that_are_not_finite_are_refused_by_position() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut logits = noise(1, 300);
        logits[123] = value;
        match sample_once(SamplingParams::default(), &[], &logits) {
            Err(SamplerError::NotFinite { id: 123, .. }) => {}
            other => panic!("{value}: {other:?}"),
        }
    }
}

#[test]
fn refusals_name_what_is_wrong() {
    let ban_all =
        SamplingParams { logit_bias: vec![(0, f32::NEG_INFINITY)], ..SamplingParams::default() };
    assert_eq!(sample_once(ban_all.clone(), &[], &[1.0]).unwrap_err(), SamplerError::AllBanned);
    let greedy = SamplingParams { temperature: 0.0, ..ban_all };
    assert_eq!(sample_once(greedy, &[], &[1.0]).unwrap_err(), SamplerError::AllBanned);
    let out_of_range = SamplingParams { logit_bias: vec![(10, 1.0)], ..SamplingParams::default() };
    let error = Sampler::new(out_of_range, 10).unwrap_err().to_string();
    assert_eq!(error, "sampling parameter logit_bias is for token 10; allowed: ids below 10");
    let mut sampler = Sampler::new(SamplingParams::default(), 10).unwrap();
    let error = sampler.sample(&[], &[0.0; 9], &mut SamplerWorkspace::default()).unwrap_err();
    assert_eq!(error, SamplerError::VocabSize { n_logits: 9, n_vocab: 10 });
}

#[test]
fn logprobs_are_the_models_own() {
    let logits = [0.1f32.ln(), 0.6f32.ln(), 0.3f32.ln()];
    let params = SamplingParams {
        logit_bias: vec![(0, 100.0)],
        logprobs: Some(2),
        ..SamplingParams::greedy()
    };
    let sampled = sample_once(params, &[], &logits).unwrap();
    let logprobs = sampled.logprobs.unwrap();
    assert_eq!(sampled.id, 0);
    assert!((logprobs.logprob - 0.1f32.ln()).abs() < 1e-6);
    assert_eq!(logprobs.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2]);
    assert!((logprobs.top[0].1 - 0.6f32.ln()).abs() < 1e-6);

    let more_than_all = SamplingParams { logprobs: Some(20), ..SamplingParams::greedy() };
    assert_eq!(sample_once(more_than_all, &[], &logits).unwrap().logprobs.unwrap().top.len(), 3);
    let none = SamplingParams { logprobs: Some(0), ..SamplingParams::greedy() };
    assert!(sample_once(none, &[], &logits).unwrap().logprobs.unwrap().top.is_empty());
}

/// Ids and values of the largest, in the order of the operation.
fn largest(logits: &[f32]) -> [Vec<f32>; 2] {
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.sort_by(|a, b| (logits[*b] + 0.0).total_cmp(&(logits[*a] + 0.0)).then(a.cmp(b)));
    ids.truncate(N_LARGEST as usize);
    let values = ids.iter().map(|id| logits[*id]).collect();
    [ids.iter().map(|id| *id as f32).collect(), values]
}

#[test]
fn the_largest_logits_choose_as_all_do() {
    let mut workspace = SamplerWorkspace::default();
    let params = |step: u64| SamplingParams {
        temperature: [0.0, 0.7, 1.5][step as usize % 3],
        top_k: [1, 2, 20, 40, 64][step as usize % 5],
        top_p: [1.0, 0.9, 0.3][step as usize % 3],
        min_p: [0.0, 0.05][step as usize % 2],
        typical_p: [1.0, 1.0, 0.6][(step / 3) as usize % 3],
        xtc: XtcParams { probability: [0.0, 0.5][(step / 2) as usize % 2], threshold: 0.05 },
        seed: Some(step),
        ..SamplingParams::greedy()
    };
    for step in 0..300 {
        // Coarse, so that there are equals, 0 and -0 among them.
        let logits: Vec<f32> =
            noise(step, 500).iter().map(|logit| (logit * 4.0).trunc() / 4.0).collect();
        let [mut whole, mut narrow] = [(); 2].map(|()| Sampler::new(params(step), 500).unwrap());
        assert!(!whole.reads_all(), "{step}");
        let [ids, values] = largest(&logits);
        let rows = Logits::Largest { ids: &ids, values: &values };
        let expected = whole.sample(&[], &logits, &mut workspace).unwrap();
        let found = narrow.sample_from(Choice::default(), &[], rows, &mut workspace).unwrap();
        assert_eq!(found, expected, "{step}");
        assert_eq!(greedy(rows), greedy(Logits::All(&logits)), "{step}");
    }
}

#[test]
fn what_reads_more_logits_says_so() {
    let reads_all = |change: &dyn Fn(&mut SamplingParams)| {
        let mut params = SamplingParams { temperature: 0.8, top_k: 40, ..SamplingParams::greedy() };
        change(&mut params);
        Sampler::new(params, 500).unwrap().reads_all()
    };
    assert!(!reads_all(&|_| ()));
    assert!(!reads_all(&|params| *params = SamplingParams::greedy()));
    assert!(reads_all(&|params| params.top_k = 0));
    assert!(reads_all(&|params| params.top_k = 65));
    assert!(reads_all(&|params| params.logprobs = Some(0)));
    assert!(reads_all(&|params| params.logit_bias = vec![(3, 1.0)]));
    assert!(reads_all(&|params| params.frequency_penalty = 0.5));
    assert!(reads_all(&|params| params.dry.multiplier = 0.8));
    assert!(reads_all(&|params| params.top_n_sigma = 1.0));
}

#[test]
fn rows_that_are_not_enough_are_refused() {
    let mut workspace = SamplerWorkspace::default();
    let params = SamplingParams { temperature: 1.0, top_k: 3, ..SamplingParams::greedy() };
    let mut sampler = Sampler::new(params, 500).unwrap();
    let rows = |ids, values| Logits::Largest { ids, values };
    let mut sample = |choice, rows| sampler.sample_from(choice, &[], rows, &mut workspace);
    let not_finite = sample(Choice::default(), rows(&[7.0, 1.0, 2.0], &[f32::NAN, 1.0, 0.0]));
    assert!(matches!(not_finite, Err(SamplerError::NotFinite { id: 7, .. })));
    let masked = Choice { allowed: Some(&[1]), banned: &[] };
    let three = rows(&[7.0, 1.0, 2.0], &[2.0, 1.0, 0.0]);
    assert!(sample(masked, three).is_err());
    assert!(sample(Choice::default(), rows(&[7.0, 1.0], &[2.0, 1.0])).is_err());
    assert!(sample(Choice::default(), rows(&[], &[])).is_err());
    assert!(sample(Choice::default(), three).is_ok());
}
