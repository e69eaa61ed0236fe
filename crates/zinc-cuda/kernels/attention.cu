// Attention in f32 over any type of cache and any dimensions, one key/value head's queries together; also
// multi-head latent attention, which is one key/value head whose keys have two parts (rope) and whose values are
// the first part. The kernels of attention_decode.cu and attention_prefill.cu are faster where
// they apply.
//
//   y = sum_j softmax_j(scale * q k_j) v_j over the keys that position and window allow
//   attention_<type>_softcap: softmax_j(cap * tanh(scale * q k_j / cap))
//
// Launch: grid (n_splits, n_kv_heads * ceil(queries per key head / 4), rows), 128 threads, shared memory for four
// queries. A block takes four heads of one row, and of the row's parts every n_splits-th one; the last one merges.
// Where `parts` has no room for all rows, the lowering makes several such launches.
// Reads each key and value once for four heads; two multiplications a head and element: bound by arithmetic from
// four heads on. v_dim <= 512.
#include "attention.cuh"

#define HEADS 4
#define COLUMNS 4

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
    float weights[KEY_BLOCK][HEADS];
    int rows[KEY_BLOCK];
    float factors[HEADS];
    SoftmaxState state[HEADS];
};

template <class Cache, bool CAPPED> struct Attend {
    const AttentionParams &p;
    Block &block;
    Softcap<CAPPED> softcap;
    // HEADS queries of k_dim + rope_dim elements.
    const float *queries;
    int kv_head;
    float sums[HEADS][COLUMNS];

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
                    float query[HEADS], k[8];
#pragma unroll
                    for (int key = 0; key < 8; key++) k[key] = Cache::at(cache, rows[key] * cols + at);
#pragma unroll
                    for (int head = 0; head < HEADS; head++) query[head] = queries[head * dims + d];
#pragma unroll
                    for (int i = 0; i < 32; i++) products[i] = fmaf(query[i % HEADS], k[i / HEADS], products[i]);
                }
            }
            float sum = transposed_sum(products);
            int key = first + lane / HEADS;
            block.weights[key][lane % HEADS] = key < lo || key >= hi ? NEG_INFINITY : softcap.of(sum * p.scale);
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
        for (int c = 0; c < COLUMNS; c++) {
            int col = threadIdx.x + 128 * c;
            if (col >= v_dim) break;
#pragma unroll
            for (int head = 0; head < HEADS; head++) sums[head][c] *= block.factors[head];
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
                for (int i = 0; i < 8 * HEADS; i++) {
                    float &sum = sums[i % HEADS][c];
                    sum = fmaf(block.weights[first + i / HEADS][i % HEADS], v[i / HEADS], sum);
                }
            }
        }
    }

    // The keys lo .. hi of a part; `state` and `sums` are the part's afterwards.
    __device__ __forceinline__ void part(int lo, int hi, const int *pages) {
        __syncthreads();
        if (threadIdx.x < HEADS) block.state[threadIdx.x] = {NEG_INFINITY, 0.0f};
#pragma unroll
        for (int i = 0; i < HEADS * COLUMNS; i++) sums[i / COLUMNS][i % COLUMNS] = 0.0f;
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
    int group = (int)(p.n_heads / p.n_kv_heads), blocks_per_group = div_up(group, HEADS);
    int kv_head = blockIdx.y / blocks_per_group, within = blockIdx.y % blocks_per_group * HEADS;
    int first_head = kv_head * group + within, n_heads = min(HEADS, group - within);
    int dims = (int)(p.k_dim + p.rope_dim);
    pdl_launch();
    pdl_wait();
    if (row >= p.n.get()) return;
    KeyRange keys(p.positions[row], p, 1);
    if ((int)blockIdx.x >= keys.n_parts) return;
    for (int i = threadIdx.x; i < HEADS * dims; i += 128) {
        int head = first_head + min(i / dims, n_heads - 1), d = i % dims, k_dim = (int)p.k_dim;
        queries[i] = d < k_dim ? p.q.row(row)[head * k_dim + d] : p.q_rope.row(row)[head * p.rope_dim + d - k_dim];
    }
    const int *pages = p.pages + (i64)p.seq_of[row] * p.pages_per_seq;
    Attend<Cache, CAPPED> attend(p, *block, cap, queries, kv_head);
    for (int part = blockIdx.x; part < keys.n_parts; part += n_splits) {
        int start = keys.start + part * keys.part_keys;
        attend.part(max(start, keys.first), min(start + keys.part_keys, keys.end), pages);
#pragma unroll
        for (int head = 0; head < HEADS; head++) {
            if (head >= n_heads) break;
            i64 at = part_place(p, row, first_head + head) + part;
            SoftmaxState state = block->state[head];
            bool is_one = keys.n_parts == 1;
            float *to = is_one ? p.y.row(row) + (first_head + head) * v_dim : p.parts + at * v_dim;
            float weight = is_one ? weight_of_one(state, sink_of(p, first_head + head)) : 1.0f;
            if (!is_one && threadIdx.x == 0) p.part_stats[at] = make_float2(state.max, state.sum);
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                int col = threadIdx.x + 128 * c;
                if (col < v_dim) to[col] = attend.sums[head][c] * weight;
            }
        }
    }
    if (keys.n_parts > 1) merge_parts(p, *merge, row, first_head, n_heads, keys.n_parts, v_dim);
}

ZINC_KERNEL(128, 1) attention_f32(ZINC_PARAM AttentionParams p) { attend<F32Cache>(p); }
ZINC_KERNEL(128, 1) attention_f16(ZINC_PARAM AttentionParams p) { attend<F16Cache>(p); }
ZINC_KERNEL(128, 1) attention_bf16(ZINC_PARAM AttentionParams p) { attend<Bf16Cache>(p); }
ZINC_KERNEL(128, 1) attention_f8_e4m3(ZINC_PARAM AttentionParams p) { attend<F8Cache>(p); }
ZINC_KERNEL(128, 1) attention_q8_0(ZINC_PARAM AttentionParams p) { attend<Q8_0Cache>(p); }
ZINC_KERNEL(128, 1) attention_q4_0(ZINC_PARAM AttentionParams p) { attend<Q4_0Cache>(p); }

ZINC_KERNEL(128, 1) attention_f32_softcap(ZINC_PARAM SoftcapParams p) { attend<F32Cache, true>(p.base, p.cap); }
ZINC_KERNEL(128, 1) attention_f16_softcap(ZINC_PARAM SoftcapParams p) { attend<F16Cache, true>(p.base, p.cap); }
ZINC_KERNEL(128, 1) attention_bf16_softcap(ZINC_PARAM SoftcapParams p) { attend<Bf16Cache, true>(p.base, p.cap); }
ZINC_KERNEL(128, 1) attention_f8_e4m3_softcap(ZINC_PARAM SoftcapParams p) { attend<F8Cache, true>(p.base, p.cap); }
ZINC_KERNEL(128, 1) attention_q8_0_softcap(ZINC_PARAM SoftcapParams p) { attend<Q8_0Cache, true>(p.base, p.cap); }
ZINC_KERNEL(128, 1) attention_q4_0_softcap(ZINC_PARAM SoftcapParams p) { attend<Q4_0Cache, true>(p.base, p.cap); }

// ---- 8-bit and quantised caches for many rows -----------------------------------------------------------------------
//
// attention_widen_<type>: the keys and values that a step's rows see, rounded to f16, where attention_prefill reads them:
// in a cache of one layer with the same rows. Launch: grid (positions / 64, sequences, 2 for keys and values; of latent
// attention for keys and ropes), 128 threads, a block of 32 elements at a time. Bytes moved: three times those of the
// cache, more for q4_0.

struct WidenParams {
    AttentionParams base;
    uint4 *k, *v;
};

// Pairs of f16 from a block of 32.
DEVICE void widen_block(const u8 *from, u32 (&to)[16], Q8_0Cache) {
    const u16 *halves = (const u16 *)from;
    float scale = f16_to_f32(halves[0]);
#pragma unroll
    for (int i = 0; i < 16; i++) {
        u16 pair = halves[1 + i];
        to[i] = pack_f16((i8)pair * scale, (i8)(pair >> 8) * scale);
    }
}
DEVICE void widen_block(const u8 *from, u32 (&to)[16], Q4_0Cache) {
    const u16 *halves = (const u16 *)from;
    float scale = f16_to_f32(halves[0]);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int four = halves[1 + i];
        to[i] = pack_f16(((four & 15) - 8) * scale, ((four >> 8 & 15) - 8) * scale);
        to[8 + i] = pack_f16(((four >> 4 & 15) - 8) * scale, ((four >> 12) - 8) * scale);
    }
}

DEVICE void widen_block(const u8 *from, u32 (&to)[16], F8Cache) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint4 codes = ((const uint4 *)from)[i];
        u32 words[4] = {codes.x, codes.y, codes.z, codes.w}, pairs[2];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            e4m3_to_f16(words[j], pairs);
            to[8 * i + 2 * j] = pairs[0], to[8 * i + 2 * j + 1] = pairs[1];
        }
    }
}

template <class Cache, int BYTES> DEVICE void widen(const WidenParams &params) {
    const AttentionParams &p = params.base;
    ZINC_STATIC_SHARED(int, bounds, 8);
    int seq = blockIdx.y, warp = threadIdx.x / 32, n = p.n.get();
    pdl_launch();
    pdl_wait();
    // The last key that the sequence's rows see, and minus the first one.
    int end = 0, before = -0x7fffffff;
    for (int i = threadIdx.x; i < n; i += 128) {
        if (p.seq_of[i] != seq) continue;
        int position = p.positions[i];
        end = max(end, position + 1);
        before = max(before, p.window > 0 ? -max(0, position + 1 - (int)p.window) : 0);
    }
#pragma unroll
    for (int bit = 16; bit > 0; bit /= 2) {
        end = max(end, __shfl_xor_sync(FULL_WARP, end, bit));
        before = max(before, __shfl_xor_sync(FULL_WARP, before, bit));
    }
    bounds[warp] = end;
    bounds[4 + warp] = before;
    __syncthreads();
    for (int i = 0; i < 4; i++) {
        end = max(end, bounds[i]);
        before = max(before, bounds[4 + i]);
    }
    bool is_rope = blockIdx.z > 0 && p.rope_dim > 0;
    const u8 *cache = (const u8 *)(is_rope ? p.cache_rope : blockIdx.z ? p.cache_v : p.cache_k);
    uint4 *wide = blockIdx.z ? params.v : params.k;
    const int *pages = p.pages + (i64)seq * p.pages_per_seq;
    int start = blockIdx.x * KEY_BLOCK, first = max(start, -before), n_keys = min(start + KEY_BLOCK, end) - first;
    int n_blocks = (int)(is_rope ? p.rope_dim / 32 : p.n_kv_heads * p.k_dim / 32);
#pragma unroll 1
    for (int i = threadIdx.x; i < n_keys * n_blocks; i += 128) {
        int row = cache_row(pages, first + i / n_blocks, p.page_size, p.pages_per_seq);
        i64 block = (i64)row * n_blocks + i % n_blocks;
        u32 pairs[16];
        widen_block(cache + block * BYTES, pairs, Cache());
#pragma unroll
        for (int j = 0; j < 4; j++)
            wide[4 * block + j] = make_uint4(pairs[4 * j], pairs[4 * j + 1], pairs[4 * j + 2], pairs[4 * j + 3]);
    }
}

ZINC_KERNEL(128, 1) attention_widen_f8_e4m3(ZINC_PARAM WidenParams p) { widen<F8Cache, 32>(p); }
ZINC_KERNEL(128, 1) attention_widen_q8_0(ZINC_PARAM WidenParams p) { widen<Q8_0Cache, 34>(p); }
ZINC_KERNEL(128, 1) attention_widen_q4_0(ZINC_PARAM WidenParams p) { widen<Q4_0Cache, 18>(p); }
