//! The searching quantisers against the plain ones and on odd values.

use proptest::prelude::*;

use super::*;
use crate::block::QuantizeBlock;

const SEARCHED: [GgmlType; 11] = [
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q8_0,
    GgmlType::Q4_K,
    GgmlType::Q5_K,
    GgmlType::Q6_K,
    GgmlType::IQ4_NL,
    GgmlType::IQ4_XS,
    GgmlType::MXFP4,
];

fn round_trip(ty: GgmlType, row: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    let mut bytes = vec![0; ty.row_bytes(row.len()).unwrap()];
    quantize_weights(ty, row, importance, &mut bytes).unwrap();
    let mut values = vec![f32::NAN; row.len()];
    dequantize(ty, &bytes, &mut values).unwrap();
    values
}

/// About normal numbers, the same on every machine.
fn noise(n: usize) -> Vec<f32> {
    let mut state = 7u64;
    let mut uniform = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..n).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 0.03).collect()
}

fn relative_error(row: &[f32], values: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let energy: f64 = row.iter().map(|x| square(*x)).sum();
    row.iter().zip(values).map(|(x, y)| square(x - y)).sum::<f64>() / energy
}

/// What the search reaches on normal numbers, so that a change that makes it worse is seen.
#[test]
fn error_of_normal_numbers() {
    let row = noise(8192);
    for (ty, limit) in [
        (GgmlType::Q4_0, 6.1e-3),
        (GgmlType::Q4_1, 4.7e-3),
        (GgmlType::Q5_0, 1.52e-3),
        (GgmlType::Q5_1, 1.1e-3),
        (GgmlType::Q8_0, 2.4e-5),
        (GgmlType::Q4_K, 4.75e-3),
        (GgmlType::Q5_K, 1.17e-3),
        (GgmlType::Q6_K, 2.8e-4),
        (GgmlType::IQ4_NL, 5.3e-3),
        (GgmlType::IQ4_XS, 5.35e-3),
        (GgmlType::MXFP4, 1.25e-2),
    ] {
        let error = relative_error(&row, &round_trip(ty, &row, None));
        assert!(error < limit, "{ty}: {error:e}");
    }
}

/// Weighted error of both quantisers of a block format.
fn errors<B: SearchBlock<32> + QuantizeBlock<32>>(values: &[f32; 32]) -> [f32; 2] {
    let weights = weights(values, None);
    [B::search(values, &weights), B::quantize(values)].map(|block| {
        let mut out = [0.0; 32];
        block.dequantize(&mut out);
        (0..32).map(|i| weights[i] * (values[i] - out[i]) * (values[i] - out[i])).sum()
    })
}

/// Values of a row: ordinary, tiny, huge, equal, or one far from the others.
fn odd_row() -> impl Strategy<Value = Vec<f32>> {
    let ordinary = prop::collection::vec(-1.0f32..1.0, 256);
    let scale = prop_oneof![
        Just(0.0f32),
        Just(1e-42),
        Just(1e-9),
        Just(1e-6),
        Just(1.0),
        Just(1e4),
        Just(1e8),
        Just(3e38)
    ];
    let shift = prop_oneof![Just(0.0f32), Just(1.0), Just(-1.0), Just(100.0)];
    let outlier = prop_oneof![Just(None), (0usize..256, -1e5f32..1e5).prop_map(Some)];
    (ordinary, scale, shift, outlier).prop_map(|(mut row, scale, shift, outlier)| {
        if let Some((at, value)) = outlier {
            row[at] = value;
        }
        row.iter().map(|x| ((x + shift) * scale).clamp(f32::MIN, f32::MAX)).collect()
    })
}

proptest! {
    #[test]
    fn any_row_gives_finite_values(
        row in odd_row(),
        importance in prop::collection::vec(prop_oneof![Just(0.0f32), 0.0f32..1e-6, 0.0f32..1.0, 0.0f32..1e9], 256),
    ) {
        let max = row.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        for ty in SEARCHED {
            for importance in [None, Some(importance.as_slice())] {
                let values = round_trip(ty, &row, importance);
                prop_assert!(values.iter().all(|y| y.is_finite() && y.abs() <= 1.5 * max + 1e-6), "{ty}: {max}");
            }
        }
    }

    #[test]
    fn no_block_is_worse_than_the_plain_one(row in odd_row()) {
        // Beyond these the plain quantisers give infinities.
        let row: Vec<f32> = row.iter().map(|x| x.clamp(-4e5, 4e5)).collect();
        for values in row.as_chunks::<32>().0 {
            for [searched, plain] in [
                errors::<Q4_0>(values),
                errors::<Q4_1>(values),
                errors::<Q5_0>(values),
                errors::<Q5_1>(values),
                errors::<Q8_0>(values),
                errors::<Mxfp4>(values),
            ] {
                prop_assert!(searched <= plain * 1.0001 + 1e-30 || !plain.is_finite(), "{searched} {plain}");
            }
        }
    }

    #[test]
    fn constants_stay_what_they_are(value in prop_oneof![-1e4f32..1e4, -1e-3f32..1e-3]) {
        for ty in SEARCHED {
            let values = round_trip(ty, &[value; 256], None);
            // Powers of two times 1, 1.5, 2, 3, 4, 6 are what MXFP4 has.
            let share = if ty == GgmlType::MXFP4 { 0.21 } else { 0.02 };
            for found in values {
                prop_assert!((found - value).abs() <= share * value.abs() + 4e-6, "{ty}: {value} {found}");
            }
        }
    }
}

#[test]
fn zeros_stay_zeros() {
    for ty in SEARCHED {
        assert!(round_trip(ty, &[0.0; 256], None).iter().all(|y| *y == 0.0), "{ty}");
        assert!(round_trip(ty, &[0.0; 256], Some(&[0.0; 256])).iter().all(|y| *y == 0.0), "{ty}");
    }
}

/// Values that a format can hold are found, so that quantising twice changes nothing.
#[test]
fn what_was_8_bits_stays() {
    let row = noise(4096);
    let once = round_trip(GgmlType::Q8_0, &row, None);
    assert_eq!(round_trip(GgmlType::Q8_0, &once, None), once);
}

#[test]
fn importance_moves_the_error() {
    let row = noise(256);
    let importance: Vec<f32> = (0..256).map(|i| if i % 8 == 0 { 1e4 } else { 1.0 }).collect();
    let error = |values: &[f32]| -> f32 {
        row.iter().zip(values).step_by(8).map(|(x, y)| (x - y) * (x - y)).sum()
    };
    for ty in SEARCHED {
        let (with, without) = (round_trip(ty, &row, Some(&importance)), round_trip(ty, &row, None));
        assert!(error(&with) <= error(&without), "{ty}: {} {}", error(&with), error(&without));
    }
}

#[test]
fn lengths_must_agree() {
    let ty = GgmlType::Q4_K;
    let error = quantize_weights(ty, &[0.0; 32], None, &mut [0; 18]).unwrap_err();
    assert_eq!(error, QuantError::PartialBlock { ty, n_elems: 32 });
    let refused = quantize_weights(GgmlType::Q2_K, &[0.0; 256], None, &mut [0; 84]);
    assert_eq!(refused, Err(QuantError::CannotQuantize(GgmlType::Q2_K)));
}
