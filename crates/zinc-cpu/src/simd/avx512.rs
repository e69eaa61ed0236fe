//! AVX-512 (F, BW, VL, DQ), with VNNI where present: one register per logical vector.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

/// Proof that the processor has AVX-512 F/BW/VL/DQ, and VNNI when `VNNI`.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const VNNI: bool>(());

/// Runs a kernel with 512-bit vectors.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL, DQ, FMA and F16C.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx512::<false>(()))
}

/// Runs a kernel with 512-bit vectors and 8-bit dot products.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL, DQ, VNNI, FMA and F16C.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn run_vnni<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx512::<true>(()))
}

/// Words 0, 2, 4 … 30, then 1, 3, 5 … 31.
const EVEN_THEN_ODD: [u16; 32] = {
    let mut words = [0; 32];
    let mut i = 0;
    while i < 16 {
        words[i] = 2 * i as u16;
        words[16 + i] = 2 * i as u16 + 1;
        i += 1;
    }
    words
};

// In this file every unsafe block without its own argument rests on the same invariant: a value of `Avx512` is made
// only by `run` and `run_vnni`, whose callers detected the features that these intrinsics need. Loads and stores go
// through references to arrays of exactly the vector's size and need no alignment.
macro_rules! vector_op {
    ($name:ident($($arg:ident: $ty:ty),*) -> $out:ty, $body:expr) => {
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: `self` proves the features; references cover the bytes touched.
            unsafe { $body }
        }
    };
}

impl<const VNNI: bool> Simd for Avx512<VNNI> {
    type I = __m512i;
    type F = __m512;
    const WIDE_BIAS: i32 = 128;
    const MANY_REGISTERS: bool = true;

    #[inline(always)]
    fn outlined<K: Kernel>(self, part: K) -> K::Out {
        // SAFETY: `self` proves the features.
        unsafe {
            match VNNI {
                true => run_vnni(part),
                false => run(part),
            }
        }
    }

    vector_op!(i_splat(x: i32) -> __m512i, _mm512_set1_epi32(x));
    vector_op!(i_load(x: &[i32; 16]) -> __m512i, _mm512_loadu_si512(x.as_ptr().cast()));
    vector_op!(i_store(to: &mut [i32; 16], x: __m512i) -> (), _mm512_storeu_si512(to.as_mut_ptr().cast(), x));
    vector_op!(bytes_load(x: &[u8; 64]) -> __m512i, _mm512_loadu_si512(x.as_ptr().cast()));
    vector_op!(bytes_store(to: &mut [u8; 64], x: __m512i) -> (), _mm512_storeu_si512(to.as_mut_ptr().cast(), x));
    vector_op!(i_add(a: __m512i, b: __m512i) -> __m512i, _mm512_add_epi32(a, b));
    vector_op!(i_mul(a: __m512i, b: __m512i) -> __m512i, _mm512_mullo_epi32(a, b));
    vector_op!(i_and(a: __m512i, b: __m512i) -> __m512i, _mm512_and_si512(a, b));
    vector_op!(i_or(a: __m512i, b: __m512i) -> __m512i, _mm512_or_si512(a, b));
    vector_op!(i_xor(a: __m512i, b: __m512i) -> __m512i, _mm512_xor_si512(a, b));

    #[inline(always)]
    fn i_shl<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: `self` proves the features.
        unsafe { _mm512_slli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn i_shr<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: `self` proves the features.
        unsafe { _mm512_srli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn i_sar<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: `self` proves the features.
        unsafe { _mm512_srai_epi32::<N>(a) }
    }

    #[inline(always)]
    fn dot_narrow(self, acc: __m512i, w: __m512i, x: i32) -> __m512i {
        let x = self.i_splat(x);
        // SAFETY: `self` proves the features, VNNI included when `VNNI`.
        unsafe {
            if VNNI {
                _mm512_dpbusd_epi32(acc, w, x)
            } else {
                // 63·127·2 fits i16, so the pair sums do not saturate.
                let pairs = _mm512_maddubs_epi16(w, x);
                _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
            }
        }
    }
    #[inline(always)]
    fn dot_wide(self, acc: __m512i, w: __m512i, x: i32) -> __m512i {
        let x = self.i_splat(x);
        // SAFETY: `self` proves the features, VNNI included when `VNNI`.
        unsafe {
            if VNNI {
                _mm512_dpbusd_epi32(acc, w, x)
            } else {
                // Pair sums of full bytes would saturate i16: multiply even and odd bytes as i16 instead.
                let w_even = _mm512_and_si512(w, _mm512_set1_epi16(0xff));
                let w_odd = _mm512_srli_epi16::<8>(w);
                let x_even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(x));
                let x_odd = _mm512_srai_epi16::<8>(x);
                let even = _mm512_madd_epi16(w_even, x_even);
                let odd = _mm512_madd_epi16(w_odd, x_odd);
                _mm512_add_epi32(acc, _mm512_add_epi32(even, odd))
            }
        }
    }
    #[inline(always)]
    fn dot_pairs(self, acc: __m512i, w: __m512i, x: [i16; 2]) -> __m512i {
        let x = self.i_splat((x[0] as u16 as u32 | (x[1] as u16 as u32) << 16) as i32);
        // SAFETY: `self` proves the features, VNNI included when `VNNI`.
        unsafe {
            if VNNI {
                _mm512_dpwssd_epi32(acc, w, x)
            } else {
                _mm512_add_epi32(acc, _mm512_madd_epi16(w, x))
            }
        }
    }

    vector_op!(lookup(table: &[u8; 16], index: __m512i) -> __m512i, {
        let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
        _mm512_shuffle_epi8(table, index)
    });

    #[inline(always)]
    fn prefetch(self, data: &[u8], offset: usize) {
        // SAFETY: a prefetch touches no memory and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(data.as_ptr().wrapping_add(offset).cast()) }
    }

    #[inline(always)]
    fn transpose(self, data: &[u8], offset: usize, stride: usize) -> [__m512i; 4] {
        assert!(offset + 15 * stride + 16 <= data.len(), "sixteen rows lie inside the data");
        // SAFETY: `self` proves the features; the assertion above covers the last byte of the last row, and rows
        // grow with `row`, so every 16-byte load lies inside `data`.
        unsafe {
            let base = data.as_ptr().add(offset);
            // 128-bit lane `j` of vector `a` is row `4j + a`, so that interleaving inside the lanes ends in row order.
            macro_rules! gather {
                ($a:literal) => {{
                    let v = _mm512_castsi128_si512(_mm_loadu_si128(base.add($a * stride).cast()));
                    let v = _mm512_inserti32x4::<1>(
                        v,
                        _mm_loadu_si128(base.add((4 + $a) * stride).cast()),
                    );
                    let v = _mm512_inserti32x4::<2>(
                        v,
                        _mm_loadu_si128(base.add((8 + $a) * stride).cast()),
                    );
                    _mm512_inserti32x4::<3>(v, _mm_loadu_si128(base.add((12 + $a) * stride).cast()))
                }};
            }
            let (v0, v1, v2, v3) = (gather!(0), gather!(1), gather!(2), gather!(3));
            let low01 = _mm512_unpacklo_epi32(v0, v1);
            let high01 = _mm512_unpackhi_epi32(v0, v1);
            let low23 = _mm512_unpacklo_epi32(v2, v3);
            let high23 = _mm512_unpackhi_epi32(v2, v3);
            [
                _mm512_unpacklo_epi64(low01, low23),
                _mm512_unpackhi_epi64(low01, low23),
                _mm512_unpacklo_epi64(high01, high23),
                _mm512_unpackhi_epi64(high01, high23),
            ]
        }
    }

    vector_op!(splat(x: f32) -> __m512, _mm512_set1_ps(x));
    vector_op!(load(x: &[f32; 16]) -> __m512, _mm512_loadu_ps(x.as_ptr()));
    vector_op!(store(to: &mut [f32; 16], x: __m512) -> (), _mm512_storeu_ps(to.as_mut_ptr(), x));
    vector_op!(add(a: __m512, b: __m512) -> __m512, _mm512_add_ps(a, b));
    vector_op!(sub(a: __m512, b: __m512) -> __m512, _mm512_sub_ps(a, b));
    vector_op!(mul(a: __m512, b: __m512) -> __m512, _mm512_mul_ps(a, b));
    vector_op!(div(a: __m512, b: __m512) -> __m512, _mm512_div_ps(a, b));
    vector_op!(mul_add(a: __m512, b: __m512, c: __m512) -> __m512, _mm512_fmadd_ps(a, b, c));
    vector_op!(max(a: __m512, b: __m512) -> __m512, _mm512_max_ps(a, b));
    vector_op!(min(a: __m512, b: __m512) -> __m512, _mm512_min_ps(a, b));
    vector_op!(to_f32(x: __m512i) -> __m512, _mm512_cvtepi32_ps(x));
    vector_op!(to_i32(x: __m512) -> __m512i, _mm512_cvtps_epi32(x));
    vector_op!(as_bits(x: __m512) -> __m512i, _mm512_castps_si512(x));
    vector_op!(as_float(x: __m512i) -> __m512, _mm512_castsi512_ps(x));
    vector_op!(half_to_f32(x: __m512i) -> __m512, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)));
    vector_op!(halves_to_f32(x: __m512i) -> [__m512; 2], {
        // The low halves of all lanes in the lower 256 bits, the high ones above: one permutation and an extraction
        // instead of a narrowing of two operations for each.
        let parted = _mm512_permutexvar_epi16(
            _mm512_loadu_si512(EVEN_THEN_ODD.as_ptr().cast()),
            x,
        );
        [
            _mm512_cvtph_ps(_mm512_castsi512_si256(parted)),
            _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(parted)),
        ]
    });
    vector_op!(load_f16(x: &[u16; 16]) -> __m512, _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())));
    vector_op!(load_i8(x: &[i8; 16]) -> __m512, _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))
    ));
    vector_op!(store_i8(to: &mut [i8; 16], x: __m512i) -> (), _mm_storeu_si128(
        to.as_mut_ptr().cast(),
        _mm512_cvtepi32_epi8(x)
    ));
    vector_op!(sum(x: __m512) -> f32, {
        let half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
        let quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
        let pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
        _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
    });
}
