//! Attention of a few query rows over the key/value cache of their sequence.
//!
//! ```text
//! y[t, h] = Σ_j p_j·v_j / Σ_j p_j,   p_j = exp(scale·q[t, h]·k_j - max),   j in the keys that row t sees
//! ```
//! A task is a tile of consecutive query rows of one sequence × one key/value head; the query heads of its group and
//! the rows of the tile are the columns of a small matrix product, so each key and value is read and widened once.
//! Keys are walked in blocks of [`KEY_BLOCK`], counted from position 0: each block gives a maximum, a sum and a
//! weighted sum of values of its own, and these are merged in order. Neither the tile, nor the chunk of the prompt,
//! nor the number of threads can change a result. Inside a block keys go sixteen at a time: scores have one key per
//! lane (the keys are transposed into a float panel, see [`super::tile::floats`]), values have one element per lane.
//! Bytes moved: `n_keys·(k_dim + v_dim)` elements of the cache per task; memory bound for one row.

use super::tile::{self, over_rows};
use crate::simd::{Kernel, Simd, math, scalar};
use zinc_plan::Attention;

/// Keys that share one maximum.
const KEY_BLOCK: usize = 256;
/// Query heads times rows of a tile.
pub(crate) const MAX_COLUMNS: usize = 32;

/// All rows of a key or value cache.
#[derive(Clone, Copy)]
pub(crate) enum Cache<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    /// Blocks of 34 bytes.
    Q8_0(&'a [u8]),
}

/// Working memory of one worker.
pub(crate) struct Scratch {
    /// Sixteen rows of keys or values as f32, padded to whole vectors.
    rows: Vec<f32>,
    /// The keys by element.
    panel: Vec<[f32; 16]>,
    /// Scores, then weights, of the block's keys by column.
    weights: Vec<[[f32; 16]; KEY_BLOCK / 16]>,
    /// Sixteen scores by column.
    scores: Vec<[f32; 16]>,
    /// Weighted values of the block, and of the blocks before, by column.
    block_sum: Vec<[f32; 16]>,
    sum: Vec<[f32; 16]>,
}

impl Scratch {
    /// Room for heads of `k_dim` and `v_dim` elements.
    pub(crate) fn new(k_dim: usize, v_dim: usize) -> Scratch {
        let v_vectors = v_dim.div_ceil(16);
        Scratch {
            rows: vec![0.0; 16 * 16 * k_dim.div_ceil(16).max(v_vectors)],
            panel: vec![[0.0; 16]; k_dim.next_multiple_of(16)],
            weights: vec![[[0.0; 16]; KEY_BLOCK / 16]; MAX_COLUMNS],
            scores: vec![[0.0; 16]; MAX_COLUMNS],
            block_sum: vec![[0.0; 16]; MAX_COLUMNS * v_vectors],
            sum: vec![[0.0; 16]; MAX_COLUMNS * v_vectors],
        }
    }
}

/// What a tile of query rows and some heads of one group attend to.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub attention: Attention,
    /// First query head, and how many; all of one key/value head's group.
    pub first_head: usize,
    pub n_heads: usize,
    /// Query rows, all heads, `q_stride` apart.
    pub q: &'a [f32],
    pub q_stride: usize,
    pub k: Cache<'a>,
    pub v: Cache<'a>,
    /// Position of each row of the tile; times `n_heads` at most [`MAX_COLUMNS`].
    pub positions: &'a [i32],
    /// Pages of the sequence.
    pub pages: &'a [i32],
}

/// Attention of one tile.
pub(crate) struct AttentionTask<'a> {
    pub tile: Tile<'a>,
    pub scratch: &'a mut Scratch,
    /// Result `[row][head of the tile][v_dim]`.
    pub out: &'a mut [f32],
}

/// Running softmax of one column, that is, one query row and head.
#[derive(Clone, Copy)]
struct Column {
    /// Keys the column sees: `first .. end`.
    first: usize,
    end: usize,
    max: f32,
    total: f32,
    /// Factors of the sum so far and of the block's sum in the next merge.
    factors: (f32, f32),
}

impl Column {
    /// The column's part of the keys `from .. to`, relative to `from`.
    #[inline(always)]
    fn part(&self, from: usize, to: usize) -> (usize, usize) {
        let first = self.first.clamp(from, to);
        (first - from, self.end.clamp(first, to) - from)
    }
}

impl Kernel for AttentionTask<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let AttentionTask { tile, scratch, out } = self;
        let n_columns = tile.positions.len() * tile.n_heads;
        let none = Column {
            first: 0,
            end: 0,
            max: f32::NEG_INFINITY,
            total: 0.0,
            factors: (0.0, 0.0),
        };
        let mut columns = [none; MAX_COLUMNS];
        let columns = &mut columns[..n_columns];
        for (idx, column) in columns.iter_mut().enumerate() {
            column.end = tile.positions[idx / tile.n_heads] as usize + 1;
            let window = tile
                .attention
                .window
                .map_or(column.end, |window| window as usize);
            column.first = column.end.saturating_sub(window);
        }
        let v_dim = tile.attention.v_dim as usize;
        let v_vectors = v_dim.div_ceil(16);
        scratch.sum[..n_columns * v_vectors].fill([0.0; 16]);
        let first = columns.iter().map(|c| c.first).min().unwrap_or(0);
        let end = columns.iter().map(|c| c.end).max().unwrap_or(0);
        for block in first / KEY_BLOCK..end.div_ceil(KEY_BLOCK) {
            let from = block * KEY_BLOCK;
            let to = end.min(from + KEY_BLOCK);
            let groups = (first.max(from) - from) / 16..(to - from).div_ceil(16);
            for group in groups.clone() {
                score(s, &tile, scratch, from, group, to);
            }
            for (column, weights) in columns.iter_mut().zip(&mut scratch.weights) {
                let part = column.part(from, to);
                soften(s, column, weights, part);
            }
            scratch.block_sum[..n_columns * v_vectors].fill([0.0; 16]);
            for group in groups {
                weigh(s, &tile, scratch, columns, from, group, to);
            }
            for (idx, column) in columns.iter().enumerate() {
                let at = idx * v_vectors..(idx + 1) * v_vectors;
                for (sum, block_sum) in scratch.sum[at.clone()]
                    .iter_mut()
                    .zip(&scratch.block_sum[at])
                {
                    let old = s.mul(s.load(sum), s.splat(column.factors.0));
                    s.store(
                        sum,
                        s.mul_add(s.load(block_sum), s.splat(column.factors.1), old),
                    );
                }
            }
        }
        for (idx, column) in columns.iter().enumerate() {
            let sum = scratch.sum[idx * v_vectors..(idx + 1) * v_vectors].as_flattened();
            for (out, sum) in out[idx * v_dim..(idx + 1) * v_dim].iter_mut().zip(sum) {
                *out = sum / column.total;
            }
        }
    }
}

/// `scale·q·k` of sixteen keys, `from + 16·group ..`, for all columns, into `weights`.
#[inline(always)]
fn score<S: Simd>(
    s: S,
    tile: &Tile<'_>,
    scratch: &mut Scratch,
    from: usize,
    group: usize,
    to: usize,
) {
    let k_dim = tile.attention.k_dim as usize;
    let stride = k_dim.next_multiple_of(16);
    let start = from + 16 * group;
    load_rows(
        s,
        tile,
        tile.k,
        k_dim,
        start..to.min(start + 16),
        &mut scratch.rows,
    );
    let rows = as_bytes(&scratch.rows[..16 * stride]);
    for (i, four) in scratch.panel.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let words = s.transpose(rows, 16 * i, 4 * stride);
        for j in 0..4 {
            s.store(&mut four[j], s.as_float(words[j]));
        }
    }
    let acc = &mut scratch.scores[..tile.positions.len() * tile.n_heads];
    acc.fill([0.0; 16]);
    let mut k = 0;
    while k < k_dim {
        let n = (k_dim - k).min(super::panel::FLOAT_K_STEP);
        let panel = &scratch.panel[k..k + n];
        let row = |c: usize| {
            let head = tile.first_head + c % tile.n_heads;
            &tile.q[c / tile.n_heads * tile.q_stride + head * k_dim + k..][..n]
        };
        match S::MANY_REGISTERS {
            true => over_rows!(8, acc, row, C => tile::floats::<S, C>(s, panel)),
            false => over_rows!(2, acc, row, C => tile::floats::<S, C>(s, panel)),
        }
        k += n;
    }
    let scale = s.splat(tile.attention.scale);
    for (weights, score) in scratch.weights.iter_mut().zip(acc) {
        s.store(&mut weights[group], s.mul(s.load(score), scale));
    }
}

/// Scores of the keys `part` of the block become weights relative to the block's maximum, all others zero; the
/// column's maximum and total take the block in.
#[inline(always)]
fn soften<S: Simd>(
    s: S,
    column: &mut Column,
    weights: &mut [[f32; 16]; KEY_BLOCK / 16],
    (first, end): (usize, usize),
) {
    if first >= end {
        column.factors = (1.0, 0.0);
        return;
    }
    let groups = first / 16..end.div_ceil(16);
    let flat = weights.as_flattened_mut();
    flat[groups.start * 16..first].fill(f32::NEG_INFINITY);
    flat[end..groups.end * 16].fill(f32::NEG_INFINITY);
    let mut max = s.splat(f32::NEG_INFINITY);
    for group in &weights[groups.clone()] {
        max = s.max(s.load(group), max);
    }
    let max = s.max_lane(max);
    let mut total = s.splat(0.0);
    for group in &mut weights[groups] {
        let weight = math::exp(s, s.sub(s.load(group), s.splat(max)));
        total = s.add(total, weight);
        s.store(group, weight);
    }
    let merged = column.max.max(max);
    let factors = (exp_one(s, column.max - merged), exp_one(s, max - merged));
    column.total = column.total * factors.0 + s.sum(total) * factors.1;
    column.max = merged;
    column.factors = factors;
}

#[inline(always)]
fn exp_one<S: Simd>(s: S, x: f32) -> f32 {
    let mut lanes = [0.0; 16];
    s.store(&mut lanes, math::exp(s, s.splat(x)));
    lanes[0]
}

/// Adds weight times value of sixteen keys to the block sums. Each element takes its keys one by one in order, so it
/// does not matter which columns share the loads; keys a column does not see are left out, not multiplied by zero.
#[inline(always)]
fn weigh<S: Simd>(
    s: S,
    tile: &Tile<'_>,
    scratch: &mut Scratch,
    columns: &[Column],
    from: usize,
    group: usize,
    to: usize,
) {
    let v_dim = tile.attention.v_dim as usize;
    let v_vectors = v_dim.div_ceil(16);
    let start = from + 16 * group;
    let end = to.min(start + 16);
    load_rows(s, tile, tile.v, v_dim, start..end, &mut scratch.rows);
    let rows = scratch.rows.as_chunks::<16>().0;
    let mut c = 0;
    while c < columns.len() {
        let four = columns[c..].first_chunk::<4>();
        let shared = four.is_some_and(|four| {
            four.iter()
                .all(|column| column.part(start, end) == (0, end - start))
        });
        if shared {
            let weights = [0, 1, 2, 3];
            let weights = weights.map(|i: usize| &scratch.weights[c + i][group]);
            weigh_columns::<S, 4>(
                s,
                rows,
                weights,
                0..end - start,
                v_vectors,
                &mut scratch.block_sum[c * v_vectors..],
            );
            c += 4;
        } else {
            let (first, last) = columns[c].part(start, end);
            let weights = [&scratch.weights[c][group]];
            weigh_columns::<S, 1>(
                s,
                rows,
                weights,
                first..last,
                v_vectors,
                &mut scratch.block_sum[c * v_vectors..],
            );
            c += 1;
        }
    }
}

/// `sums[c][v] += Σ_key weights[c][key]·rows[key][v]`, two vectors of elements at a time.
#[inline(always)]
fn weigh_columns<S: Simd, const C: usize>(
    s: S,
    rows: &[[f32; 16]],
    weights: [&[f32; 16]; C],
    keys: std::ops::Range<usize>,
    v_vectors: usize,
    sums: &mut [[f32; 16]],
) {
    let mut v = 0;
    while v < v_vectors {
        // With an odd number of vectors the last one is computed alone.
        let two = v + 1 < v_vectors;
        let second = if two { v + 1 } else { v };
        let mut acc = [[s.splat(0.0); 2]; C];
        for c in 0..C {
            acc[c] = [
                s.load(&sums[c * v_vectors + v]),
                s.load(&sums[c * v_vectors + second]),
            ];
        }
        for key in keys.clone() {
            let values = [
                s.load(&rows[key * v_vectors + v]),
                s.load(&rows[key * v_vectors + second]),
            ];
            for c in 0..C {
                let weight = s.splat(weights[c][key]);
                acc[c][0] = s.mul_add(weight, values[0], acc[c][0]);
                acc[c][1] = s.mul_add(weight, values[1], acc[c][1]);
            }
        }
        for c in 0..C {
            s.store(&mut sums[c * v_vectors + v], acc[c][0]);
            s.store(&mut sums[c * v_vectors + second], acc[c][1]);
        }
        v += 2;
    }
}

/// The head's elements of the keys or values `range`, as f32 rows of whole vectors; the rest of sixteen rows is zero.
#[inline(always)]
fn load_rows<S: Simd>(
    s: S,
    tile: &Tile<'_>,
    cache: Cache<'_>,
    dim: usize,
    range: std::ops::Range<usize>,
    rows: &mut [f32],
) {
    let group = (tile.attention.n_heads / tile.attention.n_kv_heads) as usize;
    let kv_head = tile.first_head / group;
    let n_cols = tile.attention.n_kv_heads as usize * dim;
    let stride = dim.next_multiple_of(16);
    let page_size = tile.attention.page_size as usize;
    let n_keys = range.len();
    for (key, out) in range.zip(rows.chunks_exact_mut(stride)) {
        let row = tile.pages[key / page_size] as usize * page_size + key % page_size;
        let start = kv_head * dim;
        let out = &mut out[..dim];
        match cache {
            Cache::F32(data) => out.copy_from_slice(&data[row * n_cols + start..][..dim]),
            Cache::F16(data) => widen_halves(s, &data[row * n_cols + start..][..dim], out),
            Cache::Q8_0(data) => {
                let row_bytes = n_cols / 32 * 34;
                widen_blocks(s, &data[row * row_bytes..][..row_bytes], start, out);
            }
        }
    }
    rows[n_keys * stride..16 * stride].fill(0.0);
}

#[inline(always)]
fn widen_halves<S: Simd>(s: S, data: &[u16], out: &mut [f32]) {
    let (halves, halves_rest) = data.as_chunks::<16>();
    let (out, out_rest) = out.as_chunks_mut::<16>();
    for (halves, out) in halves.iter().zip(out) {
        s.store(out, s.load_f16(halves));
    }
    for (half, out) in halves_rest.iter().zip(out_rest) {
        *out = scalar::f16_to_f32(*half);
    }
}

/// Elements `start..` of a row of Q8_0 blocks.
#[inline(always)]
fn widen_blocks<S: Simd>(s: S, row: &[u8], start: usize, out: &mut [f32]) {
    let blocks = row.as_chunks::<34>().0;
    if start.is_multiple_of(16) && out.len().is_multiple_of(16) {
        for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let at = start + 16 * i;
            let block = &blocks[at / 32];
            let d = scalar::f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
            let mut q = [0i8; 16];
            for (q, byte) in q.iter_mut().zip(&block[2 + at % 32..]) {
                *q = *byte as i8;
            }
            s.store(out, s.mul(s.load_i8(&q), s.splat(d)));
        }
        return;
    }
    for (i, out) in out.iter_mut().enumerate() {
        let at = start + i;
        let block = &blocks[at / 32];
        let d = scalar::f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
        *out = f32::from(block[2 + at % 32] as i8) * d;
    }
}

/// The bytes of f32 values, as the transposition takes them.
#[inline(always)]
#[allow(unsafe_code)]
fn as_bytes(values: &[f32]) -> &[u8] {
    // SAFETY: f32 has no padding, and bytes have no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}
