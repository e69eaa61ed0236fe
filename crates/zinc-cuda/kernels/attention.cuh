// What the attention kernels share: their parameters, how a row's keys are cut into parts, and how the results of
// parts are merged.
//
// A row at position p sees the keys first ..= p. They are cut into parts of a length that depends on p, the window and
// the operation's shape alone. The result of a part (maximum, sum of exponentials, weighted sum of values) does not
// depend on who computes it, and parts are merged in a fixed order: by the last of the blocks that share them to
// finish, told by a counter in the step's header that comes round to zero. So a row's bits depend neither on how many
// blocks share its keys nor on the rows beside it. What is one part is written at once.
//
// Exponentials are powers of two: scale has the factor log2(e) in it.
#pragma once
#include "fp8.cuh"
#include "last.cuh"

#define MOST_PARTS 64
// Keys taken together inside a part; parts are multiples of it.
#define KEY_BLOCK 64

struct AttentionParams {
    Rows q, y;
    // Second part of each query, of rope_dim columns a head; only of latent attention.
    Rows q_rope;
    Count n;
    const void *cache_k, *cache_v, *cache_rope;
    const int *positions, *seq_of, *pages;
    // One score a head, or null.
    const float *sinks;
    // n_parts_most results for each row and head: v_dim sums each; and behind them all maximum and sum.
    float *parts;
    float2 *part_stats;
    // One for each row and block of heads, zero before and after; where n_splits is one, none.
    u32 *counters;
    u32 n_heads, n_kv_heads, k_dim, v_dim, rope_dim;
    // 0 for none.
    u32 window;
    u32 page_size, pages_per_seq;
    // Blocks that share the keys of a row.
    u32 n_splits;
    // Most parts of a row's keys, and room in `parts`, which holds the rows from first_row on.
    u32 n_parts_most, first_row;
    // Times log2(e).
    float scale;
};

// First of the results of a row's and head's parts.
DEVICE i64 part_place(const AttentionParams &p, int row, int head) {
    return ((i64)(row - (int)p.first_row) * p.n_heads + head) * p.n_parts_most;
}

// A row's keys: n_parts of part_keys each from `start` on, but for the ends.
struct KeyRange {
    int first, end, start, part_keys, n_parts;

    // So few blocks of keys that `whole` is not less are one part.
    __device__ __forceinline__ KeyRange(int position, const AttentionParams &p, int whole) {
        int window = (int)p.window;
        end = position + 1;
        first = window > 0 ? max(0, end - window) : 0;
        start = first / KEY_BLOCK * KEY_BLOCK;
        int n_blocks = (position - start) / KEY_BLOCK + 1;
        int per_part = n_blocks <= whole ? n_blocks : (int)((n_blocks + p.n_parts_most - 1) / p.n_parts_most);
        part_keys = per_part * KEY_BLOCK;
        n_parts = (u32)(n_blocks + per_part - 1) / (u32)per_part;
    }
};

// Soft cap on scores, cap * tanh(score / cap), both with the factor log2(e).
template <bool CAPPED> struct Softcap {
    float cap, inverse;

    __device__ __forceinline__ explicit Softcap(float cap) : cap(cap), inverse(1.0f / cap) {}

    __device__ __forceinline__ float of(float score) const { return cap * tanhf(score * inverse); }

    // The same from a power of two; off by up to 3e-7 of the cap.
    __device__ __forceinline__ float fast(float score) const {
        float power = exp2_of(score * inverse * (2.0f * LOG2_E));
        return fmaf(-2.0f * cap, reciprocal(1.0f + power), cap);
    }
};

// None.
template <> struct Softcap<false> {
    __device__ __forceinline__ explicit Softcap(float) {}
    __device__ __forceinline__ float of(float score) const { return score; }
    __device__ __forceinline__ float fast(float score) const { return score; }
};

// The cap of attention without one.
#define UNCAPPED 0.0f

// Maximum (of scores times log2 e) and sum of exponentials relative to it.
struct SoftmaxState {
    float max, sum;
};

// A head's sink as a score times log2 e; minus infinity for none.
DEVICE float sink_of(const AttentionParams &p, int head) {
    return p.sinks != nullptr ? p.sinks[head] * LOG2_E : NEG_INFINITY;
}

// What the sums of the only part are multiplied with.
DEVICE float weight_of_one(SoftmaxState state, float sink) {
    float most = fmaxf(state.max, sink), weight = exp2_of(state.max - most);
    return weight / fmaf(state.sum, weight, exp2_of(sink - most));
}

// In shared memory.
struct Merge {
    // Of the head that each warp merges.
    float weights[4][MOST_PARTS];
    u32 is_last;
};

DEVICE void read_columns(float (&to)[1], const float *from) { to[0] = __ldcg(from); }
DEVICE void read_columns(float (&to)[4], const float *from) {
    float4 four = __ldcg((const float4 *)from);
    to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}

// What the parts of a head are multiplied with, to the warp's lanes and from there to shared memory. The sum is that
// of exponentials relative to the largest maximum, a sink's included.
DEVICE void weigh_parts(float *weights, float2 low, float2 high, float sink) {
    int lane = threadIdx.x % 32;
    float most = fmaxf(warp_max(fmaxf(low.x, high.x)), sink);
    float low_weight = exp2_of(low.x - most), high_weight = exp2_of(high.x - most);
    float sum = warp_sum(fmaf(low.y, low_weight, high.y * high_weight)) + exp2_of(sink - most), factor = 1.0f / sum;
    weights[lane] = low_weight * factor;
    weights[lane + 32] = high_weight * factor;
    __syncwarp();
}

// y of some heads from their parts, a warp for each head, N columns a lane: four sums, each over every fourth part.
template <int N>
DEVICE void merge_heads(const AttentionParams &p, Merge &merge, int row, int first_head, int n_heads, int n_parts,
                        int v_dim) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float *weights = merge.weights[warp];
#pragma unroll 1
    for (int head = warp; head < n_heads; head += 4) {
        i64 place = part_place(p, row, first_head + head);
        float2 low = make_float2(NEG_INFINITY, 0.0f), high = low;
        if (lane < n_parts) low = __ldcg(p.part_stats + place + lane);
        if (lane + 32 < n_parts) high = __ldcg(p.part_stats + place + lane + 32);
        float sink = sink_of(p, first_head + head);
        // All lanes take every turn: warp functions need them.
#pragma unroll 1
        for (int start = 0; start < v_dim; start += 32 * N) {
            int col = start + lane * N;
            bool is_inside = col < v_dim;
            const float *from = p.parts + place * v_dim + col;
            float sums[4][N] = {};
#pragma unroll 1
            for (int part = 0; part < n_parts; part += 8) {
                float columns[8][N] = {};
#pragma unroll
                for (int j = 0; j < 8; j++)
                    if (is_inside && part + j < n_parts) read_columns(columns[j], from + (i64)(part + j) * v_dim);
                // While the first sums are on their way.
                if (start + part == 0) weigh_parts(weights, low, high, sink);
#pragma unroll
                for (int j = 0; j < 8 * N; j++) {
                    float &sum = sums[j / N % 4][j % N];
                    sum = fmaf(columns[j / N][j % N], weights[part + j / N], sum);
                }
            }
            float *y = p.y.row(row) + (first_head + head) * v_dim + col;
            if (!is_inside) continue;
#pragma unroll
            for (int j = 0; j < N; j++) y[j] = (sums[0][j] + sums[1][j]) + (sums[2][j] + sums[3][j]);
        }
        // All lanes have read the weights.
        __syncwarp();
    }
}

// All 128 threads of all blocks that had some of the n_parts, more than one, of a row and some heads come here when
// they have written them; the last block merges.
DEVICE void merge_parts(const AttentionParams &p, Merge &merge, int row, int first_head, int n_heads, int n_parts,
                        int v_dim) {
    u32 others = min((int)p.n_splits, n_parts) - 1;
    if (others == 0) {
        __threadfence();
        __syncthreads();
    } else {
        u32 *counter = p.counters + (row - (int)p.first_row) * gridDim.y + blockIdx.y;
        if (!is_last_block(counter, others, &merge.is_last)) return;
    }
    if (v_dim % 4 == 0) merge_heads<4>(p, merge, row, first_head, n_heads, n_parts, v_dim);
    else merge_heads<1>(p, merge, row, first_head, n_heads, n_parts, v_dim);
}

// Element i of a cache as f32. Rows lie without gaps and are whole blocks, so elements are counted from the start.
struct F32Cache {
    DEVICE float at(const void *cache, i64 i) { return ((const float *)cache)[i]; }
};
struct F16Cache {
    DEVICE float at(const void *cache, i64 i) { return f16_to_f32(((const u16 *)cache)[i]); }
};
struct Bf16Cache {
    DEVICE float at(const void *cache, i64 i) { return bf16_to_f32(((const u16 *)cache)[i]); }
};
struct F8Cache {
    DEVICE float at(const void *cache, i64 i) { return e4m3_to_f32(((const u8 *)cache)[i]); }
};
struct Q8_0Cache {
    DEVICE float at(const void *cache, u64 i) {
        const u8 *block = (const u8 *)cache + i / 32 * 34;
        return __fmul_rn((float)(i8)block[2 + i % 32], f16_to_f32(*(const u16 *)block));
    }
};
struct Q4_0Cache {
    DEVICE float at(const void *cache, u64 i) {
        const u8 *block = (const u8 *)cache + i / 32 * 18;
        int q = block[2 + i % 16] >> (i % 32 >= 16 ? 4 : 0) & 15;
        return __fmul_rn((float)(q - 8), f16_to_f32(*(const u16 *)block));
    }
};

// Cache row of the key at `position`: a page table is a ring.
DEVICE int cache_row(const int *pages, u32 position, u32 page_size, u32 n_pages) {
    u32 page = position / page_size;
    return pages[page % n_pages] * page_size + (position - page * page_size);
}
