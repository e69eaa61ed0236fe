// y = W x for few rows of x: quantised weights, activations in q8, one to eight rows a launch tile.
//
// A warp takes two weight rows at a time (two rows of one matrix, or a row of the gate and the same of up), so that
// activations are read from shared memory once for both (product.cuh). The order of every sum depends on the length of
// the row alone. Weights stream through a ring of the warp's own, whole rows where there is room; the first of half of the
// warps are under way before the launches before this one are done.
// Grid (blocks, tiles of N rows or pairs of row and slot), up to MAX_WARPS warps a block, which has a multiprocessor to
// itself: whatever is done once for a block is done for fewer. Bytes moved: the weights once. Bound: memory, and close to
// it instructions, of which integer ones take two cycles: 90 for 2048 weights of Q4_K. What is done once a block or a
// row is in loops that are not unrolled.
// A block that has one row may make its activations itself (prologue.cuh).
//
// Products of one row with weights of two types have one launch (matvec_two_*): the first blocks multiply by the first type,
// the others by the second one, as many as there are bytes of each.
#include "act.cuh"
#include "formats.cuh"
#include "product.cuh"
#include "prologue.cuh"

#define MAX_WARPS 16
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

// Products of the same row with weights of two types.
struct MatVecTwoParams {
    MatVecParams first, second;
    u32 n_blocks; // of the first ones
    u32 unused;
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
            order_acts<F>(a.x, c.x), order_acts<F>(a.y, c.y), order_acts<F>(a.z, c.z), order_acts<F>(a.w, c.w);
        }
        *(int4 *)(shared + i * 16) = a, *(int4 *)(shared + x1_at + i * 16) = c, *(Acts32 *)(shared + xs_at + i * 8) = s;
    }
}

// For block `block` of the `n_grid` that share a tile.
template <class F, int N> DEVICE void matvec(const MatVecParams &p, u32 block, u32 n_grid) {
    ZINC_SHARED(shared);
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n_warps = blockDim.x >> 5;
    u32 n_blocks = p.n_in / 32, piece = p.piece;
    keep(n_blocks), keep(piece);
    const bool pair = p.w1 != 0, stacked = p.n_slots != 0;
    u32 n_items = pair ? p.n_out : (p.n_out + 1) / 2;
    if (p.n_segments > 0) n_items = p.more[p.n_segments - 1].first_item + (p.more[p.n_segments - 1].n_out + 1) / 2;

    // In shared memory: activations, what they are made from, then the rings, then their barriers.
    PlaneOffsets<F> of_piece(piece);
    keep(of_piece.p1), keep(of_piece.p2), keep(of_piece.p3), keep(of_piece.end);
    Acts acts = {n_blocks * 16, N * n_blocks * 16, N * n_blocks * 32};
    keep(acts.row_bytes), keep(acts.x1), keep(acts.xs);
    const u32 acts_bytes = round16(N * n_blocks * 40), ring_at = acts_bytes + p.buffer_bytes;
    const u32 stage_bytes = 2 * of_piece.end;
    float *buffer = (float *)(shared + acts_bytes);
    Ring ring;
    ring.init(shared, ring_at + warp * STAGES * stage_bytes, stage_bytes,
              ring_at + n_warps * STAGES * stage_bytes + warp * STAGES * 8, RowCopy<F>::n_parts(piece, n_blocks));
    RowCopy<F> rows;
    rows.init(piece, n_blocks);

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
    const u32 item_step = n_grid * n_warps;
    u32 item = warp * n_grid + block;
    // The item that is copied next, its blocks that are left, the first item of another segment, and where the lane's
    // row of the item begins.
    u32 ahead = item, left = 0, end_of_segment = 0;
    const u8 *next = nullptr;
    u32 step_bytes = item_step * (pair ? 1 : 2) * (u32)p.row_bytes, step = item_step;
    keep(step_bytes), keep(step);
    auto find_row = [&]() {
        u32 first = ahead, n_out = p.n_out;
        const u8 *w = pair && rows.second ? w1 : w0;
        end_of_segment = p.n_segments > 0 ? p.more[0].first_item : n_items;
#pragma unroll 1
        for (u32 i = 0; i < p.n_segments && ahead >= p.more[i].first_item; i++) {
            first = ahead - p.more[i].first_item, n_out = p.more[i].n_out, w = (const u8 *)p.more[i].w;
            end_of_segment = i + 1 < p.n_segments ? p.more[i + 1].first_item : n_items;
        }
        // Where there is no second row the first one stands for it: the last item, which is found here.
        if (!pair && n_out % 2 == 1 && ahead + 1 < end_of_segment) end_of_segment--;
        if (!pair) first = 2 * first + (rows.second && 2 * first + 1 < n_out);
        next = w + (u64)first * p.row_bytes + rows.plane_at;
    };
    auto copy_next = [&]() {
        if (left == 0 && ahead < n_items) {
            if (ahead >= end_of_segment) find_row();
            rows.part.from = next;
            next += step_bytes, left = n_blocks, ahead += step;
        }
        if (left > 0) {
            u32 n = min(piece, left);
            rows.copy(ring, shared, n, piece);
            left -= n;
        }
        ring.commit();
    };
    // Weights on their way are a queue in which activations wait. So half of the warps ask for a first piece early, the
    // others behind the wait, after what activations are made from, and all of them for a second one when that is there.
    const bool early = warp % 2 == 0;
    if (early) copy_next(), ring.step();
    const int n = min(N, min(p.n.get(), (int)p.rows) - (int)row);
    if (!stacked || beside) pdl_wait();
    if (makes) start_values(p.prologue, buffer, row, slot * p.slot_cols, p.n_in);
    if (!early) copy_next(), ring.step();
    if (makes) values_there();
    else load_acts<F, N>(p, shared, acts.x1, acts.xs, row, slot, n);
#pragma unroll 1
    for (u32 s = 1; s < STAGES; s++) copy_next(), ring.step();
    if (makes)
        make_values(p.prologue, buffer, p.n_in, [&](u32 col, const float (&v)[LANE_COLS], bool inside) {
            put_q8<F>(shared, acts.x1, acts.xs, col, v, inside);
        });
    // Not before: the next launch's weights would come before this one's activations.
    pdl_launch();
    __syncthreads();

    // Results of some items are kept, and written together: lane N * t + r has the first row's for row r of x and the
    // item that is the t-th of them, lane 16 + N * t + r that of the second row.
    constexpr u32 KEPT = 16 / N;
    float result = 0.0f;
    u32 first_kept = item, n_kept = 0;
#pragma unroll 1
    for (; item < n_items; item += step) {
        float acc[2][N];
#pragma unroll
        for (int r = 0; r < N; r++) acc[0][r] = acc[1][r] = 0.0f;
#pragma unroll 1
        for (u32 start = 0; start < n_blocks; start += piece) {
            ring.wait();
            add_piece<F, N>(acc, shared, shared + ring.at, of_piece, acts, start, min(piece, n_blocks - start));
            __syncwarp();
            copy_next();
            ring.step();
        }
#pragma unroll
        for (int r = 0; r < N; r++) {
            float sum = two_sums(acc[0][r], acc[1][r]);
            if (lane % 16 == N * n_kept + r) result = sum;
        }
        if (++n_kept < KEPT && item + step < n_items) continue;

        float other = __shfl_xor_sync(FULL_WARP, result, 16);
        const u32 t = lane % 16 / N, r = lane % N, of_lane = first_kept + t * step;
        const bool is_kept = t < n_kept;
        first_kept = item + step, n_kept = 0;
        u32 col = pair ? of_lane : of_lane * 2 + lane / 16, n_out = p.n_out;
        u64 out = p.out, stride = p.out_stride, bias = p.bias0;
        int segment = beside ? -1 : (int)p.n_segments - 1;
#pragma unroll 1
        for (; segment >= 0 && of_lane < p.more[segment].first_item; segment--) {}
        if (segment >= 0) {
            const Segment &s = p.more[segment];
            col -= s.first_item * 2, n_out = s.n_out, out = s.out, stride = s.out_stride, bias = s.bias;
        }
        if (beside) out = p.beside_out, stride = p.beside_stride;
        if (!is_kept || (int)r >= n || col >= n_out || (pair && lane >= 16)) continue;
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

template <class F, class G> DEVICE void matvec_two(const MatVecTwoParams &p) {
    if (blockIdx.x < p.n_blocks) matvec<F, 1>(p.first, blockIdx.x, p.n_blocks);
    else matvec<G, 1>(p.second, blockIdx.x - p.n_blocks, gridDim.x - p.n_blocks);
}

#define MATVEC_N(F, name, n)                                                                                        \
    ZINC_KERNEL(MAX_WARPS * 32, 1) matvec_##name##_##n(ZINC_PARAM MatVecParams p) {                                     \
        matvec<F, n>(p, blockIdx.x, gridDim.x);                                                                     \
    }
#define MATVEC(F, name) MATVEC_N(F, name, 1) MATVEC_N(F, name, 2) MATVEC_N(F, name, 4) MATVEC_N(F, name, 8)
ZINC_FORMATS(MATVEC)

// Types that llama.cpp's mixtures put side by side; the second ones are for the rows that matter more.
#define MATVEC_TWO(F, G, names)                                                                                     \
    ZINC_KERNEL(MAX_WARPS * 32, 1) matvec_two_##names(ZINC_PARAM MatVecTwoParams p) { matvec_two<F, G>(p); }
MATVEC_TWO(Q4_K, Q5_K, q4_k_q5_k)
MATVEC_TWO(Q4_K, Q6_K, q4_k_q6_k)
MATVEC_TWO(Q5_K, Q6_K, q5_k_q6_k)
MATVEC_TWO(Q5_0, Q8_0, q5_0_q8_0)
