// GatedDeltaNet over many rows of a sequence: chunks of 32 rows instead of rows one by one (arXiv 2412.06464, section
// 3.3), for keys and values of 128 elements. With the state S before a chunk, D_ij = exp(g_j+1 + ... + g_i) for j <= i
// and 0 else, and c_i = exp(g_0 + ... + g_i) for rows 0 <= i < 32 of the chunk:
//
//   A_ij = beta_i D_ij (k_i k_j) for j < i;  (I + A) W = diag(beta c) K;  (I + A) U = diag(beta) V;  P_ij = D_ij (q_i k_j)
//   V' = U - W S
//   y = scale (diag(c) Q S + P V')
//   the state after row t: c_t S + sum over j <= t of D_tj k_j V'_j
//
// delta_chunks makes W, U, P, D and c of all chunks at once, and delta_walk carries the state from chunk to chunk. All
// decays are products of factors of at most 1, so nothing overflows. A sequence's first chunk begins with its first row.
#include "ptx.cuh"
#include "recurrence.cuh"
#include "tf32.cuh"

#define CHUNK 32
#define DIM 128
// Columns of the state that a block of delta_walk has.
#define WALK_COLS 32

// What delta_chunks leaves for delta_walk, for each chunk and value head; U is where y will be.
struct Chunk {
    float w[CHUNK][DIM], p[CHUNK][CHUNK], d[CHUNK][CHUNK], c[CHUNK];
};

struct DeltaChunksParams : DeltaParams {
    // [chunks][n_v_heads].
    Chunk *chunks;
};

// The place of chunk `idx` of a sequence that begins at row `first`. No two chunks of a step have the same: a sequence of
// n rows has ceil(n / 32), and behind it floor(first / 32) + seq is greater by at least as much.
DEVICE Chunk &chunk_at(const DeltaChunksParams &p, int seq, int first, int idx, int head) {
    return p.chunks[(i64)(first / CHUNK + seq + idx) * p.n_v_heads + head];
}

// Begins to copy a head of up to 32 rows to shared memory, zeros after them.
DEVICE void copy_head(float *to, int stride, const Rows &rows, int first, int n_rows, int col) {
    const float *from = rows.row(first) + col;
    // Views begin at odd columns.
    if ((((u64)from | (u64)rows.stride * 4) & 15) == 0) {
#pragma unroll
        for (int i = 0; i < CHUNK * DIM / 4 / 128; i++) {
            int row = i * 4 + threadIdx.x / 32, d = threadIdx.x % 32 * 4;
            copy_async_16(to + row * stride + d, from + (i64)min(row, n_rows - 1) * rows.stride + d, row < n_rows);
        }
        return;
    }
    for (int row = 0; row < CHUNK; row++)
        copy_async_4(to + row * stride + threadIdx.x,
                     from + (i64)min(row, n_rows - 1) * rows.stride + threadIdx.x, row < n_rows);
}

// ---- what the state has no part in --------------------------------------------------------------------------------

// A multiple of 16 bytes, so that vectors of neighbouring rows meet different banks.
#define ROW_STRIDE (DIM + 4)
#define A_STRIDE (CHUNK + 4)

struct ChunkShared {
    // a[j][i] is A_ij.
    float k[CHUNK][ROW_STRIDE], q[CHUNK][ROW_STRIDE], a[CHUNK][A_STRIDE], d[CHUNK][CHUNK];
    float g[CHUNK], beta[CHUNK], c[CHUNK];
};

// D and c. Lane j of each warp sums the decays after row j; the warps share the exponentials.
DEVICE void decays(ChunkShared &s, Chunk &out) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float sum = 0.0f, all = 0.0f;
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
        float g = s.g[i];
        all += g;
        if (i > lane) sum += g;
        if (i / 8 != warp) continue;
        float d = i >= lane ? expf(sum) : 0.0f;
        s.d[i][lane] = d;
        out.d[i][lane] = d;
        if (lane == i) s.c[i] = out.c[i] = expf(all);
    }
}

// A by the threads of two warps, P by the others: 16 products of rows each.
DEVICE void products(ChunkShared &s, Chunk &out) {
    int first_i = threadIdx.x % 64 / 8, first_j = threadIdx.x % 8;
    bool makes_a = threadIdx.x < 64;
    const float *left = makes_a ? s.k[0] : s.q[0];
    float sums[4][4] = {};
#pragma unroll 2
    for (int d = 0; d < DIM; d += 4) {
        float4 a[4], b[4];
#pragma unroll
        for (int n = 0; n < 4; n++) {
            a[n] = *(const float4 *)(left + (first_i + 8 * n) * ROW_STRIDE + d);
            b[n] = *(const float4 *)(s.k[first_j + 8 * n] + d);
        }
#pragma unroll
        for (int n = 0; n < 16; n++) {
            float4 x = a[n / 4], y = b[n % 4];
            float &sum = sums[n / 4][n % 4];
            sum = fmaf(x.w, y.w, fmaf(x.z, y.z, fmaf(x.y, y.y, fmaf(x.x, y.x, sum))));
        }
    }
#pragma unroll
    for (int n = 0; n < 16; n++) {
        int i = first_i + n / 4 * 8, j = first_j + n % 4 * 8;
        float product = sums[n / 4][n % 4] * s.d[i][j];
        if (makes_a) s.a[j][i] = i > j ? s.beta[i] * product : 0.0f;
        else out.p[i][j] = product;
    }
}

// Launch: grid (n_v_heads, ceil(rows / 32), sequences), 128 threads; a thread solves for one column of W and of U.
// Bound: 2 * 32^2 * 128 products of q and k and 32^2 * 128 of the solutions, in f32: about 2 us a block, three
// of which share a multiprocessor.
ZINC_KERNEL(128, 3) delta_chunks(ZINC_PARAM DeltaChunksParams p) {
    ZINC_STATIC_SHARED(ChunkShared, shared, 1);
    ChunkShared &s = shared[0];
    int head = blockIdx.x, idx = blockIdx.y, seq = blockIdx.z, col = threadIdx.x;
    pdl_launch();
    int2 run = seq < p.r.seqs.get() ? rows_of(p.r, seq) : make_int2(0, 0);
    int first = run.x + idx * CHUNK, n_rows = min(CHUNK, run.y - idx * CHUNK);
    pdl_wait();
    if (n_rows <= 0) return;
    Chunk &out = chunk_at(p, seq, run.x, idx, head);
    copy_head(s.k[0], ROW_STRIDE, p.k, first, n_rows, p.key_head(head) * DIM);
    copy_head(s.q[0], ROW_STRIDE, p.q, first, n_rows, p.key_head(head) * DIM);
    copy_async_commit();
    if (col < CHUNK) {
        s.g[col] = col < n_rows ? p.g.row(first + col)[head] : 0.0f;
        s.beta[col] = col < n_rows ? p.beta.row(first + col)[head] : 0.0f;
    }
    float w[CHUNK], u[CHUNK];
    const float *v = p.v.row(first) + head * DIM + col;
    float *y = p.y.row(first) + head * DIM + col;
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
        u[i] = i < n_rows ? *v : 0.0f;
        v += p.v.stride;
    }
    __syncthreads();
    decays(s, out);
    copy_async_wait<0>();
    __syncthreads();
    products(s, out);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
        w[i] = s.beta[i] * s.c[i] * s.k[i][col];
        u[i] *= s.beta[i];
    }
    // Row j is known; it is taken from the rows after it. A is 0 elsewhere.
#pragma unroll
    for (int j = 0; j + 1 < CHUNK; j++)
#pragma unroll
        for (int i = (j + 1) / 4 * 4; i < CHUNK; i += 4) {
            float4 a = *(const float4 *)&s.a[j][i];
            float of[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
            for (int n = 0; n < 4; n++) {
                if (i + n <= j) continue;
                w[i + n] = fmaf(-of[n], w[j], w[i + n]);
                u[i + n] = fmaf(-of[n], u[j], u[i + n]);
            }
        }
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
        out.w[i][col] = w[i];
        if (i < n_rows) *y = u[i];
        y += p.y.stride;
    }
}

// ---- the walk -----------------------------------------------------------------------------------------------------

// Strides by how fragments read them: rows as they are, or columns.
#define P_STRIDE (CHUNK + 4)
#define K_STRIDE (DIM + 8)
#define COLS_STRIDE (WALK_COLS + 8)

struct WalkShared {
    float w[CHUNK][ROW_STRIDE], q[CHUNK][ROW_STRIDE], p[CHUNK][P_STRIDE], k[CHUNK][K_STRIDE];
    // S before the chunk, and V'.
    float state[DIM][COLS_STRIDE], values[CHUNK][COLS_STRIDE];
};

// The block's columns of the state in a warp: fragments of its 32 rows.
typedef float WalkState[2][4][4];

struct Walk {
    const DeltaChunksParams &p;
    WalkShared &s;
    int head, first_col, lane, warp;

    // First row and column of a fragment of the state, and of one of V' and y; this lane's is at + 0, 1 and 8 rows on.
    __device__ __forceinline__ int state_row(int m) const { return warp * 32 + m * 16 + lane / 4; }
    __device__ __forceinline__ int state_col(int n) const { return n * 8 + lane % 4 * 2; }
    __device__ __forceinline__ int chunk_row() const { return warp / 2 * 16 + lane / 4; }
    __device__ __forceinline__ int chunk_col(int n) const { return warp % 2 * 16 + state_col(n); }

    __device__ __forceinline__ float *slot(int idx) const {
        return p.r.state + ((i64)idx * p.n_v_heads + head) * DIM * DIM + first_col;
    }
    __device__ __forceinline__ void load(WalkState &state, const float *from, bool is_new) const {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            int row = state_row(i / 8) + i % 2 * 8, n = i / 2 % 4;
            float2 pair = is_new ? make_float2(0.0f, 0.0f) : *(const float2 *)(from + row * DIM + state_col(n));
            state[i / 8][n][i % 2 * 2] = pair.x;
            state[i / 8][n][i % 2 * 2 + 1] = pair.y;
        }
    }
    __device__ __forceinline__ void store(const WalkState &state, float *to, int stride) const {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            int row = state_row(i / 8) + i % 2 * 8, n = i / 2 % 4;
            const float *pair = &state[i / 8][n][i % 2 * 2];
            *(float2 *)(to + row * stride + state_col(n)) = make_float2(pair[0], pair[1]);
        }
    }

    // Begins to copy what the products with the state need, and what those with V' need.
    __device__ __forceinline__ void fetch_first(const Chunk &chunk, int first, int n_rows) const {
#pragma unroll
        for (int i = 0; i < CHUNK * DIM / 4 / 128; i++) {
            int row = i * 4 + warp;
            copy_async_16(&s.w[row][lane * 4], &chunk.w[row][lane * 4]);
        }
        copy_head(s.q[0], ROW_STRIDE, p.q, first, n_rows, p.key_head(head) * DIM);
        copy_async_commit();
    }
    __device__ __forceinline__ void fetch_second(const Chunk &chunk, int first, int n_rows) const {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int row = i * 16 + threadIdx.x / 8, col = threadIdx.x % 8 * 4;
            copy_async_16(&s.p[row][col], &chunk.p[row][col]);
        }
        copy_head(s.k[0], K_STRIDE, p.k, first, n_rows, p.key_head(head) * DIM);
        copy_async_commit();
    }

    // W S and Q S: 16 rows and columns of each for a warp.
    __device__ __forceinline__ void times_state(float (&sums)[2][2][4]) const {
        int row = warp / 2 * 16, col = warp % 2 * 16;
#pragma unroll 4
        for (int d = 0; d < DIM; d += 8) {
            Tf32A rows[2];
            Tf32B state[2];
            rows[0].load(&s.w[row][d], ROW_STRIDE);
            rows[1].load(&s.q[row][d], ROW_STRIDE);
#pragma unroll
            for (int n = 0; n < 2; n++) state[n].load(&s.state[d][col + n * 8], COLS_STRIDE);
            mma_split(sums, rows, state);
        }
    }

    // y += P V' for the same.
    __device__ __forceinline__ void add_values(float (&y)[2][4]) const {
        int row = warp / 2 * 16, col = warp % 2 * 16;
#pragma unroll
        for (int j = 0; j < CHUNK; j += 8) {
            // P is 0 above its diagonal.
            if (j >= row + 16) break;
            Tf32A weights[1];
            Tf32B values[2];
            weights[0].load(&s.p[row][j], P_STRIDE);
#pragma unroll
            for (int n = 0; n < 2; n++) values[n].load(&s.values[j][col + n * 8], COLS_STRIDE);
            mma_split(&y, weights, values);
        }
    }

    // The state after a row: `decay` is c of that row, and lane j has its D_j.
    __device__ __forceinline__ void advance(WalkState &state, float decay, float weight) const {
        // The tensor cores cut sums off: on the state that would add up over the chunks of a long text.
        WalkState sums = {};
#pragma unroll
        for (int j = 0; j < CHUNK; j += 8) {
            float weights[2];
#pragma unroll
            for (int i = 0; i < 2; i++) weights[i] = __shfl_sync(FULL_WARP, weight, j + lane % 4 + i * 4);
            Tf32A keys[2];
#pragma unroll
            for (int m = 0; m < 2; m++) keys[m].load_transposed(&s.k[j][warp * 32 + m * 16], K_STRIDE, weights);
            Tf32B values[4];
#pragma unroll
            for (int n = 0; n < 4; n++) values[n].load(&s.values[j][n * 8], COLS_STRIDE);
            mma_split(sums, keys, values);
        }
#pragma unroll
        for (int i = 0; i < 32; i++) {
            float &of = state[i / 16][i / 4 % 4][i % 4];
            of = fmaf(of, decay, sums[i / 16][i / 4 % 4][i % 4]);
        }
    }

    // One chunk whose first copies are under way; then those of the next one are, if there is one.
    __device__ __forceinline__ void step(WalkState &state, int seq, int2 run, int idx) const {
        int first = run.x + idx * CHUNK, n_rows = min(CHUNK, run.y - idx * CHUNK);
        const Chunk &chunk = chunk_at(p, seq, run.x, idx, head);
        int save = lane < n_rows ? p.r.saves[first + lane] : -1;
        float c = chunk.c[lane], weight = chunk.d[n_rows - 1][lane];
        float *y = p.y.data + head * DIM + first_col;
        float products[2][2][4] = {}, (&ws)[2][4] = products[0], (&qs)[2][4] = products[1];
        float2 u[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row = chunk_row() + i % 2 * 8;
            const float *from = y + (i64)(first + row) * p.y.stride + chunk_col(i / 2);
            u[i] = row < n_rows ? *(const float2 *)from : make_float2(0.0f, 0.0f);
        }
        store(state, s.state[0], COLS_STRIDE);
        copy_async_wait<0>();
        __syncthreads();
        fetch_second(chunk, first, n_rows);
        times_state(products);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row = chunk_row() + i % 2 * 8, part = i % 2 * 2;
            float decay = __shfl_sync(FULL_WARP, c, row);
            float2 value = make_float2(u[i].x - ws[i / 2][part], u[i].y - ws[i / 2][part + 1]);
            *(float2 *)&s.values[row][chunk_col(i / 2)] = value;
            qs[i / 2][part] *= decay;
            qs[i / 2][part + 1] *= decay;
        }
        copy_async_wait<0>();
        __syncthreads();
        if (run.y > (idx + 1) * CHUNK)
            fetch_first(chunk_at(p, seq, run.x, idx + 1, head), first + CHUNK, min(CHUNK, run.y - (idx + 1) * CHUNK));
        add_values(qs);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row = chunk_row() + i % 2 * 8;
            const float *pair = &qs[i / 2][i % 2 * 2];
            if (row < n_rows)
                *(float2 *)(y + (i64)(first + row) * p.y.stride + chunk_col(i / 2)) =
                    make_float2(pair[0] * p.scale, pair[1] * p.scale);
        }
        for (u32 found = __ballot_sync(FULL_WARP, save >= 0); found != 0; found &= found - 1) {
            int row = __ffs(found) - 1;
            WalkState saved;
#pragma unroll
            for (int i = 0; i < 32; i++) saved[i / 16][i / 4 % 4][i % 4] = state[i / 16][i / 4 % 4][i % 4];
            advance(saved, __shfl_sync(FULL_WARP, c, row), chunk.d[row][lane]);
            store(saved, slot(__shfl_sync(FULL_WARP, save, row)), DIM);
        }
        advance(state, __shfl_sync(FULL_WARP, c, n_rows - 1), weight);
    }
};

// Launch: grid (4, n_v_heads, sequences), 128 threads: columns of S never meet. A warp keeps 32 rows of the block's 32
// columns of the state; the products with it read it from shared memory. Copies of a chunk's operands go on while the
// products with others are made.
// Bound: tensor cores, 3 * 416 products of 16x8x8 a chunk for each block, which is about 1.3 us where mma.sync of TF32
// takes 4 to 8 cycles; each block reads 60 KB a chunk.
ZINC_KERNEL(128, 1) delta_walk(ZINC_PARAM DeltaChunksParams p) {
    ZINC_SHARED(dynamic);
    WalkShared &s = *(WalkShared *)dynamic;
    int seq = blockIdx.z;
    Walk walk = {p, s, (int)blockIdx.y, (int)blockIdx.x * WALK_COLS, (int)threadIdx.x % 32, (int)threadIdx.x / 32};
    pdl_launch();
    int2 run = seq < p.r.seqs.get() ? rows_of(p.r, seq) : make_int2(0, 0);
    if (run.y == 0) {
        pdl_wait();
        return;
    }
    WalkState state;
    walk.load(state, walk.slot(p.r.from[seq]), p.r.positions[run.x] == 0);
    int slot = p.r.slots[seq];
    pdl_wait();
    walk.fetch_first(chunk_at(p, seq, run.x, 0, walk.head), run.x, min(CHUNK, run.y));
    for (int idx = 0; idx * CHUNK < run.y; idx++) walk.step(state, seq, run, idx);
    walk.store(state, walk.slot(slot), DIM);
}
