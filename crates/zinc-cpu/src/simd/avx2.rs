//! AVX2 with FMA and F16C, and AVX-VNNI where present: two registers per logical vector.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

/// Proof that the processor has AVX2, FMA and F16C, and AVX-VNNI when `VNNI`.
#[derive(Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool>(());

/// Runs a kernel with 256-bit vectors.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx2::<false>(()))
}

/// Runs a kernel with 256-bit vectors and 8-bit dot products.
///
/// # Safety
/// The processor has AVX2, FMA, F16C and AVX-VNNI.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn run_vnni<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx2::<true>(()))
}

type I = [__m256i; 2];
type F = [__m256; 2];

// In this file every unsafe block without its own argument rests on the same invariant: a value of `Avx2` is made
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

#[inline(always)]
fn load_i(from: *const u8) -> I {
    // SAFETY: private to this file; callers pass a pointer to 64 readable bytes and hold an `Avx2`.
    unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] }
}

#[inline(always)]
fn store_i(to: *mut u8, x: I) {
    // SAFETY: private to this file; callers pass a pointer to 64 writable bytes and hold an `Avx2`.
    unsafe {
        _mm256_storeu_si256(to.cast(), x[0]);
        _mm256_storeu_si256(to.add(32).cast(), x[1]);
    }
}

/// Low 16 bits of 8 + 8 lanes, in order.
#[inline(always)]
fn low_halves(x: I) -> [__m128i; 2] {
    // SAFETY: private to this file; callers hold an `Avx2`.
    unsafe {
        let mask = _mm256_set1_epi32(0xffff);
        let packed =
            _mm256_packus_epi32(_mm256_and_si256(x[0], mask), _mm256_and_si256(x[1], mask));
        let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
        [_mm256_castsi256_si128(packed), _mm256_extracti128_si256::<1>(packed)]
    }
}

/// Sixteen bytes of each of eight rows, transposed by words of four.
///
/// # Safety
/// The processor has AVX2, and 16 bytes are readable at `base + row·stride` for each row.
#[inline(always)]
unsafe fn transpose_8(base: *const u8, stride: usize) -> [__m256i; 4] {
    // SAFETY: as the function demands.
    unsafe {
        // 128-bit lane `j` of vector `a` is row `4j + a`, so that interleaving inside the lanes ends in row order.
        macro_rules! gather {
            ($a:literal) => {
                _mm256_inserti128_si256::<1>(
                    _mm256_castsi128_si256(_mm_loadu_si128(base.add($a * stride).cast())),
                    _mm_loadu_si128(base.add((4 + $a) * stride).cast()),
                )
            };
        }
        let (v0, v1, v2, v3) = (gather!(0), gather!(1), gather!(2), gather!(3));
        let low01 = _mm256_unpacklo_epi32(v0, v1);
        let high01 = _mm256_unpackhi_epi32(v0, v1);
        let low23 = _mm256_unpacklo_epi32(v2, v3);
        let high23 = _mm256_unpackhi_epi32(v2, v3);
        [
            _mm256_unpacklo_epi64(low01, low23),
            _mm256_unpackhi_epi64(low01, low23),
            _mm256_unpacklo_epi64(high01, high23),
            _mm256_unpackhi_epi64(high01, high23),
        ]
    }
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type I = I;
    type F = F;
    const WIDE_BIAS: i32 = if VNNI { 128 } else { 0 };
    const MANY_REGISTERS: bool = false;

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

    vector_op!(i_splat(x: i32) -> I, [_mm256_set1_epi32(x); 2]);
    #[inline(always)]
    fn i_load(self, x: &[i32; 16]) -> I {
        load_i(x.as_ptr().cast())
    }
    #[inline(always)]
    fn i_store(self, to: &mut [i32; 16], x: I) {
        store_i(to.as_mut_ptr().cast(), x);
    }
    #[inline(always)]
    fn bytes_load(self, x: &[u8; 64]) -> I {
        load_i(x.as_ptr())
    }
    #[inline(always)]
    fn bytes_store(self, to: &mut [u8; 64], x: I) {
        store_i(to.as_mut_ptr(), x);
    }
    vector_op!(i_add(a: I, b: I) -> I, [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])]);
    vector_op!(i_mul(a: I, b: I) -> I, [_mm256_mullo_epi32(a[0], b[0]), _mm256_mullo_epi32(a[1], b[1])]);
    vector_op!(i_and(a: I, b: I) -> I, [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])]);
    vector_op!(i_or(a: I, b: I) -> I, [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])]);
    vector_op!(i_xor(a: I, b: I) -> I, [_mm256_xor_si256(a[0], b[0]), _mm256_xor_si256(a[1], b[1])]);

    #[inline(always)]
    fn i_shl<const N: u32>(self, a: I) -> I {
        // SAFETY: `self` proves the features.
        unsafe {
            let n = _mm_cvtsi32_si128(N as i32);
            [_mm256_sll_epi32(a[0], n), _mm256_sll_epi32(a[1], n)]
        }
    }
    #[inline(always)]
    fn i_shr<const N: u32>(self, a: I) -> I {
        // SAFETY: `self` proves the features.
        unsafe {
            let n = _mm_cvtsi32_si128(N as i32);
            [_mm256_srl_epi32(a[0], n), _mm256_srl_epi32(a[1], n)]
        }
    }
    #[inline(always)]
    fn i_sar<const N: u32>(self, a: I) -> I {
        // SAFETY: `self` proves the features.
        unsafe {
            let n = _mm_cvtsi32_si128(N as i32);
            [_mm256_sra_epi32(a[0], n), _mm256_sra_epi32(a[1], n)]
        }
    }

    #[inline(always)]
    fn dot_narrow(self, acc: I, w: I, x: i32) -> I {
        // SAFETY: `self` proves the features, AVX-VNNI included when `VNNI`.
        unsafe {
            let x = _mm256_set1_epi32(x);
            let half = |acc, w| {
                if VNNI {
                    _mm256_dpbusd_avx_epi32(acc, w, x)
                } else {
                    // 63·127·2 fits i16, so the pair sums do not saturate.
                    let pairs = _mm256_maddubs_epi16(w, x);
                    _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
                }
            };
            [half(acc[0], w[0]), half(acc[1], w[1])]
        }
    }
    #[inline(always)]
    fn dot_wide(self, acc: I, w: I, x: i32) -> I {
        // SAFETY: `self` proves the features, AVX-VNNI included when `VNNI`.
        unsafe {
            let x = _mm256_set1_epi32(x);
            let half = |acc, w| {
                if VNNI {
                    _mm256_dpbusd_avx_epi32(acc, w, x)
                } else {
                    // |w|·(±x): 128·127·2 fits i16, so the pair sums do not saturate.
                    let signed = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
                    let pairs =
                        _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(x, signed));
                    _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
                }
            };
            [half(acc[0], w[0]), half(acc[1], w[1])]
        }
    }
    #[inline(always)]
    fn dot_pairs(self, acc: I, w: I, x: [i16; 2]) -> I {
        // SAFETY: `self` proves the features.
        unsafe {
            let x = _mm256_set1_epi32((x[0] as u16 as u32 | (x[1] as u16 as u32) << 16) as i32);
            let half = |acc, w| _mm256_add_epi32(acc, _mm256_madd_epi16(w, x));
            [half(acc[0], w[0]), half(acc[1], w[1])]
        }
    }

    vector_op!(lookup(table: &[u8; 16], index: I) -> I, {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        [_mm256_shuffle_epi8(table, index[0]), _mm256_shuffle_epi8(table, index[1])]
    });

    #[inline(always)]
    fn prefetch(self, data: &[u8], offset: usize) {
        // SAFETY: a prefetch touches no memory and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(data.as_ptr().wrapping_add(offset).cast()) }
    }

    #[inline(always)]
    fn transpose(self, data: &[u8], offset: usize, stride: usize) -> [I; 4] {
        assert!(offset + 15 * stride + 16 <= data.len(), "sixteen rows lie inside the data");
        // SAFETY: `self` proves the features; the assertion above covers the last byte of the last row, and rows
        // grow with `row`, so every 16-byte load lies inside `data`.
        unsafe {
            let base = data.as_ptr().add(offset);
            let (low, high) =
                (transpose_8(base, stride), transpose_8(base.add(8 * stride), stride));
            [[low[0], high[0]], [low[1], high[1]], [low[2], high[2]], [low[3], high[3]]]
        }
    }

    vector_op!(splat(x: f32) -> F, [_mm256_set1_ps(x); 2]);
    vector_op!(load(x: &[f32; 16]) -> F, [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))]);
    vector_op!(store(to: &mut [f32; 16], x: F) -> (), {
        _mm256_storeu_ps(to.as_mut_ptr(), x[0]);
        _mm256_storeu_ps(to.as_mut_ptr().add(8), x[1]);
    });
    vector_op!(add(a: F, b: F) -> F, [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]);
    vector_op!(sub(a: F, b: F) -> F, [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])]);
    vector_op!(mul(a: F, b: F) -> F, [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]);
    vector_op!(div(a: F, b: F) -> F, [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])]);
    vector_op!(mul_add(a: F, b: F, c: F) -> F, [
        _mm256_fmadd_ps(a[0], b[0], c[0]),
        _mm256_fmadd_ps(a[1], b[1], c[1]),
    ]);
    vector_op!(max(a: F, b: F) -> F, [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])]);
    vector_op!(min(a: F, b: F) -> F, [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])]);
    vector_op!(to_f32(x: I) -> F, [_mm256_cvtepi32_ps(x[0]), _mm256_cvtepi32_ps(x[1])]);
    vector_op!(to_i32(x: F) -> I, [_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1])]);
    vector_op!(as_bits(x: F) -> I, [_mm256_castps_si256(x[0]), _mm256_castps_si256(x[1])]);
    vector_op!(as_float(x: I) -> F, [_mm256_castsi256_ps(x[0]), _mm256_castsi256_ps(x[1])]);
    vector_op!(half_to_f32(x: I) -> F, {
        let halves = low_halves(x);
        [_mm256_cvtph_ps(halves[0]), _mm256_cvtph_ps(halves[1])]
    });
    vector_op!(load_f16(x: &[u16; 16]) -> F, [
        _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())),
        _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(8).cast())),
    ]);
    vector_op!(load_i8(x: &[i8; 16]) -> F, {
        let bytes = _mm_loadu_si128(x.as_ptr().cast());
        [
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))),
        ]
    });
    vector_op!(store_i8(to: &mut [i8; 16], x: I) -> (), {
        let halves = low_halves(x);
        let mask = _mm_set1_epi16(0xff);
        let bytes = _mm_packus_epi16(_mm_and_si128(halves[0], mask), _mm_and_si128(halves[1], mask));
        _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
    });
    vector_op!(sum(x: F) -> f32, {
        let half = _mm256_add_ps(x[0], x[1]);
        let quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
        let pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
        _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
    });
}
