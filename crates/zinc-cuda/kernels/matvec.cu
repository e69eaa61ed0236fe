// y = W x for few rows of x: quantised weights, activations in q8, one to eight rows a launch tile.
//
// A warp takes two weight rows at a time (two rows of one matrix, or a row of the gate and the same of up), so that
// activations are read from shared memory once for both. Lane l has blocks l, l + 32, ... of both rows; sums of lanes
// meet in a butterfly. The order of every sum so depends on the length of the row alone. Weights stream through a ring of
// the warp's own (ring.cuh), in whole rows or in pieces of some blocks; the first pieces are under way before the
// launches before this one are done.
// Grid (blocks, tiles of N rows or pairs of row and slot), up to MAX_WARPS warps a block. Bytes moved: the weights once.
// Bound: memory, and close to it instructions: 100 for 2048 weights of Q4_K, so what a block does once is in loops that
// are not unrolled. A launch takes half of a multiprocessor where it can, so that the next one finds room to begin.
// A block that has one row may make its activations itself (prologue.cuh).
#include "act.cuh"
#include "formats.cuh"
#include "prologue.cuh"
#include "ring.cuh"

#ifndef MAX_WARPS
#define MAX_WARPS 16
#define BLOCKS 1
#endif
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
    u32 piece;            // blocks of a row that come at once
    u32 buffer_bytes;     // of the prologue
    Segment more[MORE];
    Prologue prologue;    // of launches of one row a block
};

// Bytes of the planes of n blocks of a row, and where each begins.
template <class F> struct PlaneOffsets {
    u32 p1, p2, p3, end;

    __device__ __forceinline__ explicit PlaneOffsets(u32 n_blocks) {
        p1 = n_blocks * 16, p2 = p1 + round16(n_blocks * F::HIGH), p3 = p2 + round16(n_blocks * F::SCALE8 / 8);
        end = p3 + (F::SUPER ? round16(n_blocks / 2) : 0);
    }
};

// Brings the q8 of N rows to the three parts of shared memory, zeros for rows from `n` on, and sums them up on the way.
template <class F, int N>
DEVICE void load_acts(const MatVecParams &p, u8 *shared, u32 x1_at, u32 xs_at, u32 row, u32 slot, int n) {
    const u32 n_blocks = p.n_in / 32;
#pragma unroll 1
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
            s.sums = pack_sums<F>(lo, hi);
        }
        *(int4 *)(shared + i * 16) = a, *(int4 *)(shared + x1_at + i * 16) = c, *(Acts32 *)(shared + xs_at + i * 8) = s;
    }
}

// The sums of two numbers over the lanes of a warp, with the order of warp_sum: `a` in the first half, `b` in the other.
DEVICE float two_sums(float a, float b) {
    bool first = threadIdx.x % 32 < 16;
    float sum = first ? a : b;
    sum += __shfl_xor_sync(FULL_WARP, first ? b : a, 16);
#pragma unroll
    for (int bits = 8; bits > 0; bits /= 2) sum += __shfl_xor_sync(FULL_WARP, sum, bits);
    return sum;
}

template <class F, int N> DEVICE void matvec(const MatVecParams &p) {
    // Planes of a format.
    constexpr u32 N_PLANES = 2 + (F::HIGH != 0) + F::SUPER;
    ZINC_SHARED(shared);
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n_warps = blockDim.x >> 5;
    const u32 n_blocks = p.n_in / 32, piece = p.piece;
    const bool pair = p.w1 != 0, stacked = p.n_slots != 0;
    u32 n_items = pair ? p.n_out : (p.n_out + 1) / 2;
    if (p.n_segments > 0) n_items = p.more[p.n_segments - 1].first_item + (p.more[p.n_segments - 1].n_out + 1) / 2;

    // In shared memory: activations in three parts, what they are made from, then the rings, then their barriers.
    const PlaneOffsets<F> of_piece(piece), of_row(n_blocks);
    const u32 row_bytes = n_blocks * 16, x1_at = N * row_bytes, xs_at = 2 * x1_at;
    float *buffer = (float *)(shared + round16(N * n_blocks * 40));
    const u32 ring_at = round16(N * n_blocks * 40) + p.buffer_bytes, stage_bytes = 2 * of_piece.end;
    Ring ring;
    {
        // A lane copies one plane of one of the two rows, or all of a row where it comes as a whole.
        u32 n_parts = piece == n_blocks ? 2 : 2 * N_PLANES;
        ring.init(shared, ring_at + warp * STAGES * stage_bytes, stage_bytes,
                  ring_at + n_warps * STAGES * stage_bytes + warp * STAGES * 8, n_parts);
    }
    const u32 second = piece == n_blocks ? lane : lane / N_PLANES;
    u32 plane_at = 0;
    Part part;
    part.to = 0, part.n_bytes = of_piece.end;
    u32 eighths = 128; // of a byte, of a block
    if (piece != n_blocks) {
        part.n_bytes = of_piece.p1;
        u32 plane = lane % N_PLANES;
        if (F::HIGH && plane == 1)
            part.to = of_piece.p1, plane_at = of_row.p1, part.n_bytes = of_piece.p2 - of_piece.p1, eighths = 8 * F::HIGH;
        if (plane == 1 + (F::HIGH != 0))
            part.to = of_piece.p2, plane_at = of_row.p2, part.n_bytes = of_piece.p3 - of_piece.p2, eighths = F::SCALE8;
        if (F::SUPER && plane == 3)
            part.to = of_piece.p3, plane_at = of_row.p3, part.n_bytes = of_piece.end - of_piece.p3, eighths = 4;
    }
    part.to += second * of_piece.end;

    const u8 *w0 = (const u8 *)p.w0, *w1 = (const u8 *)p.w1;
    // The grid has more than 65,535 tiles in planes.
    const u32 tile = blockIdx.z * gridDim.y + blockIdx.y, n_slots = p.n_slots + (p.beside0 ? 1 : 0);
    const u32 row = stacked ? tile / n_slots : tile * N, slot = stacked ? tile % n_slots : 0;
    const bool beside = N == 1 && stacked && slot == p.n_slots;
    u64 matrix = 0;
    // Of the first tile there is a row, or as good as always.
    if (tile > 0 && (int)row >= p.n.get()) {
        pdl_launch();
        pdl_wait();
        return;
    }
    const bool makes = N == 1 && p.prologue.kind != QUANTIZED;
    if (makes) start_weights(p.prologue, buffer);
    if (beside) {
        w0 = (const u8 *)p.beside0, w1 = (const u8 *)p.beside1;
    } else if (stacked) {
        const bool is_row = (int)row < p.n.get();
        pdl_wait();
        if (is_row) matrix = p.ids ? (u64)((const int *)p.ids)[row * p.n_slots + slot] : slot;
        w0 += matrix * p.matrix_bytes0, w1 += matrix * p.matrix_bytes1;
    }

    // Neighbouring items go to different multiprocessors, so that each has as many.
    const u32 item_step = gridDim.x * n_warps;
    u32 item = warp * gridDim.x + blockIdx.x, ahead = item, left = 0;
    auto copy_next = [&](u32 stage) {
        if (left == 0 && ahead < n_items) {
            u32 first = ahead, n_out = p.n_out;
            const u8 *w = pair && second ? w1 : w0;
#pragma unroll 1
            for (int i = (int)p.n_segments - 1; i >= 0; i--)
                if (ahead >= p.more[i].first_item) {
                    first = ahead - p.more[i].first_item, n_out = p.more[i].n_out, w = (const u8 *)p.more[i].w;
                    break;
                }
            // Where there is no second row the first one stands for it.
            if (!pair) first = 2 * first + (second && 2 * first + 1 < n_out);
            part.from = w + (u64)first * p.row_bytes + plane_at;
            left = n_blocks, ahead += item_step;
        }
        if (left > 0) {
            u32 n = min(piece, left);
            ring.copy(shared, stage, part, n == piece ? part.n_bytes : round16(n * eighths / 8));
            part.from += part.n_bytes, left -= n;
        }
        ring.commit();
    };
    // Activations are asked for before most weights, or they would come behind them.
    copy_next(0);
    const int n = min(N, min(p.n.get(), (int)p.rows) - (int)row);
    if (!stacked || beside) pdl_wait();
    if (makes) start_values(p.prologue, buffer, row, slot * p.slot_cols, p.n_in);
#pragma unroll 1
    for (u32 s = 1; s < STAGES; s++) copy_next(s);
    if (makes)
        make_values(p.prologue, buffer, p.n_in, [&](u32 col, const float (&v)[4], bool inside) {
            put_q8<F>(shared, x1_at, xs_at, col, v, inside);
        });
    else load_acts<F, N>(p, shared, x1_at, xs_at, row, slot, n);
    // Not before: the next launch's weights would come before this one's activations.
    pdl_launch();
    __syncthreads();

#pragma unroll 1
    for (; item < n_items; item += item_step) {
        float acc[2][N];
#pragma unroll
        for (int r = 0; r < N; r++) acc[0][r] = acc[1][r] = 0.0f;
#pragma unroll 1
        for (u32 start = 0; start < n_blocks; start += piece) {
            const u8 *from = shared + ring.wait();
            u32 end = min(piece, n_blocks - start);
#pragma unroll(N == 1 ? 2 : 1)
            for (u32 b = lane; b < end; b += 32) {
                Raw32<F> raw[2];
#pragma unroll
                for (int m = 0; m < 2; m++) {
                    const u8 *planes = from + m * of_piece.end;
                    raw[m].fetch({planes, planes + of_piece.p1, planes + of_piece.p2, planes + of_piece.p3}, b);
                }
#pragma unroll
                for (int r = 0; r < N; r++) {
                    const u8 *x = shared + r * row_bytes + (start + b) * 16;
                    const int4 x0 = *(const int4 *)x, x1 = *(const int4 *)(x + x1_at);
                    Acts32 s = *(const Acts32 *)(shared + xs_at + (r * row_bytes / 2 + (start + b) * 8));
#pragma unroll
                    for (int m = 0; m < 2; m++) acc[m][r] = fmaf(dot32<F>(raw[m], lane & 7, x0, x1, s), s.d, acc[m][r]);
                }
            }
            __syncwarp();
            copy_next(ring.stage);
            ring.step();
        }
        // Lane r has the first row's result for row r of x, lane 16 + r that of the second.
        float result = 0.0f;
#pragma unroll
        for (int r = 0; r < N; r++) {
            float sum = two_sums(acc[0][r], acc[1][r]);
            if (lane % 16 == r) result = sum;
        }
        float other = __shfl_xor_sync(FULL_WARP, result, 16);
        u32 r = lane % 16, col = pair ? item : item * 2 + lane / 16, n_out = p.n_out;
        u64 out = p.out, stride = p.out_stride, bias = p.bias0;
        int segment = beside ? -1 : (int)p.n_segments - 1;
#pragma unroll 1
        for (; segment >= 0 && item < p.more[segment].first_item; segment--) {}
        if (segment >= 0) {
            const Segment &s = p.more[segment];
            col -= s.first_item * 2, n_out = s.n_out, out = s.out, stride = s.out_stride, bias = s.bias;
        }
        if (beside) out = p.beside_out, stride = p.beside_stride;
        if ((int)r >= n || col >= n_out || (pair && lane >= 16)) continue;
        u64 at = segment >= 0 || beside ? col : (u64)slot * p.n_out + col, of_matrix = matrix * p.n_out + col;
        if (bias) result = __fadd_rn(result, ((const float *)bias)[of_matrix]);
        if (pair && p.bias1) other = __fadd_rn(other, ((const float *)p.bias1)[of_matrix]);
        if (p.gate) other = result, result = ((const float *)(p.gate + (row + r) * p.gate_stride))[at];
        if (pair || p.gate) result = gated(p.act, result, other);
        if (p.residual) result = __fadd_rn(result, ((const float *)(p.residual + (row + r) * p.residual_stride))[at]);
        ((float *)(out + (row + r) * stride))[at] = result;
    }
    if (!has_bulk_copies()) copy_async_wait<0>();
}

#define MATVEC(F, name)                                                                                             \
    ZINC_KERNEL(MAX_WARPS * 32, BLOCKS) matvec_##name##_1(ZINC_PARAM MatVecParams p) { matvec<F, 1>(p); }                    \
    ZINC_KERNEL(MAX_WARPS * 32, 1) matvec_##name##_2(ZINC_PARAM MatVecParams p) { matvec<F, 2>(p); }                    \
    ZINC_KERNEL(MAX_WARPS * 32, 1) matvec_##name##_4(ZINC_PARAM MatVecParams p) { matvec<F, 4>(p); }                    \
    ZINC_KERNEL(MAX_WARPS * 32, 1) matvec_##name##_8(ZINC_PARAM MatVecParams p) { matvec<F, 8>(p); }
ZINC_FORMATS(MATVEC)
