//! The portable implementation: arrays and loops, which the compiler turns into whatever the baseline has.

use super::{Kernel, Simd};

/// Needs nothing from the processor.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

#[inline(always)]
fn map2<T: Copy, U: Copy>(a: [T; 16], b: [T; 16], f: impl Fn(T, T) -> U) -> [U; 16] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

/// IEEE half to single, exact, subnormals, infinities and NaN included.
#[inline(always)]
pub(crate) fn f16_to_f32(h: u16) -> f32 {
    let magnitude = (h & 0x7fff) as u32;
    let sign = ((h & 0x8000) as u32) << 16;
    let bits = if magnitude >= 0x7c00 {
        0x7f80_0000 | (magnitude & 0x3ff) << 13
    } else {
        // Shifting exponent and mantissa into place leaves the exponent 112 too small; the product repairs it and
        // normalises subnormals.
        (f32::from_bits(magnitude << 13) * f32::from_bits(0x7780_0000)).to_bits()
    };
    f32::from_bits(sign | bits)
}

impl Simd for Scalar {
    type I = [i32; 16];
    type F = [f32; 16];
    const WIDE_BIAS: i32 = 0;
    const MANY_REGISTERS: bool = false;

    #[inline(never)]
    fn outlined<K: Kernel>(self, part: K) -> K::Out {
        part.run(self)
    }
    #[inline(always)]
    fn i_splat(self, x: i32) -> [i32; 16] {
        [x; 16]
    }
    #[inline(always)]
    fn i_load(self, x: &[i32; 16]) -> [i32; 16] {
        *x
    }
    #[inline(always)]
    fn i_store(self, to: &mut [i32; 16], x: [i32; 16]) {
        *to = x;
    }
    #[inline(always)]
    fn bytes_load(self, x: &[u8; 64]) -> [i32; 16] {
        std::array::from_fn(|i| {
            i32::from_le_bytes([x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]])
        })
    }
    #[inline(always)]
    fn bytes_store(self, to: &mut [u8; 64], x: [i32; 16]) {
        for (bytes, lane) in to.as_chunks_mut::<4>().0.iter_mut().zip(x) {
            *bytes = lane.to_le_bytes();
        }
    }
    #[inline(always)]
    fn i_add(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        map2(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    fn i_mul(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        map2(a, b, i32::wrapping_mul)
    }
    #[inline(always)]
    fn i_and(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        map2(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn i_or(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        map2(a, b, |a, b| a | b)
    }
    #[inline(always)]
    fn i_xor(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        map2(a, b, |a, b| a ^ b)
    }
    #[inline(always)]
    fn i_shl<const N: u32>(self, a: [i32; 16]) -> [i32; 16] {
        a.map(|a| a << N)
    }
    #[inline(always)]
    fn i_shr<const N: u32>(self, a: [i32; 16]) -> [i32; 16] {
        a.map(|a| ((a as u32) >> N) as i32)
    }
    #[inline(always)]
    fn i_sar<const N: u32>(self, a: [i32; 16]) -> [i32; 16] {
        a.map(|a| a >> N)
    }
    #[inline(always)]
    fn dot_narrow(self, acc: [i32; 16], w: [i32; 16], x: i32) -> [i32; 16] {
        let x = x.to_le_bytes().map(|x| x as i8);
        map2(acc, w, |acc, w| {
            let w = w.to_le_bytes();
            acc + w[0] as i32 * x[0] as i32
                + w[1] as i32 * x[1] as i32
                + w[2] as i32 * x[2] as i32
                + w[3] as i32 * x[3] as i32
        })
    }
    #[inline(always)]
    fn dot_wide(self, acc: [i32; 16], w: [i32; 16], x: i32) -> [i32; 16] {
        let x = x.to_le_bytes().map(|x| x as i8);
        map2(acc, w, |acc, w| {
            let w = w.to_le_bytes().map(|w| w as i32 - 128);
            acc + w[0] * x[0] as i32 + w[1] * x[1] as i32 + w[2] * x[2] as i32 + w[3] * x[3] as i32
        })
    }
    #[inline(always)]
    fn dot_pairs(self, acc: [i32; 16], w: [i32; 16], x: [i16; 2]) -> [i32; 16] {
        map2(acc, w, |acc, w| acc + (w as i16) as i32 * x[0] as i32 + (w >> 16) * x[1] as i32)
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], index: [i32; 16]) -> [i32; 16] {
        index.map(|index| {
            i32::from_le_bytes(index.to_le_bytes().map(|byte| table[usize::from(byte & 15)]))
        })
    }
    #[inline(always)]
    fn prefetch(self, _data: &[u8], _offset: usize) {}
    #[inline(always)]
    fn transpose(self, data: &[u8], offset: usize, stride: usize) -> [[i32; 16]; 4] {
        let mut out = [[0; 16]; 4];
        for row in 0..16 {
            let chunk = &data[offset + row * stride..][..16];
            for (i, word) in chunk.as_chunks::<4>().0.iter().enumerate() {
                out[i][row] = i32::from_le_bytes(*word);
            }
        }
        out
    }
    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 16] {
        [x; 16]
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> [f32; 16] {
        *x
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; 16], x: [f32; 16]) {
        *to = x;
    }
    #[inline(always)]
    fn add(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        // Not `f32::mul_add`: without the instruction that is a library call per lane.
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map2(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn to_f32(self, x: [i32; 16]) -> [f32; 16] {
        x.map(|x| x as f32)
    }
    #[inline(always)]
    fn to_i32(self, x: [f32; 16]) -> [i32; 16] {
        // `as` truncates and `round_ties_even` may be a library call: adding 1.5·2^23 rounds the small values that
        // kernels pass; the rest has no fraction bits that matter.
        x.map(|x| {
            if x.abs() < 4_194_304.0 {
                (x + 12_582_912.0).to_bits().wrapping_sub(0x4b40_0000) as i32
            } else {
                x.round_ties_even() as i32
            }
        })
    }
    #[inline(always)]
    fn as_bits(self, x: [f32; 16]) -> [i32; 16] {
        x.map(|x| x.to_bits() as i32)
    }
    #[inline(always)]
    fn as_float(self, x: [i32; 16]) -> [f32; 16] {
        x.map(|x| f32::from_bits(x as u32))
    }
    #[inline(always)]
    fn half_to_f32(self, x: [i32; 16]) -> [f32; 16] {
        x.map(|x| f16_to_f32(x as u16))
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; 16]) -> [f32; 16] {
        x.map(f16_to_f32)
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; 16]) -> [f32; 16] {
        x.map(|x| x as f32)
    }
    #[inline(always)]
    fn store_i8(self, to: &mut [i8; 16], x: [i32; 16]) {
        *to = x.map(|x| x as i8);
    }
}
