//! Rows of a key or value cache as f32.

use crate::simd::{Simd, scalar};

/// All rows of a key or value cache.
#[derive(Clone, Copy)]
pub(crate) enum Cache<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    /// Blocks of 34 bytes.
    Q8_0(&'a [u8]),
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
            Cache::Q8_0(data) => {
                let row_bytes = n_cols / 32 * 34;
                widen_blocks(s, &data[row * row_bytes..][..row_bytes], start, out);
            }
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
