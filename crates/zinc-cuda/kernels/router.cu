// The product of the router with few rows of x, and the choice of experts, in one launch.
//
//   logits = W x + bias, W [n_experts, n_in] in f32; then RouterTopK (router.cuh);
//   gate = w_gate x: the gate of a shared expert is one more row of the product, where there is one
//
// x is made by each block (prologue.cuh): read, or a norm on the way. A warp makes one logit; lane l has elements l,
// l + 32, ..., summed as in matfloat.cu, so the bits are the same. Its weights are on their way to shared memory before
// the launches before this one are done. The last block of a row to finish, by a counter in the step's header, chooses
// for all: none waits.
// Grid (ceil(n / warps), rows), 4 or 8 warps. Bytes moved: the weights once, 2 MB for 256 experts; bound by latency, one read of
// x, two reductions, and the choice, which one block makes with few instructions at hand.
#include "last.cuh"
#include "prologue.cuh"
#include "ptx.cuh"
#include "router.cuh"

struct RouterProductParams {
    RouterParams router; // its logits are written and read
    Prologue x;
    const float *w, *bias; // no bias: null
    const float *w_gate;   // or null
    Rows gate;
    u32 *counters; // one a row, zero before and after
    u32 n_in, unused;
};

#define MAX_WARPS 8

ZINC_KERNEL(MAX_WARPS * 32, 2) router_product_f32(ZINC_PARAM RouterProductParams p) {
    ZINC_SHARED(shared);
    ZINC_STATIC_SHARED(u32, is_last, 1);
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = blockIdx.y, n_in = p.n_in;
    const u32 n_experts = p.router.logits.cols, n_cols = n_experts + (p.w_gate != nullptr ? 1 : 0);
    const u32 col = blockIdx.x * (blockDim.x / 32) + warp;
    // A row of weights for each warp, then x and what it is multiplied by.
    float *w = (float *)shared + warp * n_in, *x = (float *)shared + blockDim.x / 32 * n_in;
    if (col < n_cols) {
        const float *from = col < n_experts ? p.w + (u64)col * n_in : p.w_gate;
#pragma unroll 4
        for (u32 i = lane * 4; i < n_in; i += 128) copy_async_16(w + i, from + i);
    }
    start_weights(p.x, x);
    const int n_rows = p.router.n.get();
    pdl_wait();
    start_values(p.x, x, row, 0, n_in);
    pdl_launch();
    values_there();
    make_values(p.x, x, n_in, [&](u32 at, const float (&v)[LANE_COLS], bool inside) {
        if (!inside) return;
        *(float4 *)(x + at) = make_float4(v[0], v[1], v[2], v[3]);
        *(float4 *)(x + at + 4) = make_float4(v[4], v[5], v[6], v[7]);
    });
    __syncthreads();
    if ((int)row >= n_rows) return;
    float sum = 0.0f;
    if (col < n_cols) {
        constexpr u32 AT_ONCE = 8;
        u32 i = lane;
#pragma unroll 1
        for (; i + 32 * (AT_ONCE - 1) < n_in; i += 32 * AT_ONCE) {
            float a[AT_ONCE], b[AT_ONCE];
#pragma unroll
            for (u32 j = 0; j < AT_ONCE; j++) a[j] = w[i + 32 * j], b[j] = x[i + 32 * j];
#pragma unroll
            for (u32 j = 0; j < AT_ONCE; j++) sum = fmaf(a[j], b[j], sum);
        }
#pragma unroll 1
        for (; i < n_in; i += 32) sum = fmaf(w[i], x[i], sum);
    }
    sum = warp_sum(sum);
    if (lane == 0 && col < n_experts) {
        if (p.bias != nullptr) sum = __fadd_rn(sum, p.bias[col]);
        __stcg(p.router.logits.row(row) + col, sum);
    } else if (lane == 0 && col < n_cols) {
        p.gate.row(row)[0] = sum;
    }
    if (is_last_block(p.counters + row, gridDim.x - 1, is_last)) top_k(p.router, (int)row);
}
