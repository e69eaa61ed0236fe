// What the attention kernels share: their parameters, how a row's keys are cut into parts, and how the results of
// parts are merged.
//
// A row at position p sees the keys first ..= p. They are cut into at most MOST_PARTS parts at multiples of a
// length that depends on p and the window alone. The result of a part (maximum, sum of exponentials, weighted sum
// of values) does not depend on who computes it, and parts are merged in a fixed order. So a row's bits depend
// neither on how many blocks share its keys nor on the rows beside it.
//
// Exponentials are powers of two: scale has the factor log2(e) in it.
#pragma once
#include "zinc.cuh"

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
    u32 n_heads, n_kv_heads, k_dim, v_dim, rope_dim;
    // 0 for none.
    u32 window;
    u32 page_size, pages_per_seq;
    // Blocks that share the keys of a row.
    u32 n_splits;
    // Room in `parts`, which holds the rows from first_row on.
    u32 n_parts_most, first_row;
    // Times log2(e).
    float scale;
};

// First of the results of a row's and head's parts.
DEVICE i64 part_place(const AttentionParams &p, int row, int head) {
    return ((i64)(row - (int)p.first_row) * p.n_heads + head) * p.n_parts_most;
}

// A row's keys.
struct KeyRange {
    int first, end;
    // Parts are multiples of this from 0 on; the first one is part_start.
    int part_keys, part_start, n_parts;

    __device__ __forceinline__ KeyRange(int position, int window) {
        end = position + 1;
        first = window > 0 ? max(0, end - window) : 0;
        part_keys = KEY_BLOCK;
        while (position / part_keys - first / part_keys >= MOST_PARTS) part_keys *= 2;
        part_start = first / part_keys;
        n_parts = position / part_keys - part_start + 1;
    }
};

// Maximum (of scores times log2 e) and sum of exponentials relative to it.
struct SoftmaxState {
    float max, sum;
};

// Factors for what was summed before and for what is new when a part with maximum `added` joins.
DEVICE float2 merge_factors(float max, float added) {
    float most = fmaxf(max, added);
    return make_float2(exp2_of(max - most), exp2_of(added - most));
}

DEVICE float merged(float before, float added, float2 factors) {
    return fmaf(before, factors.x, __fmul_rn(added, factors.y));
}

// 1 / (sum of exponentials), a sink included, with the factor that takes sums to the same maximum.
DEVICE float final_factor(SoftmaxState state, bool has_sink, float sink) {
    if (!has_sink) return 1.0f / state.sum;
    float2 factors = merge_factors(state.max, sink * LOG2_E);
    return factors.x / merged(state.sum, 1.0f, factors);
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
struct Q8_0Cache {
    DEVICE float at(const void *cache, i64 i) {
        const u8 *block = (const u8 *)cache + i / 32 * 34;
        return __fmul_rn((float)(i8)block[2 + i % 32], f16_to_f32(*(const u16 *)block));
    }
};
struct Q4_0Cache {
    DEVICE float at(const void *cache, i64 i) {
        const u8 *block = (const u8 *)cache + i / 32 * 18;
        int q = block[2 + i % 16] >> (i % 32 >= 16 ? 4 : 0) & 15;
        return __fmul_rn((float)(q - 8), f16_to_f32(*(const u16 *)block));
    }
};

// Cache row of the key at `position`: a page table is a ring.
DEVICE int cache_row(const int *pages, int position, int page_size, int n_pages) {
    return pages[position / page_size % n_pages] * page_size + position % page_size;
}
