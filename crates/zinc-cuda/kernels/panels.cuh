// Activations for gemm.cuh: rows of f32 as panels of f16, with a factor for each row.
//
// A panel has 64 elements along k of all rows: [k / 64][row / 8] groups of 8 rows of 128 bytes, whose 16-byte chunk c
// lies at c ^ (row % 8), as wgmma wants it. In each 16 elements the order is 0 1 4 5 8 9 12 13, 2 3 6 7 10 11 14 15: a
// lane's four weights of a word are then its four of the tensor core. Elements past the end of the row are zero; rows
// past the last are not written and never shown. The factor is a power of two that brings the row's largest value to
// [256, 512), so nothing overflows whatever the model's values: what is lost is f16's rounding, and of values below
// 2^-23 of the row's largest more.
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

// Four neighbouring values of a row, from a column that is a multiple of four; `scale` is one over the factor.
DEVICE void write_panel(const Panels &p, u32 row, u32 col, const float (&v)[4], float scale) {
    u8 *to = p.data + ((u64)(col / 64) * p.n_groups + row / 8) * 1024 + row % 8 * 128 + col % 16;
    const u32 chunk = col % 64 / 16 * 2, turn = row % 8;
    *(u32 *)(to + ((chunk ^ turn) << 4)) = pack_f16_fast(v[0] * scale, v[1] * scale);
    *(u32 *)(to + ((chunk + 1 ^ turn) << 4)) = pack_f16_fast(v[2] * scale, v[3] * scale);
}

// The largest of the block's values, for all threads. `places` holds one float for each warp.
DEVICE float block_max(float value, float *places) {
    const int lane = threadIdx.x % 32, n_warps = blockDim.x / 32;
    value = warp_max(value);
    if (lane == 0) places[threadIdx.x / 32] = value;
    __syncthreads();
    return warp_max(lane < n_warps ? places[lane] : 0.0f);
}
