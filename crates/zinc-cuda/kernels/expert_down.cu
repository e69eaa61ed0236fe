// The end of a block of experts, for few rows of x: the down products of the chosen experts and of the shared one, and
// all that is added behind them.
//
//   y = residual + (sum over slots j of weights[j] * scale[e_j] * (W[e_j] a_j + bias[e_j]) + sigmoid(gate) * W_s a_s)
//
// with e_j = ids[j], a in q8 as QuantizeAct has it, made here of the results of gate and up. Scale, bias, the shared
// expert, its gate and the residual are there or not. W is [n_out, n_in] of each expert.
//
// A warp takes the rows of two neighbouring elements of y for one slot at a time, which come through its ring
// (product.cuh); rows of up to 16 blocks have half a warp each. When all products of the block are in shared memory, a warp
// adds up those of two elements. The shared expert's products come first, for its address is known: its rows are under way
// before the launches before this one are done. All sums have the order that the products, the sum over slots and the
// additions have as launches of their own, and so the same bits.
// Grid (blocks, rows), up to MAX_WARPS warps; each block takes pairs of columns a grid apart. Bytes moved: the weights once,
// n_slots n_in n_out weights, a few MB; bound by latency, of ids, rows and one reduction in turn, and by instructions.
#include "act.cuh"
#include "product.cuh"
#include "prologue.cuh"

struct ExpertDownParams {
    Count n;
    Rows hidden;   // results of gate and up, slot after slot
    Rows shared;   // those of the shared expert; where it has no weights here, what it adds; or null
    Rows gate;     // one column, or null
    Rows residual; // or null
    Rows out;
    u64 w, matrix_bytes;
    u64 w_shared; // or 0
    const float *bias, *scale; // of each expert, or null
    const int *ids;
    const float *weights;
    u64 row_bytes;
    u32 k, n_in;
    u32 piece; // blocks of a row that come at once
    u32 unused;
};

#define MAX_WARPS 16
// A lane of half a warp has what belongs to a slot: there are at most 16.

// The product of two short rows at `from` with the activations from block `first` on; half a warp each.
template <class F>
DEVICE float short_product(const u8 *shared, const u8 *from, const PlaneOffsets<F> &planes, const Acts &acts, u32 first,
                           u32 n_blocks) {
    const u32 lane = threadIdx.x % 32, b = lane % 16;
    float sum = 0.0f;
    if (b < n_blocks) {
        const u8 *row = from + lane / 16 * planes.end, *x = shared + (first + b) * 16;
        Raw32<F> raw;
        raw.fetch({row, row + planes.p1, row + planes.p2, row + planes.p3}, b);
        Acts32 s = *(const Acts32 *)(shared + acts.xs + (first + b) * 8);
        sum = dot32<F>(raw, lane & 7, *(const int4 *)x, *(const int4 *)(x + acts.x1), s) * s.d;
    }
#pragma unroll
    for (int bits = 8; bits > 0; bits /= 2) sum += __shfl_xor_sync(FULL_WARP, sum, bits);
    return sum;
}

template <class F> DEVICE void expert_down(const ExpertDownParams &p) {
    ZINC_SHARED(shared);
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n_warps = blockDim.x >> 5;
    const u32 has_shared = p.w_shared != 0, n_slots = p.k + has_shared, n_cols = p.out.cols, row = blockIdx.y;
    u32 n_blocks = p.n_in / 32, piece = p.piece;
    keep(n_blocks), keep(piece);
    // The block's pairs of columns, and a unit of work for each of them and each slot, slot after slot.
    const u32 n_pairs = ((n_cols + 1) / 2 - blockIdx.x + gridDim.x - 1) / gridDim.x;
    // The shared expert, which is slot k, then the others.
    struct Unit {
        u32 turn, pair;
        __device__ __forceinline__ void skip(u32 n, u32 n_pairs) {
            for (pair += n; pair >= n_pairs; pair -= n_pairs) turn++;
        }
    };
    auto slot_of = [&](const Unit &unit) { return unit.turn >= has_shared ? unit.turn - has_shared : p.k; };
    auto first_col = [&](u32 pair) { return 2 * (blockIdx.x + pair * gridDim.x); };

    // In shared memory: activations of all slots, what they are made from, products, then the rings and their barriers.
    PlaneOffsets<F> of_piece(piece);
    keep(of_piece.p1), keep(of_piece.p2), keep(of_piece.p3), keep(of_piece.end);
    const u32 n_all = n_slots * p.n_in, n_routed = p.k * p.n_in;
    const Acts acts = {0, n_slots * n_blocks * 16, n_slots * n_blocks * 32};
    const u32 acts_bytes = round16(n_slots * n_blocks * 40), results_at = acts_bytes + 4 * n_all;
    const u32 ring_at = results_at + round16(8 * (((n_cols + 1) / 2 + gridDim.x - 1) / gridDim.x * n_slots));
    const u32 stage_bytes = 2 * of_piece.end;
    float *buffer = (float *)(shared + acts_bytes), *results = (float *)(shared + results_at);
    Ring ring;
    ring.init(shared, ring_at + warp * STAGES * stage_bytes, stage_bytes,
              ring_at + n_warps * STAGES * stage_bytes + warp * STAGES * 8, RowCopy<F>::n_parts(piece, n_blocks));
    RowCopy<F> rows;
    rows.init(piece, n_blocks);

    // Lane j and 16 + j have what slot j needs: its matrix, expert and weight.
    u64 matrix = p.w_shared;
    Unit unit = {0, 0};
    unit.skip(warp, n_pairs);
    Unit ahead = unit;
    u32 left = 0;
    auto copy_next = [&]() {
        if (left == 0 && ahead.turn < n_slots) {
            u32 col = first_col(ahead.pair);
            u64 w = __shfl_sync(FULL_WARP, matrix, slot_of(ahead));
            rows.part.from = (const u8 *)w + (u64)(col + (rows.second && col + 1 < n_cols)) * p.row_bytes + rows.plane_at;
            left = n_blocks, ahead.skip(n_warps, n_pairs);
        }
        if (left > 0) {
            u32 n = min(piece, left);
            rows.copy(ring, shared, n, piece);
            left -= n;
        }
        ring.commit();
    };
    // Of the shared expert alone may anything come before the wait: a first piece.
    const bool begins = warp < n_pairs * has_shared;
    if (begins) copy_next(), ring.step();
    const bool is_row = (int)row < p.n.get();
    pdl_wait();
    u32 expert = 0;
    float weight = 0.0f;
    const u32 slot = lane % 16;
    if (is_row && slot < p.k) {
        expert = (u32)p.ids[row * p.k + slot], weight = p.weights[row * p.k + slot];
        if (p.scale) weight = __fmul_rn(weight, p.scale[expert]);
    }
    if (slot < p.k) matrix = p.w + expert * p.matrix_bytes;
    Prologue from = {p.hidden.data, nullptr, nullptr, p.hidden.stride, 0, FLOATS, 0, 4, 4, 0.0f, 0};
    start_values(from, buffer, row, 0, n_routed);
    if (has_shared) {
        from.x = p.shared.data, from.x_stride = p.shared.stride;
        start_values(from, buffer + n_routed, row, 0, p.n_in);
    }
#pragma unroll 1
    for (u32 s = begins; s < STAGES; s++) copy_next(), ring.step();
    float gate = 0.0f;
    if (p.gate.data) gate = sigmoid(p.gate.row(row)[0]);
    values_there();
    make_values(from, buffer, n_all, [&](u32 col, const float (&v)[LANE_COLS], bool inside) {
        put_q8<F>(shared, acts.x1, acts.xs, col, v, inside);
    });
    pdl_launch();
    __syncthreads();

#pragma unroll 1
    for (; unit.turn < n_slots; unit.skip(n_warps, n_pairs)) {
        const u32 of_unit = slot_of(unit), first = of_unit * n_blocks;
        float acc[2][1] = {{0.0f}, {0.0f}}, sum = 0.0f;
#pragma unroll 1
        for (u32 start = 0; start < n_blocks; start += piece) {
            ring.wait();
            const u8 *at = shared + ring.at;
            if (n_blocks <= 16) sum = short_product<F>(shared, at, of_piece, acts, first, n_blocks);
            else add_piece<F, 1>(acc, shared, at, of_piece, acts, first + start, min(piece, n_blocks - start));
            __syncwarp();
            copy_next();
            ring.step();
        }
        if (n_blocks > 16) sum = two_sums(acc[0][0], acc[1][0]);
        if (slot == 0) results[(unit.pair * n_slots + of_unit) * 2 + lane / 16] = sum;
    }
    __syncthreads();
#pragma unroll 1
    for (u32 pair = warp; pair < n_pairs; pair += n_warps) {
        const u32 col = first_col(pair) + lane / 16, at = min(col, n_cols - 1);
        const float *products = results + pair * n_slots * 2 + lane / 16;
        float result = 0.0f, other = 0.0f, residual = 0.0f, sum = 0.0f;
        if (slot < p.k) {
            result = products[2 * slot];
            if (p.bias) result = __fadd_rn(result, p.bias[(u64)expert * n_cols + at]);
        }
        if (p.shared.data) other = has_shared ? products[2 * p.k] : p.shared.row(row)[at];
        if (p.residual.data) residual = p.residual.row(row)[at];
#pragma unroll 1
        for (u32 j = 0; j < p.k; j++)
            sum = fmaf(__shfl_sync(FULL_WARP, weight, j), __shfl_sync(FULL_WARP, result, (lane & 16) + j), sum);
        if (p.gate.data) other = __fmul_rn(other, gate);
        if (p.shared.data) sum = __fadd_rn(sum, other);
        if (p.residual.data) sum = __fadd_rn(residual, sum);
        if (slot == 0 && col < n_cols && is_row) p.out.row(row)[col] = sum;
    }
    if (!has_bulk_copies()) copy_async_wait<0>();
}

#define EXPERT_DOWN(F, name)                                                                                        \
    ZINC_KERNEL(MAX_WARPS * 32, 1) expert_down_##name(ZINC_PARAM ExpertDownParams p) { expert_down<F>(p); }
ZINC_FORMATS(EXPERT_DOWN)
