//! Rows of a key or value cache as f32.

use crate::simd::{Simd, scalar};
use zinc_quant::{GgmlType, e4m3_to_f32};

/// Types of a cache.
pub(crate) const KV_TYPES: [GgmlType; 6] = {
    use GgmlType::{BF16, F8_E4M3, F16, F32, Q4_0, Q8_0};
    [F32, F16, BF16, F8_E4M3, Q8_0, Q4_0]
};

/// Rows of a sequence's positions, one after another; its page table is a ring.
pub(super) struct RingRows<'a> {
    pages: &'a [i32],
    page_size: usize,
    page: usize,
    /// Row of the page.
    row: usize,
}

impl<'a> RingRows<'a> {
    /// From the position `start` on.
    #[inline(always)]
    pub(super) fn new(pages: &'a [i32], page_size: usize, start: usize) -> RingRows<'a> {
        let (page, row) = (start / page_size % pages.len(), start % page_size);
        RingRows { pages, page_size, page, row }
    }
}

impl Iterator for RingRows<'_> {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        let row = self.pages[self.page] as usize * self.page_size + self.row;
        self.row += 1;
        if self.row == self.page_size {
            (self.page, self.row) = (self.page + 1, 0);
        }
        if self.page == self.pages.len() {
            self.page = 0;
        }
        Some(row)
    }
}

/// All rows of a key or value cache.
#[derive(Clone, Copy)]
pub(crate) enum Cache<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    BF16(&'a [u16]),
    F8(&'a [u8]),
    /// Blocks of 34 bytes.
    Q8_0(&'a [u8]),
    /// Blocks of 18 bytes.
    Q4_0(&'a [u8]),
}

impl Cache<'_> {
    /// Elements `start .. start + out.len()` of row `row`, of `n_cols` elements.
    #[inline(always)]
    pub(super) fn widen<S: Simd>(
        self,
        s: S,
        row: usize,
        n_cols: usize,
        start: usize,
        out: &mut [f32],
    ) {
        match self {
            Cache::F32(data) => out.copy_from_slice(&data[row * n_cols + start..][..out.len()]),
            Cache::F16(data) => widen_halves(s, &data[row * n_cols + start..][..out.len()], out),
            Cache::BF16(data) => {
                let data = &data[row * n_cols + start..][..out.len()];
                for (out, bits) in out.iter_mut().zip(data) {
                    *out = f32::from_bits(u32::from(*bits) << 16);
                }
            }
            Cache::F8(data) => {
                let data = &data[row * n_cols + start..][..out.len()];
                for (out, code) in out.iter_mut().zip(data) {
                    *out = e4m3_to_f32(*code);
                }
            }
            Cache::Q8_0(data) => widen_blocks::<S, 34>(s, data, row, n_cols, start, out),
            Cache::Q4_0(data) => widen_blocks::<S, 18>(s, data, row, n_cols, start, out),
        }
    }
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

/// Elements `start..` of a row of blocks of `BYTES` bytes: a scale in f16, then 32 integers.
#[inline(always)]
fn widen_blocks<S: Simd, const BYTES: usize>(
    s: S,
    data: &[u8],
    row: usize,
    n_cols: usize,
    start: usize,
    out: &mut [f32],
) {
    let n_blocks = n_cols / 32;
    let blocks = &data.as_chunks::<BYTES>().0[row * n_blocks..][..n_blocks];
    let mut done = 0;
    // Halves of blocks; the first and the last one may be cut.
    while done < out.len() {
        let at = start + done;
        let (block, skip) = (&blocks[at / 32], at % 16);
        let d = scalar::f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
        let mut half = [0.0; 16];
        s.store(&mut half, s.mul(s.load_i8(&integers(block, at / 16 % 2)), s.splat(d)));
        let n = (16 - skip).min(out.len() - done);
        out[done..done + n].copy_from_slice(&half[skip..skip + n]);
        done += n;
    }
}

/// Sixteen integers of a block: signed bytes (Q8_0), or the low or high halves of bytes, 8 too large (Q4_0).
#[inline(always)]
fn integers<const BYTES: usize>(block: &[u8; BYTES], half: usize) -> [i8; 16] {
    let (start, shift) = if BYTES == 34 { (2 + 16 * half, 0) } else { (2, 4 * half) };
    let mut q = [0i8; 16];
    for (q, byte) in q.iter_mut().zip(&block[start..]) {
        *q = if BYTES == 34 { *byte as i8 } else { (byte >> shift & 15) as i8 - 8 };
    }
    q
}
