// The product of the router with few rows of x, and the choice of experts, in one launch.
//
//   logits = W x + bias, W [n_experts, n_in] in f32; then RouterTopK (router.cuh);
//   gate = w_gate x: the gate of a shared expert is one more row of the product, where there is one
//
// A warp makes one logit; lane l has elements l, l + 32, ..., summed as in matfloat.cu, so the bits are the same. Weights
// of rows of up to 32 PRELOADED elements are in registers before the launches before this one are done; x goes through
// shared memory. The last block of a row to finish, by a counter in the step's header, chooses for all: none waits.
// Grid (ceil(n / 4), rows), 4 warps. Bytes moved: the weights once, 2 MB for 256 experts; bound by latency, one read of
// x, one reduction, and the rounds of the choice.
#include "router.cuh"

struct RouterProductParams {
    RouterParams router; // its logits are written and read
    Rows x;
    const float *w, *bias; // no bias: null
    const float *w_gate;   // or null
    Rows gate;
    u32 *counters; // one a row, zero before and after
    u32 n_in, unused;
};

#define WARPS 4
#define PRELOADED 96

ZINC_KERNEL(WARPS * 32, 4) router_product_f32(ZINC_PARAM RouterProductParams p) {
    ZINC_SHARED(shared);
    ZINC_STATIC_SHARED(u32, is_last, 1);
    pdl_launch();
    float *x = (float *)shared;
    const u32 lane = threadIdx.x % 32, col = blockIdx.x * WARPS + threadIdx.x / 32, row = blockIdx.y;
    const u32 n_in = p.n_in, n_experts = p.router.logits.cols, n_cols = n_experts + (p.w_gate != nullptr);
    const float *w = col < n_experts ? p.w + (u64)col * n_in : p.w_gate;
    float weights[PRELOADED];
#pragma unroll
    for (u32 i = 0; i < PRELOADED; i++)
        weights[i] = col < n_cols && lane + 32 * i < n_in ? w[lane + 32 * i] : 0.0f;
    const int n_rows = p.router.n.get();
    pdl_wait();
    if ((int)row >= n_rows) return;
#pragma unroll 16
    for (u32 i = threadIdx.x; i < n_in; i += WARPS * 32) x[i] = p.x.row(row)[i];
    __syncthreads();
    float sum = 0.0f;
    if (col < n_cols) {
#pragma unroll
        for (u32 i = 0; i < PRELOADED; i++)
            if (lane + 32 * i < n_in) sum = fmaf(weights[i], x[lane + 32 * i], sum);
        for (u32 i = lane + 32 * PRELOADED; i < n_in; i += 32) sum = fmaf(w[i], x[i], sum);
    }
    sum = warp_sum(sum);
    if (lane == 0 && col < n_experts) {
        if (p.bias != nullptr) sum = __fadd_rn(sum, p.bias[col]);
        __stcg(p.router.logits.row(row) + col, sum);
    } else if (lane == 0 && col < n_cols) {
        p.gate.row(row)[0] = sum;
    }
    __threadfence();
    __syncthreads();
    // Comes round to zero with the last block.
    if (threadIdx.x == 0) *is_last = atomicInc(p.counters + row, gridDim.x - 1) == gridDim.x - 1;
    __syncthreads();
    if (*is_last == 0 || threadIdx.x >= 32) return;
    __threadfence();
    top_k(p.router, (int)row);
}
