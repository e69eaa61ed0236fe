// x [n, d] f32 -> y [n, d] in q8: d = amax / 127 of each 32 values, q = round(x / d), to nearest even.
//
// One warp a group of 128 values, 4 a lane; grid (ceil(d / 1024), rows), 8 warps a block. Reads 4 bytes and writes
// 1.125 a value: bound by latency, about 2 us for the rows of a decode step.
#include "q8.cuh"

struct QuantizeParams {
    Rows x;
    Count n;
    i8 *quants;
    float *scales;
};

ZINC_KERNEL(256, 4) quantize_q8(ZINC_PARAM QuantizeParams p) {
    pdl_launch();
    const int n_rows = p.n.get();
    pdl_wait();
    int row = blockIdx.y;
    if (row >= n_rows) return;
    int lane = threadIdx.x & 31, group = blockIdx.x * 8 + (threadIdx.x >> 5);
    int col = group * 128 + lane * 4;
    // cols is a multiple of 32, so the eight lanes of a block of 32 are inside or outside together.
    bool inside = col < (int)p.x.cols;
    float v[4] = {0, 0, 0, 0};
    if (inside) {
        const float *x = p.x.row(row) + col;
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = x[i];
    }
    write_q8(v, inside, p.quants, p.scales, (u64)row * p.x.cols + col);
}
