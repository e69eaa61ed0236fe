// Activations in q8: quants of 32 neighbouring values and their scale, as QuantizeAct defines them.
#pragma once
#include "zinc.cuh"

// Quantises four neighbouring values of each lane; eight neighbouring lanes have a block of 32, and get its scale. All
// lanes of the warp take part.
DEVICE u32 to_q8(const float (&v)[4], float &scale) {
    float amax = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
#pragma unroll
    for (int bits = 4; bits > 0; bits /= 2) amax = fmaxf(amax, __shfl_xor_sync(FULL_WARP, amax, bits));
    float inverse = amax > 0.0f ? 127.0f / amax : 0.0f;
    scale = amax * (1.0f / 127.0f);
    // The sum's last bits are the integer, rounded to the nearest, ties to even.
    u32 q[4];
#pragma unroll
    for (int i = 0; i < 4; i++) q[i] = __float_as_uint(__fadd_rn(__fmul_rn(v[i], inverse), 12582912.0f));
    return __byte_perm(__byte_perm(q[0], q[1], 0x0040), __byte_perm(q[2], q[3], 0x0040), 0x5410);
}

// The same to memory: the lanes of a block are inside or outside together, `at` is the index of the first value in the
// quants.
DEVICE void write_q8(const float (&v)[4], bool inside, i8 *quants, float *scales, u64 at) {
    float scale;
    u32 packed = to_q8(v, scale);
    if (!inside) return;
    *(u32 *)(quants + at) = packed;
    if (at % 32 == 0) scales[at / 32] = scale;
}
