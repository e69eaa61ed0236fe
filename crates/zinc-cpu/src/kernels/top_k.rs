//! The largest values of a row, falling, the lower column first among equals.
//!
//! Reads a row once, `4·n` bytes: most of it is below what has been found already and falls in a comparison of whole
//! blocks. The values that are left are inserted one by one, about `k·ln(n / k)` of them where order is random: some
//! tens of microseconds for a vocabulary, bound by the memory.

/// Inserts `idx` behind the `n` entries of `best` that are no smaller; the last one falls out where they are all taken.
pub(crate) fn insert(best: &mut [i32], n: &mut usize, idx: i32, is_smaller: impl Fn(i32) -> bool) {
    let mut at = *n;
    while at > 0 && is_smaller(best[at - 1]) {
        at -= 1;
    }
    if at < best.len() {
        *n = (*n + 1).min(best.len());
        best.copy_within(at..*n - 1, at + 1);
        best[at] = idx;
    }
}

/// What is infinite or no number ranks above all others, 0 and -0 alike.
fn rank(value: f32) -> f32 {
    if value.is_finite() { value + 0.0 } else { f32::INFINITY }
}

/// Columns and values of the `ids.len()` largest of `x`.
pub(crate) fn top_k(x: &[f32], ids: &mut [i32], values: &mut [f32]) {
    const BLOCK: usize = 64;
    let mut n = 0;
    // The rank that the next one must be above.
    let mut floor = f32::NEG_INFINITY;
    for (block_idx, block) in x.chunks(BLOCK).enumerate() {
        let is_below = |value: f32| (value <= floor) & (value != f32::NEG_INFINITY);
        if n == ids.len() && block.iter().fold(true, |all, value| all & is_below(*value)) {
            continue;
        }
        for (i, value) in block.iter().enumerate() {
            let new = rank(*value);
            if n == ids.len() && new <= floor {
                continue;
            }
            let idx = (block_idx * BLOCK + i) as i32;
            insert(ids, &mut n, idx, |other| rank(x[other as usize]) < new);
            floor = rank(x[ids[n - 1] as usize]);
        }
    }
    for (value, id) in values.iter_mut().zip(&*ids) {
        *value = x[*id as usize];
    }
}
