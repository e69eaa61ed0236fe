// Attention over f16 caches with the tensor cores, keys and values of one width that is a multiple of 32.
//
// attention_decode_D_S (head width D, S stages): the parts of one row, as in attention_rows.cuh, exact to f32: a query
// and a weight are the sum of two f16 numbers. A matrix product takes sixteen rows; eight queries of one key head
// are its upper rows and their remainders its lower ones, so the precision costs no instruction.
//   Launch: grid (n_splits, n_kv_heads * ceil(queries per key head / 8), rows), 4 warps. A block takes KEYS(D) keys
//   and values at a time through a ring, S deep. A warp makes the scores of a quarter of the keys; then, behind the
//   one barrier of a step, all weights, and the sums of a quarter of the columns: no sums meet at the end.
//   Where the step has one row, the first keys and values are on their way before the launches before this one are
//   done: all but the row's own are of earlier steps.
// attention_decode_q8_0_D_S: the same over q8_0 caches: quants become f16 on their way to the ring, scales lie behind each
// row of them. Scores are scaled by blocks of 32, weights by those of values, with the step's largest near one.
// attention_decode_latent_D_S: latent attention over f16 caches, one key head whose values are the first D columns of its
// keys: they are read and kept once, with up to ROPE columns of the second cache behind them and zeros where it has fewer.
// Still eight heads a block: sixteen would halve what comes from the second-level cache, but not what a warp reads of its
// queries in shared memory, by count the larger time.
// attention_decode_f8_e4m3_D_S: as over f16 caches; codes come to the upper half of where their row will be, and the warp
// that copied them widens them.
// attention_decode_..._softcap: with a soft cap on scores, in attention_softcap.cu.
// Bytes moved: keys and values once for eight heads. Bound: memory; at short contexts latency, that of one step.
#pragma once
#include "attention_part.cuh"

// Up to so many blocks of keys a second part, and merging, would take longer.
#define WHOLE(D) ((D) > 128 ? 2 : 4)

// In place of a key's place: the row's own key while it may be unwritten.
#define NOT_YET 0xfffffffeu

// A step of a block: first key, its part, and the steps of the part from this one on.
struct Step {
    int key, part, left;
};

// The quants of two blocks of q8_0 as f16, and their scales.
DEVICE void store_values(u8 *to, u32 *scales, const u32 (&words)[17]) {
    *scales = (words[0] & 0xffff) | (words[8] & 0xffff0000);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        u32 four[4];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            int k = 2 * i + j;
            u32 quants = k < 8 ? __funnelshift_r(words[k], words[k + 1], 16) : words[k + 1];
            four[2 * j] = pack_f16_fast((i8)quants, (i8)(quants >> 8));
            four[2 * j + 1] = pack_f16_fast((i8)(quants >> 16), (i8)(quants >> 24));
        }
        *(uint4 *)(to + 16 * i) = make_uint4(four[0], four[1], four[2], four[3]);
    }
}

// Types of the caches.
enum Cells { F16_CELLS, F8_CELLS, Q8_0_CELLS };

template <int D, int STAGES, Cells CELLS, int ROPE, bool CAPPED> struct Decode {
    enum {
        IS_Q8 = CELLS == Q8_0_CELLS,
        IS_F8 = CELLS == F8_CELLS,
        ROW = ROW_BYTES(D + ROPE),
        N_KEYS = KEYS(D),
        TILE = N_KEYS * ROW,
        // From the keys of a stage to its values, and to the next stage.
        VALUES = ROPE > 0 ? 0 : TILE,
        STAGE = VALUES + TILE,
        // Of 16 bytes: of a row in the cache, and where they begin in a row of a stage.
        CHUNKS = IS_F8 ? D / 16 : D / 8,
        FROM = IS_F8 ? D : 0,
        // Of each warp.
        MY_KEYS = N_KEYS / 4,
        MY_COLUMNS = D / 4,
        SCORE_ROW = N_KEYS + 8,
    };

    const AttentionParams &p;
    const KeyRange keys;
    const int *pages;
    int kv_head, warp, lane, steps_per_part;

    __device__ __forceinline__ void begin(Step &step, int part) const {
        step = {keys.start + part * keys.part_keys, part, steps_per_part};
    }

    __device__ __forceinline__ void advance(Step &step) const {
        step.key += N_KEYS;
        if (--step.left == 0) begin(step, step.part + (int)p.n_splits);
    }

    // Where a key and its value begin in the caches, in units of 16 bytes.
    __device__ __forceinline__ u32 place_of(int key) const {
        u32 row = cache_row(pages, key, p.page_size, p.pages_per_seq);
        return (row * p.n_kv_heads + kv_head) * CHUNKS;
    }

    // Copies this warp's keys and values of a step from q8_0, two pieces of 64 at a time.
    __device__ __forceinline__ void load_q8(u32 place, u8 *to) const {
        constexpr int PIECES = D < 64 ? 1 : D / 64, N = MY_KEYS * PIECES > 16 ? 2 : 1;
#pragma unroll 1
        for (int i = lane; i < 2 * MY_KEYS * PIECES; i += 32 * N) {
            u32 words[N][17];
#pragma unroll
            for (int j = 0; j < N; j++) {
                int id = i + 32 * j, piece = id % PIECES, key = id / PIECES % MY_KEYS;
                u32 from = __shfl_sync(FULL_WARP, place, key);
                const void *cache = id < MY_KEYS * PIECES ? p.cache_k : p.cache_v;
                const u32 *at = (const u32 *)cache + ((u64)(from / 8) + piece) * 17;
#pragma unroll
                for (int k = 0; k < 17; k++) words[j][k] = from != NO_KEY ? at[k] : 0;
            }
#pragma unroll
            for (int j = 0; j < N; j++) {
                int id = i + 32 * j, piece = id % PIECES, key = id / PIECES % MY_KEYS;
                u8 *row = to + (id < MY_KEYS * PIECES ? 0 : VALUES) + key * ROW;
                store_values(row + piece * 128, (u32 *)(row + D * 2) + piece, words[j]);
            }
        }
    }

    // Begins to copy this warp's keys and values of a step; without `has_own` not the row's own.
    __device__ __forceinline__ void load(const Step &step, u8 *stage, bool has_own) const {
        int mine = step.key + MY_KEYS * warp + lane % MY_KEYS;
        u32 place = NO_KEY;
        if (!has_own && mine == keys.end - 1) place = NOT_YET;
        else if (mine >= keys.first && mine < keys.end) place = place_of(mine);
        u8 *to = stage + MY_KEYS * warp * ROW;
        if constexpr (IS_Q8) load_q8(place, to);
        else load_floats(place, to);
    }

    __device__ __forceinline__ void load_floats(u32 place, u8 *to) const {
        to += FROM;
#pragma unroll 8
        for (int i = 0; i < MY_KEYS * CHUNKS / 32; i++) {
            int id = 32 * i + lane, key = id / CHUNKS, chunk = id % CHUNKS;
            u32 from = __shfl_sync(FULL_WARP, place, key);
            bool is_seen = from != NO_KEY;
            if (from == NOT_YET) continue;
            from = is_seen ? from + chunk : 0;
            copy_async_16(to + key * ROW + chunk * 16, (const uint4 *)p.cache_k + from, is_seen);
            if (ROPE == 0) copy_async_16(to + VALUES + key * ROW + chunk * 16, (const uint4 *)p.cache_v + from, is_seen);
        }
        if constexpr (ROPE > 0) load_rope(place, to + D * 2);
    }

    __device__ __forceinline__ void load_rope(u32 place, u8 *to) const {
        constexpr int ROPE_CHUNKS = ROPE / 8;
        u32 n_chunks = p.rope_dim / 8;
#pragma unroll
        for (int i = 0; i < MY_KEYS * ROPE_CHUNKS / 32; i++) {
            int id = 32 * i + lane, key = id / ROPE_CHUNKS, chunk = id % ROPE_CHUNKS;
            u32 of_key = __shfl_sync(FULL_WARP, place, key);
            if (of_key == NOT_YET) continue;
            bool is_there = of_key != NO_KEY && chunk < (int)n_chunks;
            u32 from = is_there ? of_key / CHUNKS * n_chunks + chunk : 0;
            copy_async_16(to + key * ROW + chunk * 16, (const uint4 *)p.cache_rope + from, is_there);
        }
    }

    // Begins to copy the row's own key and value, all warps together.
    __device__ __forceinline__ void load_own(u8 *stage) const {
        int chunk = threadIdx.x % CHUNKS, is_value = threadIdx.x / CHUNKS, key = keys.end - 1;
        if constexpr (ROPE > 0) {
            load_own_latent(stage + key % N_KEYS * ROW, place_of(key));
            return;
        }
        if (is_value > 1) return;
        u8 *to = stage + is_value * VALUES + key % N_KEYS * ROW + FROM + chunk * 16;
        copy_async_16(to, (const uint4 *)(is_value ? p.cache_v : p.cache_k) + place_of(key) + chunk);
    }

    __device__ __forceinline__ void load_own_latent(u8 *to, u32 place) const {
        int chunk = threadIdx.x, rope_chunk = chunk - CHUNKS, n_chunks = (int)p.rope_dim / 8;
        if (chunk < CHUNKS) copy_async_16(to + chunk * 16, (const uint4 *)p.cache_k + place + chunk);
        else if (rope_chunk < ROPE / 8) {
            bool is_there = rope_chunk < n_chunks;
            u32 from = is_there ? place / CHUNKS * (u32)n_chunks + rope_chunk : 0;
            copy_async_16(to + chunk * 16, (const uint4 *)p.cache_rope + from, is_there);
        }
    }

    // A number of a query, and in the lower rows its remainder.
    __device__ __forceinline__ void store_query(u8 *to, float x) const {
        x *= p.scale;
        u16 upper = f32_to_f16(x);
        *(u16 *)to = upper;
        *(u16 *)(to + 8 * ROW) = f32_to_f16(x - f16_to_f32(upper));
    }

    // Makes f16 of this warp's codes of a stage, eight a lane at a time: all those of a row before it is written.
    __device__ __forceinline__ void widen(u8 *stage) const {
        constexpr int EIGHTS = D / 8, N = 4;
        static_assert(!IS_F8 || 32 * N % EIGHTS == 0, "whole rows at a time");
        stage += MY_KEYS * warp * ROW;
#pragma unroll 1
        for (int first = lane; first < 2 * MY_KEYS * EIGHTS; first += 32 * N) {
            uint2 codes[N];
#pragma unroll
            for (int j = 0; j < N; j++) {
                int id = first + 32 * j, key = id / EIGHTS;
                u8 *row = stage + (key < MY_KEYS ? key * ROW : TILE + (key - MY_KEYS) * ROW);
                codes[j] = *(const uint2 *)(row + D + id % EIGHTS * 8);
            }
            __syncwarp();
#pragma unroll
            for (int j = 0; j < N; j++) {
                int id = first + 32 * j, key = id / EIGHTS;
                u8 *row = stage + (key < MY_KEYS ? key * ROW : TILE + (key - MY_KEYS) * ROW);
                u32 low[2], high[2];
                e4m3_to_f16(codes[j].x, low);
                e4m3_to_f16(codes[j].y, high);
                *(uint4 *)(row + id % EIGHTS * 16) = make_uint4(low[0], low[1], high[0], high[1]);
            }
        }
        __syncwarp();
    }

    // Scores of this warp's keys, minus infinity for those that the row does not see, to shared memory.
    __device__ __forceinline__ void score(const Step &step, const u8 *stage, const u8 *queries, float *to,
                                          Softcap<CAPPED> softcap) const {
        const u8 *keys_at = stage + MY_KEYS * warp * ROW;
        float scores[MY_KEYS / 8][2][4] = {};
        int a_row = lane % 8 + lane / 8 % 2 * 8, a_col = lane / 16 * 8;
#pragma unroll(D > 128 ? 4 : 8)
        for (int d = 0; d < D + ROPE; d += 32) {
            u32 low[4], high[4], b[4];
            load_matrix_x4(low, queries + a_row * ROW + (d + a_col) * 2);
            load_matrix_x4(high, queries + a_row * ROW + (d + 16 + a_col) * 2);
#pragma unroll
            for (int i = 0; i < MY_KEYS / 8; i++) {
                load_matrix_x4(b, keys_at + (8 * i + lane % 8) * ROW + (d + lane / 8 * 8) * 2);
                if (IS_Q8) {
                    float block[4] = {};
                    mma_f16(block, low, b[0], b[1]);
                    mma_f16(block, high, b[2], b[3]);
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        const u8 *scales = keys_at + (8 * i + lane % 4 * 2 + j) * ROW + D * 2;
                        float scale = f16_to_f32(((const u16 *)scales)[d / 32]);
                        scores[i][0][j] = fmaf(block[j] + block[j + 2], scale, scores[i][0][j]);
                    }
                    continue;
                }
                mma_f16(scores[i][0], low, b[0], b[1]);
                mma_f16(scores[i][1], high, b[2], b[3]);
            }
        }
        int first = MY_KEYS * warp + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < MY_KEYS / 8; i++) {
            float score[2];
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int key = step.key + first + 8 * i + j;
                float(&parts)[2][4] = scores[i];
                score[j] = key < keys.first || key >= keys.end
                               ? NEG_INFINITY
                               : softcap.of((parts[0][j] + parts[1][j]) + (parts[0][j + 2] + parts[1][j + 2]));
            }
            *(float2 *)(to + lane / 4 * SCORE_ROW + first + 8 * i) = make_float2(score[0], score[1]);
        }
    }
};

template <int D, int STAGES, Cells CELLS = F16_CELLS, int ROPE = 0, bool CAPPED = false>
DEVICE void decode(const AttentionParams &p, float cap = UNCAPPED) {
    typedef Decode<D, STAGES, CELLS, ROPE, CAPPED> Work;
    ZINC_SHARED(shared);
    ZINC_STATIC_SHARED(Merge, merge, 1);
    u8 *queries = shared;
    float *scores = (float *)(shared + 16 * Work::ROW);
    u8 *ring = (u8 *)(scores + 2 * 8 * Work::SCORE_ROW);
    int row = blockIdx.z + p.first_row, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int group = (int)(p.n_heads / p.n_kv_heads), blocks_per_group = div_up(group, 8);
    int kv_head = blockIdx.y / blocks_per_group, within = blockIdx.y % blocks_per_group * 8;
    int first_head = kv_head * group + within, n_heads = min(8, group - within);
    pdl_launch();
    int n_rows = p.n.get();
    KeyRange keys(row < n_rows ? p.positions[row] : 0, p, WHOLE(D));
    int n_parts = row < n_rows ? div_up(keys.n_parts - (int)blockIdx.x, (int)p.n_splits) : 0;
    if (n_parts <= 0) {
        pdl_wait();
        return;
    }
    const int *pages = p.pages + (i64)p.seq_of[row] * p.pages_per_seq;
    Work work = {p, keys, pages, kv_head, warp, lane, keys.part_keys / Work::N_KEYS};
    int n_steps = n_parts * work.steps_per_part, last = (int)blockIdx.x + (n_parts - 1) * (int)p.n_splits;
    bool has_own = last == keys.n_parts - 1, is_early = n_rows == 1 && !Work::IS_Q8;
    if (has_own)
        n_steps += div_up(keys.end - keys.start - last * keys.part_keys, (int)Work::N_KEYS) - work.steps_per_part;
    Step now, next;
    work.begin(now, blockIdx.x);
    next = now;
    Part<D, Work::IS_Q8, ROPE> part;
    part.begin();
    if (!is_early) pdl_wait();
    // Steps before 0 only load.
#pragma unroll 1
    for (int step = 1 - STAGES; step < n_steps; step++) {
        u8 *stage = ring + (step + STAGES) % STAGES * Work::STAGE;
        float *scores_at = scores + (step & 1) * 8 * Work::SCORE_ROW;
        if (step == 0) {
            if (is_early) pdl_wait();
            if (is_early && has_own && n_steps < STAGES) work.load_own(ring + (n_steps - 1) * Work::STAGE);
            const float *q = p.q.row(row) + first_head * D + threadIdx.x;
#pragma unroll 1
            for (int from = 0; from < 8 * D; from += 1024) {
                constexpr int N = D > 128 ? 8 : D / 16;
                float x[N];
#pragma unroll
                for (int j = 0; j < N; j++) {
                    int i = from + 128 * j;
                    x[j] = i + (int)threadIdx.x < n_heads * D ? q[i] : 0.0f;
                }
#pragma unroll
                for (int j = 0; j < N; j++) {
                    int i = from + 128 * j + threadIdx.x;
                    work.store_query(queries + i * 2 + i / D * (Work::ROW - 2 * D), x[j]);
                }
            }
            if constexpr (ROPE > 0) {
                int rope_dim = (int)p.rope_dim;
                const float *rope = p.q_rope.row(row) + first_head * rope_dim;
#pragma unroll
                for (int i = threadIdx.x; i < 8 * ROPE; i += 128) {
                    int head = i / ROPE, d = i % ROPE;
                    float x = head < n_heads && d < rope_dim ? rope[head * rope_dim + d] : 0.0f;
                    work.store_query(queries + head * Work::ROW + (D + d) * 2, x);
                }
            }
            if (is_early) {
                copy_async_commit();
                copy_async_wait<0>();
            }
        }
        if (STAGES == 1 || step == 0) __syncthreads();
        if (STAGES == 1) work.load(now, stage, true);
        if (STAGES == 1) copy_async_commit();
        if (step >= 0) {
            copy_async_wait<(STAGES > 1 ? STAGES - 2 : 0)>();
            // The copies of all lanes have arrived.
            __syncwarp();
            if constexpr (Work::IS_F8) work.widen(stage);
            work.score(now, stage, queries, scores_at, Softcap<CAPPED>(cap));
            // All copies have arrived, and all warps have read the stage that is filled next.
            __syncthreads();
        }
        if (STAGES > 1) {
            u8 *free = ring + (step + STAGES - 1) % STAGES * Work::STAGE;
            if (step + STAGES - 1 < n_steps) work.load(next, free, !is_early || step >= 0);
            copy_async_commit();
            work.advance(next);
        }
        if (step < 0) continue;
        part.add(scores_at, stage + Work::VALUES + warp * Work::MY_COLUMNS * 2);
        if (now.left == 1 || step + 1 == n_steps) {
            part.end(p, keys, now.part, row, first_head, n_heads);
            part.begin();
        }
        work.advance(now);
    }
    if (keys.n_parts > 1) merge_parts(p, *merge, row, first_head, n_heads, keys.n_parts, D);
}
