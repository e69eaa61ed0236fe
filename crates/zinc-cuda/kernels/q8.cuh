// Activations in q8: quants of 32 neighbouring values and their scale, as QuantizeAct defines them.
#pragma once
#include "zinc.cuh"

// Quantises neighbouring values of each lane, four or eight; neighbouring lanes have a block of 32, and get its scale. All
// lanes of the warp take part.
template <int N> DEVICE void to_q8(const float (&v)[N], u32 (&packed)[N / 4], float &scale) {
    float amax = fabsf(v[0]);
#pragma unroll
    for (int i = 1; i < N; i++) amax = fmaxf(amax, fabsf(v[i]));
#pragma unroll
    for (int bits = 16 / N; bits > 0; bits /= 2) amax = fmaxf(amax, __shfl_xor_sync(FULL_WARP, amax, bits));
    float inverse = amax > 0.0f ? 127.0f / amax : 0.0f;
    scale = amax * (1.0f / 127.0f);
    // The sum's last bits are the integer, rounded to the nearest, ties to even.
    u32 q[N];
#pragma unroll
    for (int i = 0; i < N; i++) q[i] = __float_as_uint(__fadd_rn(__fmul_rn(v[i], inverse), 12582912.0f));
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
        const u32 low = __byte_perm(q[4 * i], q[4 * i + 1], 0x0040), high = __byte_perm(q[4 * i + 2], q[4 * i + 3], 0x0040);
        packed[i] = __byte_perm(low, high, 0x5410);
    }
}

// The same to memory: the lanes of a block are inside or outside together, `at` is the index of the first value in the
// quants.
DEVICE void write_q8(const float (&v)[4], bool inside, i8 *quants, float *scales, u64 at) {
    float scale;
    u32 packed[1];
    to_q8(v, packed, scale);
    if (!inside) return;
    *(u32 *)(quants + at) = packed[0];
    if (at % 32 == 0) scales[at / 32] = scale;
}
