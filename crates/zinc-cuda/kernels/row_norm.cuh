// The order in which the squares of a row are summed, the same for all that normalise rows, so that it makes no
// difference to the bits who does: each 128 neighbouring columns by a warp (piece_sum), then these partial sums by a warp
// (all_pieces).
#pragma once
#include "zinc.cuh"

// Most pieces of a row, so 65,536 columns: `MOST_COLUMNS` of lower/rows.rs. In the prologue of a product a group of fewer
// than 128 columns is a piece as well.
#define MOST_PIECES 512

DEVICE float4 load_four(const float *from, bool inside) {
    return inside ? *(const float4 *)from : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

// Columns 4 * lane .. of a piece are the lane's; zeros where there are none. All lanes get the sum.
DEVICE float piece_sum(float4 v) { return warp_sum(fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, v.x * v.x)))); }

// Sum of the partial sums of n pieces in shared memory, by any warp.
DEVICE float all_pieces(const float *partial, u32 n) {
    float sum = 0.0f;
#pragma unroll 1
    for (u32 i = threadIdx.x % 32; i < n; i += 32) sum += partial[i];
    return warp_sum(sum);
}

// What a row is multiplied by.
DEVICE float norm_factor(float sum, u32 n, float eps) { return 1.0f / sqrtf(sum / (float)(int)n + eps); }
