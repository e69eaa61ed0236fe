//! Panels: 16 weight rows unpacked into the one form that all register tiles read.
//!
//! Values of the sixteen rows are interleaved so that one vector holds the same four consecutive k of every row, one
//! row per lane; scales lie one row per lane too. A panel covers [`K_STEP`] (or, as floats, [`FLOAT_K_STEP`]) values
//! of k and stays in the first-level cache; it is unpacked once and multiplied with all activation rows of a task.
//! Cost: about 2.5 register operations per 64 packed bytes of weights for the transposition, plus the bit fields.

use crate::simd::Simd;
use zinc_quant::{GgmlType, dequantize};

/// Weight rows of a panel.
pub(crate) const ROWS: usize = 16;
/// Values of k in a panel of quantised weights.
pub(crate) const K_STEP: usize = 1024;
/// Values of k in a panel of floats; also the length of one float accumulation.
pub(crate) const FLOAT_K_STEP: usize = 256;

/// Unpacked weights of 16 rows. Which fields are used depends on the type.
pub(crate) struct Panel {
    /// Unsigned values, group `k / 4`.
    pub bytes: Box<[[u8; 64]]>,
    /// Integer scale of each sub-block.
    pub scales: Box<[[i32; 16]]>,
    /// Integer minimum of each sub-block of 32, twice per lane as i16, for the two sums of 16 activations.
    pub mins: Box<[[i32; 16]]>,
    /// Scale of each block.
    pub d: Box<[[f32; 16]]>,
    /// Scale of the minimums of each block.
    pub d_min: Box<[[f32; 16]]>,
    /// Float weights by k.
    pub floats: Box<[[f32; 16]]>,
    /// Dequantised rows of types without an unpacker.
    rows: Box<[f32]>,
    /// Copy of the last rows of a matrix, filled up with zeros to sixteen.
    tail: Box<[u8]>,
}

/// How the values of a weight type are multiplied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// Q4_K, Q5_K: super-blocks with eight scales and minimums.
    SupersWithMin,
    /// Q6_K: super-blocks with sixteen signed scales.
    SupersCentred,
    /// Q4_0: blocks of 32 with zero point 8.
    Blocks,
    /// Q8_0: blocks of 32 full bytes.
    WideBlocks,
    /// Everything else, and every type when the activations are f32.
    Floats,
}

impl Form {
    /// The integer form of `ty`, when it has one.
    pub(crate) fn quantized(ty: GgmlType) -> Option<Form> {
        match ty {
            GgmlType::Q4_K | GgmlType::Q5_K => Some(Form::SupersWithMin),
            GgmlType::Q6_K => Some(Form::SupersCentred),
            GgmlType::Q4_0 => Some(Form::Blocks),
            GgmlType::Q8_0 => Some(Form::WideBlocks),
            _ => None,
        }
    }

    /// Type that `QuantizeAct` converts the activations to.
    pub(crate) fn activations(self) -> GgmlType {
        match self {
            Form::SupersWithMin | Form::SupersCentred => GgmlType::Q8_K,
            Form::Blocks | Form::WideBlocks => GgmlType::Q8_1,
            Form::Floats => GgmlType::F32,
        }
    }

    /// Values of k in a panel.
    pub(crate) fn k_step(self) -> usize {
        if self == Form::Floats { FLOAT_K_STEP } else { K_STEP }
    }
}

/// Up to sixteen weight rows of one matrix.
#[derive(Clone, Copy)]
pub(crate) struct WeightRows<'a> {
    pub ty: GgmlType,
    /// First byte of the first row to last byte of the last row.
    pub data: &'a [u8],
    /// Bytes from row to row.
    pub row_bytes: usize,
    /// 1 to 16.
    pub n_rows: usize,
}

impl Panel {
    /// Room for any type.
    pub(crate) fn new() -> Panel {
        let n_supers = K_STEP / 256;
        Panel {
            bytes: vec![[0; 64]; K_STEP / 4].into(),
            scales: vec![[0; 16]; n_supers * 16].into(),
            mins: vec![[0; 16]; n_supers * 8].into(),
            d: vec![[0.0; 16]; K_STEP / 32].into(),
            d_min: vec![[0.0; 16]; n_supers].into(),
            floats: vec![[0.0; 16]; FLOAT_K_STEP].into(),
            rows: vec![0.0; FLOAT_K_STEP].into(),
            // The widest values are those of F64.
            tail: vec![0; ROWS * (FLOAT_K_STEP * 8).max(K_STEP * 34 / 32)].into(),
        }
    }

    /// Unpacks values `k .. k + n` (whole blocks, at most `form.k_step()`) of the rows.
    #[inline(always)]
    pub(crate) fn unpack<S: Simd>(
        &mut self,
        s: S,
        form: Form,
        rows: WeightRows<'_>,
        k: usize,
        n: usize,
    ) {
        let bytes_of = |n: usize| n / rows.ty.block_len() * rows.ty.block_bytes();
        let (start, len) = (bytes_of(k), bytes_of(n));
        let mut tail = std::mem::take(&mut self.tail);
        let from = if rows.n_rows == ROWS {
            let end = start + (ROWS - 1) * rows.row_bytes + len;
            (&rows.data[start..end], rows.row_bytes)
        } else {
            let copy = &mut tail[..ROWS * len];
            copy.fill(0);
            for (row, to) in copy.chunks_exact_mut(len).take(rows.n_rows).enumerate() {
                to.copy_from_slice(&rows.data[row * rows.row_bytes + start..][..len]);
            }
            (&*copy, len)
        };
        self.unpack_full(s, form, rows.ty, from, n);
        self.tail = tail;
    }

    /// `from` is the data of sixteen rows with its stride.
    #[inline(always)]
    fn unpack_full<S: Simd>(
        &mut self,
        s: S,
        form: Form,
        ty: GgmlType,
        from: (&[u8], usize),
        n: usize,
    ) {
        match (form, ty) {
            (Form::SupersWithMin, GgmlType::Q5_K) => {
                for block in 0..n / 256 {
                    self.unpack_q5_k(s, from, block);
                }
            }
            (Form::SupersWithMin, _) => {
                for block in 0..n / 256 {
                    self.unpack_q4_k(s, from, block);
                }
            }
            (Form::SupersCentred, _) => {
                for block in 0..n / 256 {
                    self.unpack_q6_k(s, from, block);
                }
            }
            (Form::Blocks, _) => {
                for block in 0..n / 32 {
                    self.unpack_q4_0(s, from, block);
                }
            }
            (Form::WideBlocks, _) => {
                for block in 0..n / 32 {
                    self.unpack_q8_0(s, from, block);
                }
            }
            (Form::Floats, GgmlType::F32) => self.unpack_f32(s, from, n),
            (Form::Floats, GgmlType::F16) => self.unpack_half::<S, false>(s, from, n),
            (Form::Floats, GgmlType::BF16) => self.unpack_half::<S, true>(s, from, n),
            (Form::Floats, _) => self.unpack_any(ty, from, n),
        }
    }

    /// d, dmin: two f16; twelve bytes with eight 6-bit scales and eight 6-bit minimums.
    #[inline(always)]
    fn unpack_k_header<S: Simd>(
        &mut self,
        s: S,
        (data, stride): (&[u8], usize),
        offset: usize,
        block: usize,
    ) {
        let [d, first, second, third] = s.transpose(data, offset, stride);
        s.store(&mut self.d[block], s.half_to_f32(d));
        s.store(&mut self.d_min[block], s.half_to_f32(s.i_shr::<16>(d)));
        let low_6 = s.i_splat(0x3f3f_3f3f);
        let low_4 = s.i_splat(0x0f0f_0f0f);
        let top_2 = s.i_splat(0x3030_3030);
        // Sub-blocks 0..4 have their six bits in place; of 4..8 four bits are in the third word and two on top of
        // the first and second.
        let scales_high = s.i_or(s.i_and(third, low_4), s.i_and(s.i_shr::<2>(first), top_2));
        let mins_high =
            s.i_or(s.i_and(s.i_shr::<4>(third), low_4), s.i_and(s.i_shr::<2>(second), top_2));
        let scales = [s.i_and(first, low_6), scales_high];
        let mins = [s.i_and(second, low_6), mins_high];
        for half in 0..2 {
            let at = 8 * block + 4 * half;
            let (mut scale, mut min) = (scales[half], mins[half]);
            for sub in at..at + 4 {
                let low_8 = s.i_splat(0xff);
                s.i_store(&mut self.scales[sub], s.i_and(scale, low_8));
                let one = s.i_and(min, low_8);
                s.i_store(&mut self.mins[sub], s.i_or(one, s.i_shl::<16>(one)));
                scale = s.i_shr::<8>(scale);
                min = s.i_shr::<8>(min);
            }
        }
    }

    /// Header, then 128 bytes: 32 bytes hold sub-block 2j in the low and 2j + 1 in the high nibbles.
    #[inline(always)]
    fn unpack_q4_k<S: Simd>(&mut self, s: S, from: (&[u8], usize), block: usize) {
        let offset = block * 144;
        self.unpack_k_header(s, from, offset, block);
        let low_4 = s.i_splat(0x0f0f_0f0f);
        let groups = &mut self.bytes[64 * block..64 * block + 64];
        for chunk in 0..8 {
            let words = s.transpose(from.0, offset + 16 + 16 * chunk, from.1);
            let at = chunk / 2 * 16 + chunk % 2 * 4;
            for (i, w) in words.into_iter().enumerate() {
                s.bytes_store(&mut groups[at + i], s.i_and(w, low_4));
                s.bytes_store(&mut groups[at + 8 + i], s.i_and(s.i_shr::<4>(w), low_4));
            }
        }
    }

    /// Header, 32 bytes whose bit `sub` is the fifth bit of sub-block `sub`, then nibbles as in Q4_K.
    #[inline(always)]
    fn unpack_q5_k<S: Simd>(&mut self, s: S, from: (&[u8], usize), block: usize) {
        let offset = block * 176;
        self.unpack_k_header(s, from, offset, block);
        let low_4 = s.i_splat(0x0f0f_0f0f);
        let fifth = s.i_splat(0x1010_1010);
        let groups = &mut self.bytes[64 * block..64 * block + 64];
        for half in 0..2 {
            let mut high = s.transpose(from.0, offset + 16 + 16 * half, from.1);
            for pair in 0..4 {
                let words = s.transpose(from.0, offset + 48 + 32 * pair + 16 * half, from.1);
                let at = 16 * pair + 4 * half;
                for (i, w) in words.into_iter().enumerate() {
                    let even = s.i_and(s.i_shl::<4>(high[i]), fifth);
                    let odd = s.i_and(s.i_shl::<3>(high[i]), fifth);
                    s.bytes_store(&mut groups[at + i], s.i_or(s.i_and(w, low_4), even));
                    s.bytes_store(
                        &mut groups[at + 8 + i],
                        s.i_or(s.i_and(s.i_shr::<4>(w), low_4), odd),
                    );
                    high[i] = s.i_shr::<2>(high[i]);
                }
            }
        }
    }

    /// 128 bytes of low nibbles, 64 bytes of upper bit pairs, sixteen i8 scales, d. Each half of 128 values has
    /// 64 + 32 of the bytes; its four quarters of 32 take the low nibbles of bytes 0..32 and 32..64, then the high ones.
    #[inline(always)]
    fn unpack_q6_k<S: Simd>(&mut self, s: S, from: (&[u8], usize), block: usize) {
        let (data, stride) = from;
        let offset = block * 210;
        let low_4 = s.i_splat(0x0f0f_0f0f);
        let top_2 = s.i_splat(0x3030_3030);
        let groups = &mut self.bytes[64 * block..64 * block + 64];
        for chunk in 0..4 {
            let (half, part) = (chunk / 2, chunk % 2);
            let low = s.transpose(data, offset + 64 * half + 16 * part, stride);
            let high = s.transpose(data, offset + 64 * half + 32 + 16 * part, stride);
            let pairs = s.transpose(data, offset + 128 + 32 * half + 16 * part, stride);
            let at = 32 * half + 4 * part;
            for i in 0..4 {
                let quarters = [
                    s.i_or(s.i_and(low[i], low_4), s.i_and(s.i_shl::<4>(pairs[i]), top_2)),
                    s.i_or(s.i_and(high[i], low_4), s.i_and(s.i_shl::<2>(pairs[i]), top_2)),
                    s.i_or(s.i_and(s.i_shr::<4>(low[i]), low_4), s.i_and(pairs[i], top_2)),
                    s.i_or(
                        s.i_and(s.i_shr::<4>(high[i]), low_4),
                        s.i_and(s.i_shr::<2>(pairs[i]), top_2),
                    ),
                ];
                for (quarter, values) in quarters.into_iter().enumerate() {
                    s.bytes_store(&mut groups[at + 8 * quarter + i], values);
                }
            }
        }
        for (i, scales) in s.transpose(data, offset + 192, stride).into_iter().enumerate() {
            let to = &mut self.scales[16 * block + 4 * i..16 * block + 4 * i + 4];
            s.i_store(&mut to[0], s.i_sar::<24>(s.i_shl::<24>(scales)));
            s.i_store(&mut to[1], s.i_sar::<24>(s.i_shl::<16>(scales)));
            s.i_store(&mut to[2], s.i_sar::<24>(s.i_shl::<8>(scales)));
            s.i_store(&mut to[3], s.i_sar::<24>(scales));
        }
        // The block's last sixteen bytes end in d.
        let [.., last] = s.transpose(data, offset + 194, stride);
        s.store(&mut self.d[block], s.half_to_f32(s.i_shr::<16>(last)));
    }

    /// d, then 16 bytes: values 0..16 in the low, 16..32 in the high nibbles.
    #[inline(always)]
    fn unpack_q4_0<S: Simd>(&mut self, s: S, (data, stride): (&[u8], usize), block: usize) {
        let offset = block * 18;
        let low_4 = s.i_splat(0x0f0f_0f0f);
        let [d, ..] = s.transpose(data, offset, stride);
        s.store(&mut self.d[block], s.half_to_f32(d));
        let groups = &mut self.bytes[8 * block..8 * block + 8];
        for (i, w) in s.transpose(data, offset + 2, stride).into_iter().enumerate() {
            s.bytes_store(&mut groups[i], s.i_and(w, low_4));
            s.bytes_store(&mut groups[4 + i], s.i_and(s.i_shr::<4>(w), low_4));
        }
    }

    /// d, then 32 signed bytes, stored with 128 added.
    #[inline(always)]
    fn unpack_q8_0<S: Simd>(&mut self, s: S, (data, stride): (&[u8], usize), block: usize) {
        let offset = block * 34;
        let sign = s.i_splat(0x8080_8080_u32 as i32);
        let [d, ..] = s.transpose(data, offset, stride);
        s.store(&mut self.d[block], s.half_to_f32(d));
        let groups = &mut self.bytes[8 * block..8 * block + 8];
        for half in 0..2 {
            for (i, w) in s.transpose(data, offset + 2 + 16 * half, stride).into_iter().enumerate()
            {
                s.bytes_store(&mut groups[4 * half + i], s.i_xor(w, sign));
            }
        }
    }

    #[inline(always)]
    fn unpack_f32<S: Simd>(&mut self, s: S, (data, stride): (&[u8], usize), n: usize) {
        let (fours, rest) = self.floats[..n].as_chunks_mut::<4>();
        for (i, to) in fours.iter_mut().enumerate() {
            for (to, w) in to.iter_mut().zip(s.transpose(data, 16 * i, stride)) {
                s.store(to, s.as_float(w));
            }
        }
        for (i, to) in rest.iter_mut().enumerate() {
            let k = fours.len() * 4 + i;
            for (row, to) in to.iter_mut().enumerate() {
                let bytes = &data[row * stride + 4 * k..];
                *to = bytes.first_chunk().map_or(0.0, |bytes| f32::from_le_bytes(*bytes));
            }
        }
    }

    /// Two bytes per value: f16 or bf16.
    #[inline(always)]
    fn unpack_half<S: Simd, const BF16: bool>(
        &mut self,
        s: S,
        (data, stride): (&[u8], usize),
        n: usize,
    ) {
        let (eights, rest) = self.floats[..n].as_chunks_mut::<8>();
        for (i, to) in eights.iter_mut().enumerate() {
            for (to, w) in
                to.as_chunks_mut::<2>().0.iter_mut().zip(s.transpose(data, 16 * i, stride))
            {
                let [even, odd] = widen::<S, BF16>(s, w);
                s.store(&mut to[0], even);
                s.store(&mut to[1], odd);
            }
        }
        for (i, to) in rest.iter_mut().enumerate() {
            let k = eights.len() * 8 + i;
            let mut halves = [0; 16];
            for (row, half) in halves.iter_mut().enumerate() {
                let bytes = &data[row * stride + 2 * k..];
                *half =
                    bytes.first_chunk().map_or(0, |bytes| i32::from(u16::from_le_bytes(*bytes)));
            }
            let [value, _] = widen::<S, BF16>(s, s.i_load(&halves));
            s.store(to, value);
        }
    }

    /// Row by row through the format's reference dequantiser: slow, right for every type.
    fn unpack_any(&mut self, ty: GgmlType, (data, stride): (&[u8], usize), n: usize) {
        let len = n / ty.block_len() * ty.block_bytes();
        for row in 0..ROWS {
            let values = &mut self.rows[..n];
            if dequantize(ty, &data[row * stride..][..len], values).is_err() {
                // Integer types have no values as weights; `Device::caps` does not offer them.
                values.fill(f32::NAN);
            }
            for (to, value) in self.floats.iter_mut().zip(values) {
                to[row] = *value;
            }
        }
    }
}

/// The even and the odd value of each lane's pair.
#[inline(always)]
fn widen<S: Simd, const BF16: bool>(s: S, pair: S::I) -> [S::F; 2] {
    if BF16 {
        let high = s.i_and(pair, s.i_splat(0xffff_0000_u32 as i32));
        [s.as_float(s.i_shl::<16>(pair)), s.as_float(high)]
    } else {
        [s.half_to_f32(pair), s.half_to_f32(s.i_shr::<16>(pair))]
    }
}
