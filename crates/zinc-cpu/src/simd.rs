//! Sixteen-lane SIMD: one small vocabulary of operations, one implementation per instruction set.
//!
//! Every kernel of this crate is written once, generically over [`Simd`], on *logical* vectors of 16 lanes of 32 bits
//! (one AVX-512 register, two AVX2 registers, four NEON registers, or a plain array). A value of a `Simd` type is the
//! proof that the processor has the instructions, so the operations are safe functions and all `unsafe` stays in the
//! files below this module. Because the lane count is the same everywhere, integer kernels return the same bits on
//! every instruction set.
//!
//! A [`Kernel`] is a struct of arguments with one generic method; [`Isa::run`] instantiates it inside a function that
//! carries the right `#[target_feature]`s, which is why every generic function on the way must be `#[inline(always)]`,
//! and why kernels have no closures or `array::map` around vector code: those are functions of their own, compiled
//! without the features, and a hundred times slower.

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx2;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx512;
pub(crate) mod math;
#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code)]
mod neon;
pub(crate) mod scalar;

pub(crate) use scalar::Scalar;

/// Operations on 16 lanes of 32 bits. `I` holds integers (or 64 bytes), `F` holds f32.
///
/// All float operations are single IEEE operations per lane, except [`Simd::mul_add`], which is fused where the
/// instruction set has it and two roundings where not.
pub(crate) trait Simd: Copy {
    /// 16 × i32, also used as 16 × 4 bytes and 16 × 2 i16.
    type I: Copy;
    /// 16 × f32.
    type F: Copy;

    /// What [`Simd::dot_wide`] leaves for the caller to subtract: the result is `acc + Σ (w - 128 + WIDE_BIAS)·x`.
    const WIDE_BIAS: i32;
    /// Whether a tile of eight accumulator pairs fits the register file.
    const MANY_REGISTERS: bool;

    /// Runs a part of a kernel as a function of its own, with the same instructions. Everything else is inlined, and
    /// compilers are slow and careless with functions of many thousand lines.
    fn outlined<K: Kernel>(self, part: K) -> K::Out;

    fn i_splat(self, x: i32) -> Self::I;
    fn i_load(self, x: &[i32; 16]) -> Self::I;
    fn i_store(self, to: &mut [i32; 16], x: Self::I);
    fn bytes_load(self, x: &[u8; 64]) -> Self::I;
    fn bytes_store(self, to: &mut [u8; 64], x: Self::I);
    fn i_add(self, a: Self::I, b: Self::I) -> Self::I;
    /// Low 32 bits of the product.
    fn i_mul(self, a: Self::I, b: Self::I) -> Self::I;
    fn i_and(self, a: Self::I, b: Self::I) -> Self::I;
    fn i_or(self, a: Self::I, b: Self::I) -> Self::I;
    fn i_xor(self, a: Self::I, b: Self::I) -> Self::I;
    fn i_shl<const N: u32>(self, a: Self::I) -> Self::I;
    /// Logical shift right.
    fn i_shr<const N: u32>(self, a: Self::I) -> Self::I;
    /// Arithmetic shift right.
    fn i_sar<const N: u32>(self, a: Self::I) -> Self::I;

    /// `acc[lane] + Σ_j w[lane][j]·x[j]` over four bytes; `w` unsigned in 0..=63, the
    /// bytes of `x` signed in -127..=127. Exact.
    fn dot_narrow(self, acc: Self::I, w: Self::I, x: i32) -> Self::I;
    /// The same for `w` in 0..=255 standing for `w - 128`; see [`Simd::WIDE_BIAS`]. Exact.
    fn dot_wide(self, acc: Self::I, w: Self::I, x: i32) -> Self::I;
    /// `acc[lane] + Σ_j w[lane][j]·x[j]` over two i16. Exact while the sum fits i32.
    fn dot_pairs(self, acc: Self::I, w: Self::I, x: [i16; 2]) -> Self::I;

    /// Each byte of `index`, in 0..=15, replaced by that entry of the table.
    fn lookup(self, table: &[u8; 16], index: Self::I) -> Self::I;

    /// Asks for the cache line at `data[offset]`; an offset beyond the data does nothing or little.
    fn prefetch(self, data: &[u8], offset: usize);

    /// The 16 bytes at `offset + row·stride` of sixteen rows, transposed: output `i` holds bytes `4i..4i + 4` of every
    /// row, one row per lane. Panics when the last row ends beyond `data`.
    fn transpose(self, data: &[u8], offset: usize, stride: usize) -> [Self::I; 4];

    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &[f32; 16]) -> Self::F;
    fn store(self, to: &mut [f32; 16], x: Self::F);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a·b + c`.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Larger of two, `b` when either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// Smaller of two, `b` when either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    fn to_f32(self, x: Self::I) -> Self::F;
    /// Nearest integer, ties to even; the argument must fit i32.
    fn to_i32(self, x: Self::F) -> Self::I;
    fn as_bits(self, x: Self::F) -> Self::I;
    fn as_float(self, x: Self::I) -> Self::F;
    /// IEEE half in the low 16 bits of each lane, widened exactly; the high bits are ignored.
    fn half_to_f32(self, x: Self::I) -> Self::F;
    /// The low and the high half of each lane, widened exactly.
    #[inline(always)]
    fn halves_to_f32(self, x: Self::I) -> [Self::F; 2] {
        [self.half_to_f32(x), self.half_to_f32(self.i_shr::<16>(x))]
    }
    fn load_f16(self, x: &[u16; 16]) -> Self::F;
    fn load_i8(self, x: &[i8; 16]) -> Self::F;
    /// Keeps the low byte of each lane.
    fn store_i8(self, to: &mut [i8; 16], x: Self::I);

    /// Σ of the lanes as `((0+8)+(4+12)) …`: halves are added until one lane is left, the same tree everywhere.
    #[inline(always)]
    fn sum(self, x: Self::F) -> f32 {
        fold(self, x, |a, b| a + b)
    }
    /// Largest lane.
    #[inline(always)]
    fn max_lane(self, x: Self::F) -> f32 {
        fold(self, x, f32::max)
    }
}

#[inline(always)]
fn fold<S: Simd>(s: S, x: S::F, op: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    s.store(&mut lanes, x);
    let mut half = 8;
    while half > 0 {
        for i in 0..half {
            lanes[i] = op(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Arguments of one call together with the code that runs on them, for any instruction set.
pub(crate) trait Kernel {
    /// What the call returns.
    type Out;
    /// Must be `#[inline(always)]`.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// An instruction set that this machine has: a value other than `Scalar` exists only after detection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Isa(Kind);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx2Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

impl Isa {
    /// Every instruction set of this machine that the kernels are built for, slowest first.
    pub fn available() -> Vec<Isa> {
        let mut found = vec![Isa(Kind::Scalar)];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") && has!("f16c") {
                found.push(Isa(Kind::Avx2));
                if has!("avxvnni") {
                    found.push(Isa(Kind::Avx2Vnni));
                }
                if has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq") {
                    found.push(Isa(Kind::Avx512));
                    if has!("avx512vnni") {
                        found.push(Isa(Kind::Avx512Vnni));
                    }
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            // NEON is part of the aarch64 baseline.
            found.push(Isa(Kind::Neon));
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                found.push(Isa(Kind::NeonDot));
            }
        }
        found
    }

    /// The fastest one.
    pub fn best() -> Isa {
        Isa::available().pop().unwrap_or(Isa(Kind::Scalar))
    }

    /// Name for people: `avx512-vnni`, `avx2`, `neon`, `scalar` …
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2Vnni => "avx2-vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Kind::NeonDot => "neon-dotprod",
        }
    }

    /// Runs a kernel compiled for this instruction set.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Out {
        match self.0 {
            Kind::Scalar => kernel.run(Scalar),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa` is only constructed in `available`, after its features were detected.
            Kind::Avx2 => unsafe { avx2::run::<K>(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Avx2Vnni => unsafe { avx2::run_vnni::<K>(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Avx512 => unsafe { avx512::run::<K>(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Avx512Vnni => unsafe { avx512::run_vnni::<K>(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Kind::Neon => unsafe { neon::run::<K>(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Kind::NeonDot => unsafe { neon::run_dot::<K>(kernel) },
        }
    }
}
