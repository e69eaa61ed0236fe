// y = W x for weights in F32, F16 or BF16 and activations in f32, any length of rows.
//
// A warp takes one weight row and up to four rows of x; lane l has elements l, l + 32, ...; sums of lanes meet in a
// butterfly, so the order of a sum depends on the length of the row alone. Grid (ceil(n_out / 8), tiles of four rows or
// pairs of row and expert). Weights are read once for each tile: routers, biases of attention and small models.
#include "act.cuh"

struct MatFloatParams {
    Count n;
    u64 w0, w1;
    u64 bias0, bias1;
    u64 x;
    u64 residual;
    u64 gate;
    u64 out;
    u64 ids;
    u64 row_bytes;
    u64 matrix_bytes0, matrix_bytes1;
    u64 x_stride, out_stride, residual_stride, gate_stride;
    u32 n_in, n_out;
    u32 n_slots;
    u32 slot_cols;
    u32 act;
    u32 rows;
};

struct TypeF32 {
    DEVICE float at(const u8 *row, u32 i) { return ((const float *)row)[i]; }
};
struct TypeF16 {
    DEVICE float at(const u8 *row, u32 i) { return f16_to_f32(((const u16 *)row)[i]); }
};
struct TypeBF16 {
    DEVICE float at(const u8 *row, u32 i) {
        return bf16_to_f32(((const u16 *)row)[i]);
    }
};

#define TILE 4

template <class T> DEVICE void matfloat(const MatFloatParams &p) {
    pdl_launch();
    const int n_rows = min(p.n.get(), (int)p.rows);
    pdl_wait();
    const int lane = threadIdx.x & 31;
    const u32 col = blockIdx.x * 8 + (threadIdx.x >> 5);
    const bool stacked = p.n_slots != 0;
    u32 row = blockIdx.y * TILE, slot = 0;
    u64 matrix = 0;
    int n = n_rows - (int)row;
    if (stacked) {
        row = blockIdx.y / p.n_slots, slot = blockIdx.y % p.n_slots;
        n = min(1, n_rows - (int)row);
        if (n > 0) matrix = p.ids ? (u64)((const int *)p.ids)[blockIdx.y] : slot;
    }
    n = min(n, TILE);
    if (n <= 0 || col >= p.n_out) return;
    const u8 *w[2] = {(const u8 *)p.w0 + matrix * p.matrix_bytes0 + col * p.row_bytes,
                      (const u8 *)p.w1 + matrix * p.matrix_bytes1 + col * p.row_bytes};
    const u64 bias[2] = {p.bias0, p.bias1};
    const float *x[TILE];
#pragma unroll
    for (int r = 0; r < TILE; r++)
        x[r] = (const float *)(p.x + (row + min(r, n - 1)) * p.x_stride) + (u64)slot * p.slot_cols;
    float result = 0.0f;
#pragma unroll
    for (int m = 0; m < 2; m++) {
        if (m == 1 && !p.w1) break;
        float acc[TILE] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (u32 k = lane; k < p.n_in; k += 32) {
            float v = T::at(w[m], k);
#pragma unroll
            for (int r = 0; r < TILE; r++) acc[r] = fmaf(v, x[r][k], acc[r]);
        }
        float mine = 0.0f;
#pragma unroll
        for (int r = 0; r < TILE; r++) {
            float sum = warp_sum(acc[r]);
            if (lane == r) mine = sum;
        }
        if (bias[m]) mine = __fadd_rn(mine, ((const float *)bias[m])[matrix * p.n_out + col]);
        result = m == 0 ? mine : gated(p.act, result, mine);
    }
    if (lane >= n) return;
    u64 at = (u64)slot * p.n_out + col;
    if (p.gate) result = gated(p.act, ((const float *)(p.gate + (row + lane) * p.gate_stride))[at], result);
    if (p.residual) result = __fadd_rn(result, ((const float *)(p.residual + (row + lane) * p.residual_stride))[at]);
    ((float *)(p.out + (row + lane) * p.out_stride))[at] = result;
}

ZINC_KERNEL(256, 2) matfloat_f32(ZINC_PARAM MatFloatParams p) { matfloat<TypeF32>(p); }
ZINC_KERNEL(256, 2) matfloat_f16(ZINC_PARAM MatFloatParams p) { matfloat<TypeF16>(p); }
ZINC_KERNEL(256, 2) matfloat_bf16(ZINC_PARAM MatFloatParams p) { matfloat<TypeBF16>(p); }
