//! Panels: 16 weight rows unpacked into the one form that all register tiles read.
//!
//! Values of the sixteen rows are interleaved so that one vector holds the same four consecutive k of every row, one
//! row per lane; scales lie one row per lane too. A panel covers [`K_STEP`] (or, as floats, [`FLOAT_K_STEP`]) values
//! of k and stays in the first-level cache; it is unpacked once and multiplied with all activation rows of a task.
//! How a type's blocks become integers is in [`super::format`].

use super::act::ActBlocks;
use super::format::floats::{Bf16, F16, F32, FloatFormat, FloatSink};
use super::format::{Format, Scales, Sink, Source};
use crate::simd::{Kernel, Simd};
use std::marker::PhantomData;
use zinc_quant::{GgmlType, dequantize};

/// Weight rows of a panel.
pub(crate) const ROWS: usize = 16;
/// Values of k in a panel of quantised weights.
pub(crate) const K_STEP: usize = 1024;
/// Values of k in a panel of floats; also the length of one float accumulation.
pub(crate) const FLOAT_K_STEP: usize = 256;

/// Up to sixteen weight rows of one matrix.
#[derive(Clone, Copy)]
pub(crate) struct WeightRows<'a> {
    pub ty: GgmlType,
    /// From the first byte of the first row to the last byte of the last row, or beyond: what comes after the last of
    /// sixteen rows is what the same worker multiplies next.
    pub data: &'a [u8],
    /// Bytes from row to row.
    pub row_bytes: usize,
    /// 1 to 16.
    pub n_rows: usize,
}

/// Unpacked weights of 16 rows. Which fields are used depends on the type.
pub(crate) struct Values {
    /// Unsigned values, group `k / 4`.
    pub bytes: Box<[[u8; 64]]>,
    /// Integer scale of each sub-block, sixteen places to a block.
    pub scales: Box<[[i32; 16]]>,
    /// Integer minimum of each sub-block of 32, two per lane as i16, for the two sums of 16 activations.
    pub mins: Box<[[i32; 16]]>,
    /// Scale of each block.
    pub d: Box<[[f32; 16]]>,
    /// Minimum, or scale of the minimums, of each block.
    pub min: Box<[[f32; 16]]>,
    /// Float weights by k.
    pub floats: Box<[[f32; 16]]>,
    /// Dequantised rows of types that no kernel reads.
    rows: Box<[u8]>,
}

/// Copy of the last rows of a matrix, filled up with zeros to sixteen.
pub(crate) struct Tail(Box<[u8]>);

impl Tail {
    /// Room for any type.
    pub(crate) fn new() -> Tail {
        // The widest values are those of F64.
        Tail(vec![0; ROWS * (FLOAT_K_STEP * 8).max(K_STEP * 34 / 32)].into())
    }

    /// Bytes `start .. start + len` of the rows, which become sixteen.
    #[inline(always)]
    pub(crate) fn source<'a>(
        &'a mut self,
        rows: WeightRows<'a>,
        start: usize,
        len: usize,
    ) -> Source<'a> {
        if rows.n_rows == ROWS {
            let end = start + (ROWS - 1) * rows.row_bytes + len;
            return Source { data: &rows.data[start..end], stride: rows.row_bytes };
        }
        let copy = &mut self.0[..ROWS * len];
        copy.fill(0);
        for (row, to) in copy.chunks_exact_mut(len).take(rows.n_rows).enumerate() {
            to.copy_from_slice(&rows.data[row * rows.row_bytes + start..][..len]);
        }
        Source { data: copy, stride: len }
    }
}

impl Values {
    /// Room for any type.
    pub(crate) fn new() -> Values {
        let n_supers = K_STEP / 256;
        Values {
            bytes: vec![[0; 64]; K_STEP / 4].into(),
            scales: vec![[0; 16]; n_supers * 16].into(),
            mins: vec![[0; 16]; n_supers * 8].into(),
            d: vec![[0.0; 16]; K_STEP / 32].into(),
            min: vec![[0.0; 16]; K_STEP / 32].into(),
            floats: vec![[0.0; 16]; FLOAT_K_STEP].into(),
            rows: vec![0; ROWS * FLOAT_K_STEP * size_of::<f32>()].into(),
        }
    }

    /// Unpacks the first `n` values, whole blocks, at most [`K_STEP`].
    #[inline(always)]
    pub(crate) fn unpack<S: Simd, F: Format>(&mut self, s: S, from: Source<'_>, n: usize) {
        for block in 0..n / F::Act::LEN {
            let mut store = Store::<F> { values: self, block, format: PhantomData };
            F::block(s, from, block * F::BLOCK_BYTES, &mut store);
        }
    }

    /// Unpacks the first `n` values, at most [`FLOAT_K_STEP`], as floats.
    #[inline(always)]
    pub(crate) fn unpack_floats<S: Simd>(
        &mut self,
        s: S,
        ty: GgmlType,
        from: Source<'_>,
        n: usize,
    ) {
        let to = &mut self.floats[..n];
        match ty {
            GgmlType::F32 => s.outlined(UnpackFloats { from, to, format: F32 }),
            GgmlType::F16 => s.outlined(UnpackFloats { from, to, format: F16 }),
            GgmlType::BF16 => s.outlined(UnpackFloats { from, to, format: Bf16 }),
            _ => {
                dequantize_rows(ty, from, n, &mut self.rows);
                let stride = n * size_of::<f32>();
                let from = Source { data: &self.rows[..ROWS * stride], stride };
                s.outlined(UnpackFloats { from, to, format: F32 });
            }
        }
    }
}

struct UnpackFloats<'a, F> {
    from: Source<'a>,
    to: &'a mut [[f32; 16]],
    #[expect(dead_code, reason = "names the type")]
    format: F,
}

impl<F: FloatFormat> Kernel for UnpackFloats<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.to.len();
        F::values(s, self.from, n, &mut StoreFloats(self.to));
    }
}

/// Row by row through the format's reference dequantiser: slow, right for every type. The values lie as bytes in
/// `rows`, like weights of type F32.
fn dequantize_rows(ty: GgmlType, from: Source<'_>, n: usize, rows: &mut [u8]) {
    let len = n / ty.block_len() * ty.block_bytes();
    let mut values = [0.0; FLOAT_K_STEP];
    for (row, out) in rows.chunks_exact_mut(n * size_of::<f32>()).take(ROWS).enumerate() {
        let values = &mut values[..n];
        if dequantize(ty, &from.data[row * from.stride..][..len], values).is_err() {
            // Integer types have no values as weights; `Device::caps` does not offer them.
            values.fill(f32::NAN);
        }
        for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
            *out = value.to_le_bytes();
        }
    }
}

/// Puts one block into a panel.
struct Store<'a, F> {
    values: &'a mut Values,
    block: usize,
    format: PhantomData<F>,
}

impl<S: Simd, F: Format> Sink<S> for Store<'_, F> {
    #[inline(always)]
    fn scales(&mut self, s: S, scales: Scales<S>) {
        let values = &mut *self.values;
        s.store(&mut values.d[self.block], scales.d);
        if F::FORM.has_min() {
            s.store(&mut values.min[self.block], scales.min);
        }
        if F::FORM.is_super() {
            let n_subs = 16 / F::FORM.runs_per_scale();
            let to = &mut values.scales[16 * self.block..16 * self.block + n_subs];
            for (to, scale) in to.iter_mut().zip(scales.subs) {
                s.i_store(to, scale);
            }
            if F::FORM.has_min() {
                let to = &mut values.mins[8 * self.block..8 * self.block + 8];
                for (to, min) in to.iter_mut().zip(scales.mins) {
                    s.i_store(to, min);
                }
            }
        }
    }

    #[inline(always)]
    fn run(&mut self, s: S, run: usize, values: [S::I; 4]) {
        let runs_per_block = if F::FORM.is_super() { 16 } else { 2 };
        let at = 4 * (runs_per_block * self.block + run);
        for (to, values) in self.values.bytes[at..at + 4].iter_mut().zip(values) {
            s.bytes_store(to, values);
        }
    }
}

struct StoreFloats<'a>(&'a mut [[f32; 16]]);

impl<S: Simd> FloatSink<S> for StoreFloats<'_> {
    #[inline(always)]
    fn pair(&mut self, s: S, k: usize, [even, odd]: [S::F; 2]) {
        s.store(&mut self.0[k], even);
        s.store(&mut self.0[k + 1], odd);
    }

    #[inline(always)]
    fn last(&mut self, s: S, k: usize, values: S::F) {
        s.store(&mut self.0[k], values);
    }
}
