// What lies between the projections and attention, in one launch: queries and keys are normalised (where the model does
// that) and turned, queries go to q_out, keys and values, which may be normalised too, to their caches. The same
// formulas as norm.cu, rope.cu and kv_write.cu, and the same bits (but where a row is a single head, which norm.cu sums
// as a row).
//
// Launch: grid (ceil(slots / warps), rows), at most 256 threads: a warp for each slot. Slots: query heads, key heads,
// then the value row in pieces, which are heads where those are normalised. The block makes the angles of its row and
// fetches the weights of its heads once, while the launch before ends. q_out may be q itself: a warp reads what it
// writes before, nobody else does. Or the heads of q lie `q_step` columns apart, as in a row that has more than
// queries. Keys and values may be the same rows, and there may be none of them. Heads and pieces have an even number of
// columns, at most 512 are turned.
// Reads the projections' results, writes as many numbers; bound by latency in decode.
#include "fp8.cuh"
#include "rope.cuh"
#include "row_norm.cuh"

#define MOST_PAIRS 256
// Most columns of a head that is normalised.
#define MOST_NORMED 512

struct PrepareParams {
    Rows q, q_out, k, v;
    Count n;
    // Null without norms.
    const float *q_weight, *k_weight, *v_weight;
    const int *positions, *variants, *slots;
    const float *table;
    void *cache_k, *cache_v;
    float q_eps, k_eps, v_eps;
    u32 n_heads, n_k_heads, head_dim, n_dims, is_neox, q_step, v_piece;
    u32 cell, unused;
};

// Types of the caches.
enum Cell { F32_CELL, F16_CELL, BF16_CELL, F8_CELL };

ZINC_KERNEL(256, 1) prepare(ZINC_PARAM PrepareParams p) {
    ZINC_STATIC_SHARED(Turn, turns, MOST_PAIRS);
    ZINC_STATIC_SHARED(float, weights, 3 * MOST_NORMED);
    const int lane = threadIdx.x % 32, row = blockIdx.y, half = (int)p.n_dims / 2;
    const int n_heads = (int)p.n_heads, end_of_k = n_heads + (int)p.n_k_heads, n_warps = blockDim.x / 32;
    const int first_slot = blockIdx.x * n_warps;
    int slot = first_slot + threadIdx.x / 32;
    pdl_launch();
    const bool inside = row < p.n.get();
    i64 cache_row = 0;
    if (inside) {
        if (p.slots != nullptr) cache_row = p.slots[row];
        const float *table_row = p.table + (i64)p.variants[row] * (half + 1);
#pragma unroll 1
        for (int pair = threadIdx.x; pair < half; pair += blockDim.x)
            turns[pair] = turn_of(p.positions[row], table_row, pair, half);
        // Of the kinds of heads that the block has.
        auto fetch = [&](int kind, const float *w, u32 n, bool has) {
#pragma unroll 1
            for (u32 col = threadIdx.x; w != nullptr && has && col < n; col += blockDim.x)
                weights[kind * MOST_NORMED + col] = w[col];
        };
        fetch(0, p.q_weight, p.head_dim, first_slot < n_heads);
        fetch(1, p.k_weight, p.head_dim, first_slot < end_of_k && first_slot + n_warps > n_heads);
        fetch(2, p.v_weight, p.v_piece, first_slot + n_warps > end_of_k);
    }
    __syncthreads();
    pdl_wait();
    if (!inside) return;
    // A head: `dims` columns of x, of which 2 * n_turned are turned.
    const float *x, *weight = weights;
    float eps;
    bool is_normed = p.q_weight != nullptr;
    u32 cell = p.cell;
    void *y;
    i64 y_at;
    int dims = (int)p.head_dim, n_turned = half;
    if (slot < n_heads) {
        x = p.q.row(row) + slot * p.q_step, eps = p.q_eps;
        y = p.q_out.row(row), y_at = slot * dims, cell = F32_CELL;
    } else if (slot < end_of_k) {
        slot -= n_heads;
        x = p.k.row(row) + slot * dims, weight += MOST_NORMED, eps = p.k_eps;
        y = p.cache_k, y_at = cache_row * p.k.cols + slot * dims;
    } else {
        const int start = (slot - end_of_k) * (int)p.v_piece;
        dims = min((int)p.v_piece, (int)p.v.cols - start), n_turned = 0;
        if (dims <= 0) return;
        x = p.v.row(row) + start, weight += 2 * MOST_NORMED, eps = p.v_eps, is_normed = p.v_weight != nullptr;
        y = p.cache_v, y_at = cache_row * p.v.cols + start;
    }
    auto put = [&](int col, float value) {
        if (cell == F32_CELL) ((float *)y)[y_at + col] = value;
        else if (cell == F8_CELL) ((u8 *)y)[y_at + col] = f32_to_e4m3(value);
        else ((u16 *)y)[y_at + col] = cell == F16_CELL ? f32_to_f16(value) : f32_to_bf16(value);
    };
    float scale = 1.0f;
    if (is_normed) {
        float sum = 0.0f;
#pragma unroll 1
        for (int first = lane; first < dims; first += 256) {
            float v[8];
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = first + 32 * i < dims ? x[first + 32 * i] : 0.0f;
#pragma unroll
            for (int i = 0; i < 8; i++) sum = fmaf(v[i], v[i], sum);
        }
        scale = row_factor(warp_sum(sum), row_share((u32)dims), eps);
    }
    // Pairs of columns: those that turn, then the others, whose second ones are `rest` away.
    const int n_pairs = dims / 2, rest = n_pairs - n_turned;
#pragma unroll 1
    for (int first = lane; first < n_pairs; first += 128) {
        int at[4], to[4];
        float a[4], b[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int pair = first + 32 * i;
            if (pair >= n_pairs) continue;
            const bool turns_it = pair < n_turned;
            at[i] = !turns_it ? n_turned + pair : p.is_neox ? pair : 2 * pair;
            to[i] = at[i] + (!turns_it ? rest : p.is_neox ? n_turned : 1);
            a[i] = x[at[i]], b[i] = x[to[i]];
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int pair = first + 32 * i;
            if (pair >= n_pairs) continue;
            float2 v = make_float2(a[i], b[i]);
            if (is_normed) v = make_float2(v.x * scale * weight[at[i]], v.y * scale * weight[to[i]]);
            if (pair < n_turned) v = turned(v.x, v.y, turns[pair]);
            put(at[i], v.x), put(to[i], v.y);
        }
    }
}
