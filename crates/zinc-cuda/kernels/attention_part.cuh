// What a block of attention_decode.cuh has of a part of a row's keys: softmax state and weighted sums of values for eight
// heads, from scores in shared memory and values that the ring keeps.
#pragma once
#include "attention_tiles.cuh"

// What a part has come to: of head lane / 4, the same in all warps but for the columns.
template <int D, bool IS_Q8, int ROPE> struct Part {
    enum { ROW = ROW_BYTES(D + ROPE) };
    float most, sum, sums[D / 32][4];

    __device__ __forceinline__ void begin() {
        most = NO_SCORE;
        sum = 0.0f;
#pragma unroll
        for (int i = 0; i < D / 8; i++) sums[i / 4][i % 4] = 0.0f;
    }

    // Adds a step's keys; `values` are this warp's columns.
    __device__ __forceinline__ void add(const float *scores, const u8 *values) {
        int lane = threadIdx.x % 32;
        float2 score[KEYS(D) / 8];
        float new_most = most;
#pragma unroll
        for (int i = 0; i < KEYS(D) / 8; i++) {
            score[i] = *(const float2 *)(scores + lane / 4 * (KEYS(D) + 8) + 8 * i + lane % 4 * 2);
            new_most = fmaxf(new_most, fmaxf(score[i].x, score[i].y));
        }
        new_most = fmaxf(new_most, __shfl_xor_sync(FULL_WARP, new_most, 1));
        new_most = fmaxf(new_most, __shfl_xor_sync(FULL_WARP, new_most, 2));
        float factor = exp2_of(most - new_most);
        most = new_most;
        sum *= factor;
#pragma unroll
        for (int i = 0; i < KEYS(D) / 8; i++) {
            score[i] = make_float2(exp2_of(score[i].x - most), exp2_of(score[i].y - most));
            sum += score[i].x + score[i].y;
        }
        // A factor of one changes no bit.
        if (__any_sync(FULL_WARP, factor != 1.0f)) {
#pragma unroll
            for (int i = 0; i < D / 8; i++) sums[i / 4][i % 4] *= factor;
        }
        if (!IS_Q8) {
            multiply(sums, 0, score, values);
            return;
        }
        // The columns of a block of values.
        constexpr int N = D > 128 ? 4 : D / 32;
        int warp = threadIdx.x / 32;
#pragma unroll
        for (int first = 0; first < D / 32; first += N) {
            const u8 *scales = values - warp * (D / 2) + D * 2 + (warp * (D / 32) + first) / 4 * 2;
            float2 scaled[KEYS(D) / 8];
            float largest = 0.0f, products[N][4] = {};
#pragma unroll
            for (int i = 0; i < KEYS(D) / 8; i++) {
                const u8 *at = scales + (8 * i + lane % 4 * 2) * ROW;
                scaled[i] = make_float2(f16_to_f32(*(const u16 *)at), f16_to_f32(*(const u16 *)(at + ROW)));
                largest = fmaxf(largest, fmaxf(scaled[i].x, scaled[i].y));
            }
            largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 2));
            // The power of two that is not above: exact in both directions.
            u32 exponent = __float_as_uint(largest) & 0x7f800000;
            float power = __uint_as_float(exponent), inverse = __uint_as_float(0x7f000000 - exponent);
#pragma unroll
            for (int i = 0; i < KEYS(D) / 8; i++)
                scaled[i] = make_float2(score[i].x * (scaled[i].x * inverse), score[i].y * (scaled[i].y * inverse));
            multiply(products, first, scaled, values);
#pragma unroll
            for (int i = 0; i < 4 * N; i++)
                sums[first + i / 4][i % 4] = fmaf(products[i / 4][i % 4], power, sums[first + i / 4][i % 4]);
        }
    }

    // Adds to the sums of N times eight columns from `first` times eight on. Weights are f16 and their remainders; values
    // are read transposed: rows of the product are keys.
    template <int N>
    __device__ __forceinline__ void multiply(float (&to)[N][4], int first, const float2 (&weights)[KEYS(D) / 8],
                                             const u8 *values) const {
        int lane = threadIdx.x % 32;
#pragma unroll
        for (int key = 0; key < KEYS(D); key += 32) {
            u32 a[2][4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float2 w = weights[key / 8 + i];
                u32 upper = pack_f16_fast(w.x, w.y);
                a[i / 2][i % 2 * 2] = upper;
                a[i / 2][i % 2 * 2 + 1] = pack_f16_fast(w.x - low_f16(upper), w.y - high_f16(upper));
            }
#pragma unroll
            for (int i = 0; i < N; i++) {
                u32 b[4];
                load_matrix_x4_transposed(b, values + (key + lane) * ROW + 16 * (first + i));
                mma_f16(to[i], a[0], b[0], b[1]);
                mma_f16(to[i], a[1], b[2], b[3]);
            }
        }
    }

    // Writes the part, or the row of y if it is the only one.
    __device__ __forceinline__ void end(const AttentionParams &p, const KeyRange &keys, int part, int row,
                                        int first_head, int n_heads) {
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = first_head + lane / 4;
        sum += __shfl_xor_sync(FULL_WARP, sum, 1);
        sum += __shfl_xor_sync(FULL_WARP, sum, 2);
        if (lane / 4 >= n_heads) return;
        float *to = p.y.row(row) + head * D, weight = 1.0f;
        if (keys.n_parts == 1) {
            weight = weight_of_one({most, sum}, sink_of(p, head));
        } else {
            i64 at = part_place(p, row, head) + part;
            to = p.parts + at * D;
            if (threadIdx.x % 4 == 0 && warp == 0) p.part_stats[at] = make_float2(most, sum);
        }
        to += warp * (D / 4) + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            to[8 * i] = (sums[i][0] + sums[i][2]) * weight;
            to[8 * i + 1] = (sums[i][1] + sums[i][3]) * weight;
        }
    }
};
