// RouterTopK: the k experts of the best scores of each row, best first, the lower id first among equals; and their
// weights. group_experts: the chosen pairs of row and slot in the order of the experts, for products that take all
// rows of an expert together.
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

// Larger values and, among equals, lower indices give larger numbers: the order of f32's bits as signed magnitudes.
DEVICE u64 rank_of(float value, int idx) {
    u32 bits = __float_as_uint(value);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (u64)bits << 32 | (0xffffffffu - (u32)idx);
}

DEVICE int idx_of(u64 rank) { return (int)(0xffffffffu - (u32)rank); }

DEVICE u64 warp_max_rank(u64 rank) {
#pragma unroll
    for (int bit = 16; bit > 0; bit /= 2) {
        u64 other = __shfl_xor_sync(FULL_WARP, rank, bit);
        if (other > rank) rank = other;
    }
    return rank;
}

// The best of this lane's part of values[0 .. n] whose rank is below `below`.
DEVICE u64 best_of_lane(const float *values, int n, u64 below) {
    u64 best = 0;
#pragma unroll 4
    for (int i = threadIdx.x; i < n; i += 32) {
        u64 rank = rank_of(values[i], i);
        if (rank < below && rank > best) best = rank;
    }
    return best;
}

// Puts the scores of all groups but the best out of reach. `values` has room for one number a group.
DEVICE void keep_best_groups(const RouterParams &p, float *scores, float *values, int n_experts) {
    int n_groups = (int)p.n_groups, size = n_experts / n_groups;
    for (int group = threadIdx.x; group < n_groups; group += 32) {
        const float *of_group = scores + group * size;
        float best = NEG_INFINITY, second = NEG_INFINITY;
        for (int i = 0; i < size; i++) {
            float score = of_group[i];
            if (score > best) second = best, best = score;
            else second = fmaxf(second, score);
        }
        values[group] = p.group_score == GROUP_MAX || size == 1 ? best : best + second;
    }
    __syncwarp();
    u64 last = ~0ull;
    for (u32 i = 0; i < p.n_groups_used; i++) last = warp_max_rank(best_of_lane(values, n_groups, last));
    for (int i = threadIdx.x; i < n_experts; i += 32)
        if (rank_of(values[i / size], i / size) < last) scores[i] = NEG_INFINITY;
    __syncwarp();
}

// Launch: grid rows, 32 threads. Reads the logits, writes k numbers: bound by latency, k rounds of one reduction.
ZINC_KERNEL(32, 1) router_top_k(ZINC_PARAM RouterParams p) {
    ZINC_STATIC_SHARED(float, probs, MOST_EXPERTS);
    ZINC_STATIC_SHARED(float, scores, MOST_EXPERTS);
    // Of the groups first, of the chosen experts then.
    ZINC_STATIC_SHARED(float, chosen, MOST_EXPERTS);
    int row = blockIdx.x, lane = threadIdx.x, n_experts = (int)p.logits.cols, k = (int)p.k;
    pdl_launch();
    pdl_wait();
    if (row >= p.n.get()) return;
    const float *logits = p.logits.row(row);
    float most = NEG_INFINITY, sum = 0.0f;
    for (int i = lane; i < n_experts; i += 32) most = fmaxf(most, logits[i]);
    most = warp_max(most);
    for (int i = lane; i < n_experts; i += 32) {
        float prob = p.gating == SOFTMAX ? expf(logits[i] - most) : p.gating == SIGMOID ? sigmoid(logits[i]) : logits[i];
        probs[i] = prob;
        sum += prob;
    }
    sum = warp_sum(sum);
    for (int i = lane; i < n_experts; i += 32) {
        if (p.gating == SOFTMAX) probs[i] /= sum;
        scores[i] = p.bias != nullptr ? probs[i] + p.bias[i] : probs[i];
    }
    __syncwarp();
    if (p.group_score != ALL_GROUPS) keep_best_groups(p, scores, chosen, n_experts);
    // Each lane keeps its best expert at hand; only the lane that loses it looks for another one.
    float first = 0.0f, total = 0.0f;
    u64 mine = best_of_lane(scores, n_experts, ~0ull);
    for (int j = 0; j < k; j++) {
        u64 rank = warp_max_rank(mine);
        int idx = idx_of(rank);
        float weight = probs[idx];
        if (j == 0) first = weight;
        if (p.gating == TOP_K_SOFTMAX) weight = expf(weight - first);
        total += weight;
        if (lane == 0) {
            p.ids[(i64)row * k + j] = idx;
            chosen[j] = weight;
        }
        if (mine == rank) mine = best_of_lane(scores, n_experts, rank);
    }
    __syncwarp();
    float divisor = 1.0f;
    if (p.gating == TOP_K_SOFTMAX) {
        divisor = total;
        // The weights add up to one, or as near as makes no difference to what follows.
        total = 0.0f;
        for (int j = 0; j < k; j++) total += chosen[j] / divisor;
    }
    for (int j = lane; j < k; j += 32) {
        float weight = p.gating == TOP_K_SOFTMAX ? chosen[j] / divisor : chosen[j];
        p.weights[(i64)row * k + j] = (p.normalize ? weight / (total + 1e-20f) : weight) * p.scale;
    }
}

struct GroupParams {
    const int *ids;
    // [n_experts + 1] where the pairs of each expert begin, the last one their number.
    int *offsets;
    // [rows * k] row * k + slot, sorted by expert, then by itself.
    int *pairs;
    // [n_tiles][2] expert and index into `pairs` of the first of up to `tile` pairs of one expert.
    int *tiles;
    int *n_tiles;
    Count n;
    u32 k, n_experts, tile, unused;
};

// Exclusive sums of counts[0 .. n] in place, by the first warp; returns the sum of all.
DEVICE int exclusive_sums(int *counts, int n) {
    int lane = threadIdx.x, total = 0;
    for (int start = 0; start < n; start += 32) {
        int count = start + lane < n ? counts[start + lane] : 0, sum = count;
#pragma unroll
        for (int by = 1; by < 32; by *= 2) {
            int other = __shfl_up_sync(FULL_WARP, sum, by);
            if (lane >= by) sum += other;
        }
        if (start + lane < n) counts[start + lane] = total + sum - count;
        total += __shfl_sync(FULL_WARP, sum, 31);
    }
    return total;
}

// A stable counting sort by one block: each of its warps takes a contiguous part of the pairs.
// Launch: one block of 1024 threads, shared memory 2 (warps + 2) n_experts bytes times 2. Moves 8 bytes a pair.
ZINC_KERNEL(1024, 1) group_experts(ZINC_PARAM GroupParams p) {
    ZINC_SHARED(dynamic);
    int n_experts = (int)p.n_experts, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int *counts = (int *)dynamic, *starts = counts + 32 * n_experts, *tile_starts = starts + n_experts;
    pdl_launch();
    pdl_wait();
    int n_pairs = p.n.get() * (int)p.k, per_warp = div_up(div_up(n_pairs, 32), 32) * 32;
    for (int i = threadIdx.x; i < 32 * n_experts; i += 1024) counts[i] = 0;
    __syncthreads();
    int *mine = counts + warp * n_experts, first = warp * per_warp, end = min(n_pairs, first + per_warp);
    for (int start = first; start < end; start += 32) {
        int expert = start + lane < end ? p.ids[start + lane] : -1;
        u32 peers = __match_any_sync(FULL_WARP, expert);
        if (expert >= 0 && (peers & ((1u << lane) - 1)) == 0) mine[expert] += __popc(peers);
        __syncwarp();
    }
    __syncthreads();
    // Of each expert: where each warp's pairs begin among all of them.
    for (int expert = threadIdx.x; expert < n_experts; expert += 1024) {
        int sum = 0;
        for (int w = 0; w < 32; w++) {
            int count = counts[w * n_experts + expert];
            counts[w * n_experts + expert] = sum;
            sum += count;
        }
        starts[expert] = sum;
        tile_starts[expert] = div_up(sum, (int)p.tile);
    }
    __syncthreads();
    if (warp == 0) {
        int n = exclusive_sums(starts, n_experts), n_tiles = exclusive_sums(tile_starts, n_experts);
        if (lane == 0) {
            p.offsets[n_experts] = n;
            *p.n_tiles = n_tiles;
        }
    }
    __syncthreads();
    for (int expert = threadIdx.x; expert < n_experts; expert += 1024) {
        int begin = starts[expert], next = expert + 1 < n_experts ? starts[expert + 1] : n_pairs;
        p.offsets[expert] = begin;
        for (int i = 0; begin + i * (int)p.tile < next; i++) {
            p.tiles[2 * (tile_starts[expert] + i)] = expert;
            p.tiles[2 * (tile_starts[expert] + i) + 1] = begin + i * (int)p.tile;
        }
    }
    for (int start = first; start < end; start += 32) {
        int expert = start + lane < end ? p.ids[start + lane] : -1;
        u32 peers = __match_any_sync(FULL_WARP, expert), before = peers & ((1u << lane) - 1);
        int place = expert >= 0 ? starts[expert] + mine[expert] + __popc(before) : 0;
        if (expert >= 0) p.pairs[place] = start + lane;
        __syncwarp();
        if (expert >= 0 && before == 0) mine[expert] += __popc(peers);
        __syncwarp();
    }
}
