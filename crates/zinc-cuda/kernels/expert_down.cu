// The end of a block of experts, for few rows of x: the down products of the chosen experts and of the shared one, and
// all that is added behind them.
//
//   y = residual + (sum over slots j of weights[j] * scale[e_j] * (W[e_j] a_j + bias[e_j]) + sigmoid(gate) * W_s a_s)
//
// with e_j = ids[j], a in q8 as QuantizeAct has it, made here of the results of gate and up. Scale, bias, the shared
// expert, its gate and the residual are there or not. W is [n_out, n_in] of each expert.
//
// A warp makes one element of y: it walks over the slots, a lane has blocks l, l + 32, ... of a weight row; rows of up
// to 16 blocks are taken two slots at a time, half a warp each. The shared expert comes first, for its address is known:
// its loads start before the launches before this one are done. All sums have the order that the products, the sum over
// slots and the additions have as launches of their own, and so the same bits.
// Grid (blocks, rows), 8 warps; each takes columns of y a grid apart. Bytes moved: the weights once, n_slots n_in n_out
// weights, a few MB: bound by latency, of ids, weights and one reduction in turn. AHEAD blocks of each lane are under
// way at once, 50 KB on a multiprocessor.
#include "act.cuh"
#include "formats.cuh"
#include "prologue.cuh"

struct ExpertDownParams {
    Count n;
    Rows hidden;   // results of gate and up, slot after slot
    Rows shared;   // those of the shared expert; where it has no weights here, what it adds; or null
    Rows gate;     // one column, or null
    Rows residual; // or null
    Rows out;
    u64 w, matrix_bytes;
    u64 w_shared; // or 0
    const float *bias, *scale; // of each expert, or null
    const int *ids;
    const float *weights;
    u64 row_bytes;
    u32 k, n_in;
};

#define WARPS 8
#define AHEAD 5

// What a warp is at: a slot, or one for each half of the warp, and the blocks of it. The slots run from the last to the
// first, and beyond to numbers that are no slot's.
struct Place {
    u32 slot, chunk, n_chunks, n_at_once, lane;

    __device__ __forceinline__ u32 block() const { return chunk * 32 + lane; }
    __device__ __forceinline__ bool ends_slot() const { return chunk + 1 == n_chunks; }
    __device__ __forceinline__ void step() {
        if (++chunk == n_chunks) chunk = 0, slot -= n_at_once;
    }
};

template <class F> DEVICE void expert_down(const ExpertDownParams &p) {
    ZINC_SHARED(shared);
    pdl_launch();
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const u32 n_blocks = p.n_in / 32, has_shared = p.w_shared != 0, n_slots = p.k + has_shared;
    const u32 n_cols = p.out.cols, row = blockIdx.y, col_step = gridDim.x * WARPS;
    u32 col = blockIdx.x * WARPS + warp;
    // Activations of all slots in three parts.
    const u32 x1_at = n_slots * n_blocks * 16, xs_at = 2 * x1_at;
    float *results = (float *)(shared + n_slots * n_blocks * 40) + warp * n_slots;
    const bool is_short = n_blocks <= 16;
    const u32 n_chunks = (n_blocks + 31) / 32, n_rounds = is_short ? (n_slots + 1) / 2 : n_slots * n_chunks;
    const Place whole = {n_slots - 1, 0, n_chunks, 1, lane}, halves = {n_slots - 1 - lane / 16, 0, 1, 2, lane % 16};
    const Place start = is_short ? halves : whole;

    // Loads the next rounds of a column, those of slots from `first` to `end`.
    Raw32<F> loaded[AHEAD];
    u32 expert = 0;
    auto load_rounds = [&](Place at, u32 first, u32 end) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++, at.step()) {
            u64 chosen = p.w + (u64)__shfl_sync(FULL_WARP, expert, at.slot & 31) * p.matrix_bytes;
            const u8 *w = (const u8 *)(at.slot == p.k ? p.w_shared : chosen);
            bool is_mine = col < n_cols && at.slot >= first && at.slot < end && at.block() < n_blocks;
            if (is_mine) loaded[i].fetch(planes_of<F>(w + (u64)col * p.row_bytes, n_blocks), at.block());
        }
    };
    if (has_shared) load_rounds(start, p.k, n_slots);
    const int n_rows = p.n.get();
    pdl_wait();
    if ((int)row >= n_rows) return;

    // Lane j has what slot j needs besides: its expert and weight.
    float weight = 0.0f;
    if (lane < p.k) expert = (u32)p.ids[row * p.k + lane], weight = p.weights[row * p.k + lane];
    const u32 n_routed = p.k * p.n_in, n_all = n_slots * p.n_in;
    float4 values[AHEAD];
    auto load_acts = [&](u32 first) {
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            u32 at = first + (i * WARPS * 32 + threadIdx.x) * 4;
            const float *x = at < n_routed ? p.hidden.row(row) + at : p.shared.row(row) + (at - n_routed);
            values[i] = load_four(x, at < n_all);
        }
    };
    load_acts(0);
    const float gate = p.gate.data ? p.gate.row(row)[0] : 0.0f;
    load_rounds(start, 0, p.k);
    if (p.scale && lane < p.k) weight = __fmul_rn(weight, p.scale[expert]);
    for (u32 first = 0; first < n_all; first += AHEAD * WARPS * 128) {
        if (first > 0) load_acts(first);
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            u32 at = first + (i * WARPS * 32 + threadIdx.x) * 4;
            if (first + i * WARPS * 128 >= n_all) break;
            const float v[4] = {values[i].x, values[i].y, values[i].z, values[i].w};
            put_q8<F>(shared, x1_at, xs_at, at, v, at < n_all);
        }
    }
    __syncthreads();

    for (bool is_loaded = true; col < n_cols; col += col_step) {
        float bias = 0.0f, other = 0.0f, residual = 0.0f, acc = 0.0f;
        if (p.bias && lane < p.k) bias = p.bias[(u64)expert * n_cols + col];
        if (!has_shared && p.shared.data) other = p.shared.row(row)[col];
        if (p.residual.data) residual = p.residual.row(row)[col];
        Place at = start;
        for (u32 first = 0; first < n_rounds; first += AHEAD) {
            if (!is_loaded) load_rounds(at, 0, n_slots);
            is_loaded = false;
#pragma unroll
            for (u32 i = 0; i < AHEAD; i++, at.step()) {
                if (first + i >= n_rounds) break;
                if (at.slot < n_slots && at.block() < n_blocks) {
                    u32 block = at.slot * n_blocks + at.block();
                    const u8 *x = shared + block * 16;
                    Acts32 s = *(const Acts32 *)(shared + xs_at + block * 8);
                    acc = fmaf(dot32<F>(loaded[i], at.block() & 7, *(const int4 *)x, *(const int4 *)(x + x1_at), s), s.d, acc);
                }
                if (!at.ends_slot()) continue;
                float other_half = __shfl_xor_sync(FULL_WARP, acc, 16);
                if (!is_short) acc += other_half;
#pragma unroll
                for (int bits = 8; bits > 0; bits /= 2) acc += __shfl_xor_sync(FULL_WARP, acc, bits);
                if (at.lane == 0 && at.slot < n_slots) results[at.slot] = acc;
                acc = 0.0f;
            }
        }
        __syncwarp();
        float result = lane < p.k ? results[lane] : 0.0f, sum = 0.0f;
        if (has_shared) other = results[p.k];
        if (p.bias) result = __fadd_rn(result, bias);
        for (u32 j = 0; j < p.k; j++)
            sum = fmaf(__shfl_sync(FULL_WARP, weight, j), __shfl_sync(FULL_WARP, result, j), sum);
        if (p.gate.data) other = __fmul_rn(other, sigmoid(gate));
        if (p.shared.data) sum = __fadd_rn(sum, other);
        if (p.residual.data) sum = __fadd_rn(residual, sum);
        if (lane == 0) p.out.row(row)[col] = sum;
        __syncwarp();
    }
}

#define EXPERT_DOWN(F, name)                                                                                        \
    ZINC_KERNEL(WARPS * 32, 2) expert_down_##name(ZINC_PARAM ExpertDownParams p) { expert_down<F>(p); }
ZINC_FORMATS(EXPERT_DOWN)
