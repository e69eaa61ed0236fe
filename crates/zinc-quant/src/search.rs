//! Quantisers for weights: they search for the block of least weighted squared error.
//!
//! Where [`crate::quantize`] maps the largest value to the end of the range and rounds the others, these
//! try many scales (and minimums), fit each by least squares, and choose integer scales of groups together
//! with the scale of the super-block they are relative to. All work is done on what will be stored: scales
//! are rounded to f16 before values are assigned to them.
//!
//! The error of column i counts with a weight. The output of a matrix product suffers from the error e of a
//! weight as a²·e², so the mean square of activation i is the weight to use where it is known (an importance
//! matrix). [`weights`] tells how that is refined, and what takes its place.

use crate::block::SearchBlock;
use crate::convert::check_lengths;
use crate::*;

pub(crate) mod affine;
pub(crate) mod groups;
pub(crate) mod levels;
pub(crate) mod scale;

/// No format represents larger magnitudes (f16 · 127 · 128); clamping here keeps every sum below finite.
const MAGNITUDE_MAX: f32 = 2e9;

/// Smaller magnitudes are zero in every format: no f16 scale is this small.
pub(crate) const MAGNITUDE_MIN: f32 = 1e-9;

/// Writes one row of weights to `out` as blocks of type `ty`, with the least weighted error that the search
/// finds. The same input gives the same bytes on every machine.
///
/// `importance` has the mean squared activation of each column; `None` if nothing is known.
///
/// # Errors
/// As [`crate::quantize`].
///
/// # Panics
/// If `importance` is not as long as `row`.
pub fn quantize_weights(
    ty: GgmlType,
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), QuantError> {
    check_lengths(ty, row.len(), out.len())?;
    assert!(
        importance.is_none_or(|importance| importance.len() == row.len()),
        "importance: length"
    );
    match ty {
        GgmlType::Q4_0 => search_row::<_, Q4_0>(row, importance, out),
        GgmlType::Q4_1 => search_row::<_, Q4_1>(row, importance, out),
        GgmlType::Q5_0 => search_row::<_, Q5_0>(row, importance, out),
        GgmlType::Q5_1 => search_row::<_, Q5_1>(row, importance, out),
        GgmlType::Q8_0 => search_row::<_, Q8_0>(row, importance, out),
        GgmlType::Q4_K => search_row::<_, Q4K>(row, importance, out),
        GgmlType::Q5_K => search_row::<_, Q5K>(row, importance, out),
        GgmlType::Q6_K => search_row::<_, Q6K>(row, importance, out),
        GgmlType::IQ4_NL => search_row::<_, Iq4Nl>(row, importance, out),
        GgmlType::IQ4_XS => search_row::<_, Iq4Xs>(row, importance, out),
        GgmlType::MXFP4 => search_row::<_, Mxfp4>(row, importance, out),
        _ => return quantize(ty, row, out),
    }
    Ok(())
}

fn search_row<const N: usize, B: SearchBlock<N>>(
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    let blocks = row.as_chunks().0.iter().zip(out.chunks_exact_mut(size_of::<B>()));
    for (block_idx, (values, bytes)) in blocks.enumerate() {
        let values: [f32; N] = values.map(|value| value.clamp(-MAGNITUDE_MAX, MAGNITUDE_MAX));
        let importance = importance.map(|all| &all[block_idx * N..][..N]);
        let block = B::search(&values, &weights(&values, importance));
        bytes.copy_from_slice(bytemuck::bytes_of(&block));
    }
}

/// Weight of each value's squared error, at most 1: a²·(3σ + |x|), with a² = 1 where nothing is known.
///
/// Large weights count somewhat more than the activations say, for two reasons: without an importance
/// matrix, because they tend to stand in columns that are driven strongly; with one, because the
/// calibration text is not all texts. On the built-in model, the share 3 gave the least error weighted by
/// measured activations among 0, 1.4, 3 and none of |x|.
fn weights<const N: usize>(values: &[f32; N], importance: Option<&[f32]>) -> [f32; N] {
    let sum_squares: f32 = values.iter().map(|x| x * x).sum();
    let deviation = (sum_squares / N as f32).sqrt();
    let raw: [f32; N] = std::array::from_fn(|i| {
        let activation = importance.map_or(1.0, |importance| importance[i]);
        activation * (3.0 * deviation + values[i].abs())
    });
    let max = raw.iter().fold(0.0f32, |max, &weight| max.max(weight));
    if max <= 0.0 || !max.is_finite() {
        return [1.0; N];
    }
    // No column is free: its value would be anything.
    raw.map(|weight| (weight / max).max(1e-6))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // In a test a panic is the report.
mod tests;
