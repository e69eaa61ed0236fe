// Attention of many rows over f16 caches with the tensor cores (flash attention, arXiv 2307.08691): keys and values
// of one width that is a multiple of 16; queries and weights are rounded to f16, sums are f32.
//
// attention_prefill_D_S: head width D, S stages of keys and values in shared memory.
// Launch: grid (tiles of rows, n_kv_heads * ceil(queries per key head / heads)), 4 warps, each with 16 rows of the
// product: two blocks a multiprocessor, whose softmax and products overlap. A row is one head of one token, so the
// heads of a group share what is read. Tiles with late positions come first.
// 512 columns are two warps': each has half of them, of queries and of sums, and they add up their parts of the scores,
// exchanged where the queries were that are in registers. 8 warps, or 4 for half the rows where one stage fits.
// attention_prefill_latent_D_S: latent attention, one key head whose values are the first D columns of its keys, so they
// are read and kept once. Behind them lie up to ROPE columns of the second cache, zeros where it has fewer; of these as
// well a warp of two has half.
// Keys come in blocks of 64 (32) at multiples of that, so a token's order of sums depends on its position and window
// alone; a block that a token does not see changes no bit of it. A tile may hold tokens of several sequences in any
// order: it passes over the keys of each.
// attention_prefill_D_S_softcap: with a soft cap on scores, in attention_softcap.cu.
// Bound: tensor cores, 4 D (and 2 ROPE) operations a key, head and row. Each tile reads the keys that its rows see, of
// latent attention 2 (D + ROPE) bytes each.
#pragma once
#include "attention_tiles.cuh"

#define MOST_TILE_ROWS 64

struct PrefillParams {
    AttentionParams base;
    // Query heads that a tile takes together, of one key head.
    u32 heads;
    // Soft cap on scores, with the factor log2(e); only of kernels that have one.
    float cap;
};

// Of the tile's tokens, in shared memory.
struct Tile {
    int positions[MOST_TILE_ROWS], seqs[MOST_TILE_ROWS];
    // Where the keys of two blocks begin in the caches, in units of 16 bytes.
    u32 places[2][KEY_BLOCK];
};

// The keys that a tile's tokens of one sequence see, and the next token that belongs to none of the sequences
// passed so far.
struct Pass {
    int seq, first, end;
};

// The pass that begins at the tile's token `from`, an earlier pass of its sequence being none.
DEVICE Pass pass_from(const Tile &tile, int from, int n_tokens, int window) {
    Pass pass = {tile.seqs[from], 0x7fffffff, 0};
    for (int i = from; i < n_tokens; i++) {
        if (tile.seqs[i] != pass.seq) continue;
        int end = tile.positions[i] + 1;
        pass.end = max(pass.end, end);
        pass.first = min(pass.first, window > 0 ? max(0, end - window) : 0);
    }
    return pass;
}

DEVICE bool is_first_of_seq(const Tile &tile, int token) {
    for (int i = 0; i < token; i++)
        if (tile.seqs[i] == tile.seqs[token]) return false;
    return true;
}

template <int D, int STAGES, int WARPS, int SPLIT, int ROPE, bool CAPPED> struct Prefill {
    enum {
        ROW = ROW_BYTES(D + ROPE),
        N_KEYS = KEYS(D),
        TILE = N_KEYS * ROW,
        // From the keys of a stage to its values, and to the next stage.
        VALUES = ROPE > 0 ? 0 : TILE,
        STAGE = VALUES + TILE,
        // Of each warp.
        COLUMNS = D / SPLIT,
        ROPE_COLUMNS = ROPE / SPLIT,
        // At least the four steps whose place the scores take.
        N_FIRST = SPLIT > 1 ? (ROPE > 0 ? 4 : 6) : 1,
    };

    const AttentionParams &p;
    Tile &tile;
    // This warp's columns of its rows.
    u8 *queries;
    int kv_head, lane, first_column;
    // Positions of this lane's two rows of the product in the running pass; -1 for rows of other sequences.
    int position[2];
    int window;
    // Largest score (not scaled unless capped), sum of exponentials, weighted sums of values.
    float most[2], sum[2], sums[COLUMNS / 8][4];
    // Where columns are split, the first of this warp's; scores are exchanged where they were.
    u32 first[N_FIRST][4];

    __device__ __forceinline__ void find_keys(int slot, int start, const Pass &pass) const {
        int key = start + threadIdx.x;
        if (threadIdx.x >= N_KEYS) return;
        bool seen = key >= pass.first && key < pass.end;
        const int *pages = p.pages + (i64)pass.seq * p.pages_per_seq;
        u32 row = seen ? cache_row(pages, key, p.page_size, p.pages_per_seq) : 0;
        tile.places[slot][threadIdx.x] = seen ? (row * p.n_kv_heads + kv_head) * (D / 8) : NO_KEY;
    }

    __device__ __forceinline__ void load(int slot, u8 *to) const {
        constexpr int CHUNKS = D / 8;
#pragma unroll(SPLIT > 1 ? 4 : 8)
        for (int i = 0; i < N_KEYS * CHUNKS / (32 * WARPS); i++) {
            int id = 32 * WARPS * i + threadIdx.x, key = id / CHUNKS, chunk = id % CHUNKS;
            u32 from = tile.places[slot][key];
            bool is_seen = from != NO_KEY;
            from = is_seen ? from + chunk : 0;
            copy_async_16(to + key * ROW + chunk * 16, (const uint4 *)p.cache_k + from, is_seen);
            if (ROPE == 0) copy_async_16(to + VALUES + key * ROW + chunk * 16, (const uint4 *)p.cache_v + from, is_seen);
        }
        if constexpr (ROPE > 0) load_rope(slot, to + D * 2);
        copy_async_commit();
    }

    __device__ __forceinline__ void load_rope(int slot, u8 *to) const {
        constexpr int CHUNKS = ROPE / 8;
        u32 n_chunks = p.rope_dim / 8;
#pragma unroll
        for (int i = 0; i < N_KEYS * CHUNKS / (32 * WARPS); i++) {
            int id = 32 * WARPS * i + threadIdx.x, key = id / CHUNKS, chunk = id % CHUNKS;
            u32 place = tile.places[slot][key];
            bool is_there = place != NO_KEY && chunk < (int)n_chunks;
            u32 from = is_there ? place / (D / 8) * n_chunks + chunk : 0;
            copy_async_16(to + key * ROW + chunk * 16, (const uint4 *)p.cache_rope + from, is_there);
        }
    }

    // What scores are still multiplied with: capped ones are scaled.
    __device__ __forceinline__ float scale() const { return CAPPED ? 1.0f : p.scale; }

    __device__ __forceinline__ bool sees(int i, int key) const {
        return key <= position[i] && (window == 0 || key > position[i] - window);
    }

    __device__ __forceinline__ void read_queries(u32 (&a)[4], int d) const {
        load_matrix_x4(a, queries + (lane % 8 + lane / 8 % 2 * 8) * ROW + (d + lane / 16 * 8) * 2);
    }

    // Scores of a block of keys for this warp's rows, of this warp's columns.
    __device__ __forceinline__ void score(const u8 *keys_at, float (&scores)[N_KEYS / 8][4]) const {
#pragma unroll
        for (int i = 0; i < N_KEYS / 2; i++) scores[i / 4][i % 4] = 0.0f;
        int b_row = lane % 8 + lane / 16 * 8, b_col = lane / 8 % 2 * 8 + first_column;
        // The columns of other warps between this warp's and its columns of the rope.
        int others = D - COLUMNS - first_column + first_column / COLUMNS * ROPE_COLUMNS;
#pragma unroll
        for (int column = 0; column < COLUMNS + ROPE_COLUMNS; column += 16) {
            int d = column < COLUMNS ? column : column + others;
            u32 a[4], b[4];
            if (SPLIT == 1 || column >= 16 * N_FIRST) read_queries(a, d);
            else
#pragma unroll
                for (int i = 0; i < 4; i++) a[i] = first[column / 16][i];
#pragma unroll
            for (int key = 0; key < N_KEYS; key += 16) {
                load_matrix_x4(b, keys_at + (key + b_row) * ROW + (d + b_col) * 2);
                mma_f16(scores[key / 8], a, b[0], b[1]);
                mma_f16(scores[key / 8 + 1], a, b[2], b[3]);
            }
        }
    }

    // Adds the scores of the other columns: lanes of both warps have the same rows and keys.
    __device__ __forceinline__ void exchange_scores(float (&scores)[N_KEYS / 8][4], bool see_some) const {
        u8 *mine = queries + lane / 2 * ROW + lane % 2 * 64, *theirs = mine + (first_column > 0 ? -2 : 2) * COLUMNS;
        if (see_some) {
#pragma unroll
            for (int i = 0; i < N_KEYS / 8; i++)
                ((float4 *)mine)[i] = make_float4(scores[i][0], scores[i][1], scores[i][2], scores[i][3]);
        }
        __syncthreads();
        if (!see_some) return;
#pragma unroll
        for (int i = 0; i < N_KEYS / 8; i++) {
            float4 other = ((float4 *)theirs)[i];
            scores[i][0] += other.x, scores[i][1] += other.y, scores[i][2] += other.z, scores[i][3] += other.w;
        }
    }

    // Adds a block of keys from `start` on; unless all rows see all of them, those that a row does not see count
    // nothing. Both ways give a row that sees them the same bits.
    __device__ __forceinline__ void add(float (&scores)[N_KEYS / 8][4], const u8 *keys_at, int start, bool see_all,
                                        Softcap<CAPPED> softcap) {
        const u8 *values_at = keys_at + VALUES + first_column * 2;
        int a_row = lane % 8 + lane / 8 % 2 * 8, a_col = lane / 16 * 8;
        if (CAPPED) {
#pragma unroll
            for (int i = 0; i < N_KEYS / 2; i++) scores[i / 4][i % 4] = softcap.fast(scores[i / 4][i % 4] * p.scale);
        }
        if (!see_all) {
#pragma unroll
            for (int i = 0; i < N_KEYS / 2; i++)
                if (!sees(i / 2 % 2, start + i / 4 * 8 + lane % 4 * 2 + i % 2)) scores[i / 4][i % 4] = NEG_INFINITY;
        }
        float factor[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float new_most = most[half];
#pragma unroll
            for (int i = 0; i < N_KEYS / 8; i++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    new_most = fmaxf(new_most, scores[i][2 * half + j]);
                }
            }
            new_most = fmaxf(new_most, __shfl_xor_sync(FULL_WARP, new_most, 1));
            new_most = fmaxf(new_most, __shfl_xor_sync(FULL_WARP, new_most, 2));
            factor[half] = exp2_of((most[half] - new_most) * scale());
            most[half] = new_most;
            float added = 0.0f, less = -new_most * scale();
#pragma unroll
            for (int i = 0; i < N_KEYS / 8; i++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float &score = scores[i][2 * half + j];
                    score = exp2_of(fmaf(score, scale(), less));
                    added += score;
                }
            }
            sum[half] = fmaf(sum[half], factor[half], added);
        }
        // Factors of one change no bit.
        if (__any_sync(FULL_WARP, factor[0] != 1.0f || factor[1] != 1.0f)) {
#pragma unroll
            for (int i = 0; i < COLUMNS / 8; i++) {
                sums[i][0] *= factor[0];
                sums[i][1] *= factor[0];
                sums[i][2] *= factor[1];
                sums[i][3] *= factor[1];
            }
        }
#pragma unroll
        for (int key = 0; key < N_KEYS; key += 16) {
            float *low = scores[key / 8], *high = scores[key / 8 + 1];
            u32 a[4] = {pack_f16_fast(low[0], low[1]), pack_f16_fast(low[2], low[3]),
                        pack_f16_fast(high[0], high[1]), pack_f16_fast(high[2], high[3])};
#pragma unroll
            for (int d = 0; d < COLUMNS; d += 16) {
                u32 b[4];
                load_matrix_x4_transposed(b, values_at + (key + a_row) * ROW + (d + a_col) * 2);
                mma_f16(sums[d / 8], a, b[0], b[1]);
                mma_f16(sums[d / 8 + 1], a, b[2], b[3]);
            }
        }
    }
};

template <int D, int STAGES, int WARPS, int SPLIT, int ROPE = 0, bool CAPPED = false>
DEVICE void prefill(const PrefillParams &params) {
    const AttentionParams &p = params.base;
    typedef Prefill<D, STAGES, WARPS, SPLIT, ROPE, CAPPED> Work;
    constexpr int ROWS = 16 * WARPS / SPLIT;
    ZINC_SHARED(shared);
    ZINC_STATIC_SHARED(Tile, tile, 1);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = (int)(p.n_heads / p.n_kv_heads);
    int blocks_per_group = div_up(group, (int)params.heads);
    int kv_head = blockIdx.y / blocks_per_group, within = blockIdx.y % blocks_per_group * (int)params.heads;
    int first_head = kv_head * group + within, n_heads = min((int)params.heads, group - within);
    int tile_tokens = ROWS / (int)params.heads;
    int first_token = (int)(gridDim.x - 1 - blockIdx.x) * tile_tokens;
    pdl_launch();
    pdl_wait();
    int n_tokens = min(tile_tokens, p.n.get() - first_token);
    if (n_tokens <= 0) return;
    u8 *queries = shared, *ring = shared + ROWS * Work::ROW;
    for (int i = threadIdx.x; i < n_tokens; i += 32 * WARPS) {
        tile->positions[i] = p.positions[first_token + i];
        tile->seqs[i] = p.seq_of[first_token + i];
    }
    // Row r of the product: token r / n_heads, head r % n_heads; zeros past the last one.
    for (int i = threadIdx.x; i < ROWS * D; i += 32 * WARPS) {
        int r = i / D, token = r / n_heads, head = first_head + r % n_heads;
        float q = token < n_tokens ? p.q.row(first_token + token)[head * D + i % D] : 0.0f;
        *(u16 *)(queries + r * Work::ROW + i % D * 2) = f32_to_f16(q);
    }
    if constexpr (ROPE > 0) {
        int rope_dim = (int)p.rope_dim;
        for (int i = threadIdx.x; i < ROWS * ROPE; i += 32 * WARPS) {
            int r = i / ROPE, d = i % ROPE, token = r / n_heads, head = first_head + r % n_heads;
            bool is_there = token < n_tokens && d < rope_dim;
            float q = is_there ? p.q_rope.row(first_token + token)[head * rope_dim + d] : 0.0f;
            *(u16 *)(queries + r * Work::ROW + (D + d) * 2) = f32_to_f16(q);
        }
    }
    int first_row = warp / SPLIT * 16, first_column = warp % SPLIT * Work::COLUMNS;
    Work work = {p,        *tile,         queries + first_row * Work::ROW + first_column * 2, kv_head, lane, first_column,
                 {-1, -1}, (int)p.window, {NO_SCORE, NO_SCORE}, {0.0f, 0.0f}, {}, {}};
    int token[2] = {(first_row + lane / 4) / n_heads, (first_row + lane / 4 + 8) / n_heads};
    __syncthreads();
    if (SPLIT > 1) {
#pragma unroll
        for (int i = 0; i < Work::N_FIRST; i++) work.read_queries(work.first[i], 16 * i);
    }
    for (int from = 0; from < n_tokens; from++) {
        if (!is_first_of_seq(*tile, from)) continue;
        Pass pass = pass_from(*tile, from, n_tokens, (int)p.window);
        int latest = -1, earliest = 0x7fffffff, least = 0x7fffffff;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            bool mine = token[i] < n_tokens && tile->seqs[token[i]] == pass.seq;
            work.position[i] = mine ? tile->positions[token[i]] : -1;
            latest = max(latest, work.position[i]);
            least = min(least, work.position[i]);
            if (mine) earliest = min(earliest, work.position[i]);
        }
#pragma unroll
        for (int bit = 16; bit > 0; bit /= 2) {
            latest = max(latest, __shfl_xor_sync(FULL_WARP, latest, bit));
            earliest = min(earliest, __shfl_xor_sync(FULL_WARP, earliest, bit));
            least = min(least, __shfl_xor_sync(FULL_WARP, least, bit));
        }
        int window = (int)p.window, all_from = window > 0 ? latest - window + 1 : 0;
        earliest = window > 0 ? earliest - window + 1 : 0;
        int block = pass.first / Work::N_KEYS, end = div_up(pass.end, (int)Work::N_KEYS), slot = 0;
        __syncthreads();
        work.find_keys(0, block * Work::N_KEYS, pass);
        __syncthreads();
        if (STAGES > 1) work.load(0, ring);
        work.find_keys(1, (block + 1) * Work::N_KEYS, pass);
        for (; block < end; block++, slot ^= 1) {
            u8 *keys_at = ring + (STAGES > 1 ? slot * Work::STAGE : 0);
            if (STAGES > 1) copy_async_wait<0>();
            __syncthreads();
            if (STAGES > 1) {
                if (block + 1 < end) work.load(slot ^ 1, ring + (slot ^ 1) * Work::STAGE);
            } else {
                work.load(slot, keys_at);
                copy_async_wait<0>();
                __syncthreads();
            }
            int start = block * Work::N_KEYS, last = start + Work::N_KEYS - 1;
            work.find_keys(slot, start + 2 * Work::N_KEYS, pass);
            // Seen by all of the warp's rows, by some, or by none.
            bool see_all = last <= least && start >= all_from, see_some = start <= latest && last >= earliest;
            float scores[Work::N_KEYS / 8][4];
            if (see_some) work.score(keys_at, scores);
            if (SPLIT > 1) work.exchange_scores(scores, see_some);
            if (see_some) work.add(scores, keys_at, start, see_all, Softcap<CAPPED>(params.cap));
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = work.sum[half];
        sum += __shfl_xor_sync(FULL_WARP, sum, 1);
        sum += __shfl_xor_sync(FULL_WARP, sum, 2);
        if (token[half] >= n_tokens) continue;
        int r = first_row + lane / 4 + 8 * half, head = first_head + r % n_heads;
        float factor = weight_of_one({work.most[half] * work.scale(), sum}, sink_of(p, head));
        float *y = p.y.row(first_token + token[half]) + head * D + first_column + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < Work::COLUMNS / 8; i++) {
            y[8 * i] = work.sums[i][2 * half] * factor;
            y[8 * i + 1] = work.sums[i][2 * half + 1] * factor;
        }
    }
}
