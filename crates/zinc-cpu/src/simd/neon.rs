//! NEON, with the dot-product extension where present: four registers per logical vector.

use super::{Kernel, Simd};
use std::arch::aarch64::*;
use std::arch::asm;

/// Proof that the processor has NEON, and FEAT_DotProd when `DOT`.
#[derive(Clone, Copy)]
pub(crate) struct Neon<const DOT: bool>(());

/// Runs a kernel with 128-bit vectors.
///
/// # Safety
/// The processor has NEON.
#[inline(never)]
#[target_feature(enable = "neon")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Neon::<false>(()))
}

/// Runs a kernel with 128-bit vectors and 8-bit dot products.
///
/// # Safety
/// The processor has NEON and FEAT_DotProd.
#[inline(never)]
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn run_dot<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Neon::<true>(()))
}

type I = [int32x4_t; 4];
type F = [float32x4_t; 4];

// In this file every unsafe block without its own argument rests on the same invariant: a value of `Neon` is made
// only by `run` and `run_dot`, whose callers detected the features that these intrinsics need. Loads and stores go
// through references to arrays of exactly the vector's size and need no alignment.
macro_rules! lanes {
    ($name:ident($($arg:ident),+ : $ty:ty) -> $out:ty, $op:expr) => {
        #[inline(always)]
        fn $name(self, $($arg: $ty),+) -> $out {
            // SAFETY: `self` proves the features.
            std::array::from_fn(|i| unsafe { lanes!(@call i, $op, $($arg),+) })
        }
    };
    (@call $i:ident, $op:expr, $($arg:ident),+) => { $op($($arg[$i]),+) };
}

/// Four signed products per 32-bit lane, added to `acc`.
#[inline(always)]
fn dot_signed<const DOT: bool>(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: private to this file; callers hold a `Neon<DOT>`. The instruction reads and writes registers only.
    unsafe {
        if DOT {
            let mut acc = acc;
            asm!(
                ".arch_extension dotprod",
                "sdot {acc:v}.4s, {w:v}.16b, {x:v}.16b",
                acc = inout(vreg) acc, w = in(vreg) w, x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags)
            );
            acc
        } else {
            // 128·127 fits i16; pairs are widened to i32 before they are added.
            let low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
            let high = vpaddlq_s16(vmull_high_s8(w, x));
            vaddq_s32(acc, vpaddq_s32(low, high))
        }
    }
}

#[inline(always)]
fn widen_half(h: uint16x4_t) -> float32x4_t {
    let out: float32x4_t;
    // SAFETY: `fcvtl` is baseline NEON and works on registers only.
    unsafe {
        asm!("fcvtl {o:v}.4s, {h:v}.4h", o = lateout(vreg) out, h = in(vreg) h,
            options(pure, nomem, nostack, preserves_flags));
    }
    out
}

impl<const DOT: bool> Simd for Neon<DOT> {
    type I = I;
    type F = F;
    const WIDE_BIAS: i32 = 0;
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn outlined<K: Kernel>(self, part: K) -> K::Out {
        // SAFETY: `self` proves the features.
        unsafe {
            match DOT {
                true => run_dot(part),
                false => run(part),
            }
        }
    }

    #[inline(always)]
    fn i_splat(self, x: i32) -> I {
        // SAFETY: `self` proves the features.
        [unsafe { vdupq_n_s32(x) }; 4]
    }
    #[inline(always)]
    fn i_load(self, x: &[i32; 16]) -> I {
        // SAFETY: `self` proves the features; four vectors cover the sixteen values.
        std::array::from_fn(|i| unsafe { vld1q_s32(x.as_ptr().add(4 * i)) })
    }
    #[inline(always)]
    fn i_store(self, to: &mut [i32; 16], x: I) {
        for (to, x) in to.as_chunks_mut::<4>().0.iter_mut().zip(x) {
            // SAFETY: `self` proves the features; the chunk has four values.
            unsafe { vst1q_s32(to.as_mut_ptr(), x) };
        }
    }
    #[inline(always)]
    fn bytes_load(self, x: &[u8; 64]) -> I {
        // SAFETY: `self` proves the features; four vectors cover the 64 bytes.
        std::array::from_fn(|i| unsafe { vreinterpretq_s32_u8(vld1q_u8(x.as_ptr().add(16 * i))) })
    }
    #[inline(always)]
    fn bytes_store(self, to: &mut [u8; 64], x: I) {
        for (to, x) in to.as_chunks_mut::<16>().0.iter_mut().zip(x) {
            // SAFETY: `self` proves the features; the chunk has sixteen bytes.
            unsafe { vst1q_u8(to.as_mut_ptr(), vreinterpretq_u8_s32(x)) };
        }
    }
    lanes!(i_add(a, b: I) -> I, vaddq_s32);
    lanes!(i_mul(a, b: I) -> I, vmulq_s32);
    lanes!(i_and(a, b: I) -> I, vandq_s32);
    lanes!(i_or(a, b: I) -> I, vorrq_s32);
    lanes!(i_xor(a, b: I) -> I, veorq_s32);

    #[inline(always)]
    fn i_shl<const N: u32>(self, a: I) -> I {
        // SAFETY: `self` proves the features.
        a.map(|a| unsafe { vshlq_s32(a, vdupq_n_s32(N as i32)) })
    }
    #[inline(always)]
    fn i_shr<const N: u32>(self, a: I) -> I {
        // A negative count shifts right; the unsigned form shifts zeros in.
        // SAFETY: `self` proves the features.
        a.map(|a| unsafe {
            vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-(N as i32))))
        })
    }
    #[inline(always)]
    fn i_sar<const N: u32>(self, a: I) -> I {
        // SAFETY: `self` proves the features.
        a.map(|a| unsafe { vshlq_s32(a, vdupq_n_s32(-(N as i32))) })
    }

    #[inline(always)]
    fn dot_narrow(self, acc: I, w: I, x: i32) -> I {
        // SAFETY: `self` proves the features.
        unsafe {
            let x = vreinterpretq_s8_s32(vdupq_n_s32(x));
            // Bytes up to 63 read the same signed and unsigned.
            std::array::from_fn(|i| dot_signed::<DOT>(acc[i], vreinterpretq_s8_s32(w[i]), x))
        }
    }
    #[inline(always)]
    fn dot_wide(self, acc: I, w: I, x: i32) -> I {
        // SAFETY: `self` proves the features.
        unsafe {
            let x = vreinterpretq_s8_s32(vdupq_n_s32(x));
            std::array::from_fn(|i| {
                let signed = veorq_s8(vreinterpretq_s8_s32(w[i]), vdupq_n_s8(-128));
                dot_signed::<DOT>(acc[i], signed, x)
            })
        }
    }
    #[inline(always)]
    fn dot_pairs(self, acc: I, w: I, x: [i16; 2]) -> I {
        // SAFETY: `self` proves the features.
        unsafe {
            let x = vdupq_n_s32((x[0] as u16 as u32 | (x[1] as u16 as u32) << 16) as i32);
            let x = vreinterpretq_s16_s32(x);
            std::array::from_fn(|i| {
                let w = vreinterpretq_s16_s32(w[i]);
                let low = vmull_s16(vget_low_s16(w), vget_low_s16(x));
                vaddq_s32(acc[i], vpaddq_s32(low, vmull_high_s16(w, x)))
            })
        }
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], index: I) -> I {
        // SAFETY: `self` proves the features; the load covers the sixteen bytes.
        unsafe {
            let table = vld1q_u8(table.as_ptr());
            std::array::from_fn(|i| {
                vreinterpretq_s32_u8(vqtbl1q_u8(table, vreinterpretq_u8_s32(index[i])))
            })
        }
    }

    #[inline(always)]
    fn prefetch(self, data: &[u8], offset: usize) {
        let address = data.as_ptr().wrapping_add(offset);
        // SAFETY: a prefetch touches no memory and faults on no address.
        unsafe {
            asm!("prfm pldl1keep, [{address}]", address = in(reg) address,
                options(nostack, preserves_flags, readonly));
        }
    }

    #[inline(always)]
    fn transpose(self, data: &[u8], offset: usize, stride: usize) -> [I; 4] {
        assert!(offset + 15 * stride + 16 <= data.len(), "sixteen rows lie inside the data");
        // SAFETY: `self` proves the features; the assertion above covers the last byte of the last row, and rows
        // grow with `row`, so every 16-byte load lies inside `data`.
        let quarters: [[int32x4_t; 4]; 4] = std::array::from_fn(|q| unsafe {
            let row = |i: usize| {
                vreinterpretq_s32_u8(vld1q_u8(data.as_ptr().add(offset + (4 * q + i) * stride)))
            };
            let (r0, r1, r2, r3) = (row(0), row(1), row(2), row(3));
            let pair = |a, b| vreinterpretq_s64_s32(vzip1q_s32(a, b));
            let pair_high = |a, b| vreinterpretq_s64_s32(vzip2q_s32(a, b));
            let (low01, low23) = (pair(r0, r1), pair(r2, r3));
            let (high01, high23) = (pair_high(r0, r1), pair_high(r2, r3));
            [
                vreinterpretq_s32_s64(vzip1q_s64(low01, low23)),
                vreinterpretq_s32_s64(vzip2q_s64(low01, low23)),
                vreinterpretq_s32_s64(vzip1q_s64(high01, high23)),
                vreinterpretq_s32_s64(vzip2q_s64(high01, high23)),
            ]
        });
        std::array::from_fn(|word| std::array::from_fn(|q| quarters[q][word]))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        // SAFETY: `self` proves the features.
        [unsafe { vdupq_n_f32(x) }; 4]
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> F {
        // SAFETY: `self` proves the features; four vectors cover the sixteen values.
        std::array::from_fn(|i| unsafe { vld1q_f32(x.as_ptr().add(4 * i)) })
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; 16], x: F) {
        for (to, x) in to.as_chunks_mut::<4>().0.iter_mut().zip(x) {
            // SAFETY: `self` proves the features; the chunk has four values.
            unsafe { vst1q_f32(to.as_mut_ptr(), x) };
        }
    }
    lanes!(add(a, b: F) -> F, vaddq_f32);
    lanes!(sub(a, b: F) -> F, vsubq_f32);
    lanes!(mul(a, b: F) -> F, vmulq_f32);
    lanes!(div(a, b: F) -> F, vdivq_f32);
    #[inline(always)]
    fn mul_add(self, a: F, b: F, c: F) -> F {
        // SAFETY: `self` proves the features.
        std::array::from_fn(|i| unsafe { vfmaq_f32(c[i], a[i], b[i]) })
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        // `vmaxq` would return NaN; compare and select gives `b`, as the contract says.
        // SAFETY: `self` proves the features.
        std::array::from_fn(|i| unsafe { vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i]) })
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        // SAFETY: `self` proves the features.
        std::array::from_fn(|i| unsafe { vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i]) })
    }
    lanes!(to_f32(x: I) -> F, vcvtq_f32_s32);
    lanes!(to_i32(x: F) -> I, vcvtnq_s32_f32);
    lanes!(as_bits(x: F) -> I, vreinterpretq_s32_f32);
    lanes!(as_float(x: I) -> F, vreinterpretq_f32_s32);
    #[inline(always)]
    fn half_to_f32(self, x: I) -> F {
        // SAFETY: `self` proves the features.
        x.map(|x| widen_half(unsafe { vreinterpret_u16_s16(vmovn_s32(x)) }))
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; 16]) -> F {
        // SAFETY: `self` proves the features; four vectors cover the sixteen values.
        std::array::from_fn(|i| widen_half(unsafe { vld1_u16(x.as_ptr().add(4 * i)) }))
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; 16]) -> F {
        // SAFETY: `self` proves the features; the load covers the sixteen values.
        unsafe {
            let bytes = vld1q_s8(x.as_ptr());
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            ]
        }
    }
    #[inline(always)]
    fn store_i8(self, to: &mut [i8; 16], x: I) {
        // SAFETY: `self` proves the features; the store covers the sixteen values.
        unsafe {
            let low = vcombine_s16(vmovn_s32(x[0]), vmovn_s32(x[1]));
            let high = vcombine_s16(vmovn_s32(x[2]), vmovn_s32(x[3]));
            vst1q_s8(to.as_mut_ptr(), vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
        }
    }
}
