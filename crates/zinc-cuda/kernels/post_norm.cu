// Rows that are normalised and added, in one launch of up to four steps, each
//
//   result = (x / sqrt(mean(x^2) + eps) * w + plus) * factor
//
// with x and plus from memory or the value that an earlier step has left in registers; plus and the write of the result
// may be missing, and it may be written in q8. What follows a block of gemma: norm, residual, scale of the layer, and the
// norm before the next block; the router's input; the sum of the normed results of dense block and experts. The same
// formulas as norm.cu, rows.cu and quantize.cu, and the same bits.
//
// Launch: grid rows, a thread for each four columns, but at most 1024: a row has 8192 columns at most, a multiple of 4
// (of 32 for q8), everything aligned to 16 bytes. What is written lies where nothing is read but by its own thread.
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

DEVICE float4 load_four(const float *from, bool inside) {
    return inside ? *(const float4 *)from : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

// The weights of a thread's columns.
struct StepWeights {
    float4 w[2];
    float times;
    __device__ __forceinline__ void load(const NormStep &step, u32 n) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const u32 col = 4 * (threadIdx.x + i * blockDim.x);
            w[i] = load_four(step.w + col, col < n);
        }
        times = step.times != nullptr ? *step.times : step.factor;
    }
};

ZINC_KERNEL(1024, 1) post_norm(ZINC_PARAM PostNormParams p) {
    ZINC_STATIC_SHARED(float, places, 2 * 64);
    const u32 n = p.cols, n_pieces = (n + ROW_PIECE - 1) / ROW_PIECE, lane = threadIdx.x % 32;
    const u32 warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
    const int row = blockIdx.x;
    pdl_launch();
    const int n_rows = p.n.get();
    // Weights come from no launch: those of the first step are loaded while the launch before ends, others a step ahead.
    StepWeights of;
    of.load(p.steps[0], n);
    pdl_wait();
    if (row >= n_rows) return;
    float4 value[2] = {};
#pragma unroll 1
    for (u32 idx = 0; idx < p.n_steps; idx++) {
        const NormStep &step = p.steps[idx];
        const bool adds = step.flags & ADDS_VALUE || step.plus.data != nullptr;
        float *at = places + idx % 2 * 64;
        float4 x[2], plus[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const u32 col = 4 * (threadIdx.x + i * blockDim.x);
            x[i] = plus[i] = value[i];
            if (step.x.data != nullptr) x[i] = load_four(step.x.row(row) + col, col < n);
            if (step.plus.data != nullptr) plus[i] = load_four(step.plus.row(row) + col, col < n);
        }
        const StepWeights now = of;
        if (idx + 1 < p.n_steps) of.load(p.steps[idx + 1], n);
        const float part[2] = {piece_sum(x[0]), piece_sum(x[1])};
#pragma unroll
        for (u32 i = 0; i < 2; i++)
            if (lane == 0 && warp + i * n_warps < n_pieces) at[warp + i * n_warps] = part[i];
        __syncthreads();
        const float factor = row_factor(warp_sum(add_pieces(0.0f, at, n_pieces)), n, p.eps);
        auto result = [&](float x, float w, float plus) {
            float y = __fmul_rn(x * factor, w);
            return __fmul_rn(adds ? __fadd_rn(y, plus) : y, now.times);
        };
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const u32 col = 4 * (threadIdx.x + i * blockDim.x);
            const float4 w = now.w[i];
            const float v[4] = {result(x[i].x, w.x, plus[i].x), result(x[i].y, w.y, plus[i].y),
                                result(x[i].z, w.z, plus[i].z), result(x[i].w, w.w, plus[i].w)};
            const float4 whole = make_float4(v[0], v[1], v[2], v[3]);
            if (step.flags & HOLDS) value[i] = whole;
            if (step.to.data != nullptr && col < n) *(float4 *)(step.to.row(row) + col) = whole;
            if (step.quants != nullptr) write_q8(v, col < n, step.quants, step.scales, (u64)row * n + col);
        }
    }
}
