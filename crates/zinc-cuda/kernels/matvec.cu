// y = W x for few rows of x: quantised weights, activations in q8, one to eight rows a launch tile.
//
// A warp takes two weight rows at a time (two rows of one matrix, or a row of the gate and the same of up). Lane l has
// blocks l, l + 32, ... of both rows; sums of lanes meet in a butterfly. The order of every sum so depends on the length
// of the row alone. Weights stream through a ring of the warp's own in shared memory, STAGES chunks of 1024 elements
// deep, filled by 16-byte asynchronous copies that start before the launches before this one are done.
// Grid (blocks, tiles of N rows or pairs of row and expert), up to MAX_WARPS warps a block. Bytes moved: the weights once.
// Bound: memory; 16 warps on a multiprocessor hold about 70 KiB in flight.
#include "act.cuh"
#include "formats.cuh"
#include "ptx.cuh"

struct MatVecParams {
    Count n;
    u64 w0, w1;           // first matrix; that of up, or 0
    u64 bias0, bias1;     // f32 rows, or 0
    u64 quants, scales;   // activations
    u64 residual;         // f32, added last, or 0
    u64 gate;             // f32 results of the gate, computed before, or 0
    u64 out;              // f32
    u64 ids;              // i32 [rows, slots]: matrix of each slot; 0: matrix j for slot j
    u64 row_bytes;        // of the weights
    u64 matrix_bytes0, matrix_bytes1; // from matrix to matrix
    u64 out_stride, residual_stride, gate_stride; // bytes
    u32 n_in, n_out;
    u32 x_cols;           // elements of a row of activations
    u32 n_slots;          // 0: one matrix for the whole row
    u32 slot_cols;        // slot j starts at element j * slot_cols
    u32 act;              // of the gate
    u32 rows;             // most rows of the launch
    u32 unused;
};

#define MAX_WARPS 8
#define STAGES 4

// Bytes of a chunk of 32 blocks of one row in the ring: the planes' parts, each a multiple of 16.
template <class F> struct Chunk {
    static constexpr int P1 = 512, P2 = P1 + 32 * F::HIGH, P3 = P2 + 4 * F::SCALE8, BYTES = P3 + 16 * F::SUPER;
};

template <class F> DEVICE void copy_chunk(u8 *to, const u8 *row, u32 n_blocks, u32 chunk, int lane) {
    Planes p = planes_of<F>(row, n_blocks);
    u32 first = chunk * 32, n = min(32u, n_blocks - first);
    if (lane < n) copy_async_16(to + lane * 16, p.p0 + (first + lane) * 16);
    if (F::HIGH == 16) {
        if (lane < n) copy_async_16(to + Chunk<F>::P1 + lane * 16, p.p1 + (first + lane) * 16);
    } else if (F::HIGH > 0) {
        if (lane * 16 < n * F::HIGH) copy_async_16(to + Chunk<F>::P1 + lane * 16, p.p1 + first * F::HIGH + lane * 16);
    }
    if (lane * 16 * 8 < n * F::SCALE8) copy_async_16(to + Chunk<F>::P2 + lane * 16, p.p2 + first * F::SCALE8 / 8 + lane * 16);
    if (F::SUPER && lane == 31) copy_async_16(to + Chunk<F>::P3, p.p3 + first / 2);
}

// Where the rows of item i begin.
struct Rows2 {
    const u8 *a, *b;
};

template <class F, int N> DEVICE void matvec(const MatVecParams &p) {
    ZINC_SHARED(shared);
    pdl_launch();
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n_warps = blockDim.x >> 5;
    const u32 n_blocks = p.n_in / 32, n_chunks = (n_blocks + 31) / 32;
    const bool pair = p.w1 != 0, stacked = p.n_slots != 0;
    const u32 n_items = pair ? p.n_out : (p.n_out + 1) / 2;

    int4 *x0 = (int4 *)shared, *x1 = x0 + N * n_blocks;
    Acts32 *xs = (Acts32 *)(x1 + N * n_blocks);
    u8 *ring = shared + round16(N * n_blocks * 40) + warp * (STAGES * 2 * Chunk<F>::BYTES);

    const u8 *w0 = (const u8 *)p.w0, *w1 = (const u8 *)p.w1;
    u32 row = blockIdx.y * N, slot = 0;
    int n_rows = min(p.n.get(), (int)p.rows) - (int)row;
    if (stacked) {
        row = blockIdx.y / p.n_slots, slot = blockIdx.y % p.n_slots;
        n_rows = min(1, min(p.n.get(), (int)p.rows) - (int)row);
        pdl_wait();
        if (n_rows > 0) {
            u64 matrix = p.ids ? (u64)((const int *)p.ids)[blockIdx.y] : slot;
            w0 += matrix * p.matrix_bytes0, w1 += matrix * p.matrix_bytes1;
        }
    }
    if (n_rows <= 0) {
        pdl_wait();
        return;
    }

    auto rows_of = [&](u32 item) {
        Rows2 r;
        if (pair) {
            r.a = w0 + item * p.row_bytes, r.b = w1 + item * p.row_bytes;
        } else {
            r.a = w0 + (u64)item * 2 * p.row_bytes;
            r.b = item * 2 + 1 < p.n_out ? r.a + p.row_bytes : r.a;
        }
        return r;
    };
    u32 item = blockIdx.x * n_warps + warp;
    const u32 item_step = gridDim.x * n_warps;
    u32 ahead_item = item, ahead_chunk = 0;
    auto prefetch = [&](int stage) {
        if (ahead_item < n_items) {
            Rows2 r = rows_of(ahead_item);
            u8 *to = ring + stage * (2 * Chunk<F>::BYTES);
            copy_chunk<F>(to, r.a, n_blocks, ahead_chunk, lane);
            copy_chunk<F>(to + Chunk<F>::BYTES, r.b, n_blocks, ahead_chunk, lane);
            if (++ahead_chunk == n_chunks) ahead_chunk = 0, ahead_item += item_step;
        }
        copy_async_commit();
    };
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) prefetch(s);

    if (!stacked) pdl_wait();
    const int n = N == 1 ? 1 : min(N, n_rows);
    for (u32 i = threadIdx.x; i < N * n_blocks; i += blockDim.x) {
        u32 r = i / n_blocks, b = i % n_blocks;
        int4 a = make_int4(0, 0, 0, 0), c = a;
        Acts32 s = {0.0f, 0};
        if ((int)r < n) {
            u64 at = (u64)(row + r) * p.x_cols + (u64)slot * p.slot_cols + b * 32;
            a = *(const int4 *)(p.quants + at), c = *(const int4 *)(p.quants + at + 16);
            s.d = ((const float *)p.scales)[at / 32];
            const int ones = 0x01010101;
            int lo = __dp4a(a.x, ones, __dp4a(a.y, ones, __dp4a(a.z, ones, __dp4a(a.w, ones, 0))));
            int hi = __dp4a(c.x, ones, __dp4a(c.y, ones, __dp4a(c.z, ones, __dp4a(c.w, ones, 0))));
            s.sums = (lo & 0xffff) | hi << 16;
        }
        x0[i] = a, x1[i] = c, xs[i] = s;
    }
    __syncthreads();

    int stage = 0;
    for (; item < n_items; item += item_step) {
        float acc[2][N];
#pragma unroll
        for (int r = 0; r < N; r++) acc[0][r] = acc[1][r] = 0.0f;
        for (u32 chunk = 0; chunk < n_chunks; chunk++) {
            copy_async_wait<STAGES - 2>();
            __syncwarp();
            const u8 *from = ring + stage * (2 * Chunk<F>::BYTES);
            u32 b = chunk * 32 + lane;
            if (b < n_blocks) {
#pragma unroll
                for (int m = 0; m < 2; m++) {
                    Planes q;
                    q.p0 = from + m * Chunk<F>::BYTES;
                    q.p1 = q.p0 + Chunk<F>::P1, q.p2 = q.p0 + Chunk<F>::P2, q.p3 = q.p0 + Chunk<F>::P3;
                    Block32 k;
                    load<F>(q, lane, k);
#pragma unroll
                    for (int r = 0; r < N; r++) {
                        u32 i = r * n_blocks + b;
                        acc[m][r] = fmaf(dot32<F>(k, x0[i], x1[i], xs[i]), xs[i].d, acc[m][r]);
                    }
                }
            }
            __syncwarp();
            prefetch(stage == 0 ? STAGES - 1 : stage - 1);
            stage = stage == STAGES - 1 ? 0 : stage + 1;
        }
        float result = 0.0f, other = 0.0f;
#pragma unroll
        for (int r = 0; r < N; r++) {
            float a = warp_sum(acc[0][r]), b = warp_sum(acc[1][r]);
            if (pair) {
                if (lane == r) result = a, other = b;
            } else {
                if (lane == 2 * r) result = a;
                if (lane == 2 * r + 1) result = b;
            }
        }
        u32 r = pair ? lane : lane / 2, col = pair ? item : item * 2 + lane % 2;
        if ((int)r >= n || col >= p.n_out) continue;
        u64 matrix = !stacked ? 0 : p.ids ? (u64)((const int *)p.ids)[blockIdx.y] : slot;
        if (p.bias0) result = __fadd_rn(result, ((const float *)p.bias0)[matrix * p.n_out + col]);
        if (pair) {
            if (p.bias1) other = __fadd_rn(other, ((const float *)p.bias1)[matrix * p.n_out + col]);
            result = gated(p.act, result, other);
        }
        u64 at = (u64)slot * p.n_out + col;
        if (p.gate) result = gated(p.act, ((const float *)(p.gate + (row + r) * p.gate_stride))[at], result);
        if (p.residual) result = __fadd_rn(result, ((const float *)(p.residual + (row + r) * p.residual_stride))[at]);
        ((float *)(p.out + (row + r) * p.out_stride))[at] = result;
    }
    copy_async_wait<0>();
}

#define MATVEC(F, name)                                                                                             \
    ZINC_KERNEL(MAX_WARPS * 32, 2) matvec_##name##_1(ZINC_PARAM MatVecParams p) { matvec<F, 1>(p); }                    \
    ZINC_KERNEL(MAX_WARPS * 32, 2) matvec_##name##_2(ZINC_PARAM MatVecParams p) { matvec<F, 2>(p); }                    \
    ZINC_KERNEL(MAX_WARPS * 32, 2) matvec_##name##_4(ZINC_PARAM MatVecParams p) { matvec<F, 4>(p); }                    \
    ZINC_KERNEL(MAX_WARPS * 32, 1) matvec_##name##_8(ZINC_PARAM MatVecParams p) { matvec<F, 8>(p); }
ZINC_FORMATS(MATVEC)
