// The choice of experts: the k experts of the best scores of a row of logits, best first, the lower id first
// among equals, and their weights.
#pragma once
#include "zinc.cuh"

#define MOST_EXPERTS 1024

enum Gating { SOFTMAX, TOP_K_SOFTMAX, SIGMOID };
enum GroupScore { ALL_GROUPS, GROUP_MAX, GROUP_TOP_TWO };

struct RouterParams {
    Rows logits;
    Count n;
    // Added to the scores for the choice, or null.
    const float *bias;
    int *ids;
    float *weights;
    u32 k, gating, group_score, n_groups, n_groups_used, normalize;
    float scale;
    u32 unused;
};

// Larger values give larger numbers, above 0: the order of f32's bits as signed magnitudes.
DEVICE u32 key_of(float value) {
    u32 bits = __float_as_uint(value);
    return max(bits & 0x80000000u ? ~bits : bits | 0x80000000u, 1u);
}

// The same with lower indices first among equals.
DEVICE u64 rank_of(float value, int idx) { return (u64)key_of(value) << 32 | (0xffffffffu - (u32)idx); }

DEVICE int idx_of(u64 rank) { return (int)(0xffffffffu - (u32)rank); }

DEVICE u32 warp_max_u32(u32 value) {
#if __CUDA_ARCH__ >= 800
    return __reduce_max_sync(FULL_WARP, value);
#else
#pragma unroll
    for (int bits = 16; bits > 0; bits /= 2) value = max(value, __shfl_xor_sync(FULL_WARP, value, bits));
    return value;
#endif
}

DEVICE u64 warp_max_rank(u64 rank) {
    u32 high = warp_max_u32((u32)(rank >> 32));
    return (u64)high << 32 | warp_max_u32((u32)(rank >> 32) == high ? (u32)rank : 0);
}

// The best of this lane's part of values[0 .. n] whose rank is below `below`.
DEVICE u64 best_of_lane(const float *values, int n, u64 below) {
    u64 best = 0;
#pragma unroll 8
    for (int i = threadIdx.x; i < n; i += 32) {
        u64 rank = rank_of(values[i], i);
        if (rank < below && rank > best) best = rank;
    }
    return best;
}

// Puts the scores of all groups but the best out of reach. `values` has room for one number a group.
DEVICE void keep_best_groups(const RouterParams &p, float *scores, float *values, int n_experts) {
    int n_groups = (int)p.n_groups, size = n_experts / n_groups;
#pragma unroll 1
    for (int group = threadIdx.x; group < n_groups; group += 32) {
        const float *of_group = scores + group * size;
        float best = NEG_INFINITY, second = NEG_INFINITY;
#pragma unroll 1
        for (int i = 0; i < size; i++) {
            float score = of_group[i];
            if (score > best) second = best, best = score;
            else second = fmaxf(second, score);
        }
        values[group] = p.group_score == GROUP_MAX || size == 1 ? best : best + second;
    }
    __syncwarp();
    u64 last = ~0ull;
#pragma unroll 1
    for (u32 i = 0; i < p.n_groups_used; i++) last = warp_max_rank(best_of_lane(values, n_groups, last));
#pragma unroll 1
    for (int i = threadIdx.x; i < n_experts; i += 32)
        if (rank_of(values[i / size], i / size) < last) scores[i] = NEG_INFINITY;
    __syncwarp();
}

// How many of `n` keys are above `mine`, or equal to it and among the first `n_first`. They are aligned to 16 bytes, and
// read to a multiple of four.
DEVICE int n_above(const u32 *keys, int n, u32 mine, int n_first) {
    int found = 0;
#pragma unroll 4
    for (int i = 0; i < n; i += 4) {
        const uint4 four = *(const uint4 *)(keys + i);
        found += (four.x > mine - (i < n_first)) + (four.y > mine - (i + 1 < n_first));
        found += (four.z > mine - (i + 2 < n_first)) + (four.w > mine - (i + 3 < n_first));
    }
    return found;
}

// The choice for a row, by a block of up to eight warps. Logits may come from other blocks of the launch.
// A warp has a run of the experts. Where an expert stands is counted, among those of its run and then among the first k of
// all runs, so that no step waits for the one before it, as it would where the best is taken k times. Bound by latency.
DEVICE void top_k(const RouterParams &p, int row) {
    ZINC_STATIC_SHARED(float, probs, MOST_EXPERTS); // logits first
    ZINC_STATIC_SHARED(float, scores, MOST_EXPERTS);
    ZINC_STATIC_SHARED(float, others, MOST_EXPERTS); // before they are divided, of the groups, of the chosen experts
    ZINC_STATIC_SHARED(u32, best, MOST_EXPERTS);     // the best keys of each run in order, n_best of each
    ZINC_STATIC_SHARED(u16, places, MOST_EXPERTS);
    ZINC_STATIC_SHARED(float, maxima, 32);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
    const int n_experts = (int)p.logits.cols, k = (int)p.k, share = div_up(div_up(n_experts, n_warps), 32) * 32;
    const int from = warp * share, to = min(n_experts, from + share);
    const float *logits = p.logits.row(row);
    float most = NEG_INFINITY, sum = 0.0f;
#pragma unroll 1
    for (int i = from + lane; i < to; i += 32) probs[i] = __ldcg(logits + i), most = fmaxf(most, probs[i]);
    if (p.gating == SOFTMAX) {
        most = warp_max(most);
        if (lane == 0) maxima[warp] = most;
        __syncthreads();
        most = warp_max(lane < n_warps ? maxima[lane] : NEG_INFINITY);
#pragma unroll 1
        for (int i = from + lane; i < to; i += 32) others[i] = expf(probs[i] - most);
        __syncthreads();
#pragma unroll 4
        for (int i = lane; i < n_experts; i += 32) sum = __fadd_rn(sum, others[i]);
        sum = warp_sum(sum);
    }
#pragma unroll 1
    for (int i = from + lane; i < to; i += 32) {
        float prob = p.gating == SOFTMAX ? others[i] / sum : p.gating == SIGMOID ? sigmoid(probs[i]) : probs[i];
        probs[i] = prob;
        scores[i] = p.bias != nullptr ? prob + p.bias[i] : prob;
    }
    if (p.group_score != ALL_GROUPS) {
        __syncthreads();
        if (warp == 0) keep_best_groups(p, scores, others, n_experts);
        __syncthreads();
    }

    // Equal keys have the order of their ids. Zeros are below all of them, behind the last expert and behind the best.
    u32 *keys = (u32 *)scores;
    const int n_best = min(div_up(k, 4) * 4, share), n_runs = div_up(n_experts, share), first_best = warp * n_best;
#pragma unroll 1
    for (int i = lane; i < share; i += 32) {
        keys[from + i] = from + i < to ? key_of(scores[from + i]) : 0;
        if (i < n_best) best[first_best + i] = 0;
    }
    __syncwarp();
#pragma unroll 1
    for (int i = from + lane; i < to; i += 32) {
        const int place = n_above(keys + from, share, keys[i], i - from);
        if (place < n_best) best[first_best + place] = keys[i];
        places[i] = (u16)place;
    }
    __syncthreads();
#pragma unroll 1
    for (int i = from + lane; i < to; i += 32) {
        int place = places[i];
        if (place < k && n_runs > 1) place = n_above(best, n_runs * n_best, keys[i], first_best + place);
        if (place < k) p.ids[(i64)row * k + place] = i, others[place] = probs[i];
    }
    __syncthreads();
    if (warp != 0) return;

    if (p.gating == TOP_K_SOFTMAX) {
        const float first = others[0];
        __syncwarp();
#pragma unroll 1
        for (int j = lane; j < k; j += 32) others[j] = expf(others[j] - first);
        __syncwarp();
    }
    float total = 0.0f;
#pragma unroll 2
    for (int j = 0; j < k; j++) total = __fadd_rn(total, others[j]);
    if (p.gating == TOP_K_SOFTMAX) {
        // The weights add up to one, or as near as makes no difference to what follows.
        __syncwarp();
#pragma unroll 1
        for (int j = lane; j < k; j += 32) others[j] = others[j] / total;
        __syncwarp();
        total = 0.0f;
#pragma unroll 2
        for (int j = 0; j < k; j++) total = __fadd_rn(total, others[j]);
    }
#pragma unroll 1
    for (int j = lane; j < k; j += 32) {
        const float weight = others[j];
        p.weights[(i64)row * k + j] = (p.normalize ? weight / (total + 1e-20f) : weight) * p.scale;
    }
}
