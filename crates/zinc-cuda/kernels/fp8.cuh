// 8-bit floats of caches, E4M3: a sign, four bits of exponent with bias 7, three of mantissa; 0x7f and 0xff are NaN, 448
// is the largest. Any of them is exact in f16: the seven low bits, moved to where exponent and mantissa of f16 meet, are
// the number times 2^-8, subnormal ones too.
#pragma once
#include "zinc.cuh"

DEVICE float e4m3_to_f32(u8 code) {
    u32 low = code & 0x7f;
    if (low == 0x7f) return __uint_as_float(0x7fc00000);
    return f16_to_f32((u16)((code & 0x80) << 8 | low << 7)) * 256.0f;
}

// To the nearest, ties to even; what is larger becomes 448. The same bits as zinc-quant's.
DEVICE u8 f32_to_e4m3(float value) {
    u32 bits = __float_as_uint(value), sign = bits >> 24 & 0x80, low = bits & 0x7fffffff;
    if (low > 0x7f800000u) return (u8)(sign | 0x7f);
    // Neighbours of 2^14 are 2^-9 apart, as subnormal numbers are: the sum is rounded to them.
    if (low < 121u << 23) return (u8)(sign | (__float_as_uint(__fadd_rn(__uint_as_float(low), 16384.0f)) & 0xf));
    u32 code = ((low + 0x7ffff + (low >> 20 & 1)) >> 20) - (120 << 3);
    return (u8)(sign | min(code, 0x7eu));
}

#if defined(ZINC_HOST) || __CUDA_ARCH__ < 890
// Four bytes, each all ones where the top bit of the one that its selector in `which` names is, else zero.
DEVICE u32 copy_top_bits(u32 bytes, u32 which) {
#ifdef ZINC_HOST
    return __byte_perm((bytes >> 7 & 0x01010101) * 0xff, 0, which);
#else
    u32 copies;
    asm("prmt.b32 %0, %1, %1, %2;" : "=r"(copies) : "r"(bytes), "r"(which | 0x8888));
    return copies;
#endif
}
#endif

// The numbers of four codes as pairs of f16.
DEVICE void e4m3_to_f16(u32 codes, u32 (&pairs)[2]) {
#if !defined(ZINC_HOST) && __CUDA_ARCH__ >= 890
    asm("{\n"
        ".reg .b16 low, high;\n"
        "mov.b32 {low, high}, %2;\n"
        "cvt.rn.f16x2.e4m3x2 %0, low;\n"
        "cvt.rn.f16x2.e4m3x2 %1, high;\n"
        "}"
        : "=r"(pairs[0]), "=r"(pairs[1])
        : "r"(codes));
#else
    // The top bit of a byte: it is NaN.
    u32 is_nan = (codes & 0x7f7f7f7f) + 0x01010101;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        u32 high = __byte_perm(codes, 0, i == 0 ? 0x1404 : 0x3424);
        // All ones are NaN in f16, also times 2^8.
        u32 nan = copy_top_bits(is_nan, i == 0 ? 0x1100 : 0x3322);
        u32 pair = (high & 0x80008000) | ((high >> 1 & 0x3f803f80) | nan);
#ifdef ZINC_HOST
        pairs[i] = pack_f16(low_f16(pair) * 256.0f, high_f16(pair) * 256.0f);
#else
        asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(pairs[i]) : "r"(pair), "r"(0x5c005c00));
#endif
    }
#endif
}
