//! Attention of a few query rows over the key/value cache of their sequence.
//!
//! ```text
//! y[t, h] = Σ_j p_j·v_j / Σ_j p_j,   p_j = exp(scale·q[t, h]·k_j - max),   j in the keys that row t sees
//! ```
//! Scores may be capped softly: `c·tanh(score / c)`. A sink of the head is one more score, without a value, neither
//! scaled nor capped: the running softmax begins with it. Keys may have a second part in another cache: latent
//! attention has one key/value head, whose key is the compressed row and the rotated one, its value the compressed row.
//!
//! A task is a tile of consecutive query rows of one sequence × one key/value head; the query heads of its group and
//! the rows of the tile are the columns of a small matrix product, so each key and value is read and widened once.
//! Keys are walked in blocks of [`KEY_BLOCK`], counted from position 0: each block gives a maximum, a sum and a
//! weighted sum of values of its own, and these are merged in order. Neither the tile, nor the chunk of the prompt,
//! nor the number of threads can change a result. Inside a block keys go sixteen at a time: scores have one key per
//! lane (the keys are transposed into a float panel, see [`super::tile::floats`]), values have one element per lane.
//! Bytes moved: `n_keys·(k_dim + v_dim)` elements of the cache per task; memory bound for one row.

use super::cache::{Cache, RingRows};
use super::elementwise::{Lanes, Softcap};
use super::tile::{self, over_rows};
use crate::simd::{Kernel, Simd, math};
use std::ops::Range;
use zinc_plan::Attention;

/// Keys that share one maximum.
pub(crate) const KEY_BLOCK: usize = 256;
/// Query heads times rows of a tile.
pub(crate) const MAX_COLUMNS: usize = 32;

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

/// A part of the keys, and what it is multiplied with.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    /// Query rows, all heads, `q_stride` apart.
    pub q: &'a [f32],
    pub q_stride: usize,
    pub cache: Cache<'a>,
    /// Elements of one head.
    pub dim: usize,
}

/// What a tile of query rows and some heads of one group attend to.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub attention: Attention,
    /// First query head, and how many; all of one key/value head's group.
    pub first_head: usize,
    pub n_heads: usize,
    pub k: Keys<'a>,
    /// The second part of the keys.
    pub k_rope: Option<Keys<'a>>,
    pub v: Cache<'a>,
    /// The sink of each head of the tile.
    pub sinks: Option<&'a [f32]>,
    /// Position of each row of the tile; times `n_heads` at most [`MAX_COLUMNS`].
    pub positions: &'a [i32],
    /// Pages of the sequence: a ring.
    pub pages: &'a [i32],
}

impl Tile<'_> {
    /// The blocks of keys that some row of the tile sees.
    pub(crate) fn blocks(&self) -> Range<usize> {
        let (first, end) = self.keys();
        first / KEY_BLOCK..end.div_ceil(KEY_BLOCK)
    }

    /// The keys that some row of the tile sees: `first .. end`.
    fn keys(&self) -> (usize, usize) {
        let seen = self.positions.iter().map(|position| self.seen(*position));
        seen.fold((usize::MAX, 0), |all, row| (all.0.min(row.0), all.1.max(row.1)))
    }

    /// The keys that a row at `position` sees.
    fn seen(&self, position: i32) -> (usize, usize) {
        let end = position as usize + 1;
        let window = self.attention.window.map_or(end, |window| window as usize);
        (end.saturating_sub(window), end)
    }

    /// Vectors that the results of one block take in [`Work::Part`].
    pub(crate) fn part_len(&self) -> usize {
        let v_vectors = (self.attention.v_dim as usize).div_ceil(16);
        self.positions.len() * self.n_heads * (1 + v_vectors)
    }
}

/// What to do for a tile: all of it, or some blocks of keys now and the rest by others. Both end in the same bits.
pub(crate) enum Work<'a> {
    /// All blocks; the result is `[row][head of the tile][v_dim]`.
    Whole { out: &'a mut [f32] },
    /// Some blocks; their results go to `parts`, [`Tile::part_len`] vectors each.
    Part { blocks: Range<usize>, parts: &'a mut [[f32; 16]] },
    /// The results of all blocks lie in `parts`.
    Merge { parts: &'a [[f32; 16]], out: &'a mut [f32] },
}

/// Attention of one tile.
pub(crate) struct AttentionTask<'a> {
    pub tile: Tile<'a>,
    pub scratch: &'a mut Scratch,
    pub work: Work<'a>,
}

/// Running softmax of one column, that is, one query row and head.
#[derive(Clone, Copy)]
struct Column {
    /// Keys the column sees: `first .. end`.
    first: usize,
    end: usize,
    max: f32,
    total: f32,
    /// The same for the latest block alone; the total is zero when the column sees no key of it.
    block_max: f32,
    block_total: f32,
}

impl Column {
    /// The column's part of the keys `from .. to`, relative to `from`.
    #[inline(always)]
    fn part(&self, from: usize, to: usize) -> (usize, usize) {
        let first = self.first.clamp(from, to);
        (first - from, self.end.clamp(first, to) - from)
    }

    /// Takes the latest block in; returns the factors of the sum so far and of the block's sum.
    #[inline(always)]
    fn merge<S: Simd>(&mut self, s: S) -> (f32, f32) {
        let merged = self.max.max(self.block_max);
        let factors = (exp_one(s, self.max - merged), exp_one(s, self.block_max - merged));
        self.total = self.total * factors.0 + self.block_total * factors.1;
        self.max = merged;
        factors
    }
}

impl Kernel for AttentionTask<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let AttentionTask { tile, scratch, mut work } = self;
        let none = Column {
            first: 0,
            end: 0,
            max: f32::NEG_INFINITY,
            total: 0.0,
            block_max: f32::NEG_INFINITY,
            block_total: 0.0,
        };
        let mut columns = [none; MAX_COLUMNS];
        let columns = &mut columns[..tile.positions.len() * tile.n_heads];
        for (idx, column) in columns.iter_mut().enumerate() {
            (column.first, column.end) = tile.seen(tile.positions[idx / tile.n_heads]);
            if let Some(sinks) = tile.sinks {
                (column.max, column.total) = (sinks[idx % tile.n_heads], 1.0);
            }
        }
        let v_vectors = (tile.attention.v_dim as usize).div_ceil(16);
        scratch.sum[..columns.len() * v_vectors].fill([0.0; 16]);
        let blocks = match &work {
            Work::Part { blocks, .. } => blocks.clone(),
            _ => tile.blocks(),
        };
        for (idx, block) in blocks.enumerate() {
            let part = idx * tile.part_len()..(idx + 1) * tile.part_len();
            match &work {
                Work::Merge { parts, .. } => {
                    load_part(&parts[part.clone()], columns, &mut scratch.block_sum)
                }
                _ => attend_block(s, &tile, scratch, columns, block),
            }
            match &mut work {
                Work::Part { parts, .. } => {
                    store_part(&mut parts[part], columns, &scratch.block_sum)
                }
                _ => merge_block(s, scratch, columns, v_vectors),
            }
        }
        if let Work::Whole { out } | Work::Merge { out, .. } = work {
            let v_dim = tile.attention.v_dim as usize;
            for (idx, column) in columns.iter().enumerate() {
                let sum = scratch.sum[idx * v_vectors..(idx + 1) * v_vectors].as_flattened();
                for (out, sum) in out[idx * v_dim..(idx + 1) * v_dim].iter_mut().zip(sum) {
                    *out = sum / column.total;
                }
            }
        }
    }
}

/// Maximum, total and weighted values of one block of keys.
#[inline(always)]
fn attend_block<S: Simd>(
    s: S,
    tile: &Tile<'_>,
    scratch: &mut Scratch,
    columns: &mut [Column],
    block: usize,
) {
    let (first, end) = tile.keys();
    let from = block * KEY_BLOCK;
    let to = end.min(from + KEY_BLOCK);
    let groups = (first.max(from) - from) / 16..(to - from).div_ceil(16);
    for group in groups.clone() {
        score(s, tile, scratch, from, group, to);
    }
    for (column, weights) in columns.iter_mut().zip(&mut scratch.weights) {
        let part = column.part(from, to);
        soften(s, column, weights, part);
    }
    let v_vectors = (tile.attention.v_dim as usize).div_ceil(16);
    scratch.block_sum[..columns.len() * v_vectors].fill([0.0; 16]);
    for group in groups {
        weigh(s, tile, scratch, columns, from, group, to);
    }
}

/// Takes the latest block into the sums, for the columns that saw some of it.
#[inline(always)]
fn merge_block<S: Simd>(s: S, scratch: &mut Scratch, columns: &mut [Column], v_vectors: usize) {
    for (idx, column) in columns.iter_mut().enumerate() {
        if column.block_total == 0.0 {
            continue;
        }
        let factors = column.merge(s);
        let at = idx * v_vectors..(idx + 1) * v_vectors;
        for (sum, block_sum) in scratch.sum[at.clone()].iter_mut().zip(&scratch.block_sum[at]) {
            let old = s.mul(s.load(sum), s.splat(factors.0));
            s.store(sum, s.mul_add(s.load(block_sum), s.splat(factors.1), old));
        }
    }
}

/// One vector with maximum and total of each column, then the sums.
fn store_part(part: &mut [[f32; 16]], columns: &[Column], block_sum: &[[f32; 16]]) {
    let (heads, sums) = part.split_at_mut(columns.len());
    for (head, column) in heads.iter_mut().zip(columns) {
        (head[0], head[1]) = (column.block_max, column.block_total);
    }
    sums.copy_from_slice(&block_sum[..sums.len()]);
}

/// Reads what [`store_part`] wrote.
fn load_part(part: &[[f32; 16]], columns: &mut [Column], block_sum: &mut [[f32; 16]]) {
    let (heads, sums) = part.split_at(columns.len());
    for (head, column) in heads.iter().zip(columns) {
        (column.block_max, column.block_total) = (head[0], head[1]);
    }
    block_sum[..sums.len()].copy_from_slice(sums);
}

/// `scale·q·k` of sixteen keys, `from + 16·group ..`, for all columns, softly capped where asked for, into `weights`.
#[inline(always)]
fn score<S: Simd>(
    s: S,
    tile: &Tile<'_>,
    scratch: &mut Scratch,
    from: usize,
    group: usize,
    to: usize,
) {
    let start = from + 16 * group;
    let keys = start..to.min(start + 16);
    scratch.scores[..tile.positions.len() * tile.n_heads].fill([0.0; 16]);
    add_products(s, tile, &tile.k, keys.clone(), scratch);
    if let Some(part) = &tile.k_rope {
        add_products(s, tile, part, keys, scratch);
    }
    let acc = &scratch.scores[..tile.positions.len() * tile.n_heads];
    for (weights, score) in scratch.weights.iter_mut().zip(acc) {
        let mut score = s.mul(s.load(score), s.splat(tile.attention.scale));
        if let Some(cap) = tile.attention.softcap {
            score = Softcap(cap).apply(s, score, score);
        }
        s.store(&mut weights[group], score);
    }
}

/// Adds `q·k` over one part of the keys `range`, at most sixteen, to the scores.
#[inline(always)]
fn add_products<S: Simd>(
    s: S,
    tile: &Tile<'_>,
    part: &Keys<'_>,
    range: Range<usize>,
    scratch: &mut Scratch,
) {
    let stride = part.dim.next_multiple_of(16);
    load_rows(s, tile, part.cache, part.dim, range, &mut scratch.rows);
    let rows = as_bytes(&scratch.rows[..16 * stride]);
    let panel = &mut scratch.panel[..stride];
    for (i, four) in panel.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let words = s.transpose(rows, 16 * i, 4 * stride);
        for j in 0..4 {
            s.store(&mut four[j], s.as_float(words[j]));
        }
    }
    let acc = &mut scratch.scores[..tile.positions.len() * tile.n_heads];
    let mut k = 0;
    while k < part.dim {
        let n = (part.dim - k).min(super::panel::FLOAT_K_STEP);
        let panel = &panel[k..k + n];
        let row = |c: usize| {
            let head = tile.first_head + c % tile.n_heads;
            &part.q[c / tile.n_heads * part.q_stride + head * part.dim + k..][..n]
        };
        match S::MANY_REGISTERS {
            true => over_rows!(8, acc, row, C => tile::floats::<S, C>(s, panel)),
            false => over_rows!(2, acc, row, C => tile::floats::<S, C>(s, panel)),
        }
        k += n;
    }
}

/// Scores of the keys that the column sees of the block become weights relative to the block's maximum, with zeros
/// around them; sets the column's maximum and total of the block.
#[inline(always)]
fn soften<S: Simd>(
    s: S,
    column: &mut Column,
    weights: &mut [[f32; 16]; KEY_BLOCK / 16],
    (first, end): (usize, usize),
) {
    if first >= end {
        (column.block_max, column.block_total) = (f32::NEG_INFINITY, 0.0);
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
    (column.block_max, column.block_total) = (max, s.sum(total));
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
            four.iter().all(|column| column.part(start, end) == (0, end - start))
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
    keys: Range<usize>,
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
            acc[c] = [s.load(&sums[c * v_vectors + v]), s.load(&sums[c * v_vectors + second])];
        }
        for key in keys.clone() {
            let values =
                [s.load(&rows[key * v_vectors + v]), s.load(&rows[key * v_vectors + second])];
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
    range: Range<usize>,
    rows: &mut [f32],
) {
    let group = (tile.attention.n_heads / tile.attention.n_kv_heads) as usize;
    let kv_head = tile.first_head / group;
    let n_cols = tile.attention.n_kv_heads as usize * dim;
    let stride = dim.next_multiple_of(16);
    let page_size = tile.attention.page_size as usize;
    let n_keys = range.len();
    let places = RingRows::new(tile.pages, page_size, range.start);
    for (row, out) in places.zip(rows.chunks_exact_mut(stride).take(n_keys)) {
        cache.widen(s, row, n_cols, kv_head * dim, &mut out[..dim]);
    }
    rows[n_keys * stride..16 * stride].fill(0.0);
}

/// The bytes of f32 values, as the transposition takes them.
#[inline(always)]
#[allow(unsafe_code)]
fn as_bytes(values: &[f32]) -> &[u8] {
    // SAFETY: f32 has no padding, and bytes have no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}
