// What lies between the projections and attention, in one launch: queries and keys are normalised (where the model
// does that) and turned, queries go to q_out, keys and values to their caches. The same formulas as norm.cu, rope.cu
// and kv_write.cu, and the same bits.
//
// Launch: grid (ceil(slots / 8), rows), 256 threads: a warp for each slot. Slots: query heads, key heads, then the
// value row in pieces of 128. q_out may be q itself: a warp reads what it writes before, nobody else does. Or the heads
// of q lie `q_step` columns apart, as in a row that has more than queries.
// Reads the projections' results, writes as many numbers; bound by latency in decode.
#include "rope.cuh"

#define VALUE_PIECE 128

struct PrepareParams {
    Rows q, q_out, k, v;
    Count n;
    // Null without norms.
    const float *q_weight, *k_weight;
    const int *positions, *variants, *slots;
    const float *table;
    void *cache_k, *cache_v;
    float q_eps, k_eps;
    u32 n_heads, n_k_heads, head_dim, n_dims, is_neox, q_step;
};

struct F32Cell {
    typedef float Cell;
    DEVICE float from(float x) { return x; }
};
struct F16Cell {
    typedef u16 Cell;
    DEVICE u16 from(float x) { return f32_to_f16(x); }
};
struct Bf16Cell {
    typedef u16 Cell;
    DEVICE u16 from(float x) { return f32_to_bf16(x); }
};

// One head: `put(column, value)` takes the results.
template <class Put>
DEVICE void prepare_head(const PrepareParams &p, const float *x, const float *weight, float eps, int row, Put put) {
    int lane = threadIdx.x % 32, head_dim = (int)p.head_dim, half = (int)p.n_dims / 2;
    float scale = 1.0f;
    if (weight != nullptr) {
        float sum = 0.0f;
        for (int col = lane; col < head_dim; col += 32) sum = fmaf(x[col], x[col], sum);
        scale = 1.0f / sqrtf(warp_sum(sum) / (float)head_dim + eps);
    }
    auto normed = [&](int col) { return weight != nullptr ? x[col] * scale * weight[col] : x[col]; };
    const float *table_row = p.table + (i64)p.variants[row] * (half + 1);
    for (int pair = lane; pair < half; pair += 32) {
        Turn turn = turn_of(p.positions[row], table_row, pair, half);
        int a = p.is_neox ? pair : 2 * pair, b = p.is_neox ? pair + half : 2 * pair + 1;
        float2 result = turned(normed(a), normed(b), turn);
        put(a, result.x);
        put(b, result.y);
    }
    for (int col = 2 * half + lane; col < head_dim; col += 32) put(col, normed(col));
}

template <class To> DEVICE void prepare(const PrepareParams &p) {
    int slot = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.y;
    int n_heads = (int)p.n_heads, n_k_heads = (int)p.n_k_heads, head_dim = (int)p.head_dim;
    pdl_launch();
    pdl_wait();
    if (row >= p.n.get()) return;
    if (slot < n_heads) {
        float *y = p.q_out.row(row) + slot * head_dim;
        prepare_head(p, p.q.row(row) + slot * p.q_step, p.q_weight, p.q_eps, row,
                     [&](int col, float value) { y[col] = value; });
        return;
    }
    slot -= n_heads;
    if (slot < n_k_heads) {
        typename To::Cell *y = (typename To::Cell *)p.cache_k + (i64)p.slots[row] * p.k.cols + slot * head_dim;
        prepare_head(p, p.k.row(row) + slot * head_dim, p.k_weight, p.k_eps, row,
                     [&](int col, float value) { y[col] = To::from(value); });
        return;
    }
    int start = (slot - n_k_heads) * VALUE_PIECE, end = min((int)p.v.cols, start + VALUE_PIECE);
    const float *v = p.v.row(row);
    typename To::Cell *y = (typename To::Cell *)p.cache_v + (i64)p.slots[row] * p.v.cols;
    for (int col = start + lane; col < end; col += 32) y[col] = To::from(v[col]);
}

ZINC_KERNEL(256, 1) prepare_f32(ZINC_PARAM PrepareParams p) { prepare<F32Cell>(p); }
ZINC_KERNEL(256, 1) prepare_f16(ZINC_PARAM PrepareParams p) { prepare<F16Cell>(p); }
ZINC_KERNEL(256, 1) prepare_bf16(ZINC_PARAM PrepareParams p) { prepare<Bf16Cell>(p); }
