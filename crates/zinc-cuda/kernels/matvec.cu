// y = W x for few rows of x: quantised weights, activations in q8, one to eight rows a launch tile.
//
// A warp takes two weight rows at a time (two rows of one matrix, or a row of the gate and the same of up). Lane l has
// blocks l, l + 32, ... of both rows; sums of lanes meet in a butterfly. The order of every sum so depends on the length
// of the row alone. Weights stream through a ring of the warp's own in shared memory, STAGES chunks of 1024 elements
// deep, filled by 16-byte asynchronous copies that start before the launches before this one are done.
// Grid (blocks, tiles of N rows or pairs of row and slot), up to MAX_WARPS warps a block. Bytes moved: the weights once.
// Bound: memory; 16 warps on a multiprocessor hold about 70 KiB in flight.
// A block that has one row may make its activations itself (prologue.cuh); its registers leave room for three blocks.
#include "act.cuh"
#include "formats.cuh"
#include "prologue.cuh"
#include "ptx.cuh"

#define MAX_WARPS 8
#define STAGES 4
#define MORE 3

// A further product of a launch.
struct Segment {
    u64 w, bias, out, out_stride;
    u32 n_out, first_item;
};

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
    // A pair of single matrices that takes the same activations as a stacked pair, the slot behind the others; or 0.
    u64 beside0, beside1, beside_out, beside_stride;
    u32 n_in, n_out;
    u32 x_cols;           // elements of a row of activations
    u32 n_slots;          // 0: one matrix for the whole row
    u32 slot_cols;        // slot j starts at element j * slot_cols
    u32 act;              // of the gate
    u32 rows;             // most rows of the launch
    u32 n_segments;       // products of the same activations besides this one, for single matrices
    Segment more[MORE];
    Prologue prologue;    // of launches of one row a block
};

#define NEVER 0xffffffffu

// Bytes of a chunk of 32 blocks of one row in the ring: the planes' parts, each a multiple of 16.
template <class F> struct Chunk {
    static constexpr int P1 = 512, P2 = P1 + 32 * F::HIGH, P3 = P2 + 4 * F::SCALE8, BYTES = P3 + 16 * F::SUPER;
};

// The pieces of 16 bytes of planes 1 to 3 of a chunk, by number: where in a row, bytes from chunk to chunk, and the
// least blocks that a chunk must have for the piece to be there. In the ring they lie in the same order.
template <class F> struct Pieces {
    static constexpr int N1 = 2 * F::HIGH, N2 = F::SCALE8 / 4, ALL = N1 + N2 + F::SUPER;
    // Half a warp copies those of each row.
    static constexpr int ROUNDS = (ALL + 15) / 16;
    u32 from[ROUNDS], step[ROUNDS], least[ROUNDS];

    __device__ __forceinline__ void init(int lane, u32 n_blocks) {
        u32 p1 = n_blocks * 16, p2 = p1 + round16(n_blocks * F::HIGH), p3 = p2 + round16(n_blocks * F::SCALE8 / 8);
#pragma unroll
        for (int i = 0; i < ROUNDS; i++) {
            int k = lane % 16 + 16 * i;
            from[i] = p3, step[i] = 16, least[i] = k < ALL ? 1 : NEVER;
            if (k < N1) from[i] = p1 + k * 16, step[i] = 32 * F::HIGH, least[i] = k * 16 / max(F::HIGH, 1) + 1;
            else if (k < N1 + N2)
                from[i] = p2 + (k - N1) * 16, step[i] = 4 * F::SCALE8, least[i] = (k - N1) * 128 / F::SCALE8 + 1;
            keep(from[i]), keep(step[i]), keep(least[i]);
        }
    }
};

// Brings the q8 of N rows to the three parts of shared memory, zeros for rows from `n` on, and sums them up on the way.
template <int N>
DEVICE void load_acts(const MatVecParams &p, u8 *shared, u32 x1_at, u32 xs_at, u32 row, u32 slot, int n) {
    const u32 n_blocks = p.n_in / 32;
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
        *(int4 *)(shared + i * 16) = a, *(int4 *)(shared + x1_at + i * 16) = c, *(Acts32 *)(shared + xs_at + i * 8) = s;
    }
}

template <class F, int N> DEVICE void matvec(const MatVecParams &p) {
    constexpr u32 STAGE_BYTES = 2 * Chunk<F>::BYTES;
    // Eight rows need the registers.
    constexpr int SEGMENTS_AT_ONCE = N == 8 ? 1 : MORE;
    ZINC_SHARED(shared);
    pdl_launch();
    u32 touched = N == 1 ? touch_weights(p.prologue) : 0;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n_warps = blockDim.x >> 5;
    const u32 n_blocks = p.n_in / 32;
    const bool pair = p.w1 != 0, stacked = p.n_slots != 0;
    u32 n_items = pair ? p.n_out : (p.n_out + 1) / 2;
    if (p.n_segments > 0) n_items = p.more[p.n_segments - 1].first_item + (p.more[p.n_segments - 1].n_out + 1) / 2;

    // Offsets in shared memory: activations in three parts, then the rings.
    const u32 row_bytes = n_blocks * 16;
    u32 x1_at = N * row_bytes, xs_at = 2 * x1_at;
    u32 ring_at = round16(N * n_blocks * 40) + warp * (STAGES * STAGE_BYTES);
    keep(x1_at), keep(xs_at), keep(ring_at);

    const u8 *w0 = (const u8 *)p.w0, *w1 = (const u8 *)p.w1;
    // The grid has more than 65,535 tiles in planes.
    const u32 tile = blockIdx.z * gridDim.y + blockIdx.y;
    u32 row = tile * N, slot = 0;
    const int all_rows = min(p.n.get(), (int)p.rows);
    int n_rows = all_rows - (int)row;
    bool beside = false;
    if (stacked) {
        const u32 n_slots = p.n_slots + (p.beside0 ? 1 : 0);
        row = tile / n_slots, slot = tile % n_slots;
        n_rows = min(1, all_rows - (int)row);
        beside = N == 1 && slot == p.n_slots;
        if (beside) {
            w0 = (const u8 *)p.beside0, w1 = (const u8 *)p.beside1;
        } else {
            pdl_wait();
            if (n_rows > 0) {
                u64 matrix = p.ids ? (u64)((const int *)p.ids)[row * p.n_slots + slot] : slot;
                w0 += matrix * p.matrix_bytes0, w1 += matrix * p.matrix_bytes1;
            }
        }
    }
    if (n_rows <= 0) {
        pdl_wait();
        return;
    }

    u32 item = blockIdx.x * n_warps + warp;
    const u32 item_step = gridDim.x * n_warps;
    // What is copied next: the lane's piece of plane 0 of both rows, and its pieces of the others of one of them.
    u32 ahead_item = item, left = 0;
    const u8 *low_a = nullptr, *low_b = nullptr, *others[Pieces<F>::ROUNDS];
    Pieces<F> pieces;
    pieces.init(lane, n_blocks);
    auto start = [&]() {
        u32 first = ahead_item, n_out = p.n_out;
        const u8 *w = w0;
#pragma unroll SEGMENTS_AT_ONCE
        for (int i = 0; i < MORE; i++)
            if (i < (int)p.n_segments && ahead_item >= p.more[i].first_item)
                first = ahead_item - p.more[i].first_item, n_out = p.more[i].n_out, w = (const u8 *)p.more[i].w;
        const u8 *a = w + (u64)first * (pair ? 1 : 2) * p.row_bytes, *b = a;
        if (pair) b = w1 + (u64)first * p.row_bytes;
        else if (first * 2 + 1 < n_out) b = a + p.row_bytes;
        low_a = a + lane * 16, low_b = b + lane * 16, left = n_blocks;
#pragma unroll
        for (int i = 0; i < Pieces<F>::ROUNDS; i++) others[i] = (lane < 16 ? a : b) + pieces.from[i];
    };
    if (ahead_item < n_items) start();
    u32 low_at = ring_at + lane * 16;
    u32 rest_at = ring_at + (lane < 16 ? 0 : Chunk<F>::BYTES) + Chunk<F>::P1 + lane % 16 * 16;
    u32 ahead_step = item_step, end = n_items;
    keep(low_at), keep(rest_at), keep(ahead_step), keep(end);
    auto prefetch = [&](u32 stage) {
        if (ahead_item < end) {
            u8 *to = shared + low_at + stage, *rest = shared + rest_at + stage;
            if (lane < left) {
                copy_async_16(to, low_a);
                copy_async_16(to + Chunk<F>::BYTES, low_b);
            }
            low_a += 512, low_b += 512;
#pragma unroll
            for (int i = 0; i < Pieces<F>::ROUNDS; i++) {
                if (left >= pieces.least[i]) copy_async_16(rest + i * 256, others[i]);
                others[i] += pieces.step[i];
            }
            if (left > 32) left -= 32;
            else {
                ahead_item += ahead_step;
                if (ahead_item < end) start();
            }
        }
        copy_async_commit();
    };
#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++) prefetch(s * STAGE_BYTES);

    if (!stacked || beside) pdl_wait();
    keep(touched);
    const int n = N == 1 ? 1 : min(N, n_rows);
    if (N == 1 && p.prologue.kind != QUANTIZED)
        make_values(p.prologue, row, slot * p.slot_cols, p.n_in, [&](u32 col, const float (&v)[4], bool inside) {
            put_q8(shared, x1_at, xs_at, col, v, inside);
        });
    else load_acts<N>(p, shared, x1_at, xs_at, row, slot, n);
    __syncthreads();

    // Where the next chunk is, and the one before it in the ring, which is free.
    u32 stage = 0, before = (STAGES - 1) * STAGE_BYTES;
    for (; item < n_items; item += item_step) {
        float acc[2][N];
#pragma unroll
        for (int r = 0; r < N; r++) acc[0][r] = acc[1][r] = 0.0f;
        for (u32 b = lane; b - lane < n_blocks; b += 32) {
            copy_async_wait<STAGES - 2>();
            __syncwarp();
            const u8 *from = shared + ring_at + stage;
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
                        const u8 *x = shared + r * row_bytes + b * 16;
                        Acts32 s = *(const Acts32 *)(shared + xs_at + (r * row_bytes / 2 + b * 8));
                        acc[m][r] = fmaf(dot32<F>(k, *(const int4 *)x, *(const int4 *)(x + x1_at), s), s.d, acc[m][r]);
                    }
                }
            }
            __syncwarp();
            prefetch(before);
            before = stage;
            stage = stage == (STAGES - 1) * STAGE_BYTES ? 0 : stage + STAGE_BYTES;
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
        if (p.n_segments > 0 && item >= p.more[0].first_item) {
            u32 which = 0;
            while (which + 1 < p.n_segments && item >= p.more[which + 1].first_item) which++;
            const Segment &s = p.more[which];
            col -= s.first_item * 2;
            if ((int)r >= n || col >= s.n_out) continue;
            if (s.bias) result = __fadd_rn(result, ((const float *)s.bias)[col]);
            ((float *)(s.out + (row + r) * s.out_stride))[col] = result;
            continue;
        }
        if ((int)r >= n || col >= p.n_out) continue;
        if (beside) {
            ((float *)(p.beside_out + row * p.beside_stride))[col] = gated(p.act, result, other);
            continue;
        }
        u64 matrix = !stacked ? 0 : p.ids ? (u64)((const int *)p.ids)[row * p.n_slots + slot] : slot;
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
    ZINC_KERNEL(MAX_WARPS * 32, 3) matvec_##name##_1(ZINC_PARAM MatVecParams p) { matvec<F, 1>(p); }                    \
    ZINC_KERNEL(MAX_WARPS * 32, 2) matvec_##name##_2(ZINC_PARAM MatVecParams p) { matvec<F, 2>(p); }                    \
    ZINC_KERNEL(MAX_WARPS * 32, 2) matvec_##name##_4(ZINC_PARAM MatVecParams p) { matvec<F, 4>(p); }                    \
    ZINC_KERNEL(MAX_WARPS * 32, 1) matvec_##name##_8(ZINC_PARAM MatVecParams p) { matvec<F, 8>(p); }
ZINC_FORMATS(MATVEC)
