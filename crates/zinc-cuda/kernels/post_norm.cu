// Rows that are normalised and added, in one launch of up to four steps, each
//
//   result = (x / sqrt(mean(x^2) + eps) * w + plus) * factor
//
// with x and plus from memory or the value that an earlier step has left in registers; plus and the write of the result
// may be missing, and it may be written in q8. What follows a block of gemma: norm, residual, scale of the layer, and
// the norm before the next block; the router's input; the sum of the normed results of dense block and experts. The
// same formulas as norm.cu, rows.cu and quantize.cu, and the same bits.
//
// Launch: grid rows, a warp for each four pieces of 128 columns: few warps, as what each of them does besides its
// columns costs more than those. A row has 8192 columns at most, a multiple of 4 (of 32 for q8), everything aligned to
// 16 bytes. What is written lies where nothing is read but by its own thread.
// Reads and writes each row once; bound by memory in prefill and by latency in decode.
#include "q8.cuh"
#include "row_norm.cuh"

#define MOST_STEPS 4

struct NormStep {
    // Null: the value; nothing; nowhere.
    Rows x, plus, to;
    // `times` has one number; null: `factor`.
    const float *w, *times;
    // Null: nowhere.
    i8 *quants;
    float *scales;
    float factor;
    u32 flags;
};

// Of a step: plus is the value; the result becomes the value.
#define ADDS_VALUE 1
#define HOLDS 2

struct PostNormParams {
    Count n;
    NormStep steps[MOST_STEPS];
    u32 n_steps, cols;
    float eps;
    u32 unused;
};

// Pieces of a warp: idx * n_warps + warp.
#define PIECES 4

// A thread's columns of a row in memory, or else the value.
DEVICE void load_row(float4 (&x)[PIECES], const Rows &from, int row, u32 n, const float4 (&value)[PIECES]) {
    const float *x_row = from.row(row);
#pragma unroll
    for (int i = 0; i < PIECES; i++) x[i] = value[i];
    if (from.data == nullptr) return;
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
        const u32 col = 4 * (threadIdx.x + i * blockDim.x);
        x[i] = load_four(x_row + col, col < n);
    }
}

// The weights of a thread's columns.
struct StepWeights {
    float4 w[PIECES];
    float times;
    __device__ __forceinline__ void load(const NormStep &step, u32 n) {
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const u32 col = 4 * (threadIdx.x + i * blockDim.x);
            w[i] = load_four(step.w + col, col < n);
        }
        times = step.times != nullptr ? *step.times : step.factor;
    }
};

ZINC_KERNEL(512, 1) post_norm(ZINC_PARAM PostNormParams p) {
    ZINC_STATIC_SHARED(float, places, 2 * 64);
    const u32 n = p.cols, n_pieces = (n + ROW_PIECE - 1) / ROW_PIECE, lane = threadIdx.x % 32;
    const u32 warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
    const int row = blockIdx.x;
    pdl_launch();
    const int n_rows = p.n.get();
    // Weights come from no launch: the first step's are loaded while the launch before ends, others a step ahead.
    StepWeights of;
    of.load(p.steps[0], n);
    pdl_wait();
    if (row >= n_rows) return;
    float4 value[PIECES] = {};
#pragma unroll 1
    for (u32 idx = 0; idx < p.n_steps; idx++) {
        const NormStep &step = p.steps[idx];
        const bool adds = step.flags & ADDS_VALUE || step.plus.data != nullptr;
        float *at = places + idx % 2 * 64, part[PIECES];
        float4 x[PIECES], plus[PIECES];
        load_row(x, step.x, row, n, value);
        load_row(plus, step.plus, row, n, value);
        const StepWeights now = of;
        if (idx + 1 < p.n_steps) of.load(p.steps[idx + 1], n);
#pragma unroll
        for (int i = 0; i < PIECES; i++) part[i] = piece_sum(x[i]);
#pragma unroll
        for (u32 i = 0; i < PIECES; i++)
            if (lane == 0 && warp + i * n_warps < n_pieces) at[warp + i * n_warps] = part[i];
        __syncthreads();
        const float factor = row_factor(warp_sum(add_pieces(0.0f, at, n_pieces)), row_share(n), p.eps);
        auto result = [&](float x, float w, float plus) {
            float y = __fmul_rn(x * factor, w);
            return __fmul_rn(adds ? __fadd_rn(y, plus) : y, now.times);
        };
        float *to = step.to.data == nullptr ? nullptr : step.to.row(row);
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const u32 col = 4 * (threadIdx.x + i * blockDim.x);
            const float4 w = now.w[i];
            const float v[4] = {result(x[i].x, w.x, plus[i].x), result(x[i].y, w.y, plus[i].y),
                                result(x[i].z, w.z, plus[i].z), result(x[i].w, w.w, plus[i].w)};
            const float4 whole = make_float4(v[0], v[1], v[2], v[3]);
            if (step.flags & HOLDS) value[i] = whole;
            if (to != nullptr && col < n) *(float4 *)(to + col) = whole;
            if (step.quants != nullptr) write_q8(v, col < n, step.quants, step.scales, (u64)row * n + col);
        }
    }
}
