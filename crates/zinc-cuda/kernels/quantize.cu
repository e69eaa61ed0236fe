// x [n, d] f32 -> y [n, d] in q8: d = amax / 127 of each 32 values, q = round(x / d), to nearest even.
//
// One warp a group of 128 values, 4 a lane; grid (ceil(d / 1024), rows), 8 warps a block. Reads 4 bytes and writes
// 1.125 a value: bound by latency, about 2 us for the rows of a decode step.
#include "common.cuh"

struct QuantizeParams {
    u64 header;
    u64 x, quants, scales;
    u64 x_stride; // bytes
    u32 cols, count, fixed_rows, pad;
};

ZINC_KERNEL(256, 4) quantize_q8(ZINC_PARAM QuantizeParams p) {
    pdl_launch();
    pdl_wait();
    int row = blockIdx.y;
    if (row >= actual_rows(p.header, p.count, p.fixed_rows)) return;
    int lane = threadIdx.x & 31, group = blockIdx.x * 8 + (threadIdx.x >> 5);
    int col = group * 128 + lane * 4;
    // cols is a multiple of 32, so the eight lanes of a block of 32 are inside or outside together.
    bool inside = col < (int)p.cols;
    float v[4] = {0, 0, 0, 0};
    if (inside) {
        const float *x = (const float *)(p.x + (u64)row * p.x_stride) + col;
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = x[i];
    }
    float amax = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
#pragma unroll
    for (int o = 4; o; o >>= 1) amax = fmaxf(amax, __shfl_xor_sync(FULL_WARP, amax, o));
    float d = amax / 127.0f, inverse = amax > 0.0f ? 127.0f / amax : 0.0f;
    u32 packed = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) packed |= ((u32)__float2int_rn(v[i] * inverse) & 255u) << (8 * i);
    if (!inside) return;
    *(u32 *)(p.quants + (u64)row * p.cols + col) = packed;
    if ((lane & 7) == 0) ((float *)p.scales)[(u64)row * (p.cols / 32) + col / 32] = d;
}
