// RouterTopK (router.cuh), and group_experts: the chosen pairs of row and slot in the order of the experts, for products
// that take all rows of an expert together.
#include "router.cuh"

// Launch: grid rows, 128 threads. Reads the logits, writes k numbers.
ZINC_KERNEL(128, 4) router_top_k(ZINC_PARAM RouterParams p) {
    pdl_launch();
    pdl_wait();
    if ((int)blockIdx.x < p.n.get()) top_k(p, blockIdx.x);
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
