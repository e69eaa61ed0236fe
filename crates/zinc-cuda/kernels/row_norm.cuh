// The sum of the squares of a long row, in the one order that all kernels have which normalise rows, so that it makes
// no difference which of them does it, nor how many warps its block has:
//
//   A row is cut into pieces of 128 columns. A lane of a warp has four neighbours of a piece and adds their squares
//   (fmaf, in the order of the columns), then the warp adds what its lanes have (warp_sum). What pieces give is added
//   by a warp: lane l takes pieces l, l + 32, ... in order, then warp_sum.
//
// Columns past the end count as zeros. All threads of a block of whole warps call these functions.
#pragma once
#include "zinc.cuh"

#define ROW_PIECE 128

DEVICE float4 load_four(const float *from, bool inside) {
    return inside ? *(const float4 *)from : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

// The sums of two numbers over the lanes of a warp, with the order of warp_sum: `a` in the first half, `b` in the other.
DEVICE float two_sums(float a, float b) {
    bool first = threadIdx.x % 32 < 16;
    float sum = first ? a : b;
    sum += __shfl_xor_sync(FULL_WARP, first ? b : a, 16);
#pragma unroll
    for (int bits = 8; bits > 0; bits /= 2) sum += __shfl_xor_sync(FULL_WARP, sum, bits);
    return sum;
}

// Of `places`: pieces whose sums lie in shared memory at a time.
#define ROW_PLACES 256

// What a lane adds of a piece: `v` is its four columns.
DEVICE float lane_square_sum(float4 v) { return fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, 0.0f)))); }

// The sum of a piece.
DEVICE float piece_sum(float4 v) { return warp_sum(lane_square_sum(v)); }

// `sum` of a lane with the sums of `n` more pieces, before the last warp_sum.
DEVICE float add_pieces(float sum, const float *places, u32 n) {
#pragma unroll 1
    for (u32 piece = threadIdx.x % 32; piece < n; piece += 32) sum += places[piece];
    return sum;
}

// Sum of the squares of a row of `n` columns, for all threads; `load(col)` gives columns col .. col + 3. The loads of
// HELD pieces of a warp are in flight together. Where the row has no more than HELD pieces for each warp, they are left
// in `x`: columns 4 * (threadIdx.x + i * blockDim.x). A barrier must lie between two uses of the same places.
template <int HELD, class Load> DEVICE float row_square_sum(u32 n, float4 (&x)[HELD], float *places, Load load) {
    const u32 lane = threadIdx.x % 32, n_warps = blockDim.x / 32, n_pieces = (n + ROW_PIECE - 1) / ROW_PIECE;
    float sum = 0.0f;
#pragma unroll 1
    for (u32 start = 0; start < n_pieces; start += ROW_PLACES) {
        const u32 end = min(n_pieces, start + ROW_PLACES);
        if (start > 0) __syncthreads();
#pragma unroll 1
        for (u32 first = start + threadIdx.x / 32; first < end; first += HELD * n_warps) {
            float part[HELD];
#pragma unroll
            for (int i = 0; i < HELD; i++) {
                u32 piece = first + i * n_warps;
                x[i] = piece < end ? load(piece * ROW_PIECE + 4 * lane) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            }
#pragma unroll
            for (int i = 0; i < HELD; i++) part[i] = piece_sum(x[i]);
#pragma unroll
            for (int i = 0; i < HELD; i++)
                if (lane == 0 && first + i * n_warps < end) places[first + i * n_warps - start] = part[i];
        }
        __syncthreads();
        sum = add_pieces(sum, places, end - start);
    }
    return warp_sum(sum);
}

// What a row of n columns is multiplied by, 1 / sqrt(sum / n + eps); `share` is 1 / n, which is there before the sum.
DEVICE float row_share(u32 n) { return 1.0f / (float)(int)n; }
DEVICE float row_factor(float sum, float share, float eps) { return rsqrtf(__fadd_rn(__fmul_rn(sum, share), eps)); }
