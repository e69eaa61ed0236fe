// Attention over f16 caches with the tensor cores, keys and values of one width that is a multiple of 16.
//
// attention_decode_D_S (head width D, S stages): the parts of one row, as in attention.cu, exact to f32: a query
// and a weight are the sum of two f16 numbers. A matrix product takes sixteen rows; eight queries of one key head
// are its upper rows and their remainders its lower ones, so the precision costs no instruction.
//   Launch: grid (n_splits, n_kv_heads * ceil(queries per key head / 8), rows), 128 threads; then attention_merge.
//   Each warp streams 16 keys and values at a time through a ring of its own, S deep, and keeps sums of its own;
//   they meet at the end of a part. Bytes moved: keys and values once for eight heads. Bound: memory.
#include "attention.cuh"
#include "ptx.cuh"

// Below every score; finite, so that differences are.
#define NO_SCORE -1e30f

// Bytes of a row of D f16 numbers in shared memory: eight rows lie in different banks.
#define ROW_BYTES(D) ((D) * 2 + 16)

// ---- decode ------------------------------------------------------------------------------------------------------

template <int D, int STAGES> struct Decode {
    enum { ROW = ROW_BYTES(D), TILE = 16 * ROW, RING = STAGES * 2 * TILE, MERGE_ROW = D + 8 };

    const AttentionParams &p;
    const KeyRange keys;
    const int *pages;
    const u8 *queries;
    u8 *ring;
    int kv_head, warp, lane, steps_per_part;
    // Of this warp: eight heads, head lane / 4 in this lane; sums of queries' upper and lower rows.
    float most, sum, sums[D / 8][4];

    // First key of this warp in a step.
    __device__ __forceinline__ int first_key(int step) const {
        int part = blockIdx.x + step / steps_per_part * p.n_splits;
        return (keys.part_start + part) * keys.part_keys + step % steps_per_part * KEY_BLOCK + 16 * warp;
    }

    // Cache row of key lane % 16 of a step; -1 for keys that the row does not see.
    __device__ __forceinline__ int row_of(int step) const {
        int key = first_key(step) + lane % 16;
        if (key < keys.first || key >= keys.end) return -1;
        return cache_row(pages, key, (int)p.page_size, (int)p.pages_per_seq);
    }

    // Begins to copy the keys and values of a step.
    __device__ __forceinline__ void load(int step, int row) const {
        u8 *to = ring + step % STAGES * 2 * TILE;
        i64 width = (i64)p.n_kv_heads * D;
        constexpr int CHUNKS = D / 8;
#pragma unroll
        for (int i = 0; i < CHUNKS / 2; i++) {
            int id = 32 * i + lane, key = id / CHUNKS, chunk = id % CHUNKS, at = __shfl_sync(FULL_WARP, row, key);
            i64 from = (i64)max(at, 0) * width + (i64)kv_head * D + chunk * 8;
            copy_async_16(to + key * ROW + chunk * 16, (const u16 *)p.cache_k + from, at >= 0);
            copy_async_16(to + TILE + key * ROW + chunk * 16, (const u16 *)p.cache_v + from, at >= 0);
        }
    }

    __device__ __forceinline__ void begin_part() {
        most = NO_SCORE;
        sum = 0.0f;
#pragma unroll
        for (int i = 0; i < D / 8 * 4; i++) sums[i / 4][i % 4] = 0.0f;
    }

    __device__ __forceinline__ void compute(int step) {
        const u8 *keys_at = ring + step % STAGES * 2 * TILE, *values_at = keys_at + TILE;
        float scores[2][4] = {};
        int a_row = lane % 8 + lane / 8 % 2 * 8, a_col = lane / 16 * 8;
        int b_row = lane % 8 + lane / 16 * 8, b_col = lane / 8 % 2 * 8;
#pragma unroll
        for (int d = 0; d < D; d += 16) {
            u32 a[4], b[4];
            load_matrix_x4(a, queries + a_row * ROW + (d + a_col) * 2);
            load_matrix_x4(b, keys_at + b_row * ROW + (d + b_col) * 2);
            mma_f16(scores[0], a, b[0], b[1]);
            mma_f16(scores[1], a, b[2], b[3]);
        }
        float weight[4], new_most = most;
        int first = first_key(step) + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int key = first + i / 2 * 8 + i % 2;
            weight[i] = key < keys.first || key >= keys.end ? NEG_INFINITY
                                                           : scores[i / 2][i % 2] + scores[i / 2][i % 2 + 2];
            new_most = fmaxf(new_most, weight[i]);
        }
        new_most = fmaxf(new_most, __shfl_xor_sync(FULL_WARP, new_most, 1));
        new_most = fmaxf(new_most, __shfl_xor_sync(FULL_WARP, new_most, 2));
        float factor = exp2_of(most - new_most);
        most = new_most;
        sum *= factor;
        u32 a[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            weight[i] = exp2_of(weight[i] - most);
            sum += weight[i];
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            a[2 * i] = pack_f16_fast(weight[2 * i], weight[2 * i + 1]);
            a[2 * i + 1] =
                pack_f16_fast(weight[2 * i] - low_f16(a[2 * i]), weight[2 * i + 1] - high_f16(a[2 * i]));
        }
        // A factor of one changes no bit.
        if (__any_sync(FULL_WARP, factor != 1.0f)) {
#pragma unroll
            for (int i = 0; i < D / 8 * 4; i++) sums[i / 4][i % 4] *= factor;
        }
        // Values are read transposed: rows of the product are keys.
#pragma unroll
        for (int d = 0; d < D; d += 16) {
            u32 b[4];
            load_matrix_x4_transposed(b, values_at + a_row * ROW + (d + a_col) * 2);
            mma_f16(sums[d / 8], a, b[0], b[1]);
            mma_f16(sums[d / 8 + 1], a, b[2], b[3]);
        }
    }

    // Merges the warps in their order and writes the part.
    __device__ __forceinline__ void end_part(int part, int row, int first_head, int n_heads, float *merge,
                                             SoftmaxState *states) {
        int head = lane / 4;
        sum += __shfl_xor_sync(FULL_WARP, sum, 1);
        sum += __shfl_xor_sync(FULL_WARP, sum, 2);
        i64 at = part_place(p, row, first_head + head) + part;
        for (int turn = 0; turn < 4; turn++) {
            if (warp == turn) {
                SoftmaxState before = {NO_SCORE, 0.0f};
                if (turn > 0) before = states[head];
                float2 factors = merge_factors(before.max, most);
                SoftmaxState state = {fmaxf(before.max, most), merged(before.sum, sum, factors)};
                __syncwarp();
                if (lane % 4 == 0) states[head] = state;
                if (turn == 3 && lane % 4 == 0 && head < n_heads) p.part_stats[at] = make_float2(state.max, state.sum);
#pragma unroll
                for (int i = 0; i < D / 8; i++) {
                    int col = 8 * i + lane % 4 * 2;
                    float2 *place = (float2 *)(merge + head * MERGE_ROW + col);
                    float2 total = make_float2(0.0f, 0.0f);
                    if (turn > 0) total = *place;
                    total.x = merged(total.x, sums[i][0] + sums[i][2], factors);
                    total.y = merged(total.y, sums[i][1] + sums[i][3], factors);
                    if (turn < 3) *place = total;
                    if (turn == 3 && head < n_heads) *(float2 *)(p.parts + at * D + col) = total;
                }
            }
            __syncthreads();
        }
    }
};

template <int D, int STAGES> DEVICE void decode(const AttentionParams &p) {
    typedef Decode<D, STAGES> Work;
    ZINC_SHARED(shared);
    ZINC_STATIC_SHARED(SoftmaxState, states, 8);
    u8 *queries = shared;
    float *merge = (float *)(shared + 16 * Work::ROW);
    u8 *ring = shared + 16 * Work::ROW + 8 * Work::MERGE_ROW * 4;
    int row = blockIdx.z + p.first_row, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int group = (int)(p.n_heads / p.n_kv_heads), blocks_per_group = div_up(group, 8);
    int kv_head = blockIdx.y / blocks_per_group, within = blockIdx.y % blocks_per_group * 8;
    int first_head = kv_head * group + within, n_heads = min(8, group - within);
    pdl_launch();
    pdl_wait();
    if (row >= p.n.get()) return;
    KeyRange keys(p.positions[row], (int)p.window);
    int n_parts = div_up(keys.n_parts - (int)blockIdx.x, (int)p.n_splits);
    if ((int)blockIdx.x >= keys.n_parts) return;
    const int *pages = p.pages + (i64)p.seq_of[row] * p.pages_per_seq;
    Work work = {p,       keys, pages, queries, ring + warp * Work::RING, kv_head, warp, lane, keys.part_keys / KEY_BLOCK,
                 0.0f, 0.0f, {}};
    int n_steps = n_parts * work.steps_per_part;
    // The first keys are on their way while the queries are converted.
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) {
        if (step < n_steps) work.load(step, work.row_of(step));
        copy_async_commit();
    }
    for (int i = threadIdx.x; i < 8 * D; i += 128) {
        int head = i / D, d = i % D;
        float q = head < n_heads ? p.q.row(row)[(first_head + head) * D + d] * p.scale : 0.0f;
        u16 upper = f32_to_f16(q);
        *(u16 *)(queries + head * Work::ROW + d * 2) = upper;
        *(u16 *)(queries + (head + 8) * Work::ROW + d * 2) = f32_to_f16(q - f16_to_f32(upper));
    }
    int next_row = STAGES - 1 < n_steps ? work.row_of(STAGES - 1) : -1;
    __syncthreads();
    work.begin_part();
    for (int step = 0; step < n_steps; step++) {
        if (STAGES > 1) copy_async_wait<(STAGES > 1 ? STAGES - 2 : 0)>();
        // The copies of all lanes have arrived, and all have read the stage that is filled next.
        __syncwarp();
        int next = step + STAGES - 1;
        if (next < n_steps) work.load(next, next_row);
        copy_async_commit();
        if (next + 1 < n_steps) next_row = work.row_of(next + 1);
        if (STAGES == 1) {
            copy_async_wait<0>();
            __syncwarp();
        }
        work.compute(step);
        if ((step + 1) % work.steps_per_part == 0) {
            int part = blockIdx.x + step / work.steps_per_part * p.n_splits;
            work.end_part(part, row, first_head, n_heads, merge, states);
            work.begin_part();
        }
    }
    copy_async_wait<0>();
}

#define DECODE(D, STAGES)                                                                           \
    ZINC_KERNEL(128, 1) attention_decode_##D##_##STAGES(ZINC_PARAM AttentionParams p) { decode<D, STAGES>(p); }
#define DECODE_STAGES(D) DECODE(D, 1) DECODE(D, 2) DECODE(D, 3)
DECODE_STAGES(32)
DECODE_STAGES(64)
DECODE_STAGES(96)
DECODE_STAGES(128)
DECODE_STAGES(256)
