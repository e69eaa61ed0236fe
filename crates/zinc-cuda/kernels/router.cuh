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

// The choice for a row, by a block of up to eight warps. Logits may come from other blocks of the launch.
// Each warp chooses from its share of the experts, then the first one from what they chose: a warp issues an instruction
// of a chain in five cycles, so what one warp does alone is what takes time. Bound by latency: 2 k rounds of reductions.
DEVICE void top_k(const RouterParams &p, int row) {
    ZINC_STATIC_SHARED(float, probs, MOST_EXPERTS); // logits first
    ZINC_STATIC_SHARED(float, scores, MOST_EXPERTS);
    ZINC_STATIC_SHARED(float, others, MOST_EXPERTS); // before they are divided, of the groups, of the chosen experts
    ZINC_STATIC_SHARED(u32, found_keys, MOST_EXPERTS);
    ZINC_STATIC_SHARED(u16, found, MOST_EXPERTS);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
    const int n_experts = (int)p.logits.cols, k = (int)p.k;
    const float *logits = p.logits.row(row);
#pragma unroll 1
    for (int i = threadIdx.x; i < n_experts; i += blockDim.x) probs[i] = __ldcg(logits + i);
    __syncthreads();
    float most = NEG_INFINITY, sum = 0.0f;
#pragma unroll 8
    for (int i = lane; i < n_experts; i += 32) most = fmaxf(most, probs[i]);
    most = warp_max(most);
#pragma unroll 1
    for (int i = threadIdx.x; i < n_experts; i += blockDim.x) {
        float logit = probs[i];
        others[i] = p.gating == SOFTMAX ? expf(logit - most) : p.gating == SIGMOID ? sigmoid(logit) : logit;
    }
    __syncthreads();
#pragma unroll 8
    for (int i = lane; i < n_experts; i += 32) sum = __fadd_rn(sum, others[i]);
    sum = warp_sum(sum);
#pragma unroll 1
    for (int i = threadIdx.x; i < n_experts; i += blockDim.x) {
        float prob = p.gating == SOFTMAX ? others[i] / sum : others[i];
        probs[i] = prob;
        scores[i] = p.bias != nullptr ? prob + p.bias[i] : prob;
    }
    __syncthreads();
    if (p.group_score != ALL_GROUPS) {
        if (warp == 0) keep_best_groups(p, scores, others, n_experts);
        __syncthreads();
    }

    // A warp's share in order, as numbers that are 0 for what is chosen. Each lane keeps its best expert at hand; only the
    // lane that loses it looks for another one.
    const int share = div_up(n_experts, n_warps), from = warp * share, to = min(n_experts, from + share);
    u32 *keys = (u32 *)scores, mine = 0;
    int of_mine = MOST_EXPERTS;
    auto look = [&]() {
        mine = 0, of_mine = MOST_EXPERTS;
#pragma unroll 4
        for (int i = from + lane; i < to; i += 32)
            if (keys[i] > mine) mine = keys[i], of_mine = i;
    };
#pragma unroll 1
    for (int i = from + lane; i < to; i += 32) keys[i] = key_of(scores[i]);
    look();
#pragma unroll 1
    for (int j = 0; j < k && from + j < to; j++) {
        u32 best = warp_max_u32(mine);
        // Of the lowest id among equals.
        int idx = MOST_EXPERTS - (int)warp_max_u32(mine == best ? MOST_EXPERTS - of_mine : 0);
        if (of_mine == idx) {
            found_keys[from + j] = best, found[from + j] = (u16)idx;
            keys[idx] = 0;
            look();
        }
    }
    __syncthreads();
    if (warp != 0) return;

    // Lane w is at the next of what warp w has found; lower lanes have lower ids.
    int at = min(n_experts, lane * share), end = lane < n_warps ? min(min(n_experts, at + share), at + k) : at;
    float first = 0.0f, total = 0.0f;
    mine = at < end ? found_keys[at] : 0;
#pragma unroll 1
    for (int j = 0; j < k; j++) {
        u32 best = warp_max_u32(mine);
        int owner = 31 - (int)warp_max_u32(mine == best ? 31 - lane : 0);
        int idx = (int)found[__shfl_sync(FULL_WARP, at, owner)];
        if (lane == owner) mine = ++at < end ? found_keys[at] : 0;
        float weight = probs[idx];
        if (j == 0) first = weight;
        if (p.gating == TOP_K_SOFTMAX) weight = expf(weight - first);
        total = __fadd_rn(total, weight);
        if (lane == 0) {
            p.ids[(i64)row * k + j] = idx;
            others[j] = weight;
        }
    }
    __syncwarp();
    float divisor = 1.0f;
    if (p.gating == TOP_K_SOFTMAX) {
        divisor = total;
        // The weights add up to one, or as near as makes no difference to what follows.
        total = 0.0f;
#pragma unroll 1
        for (int j = 0; j < k; j++) total += others[j] / divisor;
    }
#pragma unroll 1
    for (int j = lane; j < k; j += 32) {
        float weight = p.gating == TOP_K_SOFTMAX ? others[j] / divisor : others[j];
        p.weights[(i64)row * k + j] = (p.normalize ? weight / (total + 1e-20f) : weight) * p.scale;
    }
}
