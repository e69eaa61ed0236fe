use super::*;
use zinc_plan::{Gating, RouterTopK};

use crate::commands::diff::outcome::Report;

const TOLERANCE: f64 = 5e-3;

/// Two of three experts, and a tensor of one value for each.
fn router() -> Router {
    let op = RouterTopK {
        n_experts_used: 2,
        gating: Gating::TopKSoftmax,
        bias: false,
        groups: None,
        normalize: false,
        scale: 1.0,
    };
    Router {
        op,
        bias: None,
        scores: "scores".into(),
        ids: "ids".into(),
        by_slot: vec!["weights".into(), "act".into()],
    }
}

fn tapped(name: &str, n_cols: usize, values: &[f32]) -> Tapped {
    Tapped { name: name.into(), n_cols, values: values.to_vec() }
}

/// One layer of three tokens.
fn layer() -> [Tapped; 5] {
    [
        tapped("scores", 3, &[2.0, 1.0, 0.9, 0.0, 2.0, 1.0, 1.0, 3.0, 0.0]),
        tapped("ids", 2, &[0.0, 1.0, 1.0, 2.0, 1.0, 0.0]),
        tapped("weights", 2, &[0.73, 0.27, 0.73, 0.27, 0.88, 0.12]),
        tapped("act", 2, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        tapped("out", 1, &[1.0, 2.0, 3.0]),
    ]
}

fn compare_layers(found: &[Tapped], expected: &[Tapped], tolerance: f64, from: usize) -> Outcome {
    let names: Vec<_> = expected.iter().map(|tensor| tensor.name.clone()).collect();
    let routers = [router()];
    let terms = Terms { names: &names, in_range: &names[from..], routers: &routers, tolerance };
    let mut comparison = Comparison::new(terms);
    comparison.tapped(found, expected).unwrap();
    comparison.outcome
}

fn place(outcome: &Outcome) -> (&str, What, usize, usize) {
    let first = outcome.first.as_ref().unwrap();
    (&first.tensor, first.what, first.row, first.column)
}

/// The layer with token `row`'s second expert another, because the scores of two nearly agree.
fn other_expert(row: usize) -> [Tapped; 5] {
    let mut found = layer();
    let kept = found[1].values[row * 2];
    let given_up = found[1].values[row * 2 + 1];
    let other = (0..3).map(|id| id as f32).find(|id| *id != kept && *id != given_up).unwrap();
    found[0].values[row * 3 + other as usize] = found[0].values[row * 3 + given_up as usize] + 0.05;
    found[1].values[row * 2 + 1] = other;
    found[3].values[row * 2 + 1] = -9.0;
    found[4].values[row] = -9.0;
    found
}

/// As [`other_expert`], where the other side's scores of the two nearly agree, too.
fn parted(row: usize) -> [[Tapped; 5]; 2] {
    let (found, mut expected) = (other_expert(row), layer());
    for id in 0..3 {
        let at = row * 3 + id;
        if found[0].values[at] != expected[0].values[at] {
            expected[0].values[at] = found[0].values[at] - 0.06;
        }
    }
    [found, expected]
}

#[test]
fn the_first_tensor_in_the_order_of_the_plan_is_named() {
    let expected = layer();
    let mut found = layer();
    assert!(compare_layers(&found, &expected, 1e-9, 0).first.is_none());
    found[4].values[2] = 9.0;
    assert_eq!(place(&compare_layers(&found, &expected, 1e-9, 0)), ("out", What::Values, 2, 0));
    found[3].values[3] = f32::NAN;
    let outcome = compare_layers(&found, &expected, 1e-9, 0);
    assert_eq!(place(&outcome), ("act", What::NotFinite, 1, 1));
    assert_eq!(outcome.n_compared, 4);
    assert!(outcome.first.unwrap().nmse.is_infinite());
}

#[test]
fn wrong_ids_with_right_weights_differ() {
    let (mut found, expected) = (layer(), layer());
    found[1].values[3] = 0.0;
    for tolerance in [1e-9, TOLERANCE] {
        let outcome = compare_layers(&found, &expected, tolerance, 0);
        assert_eq!(place(&outcome), ("ids", What::Choice, 1, 1));
        let first = outcome.first.unwrap();
        assert_eq!((first.value, first.expected), (0.0, 2.0));
        // The other way round it is the other side that is wrong.
        let outcome = compare_layers(&expected, &found, tolerance, 0);
        assert_eq!(place(&outcome), ("ids", What::ChoiceAgainst, 1, 1));
    }
    // All tokens wrong, and no id at all.
    found[1].values = vec![2.0, 2.0, 0.0, 0.0, -1.0, 7.0];
    assert_eq!(
        place(&compare_layers(&found, &expected, TOLERANCE, 0)),
        ("ids", What::Choice, 0, 0)
    );
    // In layers that are not asked for, a wrong choice excuses nothing.
    found[4].values[0] = 9.0;
    assert_eq!(
        place(&compare_layers(&found, &expected, TOLERANCE, 4)),
        ("out", What::Values, 0, 0)
    );
}

#[test]
fn tokens_with_other_experts_part() {
    let [found, expected] = parted(0);
    let outcome = compare_layers(&found, &expected, TOLERANCE, 0);
    assert!(outcome.first.is_none(), "{outcome:?}");
    assert_eq!((outcome.n_parted, outcome.parted_at.as_deref()), (1, Some("ids")));
    assert_eq!((outcome.n_compared, outcome.ended_at), (5, None));
    // Whether the layer is asked for or not.
    let outcome = compare_layers(&found, &expected, TOLERANCE, 4);
    assert!(outcome.first.is_none() && outcome.n_parted == 1 && outcome.n_compared == 1);
    // Devices that round alike choose alike.
    let mut same_scores = expected.clone();
    same_scores[0] = found[0].clone();
    let outcome = compare_layers(&found, &same_scores, 1e-9, 0);
    assert_eq!(place(&outcome).0, "ids");
    // What has parted must be finite still.
    let mut broken = found;
    broken[4].values[0] = f32::INFINITY;
    let outcome = compare_layers(&broken, &expected, TOLERANCE, 0);
    assert_eq!(place(&outcome), ("out", What::NotFinite, 0, 0));
}

#[test]
fn rows_before_the_first_parted_one_have_no_more_room() {
    let [mut found, mut expected] = parted(1);
    let differs = |found: &[Tapped], expected: &[Tapped]| {
        compare_layers(found, expected, TOLERANCE, 0).first.map(|first| first.row)
    };
    (found[4].values[0], found[4].values[2]) = (10.0, 10.0);
    (expected[4].values[0], expected[4].values[2]) = (10.0, 10.0);
    assert_eq!(differs(&found, &expected), None);
    // Off by 0.01 of the rows' energy: twice what is allowed before, a fifth of what is behind.
    found[4].values[2] = 11.4;
    assert_eq!(differs(&found, &expected), None);
    let outcome = compare_layers(&found, &expected, TOLERANCE, 0);
    assert!(outcome.worst_nmse < TOLERANCE);
    assert!(outcome.worst_nmse_behind_parted.unwrap() > TOLERANCE);
    (found[4].values[0], found[4].values[2]) = (11.4, 10.0);
    assert_eq!(differs(&found, &expected), Some(0));
    (found[4].values[0], found[4].values[2]) = (10.0, 15.0);
    assert_eq!(differs(&found, &expected), Some(2));
}

#[test]
fn the_same_experts_in_another_order_are_compared() {
    let (mut found, mut expected) = (layer(), layer());
    // Equal scores may come in any order, even where devices compute alike.
    for side in [&mut found, &mut expected] {
        side[0].values[..3].copy_from_slice(&[1.0, 1.0, 0.0]);
        side[2].values[..2].copy_from_slice(&[0.6, 0.4]);
    }
    found[1].values[..2].copy_from_slice(&[1.0, 0.0]);
    found[2].values[..2].copy_from_slice(&[0.4, 0.6]);
    found[3].values[..2].copy_from_slice(&[2.0, 1.0]);
    for tolerance in [1e-9, TOLERANCE] {
        let outcome = compare_layers(&found, &expected, tolerance, 0);
        assert!(outcome.first.is_none() && outcome.n_parted == 0, "{outcome:?}");
    }
    // The order must be that of the ids in every tensor.
    found[3].values[..2].copy_from_slice(&[1.0, 2.0]);
    assert_eq!(place(&compare_layers(&found, &expected, TOLERANCE, 0)).0, "act");
}

#[test]
fn nothing_is_left_when_all_tokens_part() {
    let shorten = |layer: [Tapped; 5]| {
        layer.map(|tensor| Tapped { values: tensor.values[..tensor.n_cols].to_vec(), ..tensor })
    };
    let [found, expected] = parted(0).map(shorten);
    let outcome = compare_layers(&found, &expected, TOLERANCE, 0);
    assert!(outcome.first.is_none());
    // The scores and the ids were compared.
    assert_eq!((outcome.n_compared, outcome.ended_at.as_deref()), (2, Some("weights")));
    let report = |outcome| Report {
        model: "m".into(),
        device: "a".into(),
        against: "b".into(),
        n_tokens: 1,
        outcome,
    };
    let whole = report(outcome);
    assert!(whole.agrees() && whole.people().contains("no token is left to compare at weights"));
    // Nothing at all is no agreement.
    let part = report(compare_layers(&found, &expected, TOLERANCE, 3));
    assert!(!part.agrees() && part.people().starts_with("nothing was compared\n"));
    // Later routers are judged still.
    let mut wrong = found.clone();
    wrong[1].values[0] = 2.0;
    assert_eq!(place(&compare_layers(&wrong, &expected, TOLERANCE, 0)).1, What::Choice);
}

#[test]
fn logits_of_real_steps_are_compared() {
    let names = ["ids", "logits"].map(String::from);
    let routers = [router()];
    let terms = |tolerance| Terms { names: &names, in_range: &names, routers: &routers, tolerance };
    let with_logits = |layer: [Tapped; 5]| {
        let mut layer = layer.to_vec();
        layer.push(Tapped { name: "logits".into(), ..layer[4].clone() });
        layer
    };
    let [parted, expected] = parted(1).map(with_logits);
    let run = |found: &[Tapped], logits: &[f32], again: &[Tapped], tolerance| {
        let mut comparison = Comparison::new(terms(tolerance));
        comparison.tapped(found, &expected).unwrap();
        let logits = tapped("logits", 1, logits);
        let again = || Ok(again.to_vec());
        comparison.untapped(&logits, &expected, tolerance, again).unwrap();
        comparison.outcome
    };
    let outcome = run(&expected, &[1.0, 2.0, 3.0], &[], 1e-9);
    assert!(outcome.first.is_none() && outcome.n_compared == 3);
    let outcome = run(&expected, &[1.0, 2.0, 9.0], &expected, TOLERANCE);
    assert_eq!(place(&outcome), ("logits", What::Untapped, 2, 0));
    // A token may part in such a step only.
    assert!(run(&expected, &[1.0, -9.0, 3.0], &parted, TOLERANCE).first.is_none());
    assert!(run(&expected, &[1.0, -9.0, 3.0], &parted, 1e-9).first.is_some());
    assert!(run(&parted, &[1.0, -9.0, 3.0], &[], TOLERANCE).first.is_none());
}
