// Attention in f32 over any type of cache and any dimensions, one key/value head's queries together; also
// multi-head latent attention, which is one key/value head whose keys have two parts (rope) and whose values are
// the first part. The kernels of attention_decode.cuh and attention_prefill.cuh are faster where
// they apply.
//
//   y = sum_j softmax_j(scale * q k_j) v_j over the keys that position and window allow
//   attention_<type>_softcap: softmax_j(cap * tanh(scale * q k_j / cap)), in attention_softcap.cu
//
// Launch: grid (n_splits, n_kv_heads * ceil(queries per key head / 4), rows), 128 threads, shared memory for four
// queries. A block takes four heads of one row, and of the row's parts every n_splits-th one; the last one merges.
// Where `parts` has no room for all rows, the lowering makes several such launches.
// Reads each key and value once for four heads; two multiplications a head and element: bound by arithmetic from
// four heads on. v_dim <= 512.
#pragma once
#include "attention.cuh"

#define ROW_HEADS 4
#define LANE_COLUMNS 4

// Sums 32 values over the warp's lanes: lane i gets the sum of all lanes' value i.
DEVICE float transposed_sum(float (&value)[32]) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int bit = 16; bit > 0; bit /= 2) {
        bool upper = lane & bit;
#pragma unroll
        for (int i = 0; i < bit; i++) {
            float kept = upper ? value[i + bit] : value[i], given = upper ? value[i] : value[i + bit];
            value[i] = kept + __shfl_xor_sync(FULL_WARP, given, bit);
        }
    }
    return value[0];
}

// In shared memory.
struct Block {
    // By key and head: scores, then weights.
    float weights[KEY_BLOCK][ROW_HEADS];
    int rows[KEY_BLOCK];
    float factors[ROW_HEADS];
    SoftmaxState state[ROW_HEADS];
};

template <class Cache, bool CAPPED> struct Attend {
    const AttentionParams &p;
    Block &block;
    Softcap<CAPPED> softcap;
    // ROW_HEADS queries of k_dim + rope_dim elements.
    const float *queries;
    int kv_head;
    float sums[ROW_HEADS][LANE_COLUMNS];

    __device__ __forceinline__ Attend(const AttentionParams &p, Block &block, float cap, const float *queries,
                                      int kv_head)
        : p(p), block(block), softcap(cap), queries(queries), kv_head(kv_head) {}

    // Scores of the keys lo .. hi of the block of keys; minus infinity for the others.
    __device__ __forceinline__ void score(int lo, int hi) {
        int warp = threadIdx.x / 32, lane = threadIdx.x % 32, k_dim = (int)p.k_dim, dims = k_dim + (int)p.rope_dim;
        i64 k_cols = (i64)p.n_kv_heads * k_dim;
#pragma unroll 1
        for (int first = 8 * warp; first < KEY_BLOCK; first += 32) {
            float products[32];
#pragma unroll
            for (int i = 0; i < 32; i++) products[i] = 0.0f;
            if (first < hi && first + 8 > lo) {
                int rows[8];
#pragma unroll
                for (int key = 0; key < 8; key++) rows[key] = block.rows[min(max(first + key, lo), hi - 1)];
#pragma unroll 1
                for (int d = lane; d < dims; d += 32) {
                    bool is_rope = d >= k_dim;
                    const void *cache = is_rope ? p.cache_rope : p.cache_k;
                    i64 cols = is_rope ? p.rope_dim : k_cols, at = is_rope ? d - k_dim : (i64)kv_head * k_dim + d;
                    float query[ROW_HEADS], k[8];
#pragma unroll
                    for (int key = 0; key < 8; key++) k[key] = Cache::at(cache, rows[key] * cols + at);
#pragma unroll
                    for (int head = 0; head < ROW_HEADS; head++) query[head] = queries[head * dims + d];
#pragma unroll
                    for (int i = 0; i < 32; i++) products[i] = fmaf(query[i % ROW_HEADS], k[i / ROW_HEADS], products[i]);
                }
            }
            float sum = transposed_sum(products);
            int key = first + lane / ROW_HEADS;
            block.weights[key][lane % ROW_HEADS] = key < lo || key >= hi ? NEG_INFINITY : softcap.of(sum * p.scale);
        }
    }

    // Weights from scores, and what the sums so far are multiplied with. A warp for each head.
    __device__ __forceinline__ void weigh() {
        int head = threadIdx.x / 32, lane = threadIdx.x % 32;
        float low = block.weights[lane][head], high = block.weights[lane + 32][head];
        SoftmaxState state = block.state[head];
        float most = fmaxf(state.max, warp_max(fmaxf(low, high)));
        low = exp2_of(low - most);
        high = exp2_of(high - most);
        float sum = warp_sum(low + high), factor = exp2_of(state.max - most);
        block.weights[lane][head] = low;
        block.weights[lane + 32][head] = high;
        __syncwarp();
        if (lane == 0) {
            block.factors[head] = factor;
            block.state[head] = {most, fmaf(state.sum, factor, sum)};
        }
    }

    __device__ __forceinline__ void add_values(int lo, int hi) {
        int v_dim = (int)p.v_dim;
        i64 v_cols = (i64)p.n_kv_heads * v_dim;
#pragma unroll
        for (int c = 0; c < LANE_COLUMNS; c++) {
            int col = threadIdx.x + 128 * c;
            if (col >= v_dim) break;
#pragma unroll
            for (int head = 0; head < ROW_HEADS; head++) sums[head][c] *= block.factors[head];
            // Keys outside lo .. hi have weights of zero.
#pragma unroll 1
            for (int first = lo / 8 * 8; first < hi; first += 8) {
                float v[8];
#pragma unroll
                for (int key = 0; key < 8; key++) {
                    i64 row = block.rows[min(max(first + key, lo), hi - 1)];
                    v[key] = Cache::at(p.cache_v, row * v_cols + (i64)kv_head * v_dim + col);
                }
#pragma unroll
                for (int i = 0; i < 8 * ROW_HEADS; i++) {
                    float &sum = sums[i % ROW_HEADS][c];
                    sum = fmaf(block.weights[first + i / ROW_HEADS][i % ROW_HEADS], v[i / ROW_HEADS], sum);
                }
            }
        }
    }

    // The keys lo .. hi of a part; `state` and `sums` are the part's afterwards.
    __device__ __forceinline__ void part(int lo, int hi, const int *pages) {
        __syncthreads();
        if (threadIdx.x < ROW_HEADS) block.state[threadIdx.x] = {NEG_INFINITY, 0.0f};
#pragma unroll
        for (int i = 0; i < ROW_HEADS * LANE_COLUMNS; i++) sums[i / LANE_COLUMNS][i % LANE_COLUMNS] = 0.0f;
        for (int start = lo / KEY_BLOCK * KEY_BLOCK; start < hi; start += KEY_BLOCK) {
            int from = max(lo - start, 0), to = min(hi - start, KEY_BLOCK);
            __syncthreads();
            int key = threadIdx.x;
            if (key >= from && key < to)
                block.rows[key] = cache_row(pages, start + key, (int)p.page_size, (int)p.pages_per_seq);
            __syncthreads();
            score(from, to);
            __syncthreads();
            weigh();
            __syncthreads();
            add_values(from, to);
        }
    }
};

template <class Cache, bool CAPPED = false> DEVICE void attend(const AttentionParams &p, float cap = UNCAPPED) {
    ZINC_SHARED(dynamic);
    ZINC_STATIC_SHARED(Block, block, 1);
    ZINC_STATIC_SHARED(Merge, merge, 1);
    float *queries = (float *)dynamic;
    int row = blockIdx.z + p.first_row, n_splits = (int)p.n_splits, v_dim = (int)p.v_dim;
    int group = (int)(p.n_heads / p.n_kv_heads), blocks_per_group = div_up(group, ROW_HEADS);
    int kv_head = blockIdx.y / blocks_per_group, within = blockIdx.y % blocks_per_group * ROW_HEADS;
    int first_head = kv_head * group + within, n_heads = min(ROW_HEADS, group - within);
    int dims = (int)(p.k_dim + p.rope_dim);
    pdl_launch();
    pdl_wait();
    if (row >= p.n.get()) return;
    KeyRange keys(p.positions[row], p, 1);
    if ((int)blockIdx.x >= keys.n_parts) return;
    for (int i = threadIdx.x; i < ROW_HEADS * dims; i += 128) {
        int head = first_head + min(i / dims, n_heads - 1), d = i % dims, k_dim = (int)p.k_dim;
        queries[i] = d < k_dim ? p.q.row(row)[head * k_dim + d] : p.q_rope.row(row)[head * p.rope_dim + d - k_dim];
    }
    const int *pages = p.pages + (i64)p.seq_of[row] * p.pages_per_seq;
    Attend<Cache, CAPPED> attend(p, *block, cap, queries, kv_head);
    for (int part = blockIdx.x; part < keys.n_parts; part += n_splits) {
        int start = keys.start + part * keys.part_keys;
        attend.part(max(start, keys.first), min(start + keys.part_keys, keys.end), pages);
#pragma unroll
        for (int head = 0; head < ROW_HEADS; head++) {
            if (head >= n_heads) break;
            i64 at = part_place(p, row, first_head + head) + part;
            SoftmaxState state = block->state[head];
            bool is_one = keys.n_parts == 1;
            float *to = is_one ? p.y.row(row) + (first_head + head) * v_dim : p.parts + at * v_dim;
            float weight = is_one ? weight_of_one(state, sink_of(p, first_head + head)) : 1.0f;
            if (!is_one && threadIdx.x == 0) p.part_stats[at] = make_float2(state.max, state.sum);
#pragma unroll
            for (int c = 0; c < LANE_COLUMNS; c++) {
                int col = threadIdx.x + 128 * c;
                if (col < v_dim) to[col] = attend.sums[head][c] * weight;
            }
        }
    }
    if (keys.n_parts > 1) merge_parts(p, *merge, row, first_head, n_heads, keys.n_parts, v_dim);
}
