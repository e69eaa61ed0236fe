// Activations for gemm.cuh: rows of f32 as panels of f16, with a factor for each row.
//
// A panel has 64 elements along k of all rows: [panel][row / 8] groups of 8 rows of 128 bytes, whose 16-byte chunk c
// lies at c ^ (row % 8), as wgmma wants it. Two panels have 128 elements, four blocks of 32, in the order in which the
// four lanes of gemm.cuh that share a weight row turn one block each to f16: slice 2 w + h of 16 has elements 16 h + 4 w
// .. + 3 of the four blocks, first the elements 0 and 2 of each block, then 1 and 3. Elements past the end of the row are
// zero; rows past the last are not written and never shown. The factor is a power of two that brings the row's largest
// value to [256, 512), so nothing overflows whatever the model's values: what is lost is f16's rounding, and of values
// below 2^-23 of the row's largest more.
#pragma once
#include "ptx.cuh"
#include "zinc.cuh"

struct Panels {
    u8 *data;
    float *factors;
    // Groups of 8 rows.
    u32 n_groups, unused;
};

// The exponent of the factor for a row whose largest value is `most`.
DEVICE int panel_exponent(float most) {
    int exponent = most > 0.0f ? (int)(__float_as_uint(most) >> 23) - 127 - 8 : 0;
    return max(-118, min(exponent, 118));
}

DEVICE float power_of_two(int exponent) { return __uint_as_float((u32)(127 + exponent) << 23); }

// Elements of the two panels that belong together.
#define PANEL_PAIR 128

// Four neighbouring values of a row, from a column that is a multiple of four; `scale` is one over the factor.
DEVICE void write_panel(const Panels &p, u32 row, u32 col, const float (&v)[4], float scale) {
    const u32 block = col / 32 % 4, word = col % 16 / 4, half = col / 16 % 2;
    const u32 panel = col / PANEL_PAIR * 2 + word / 2, chunk = (word % 2 * 2 + half) * 2, turn = row % 8;
    u8 *to = p.data + ((u64)panel * p.n_groups + row / 8) * 1024 + row % 8 * 128 + block * 4;
    *(u32 *)(to + ((chunk ^ turn) << 4)) = pack_f16_fast(v[0] * scale, v[2] * scale);
    *(u32 *)(to + ((chunk + 1 ^ turn) << 4)) = pack_f16_fast(v[1] * scale, v[3] * scale);
}

// The largest of the block's values, for all threads. `places` holds one float for each warp.
DEVICE float block_max(float value, float *places) {
    const int lane = threadIdx.x % 32, n_warps = blockDim.x / 32;
    value = warp_max(value);
    if (lane == 0) places[threadIdx.x / 32] = value;
    __syncthreads();
    return warp_max(lane < n_warps ? places[lane] : 0.0f);
}
