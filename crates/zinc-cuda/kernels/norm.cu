// RmsNorm:      y = x / sqrt(mean(x^2) + eps) * w      in each group of columns
// RmsNormGated: that times z * sigmoid(z)
// L2Norm:       y = x / sqrt(sum(x^2) + eps)
//
// Rows of n_groups groups of `group` columns, f32; w has `group` elements.
// Launch, short groups (heads): a warp for each group, 256 threads, grid ceil(rows * n_groups / 8).
// Launch, long groups and whole rows: a block for each group, grid rows * n_groups; the order of the sum is that of
// row_norm.cuh, whatever the number of threads. Gated groups have it too, heads have one of their own.
// Reads x twice (the second time from the first-level cache), w and z once, writes y once; bound by memory in
// prefill and by latency in decode.
#include "panels.cuh"
#include "q8.cuh"
#include "row_norm.cuh"

enum Norm { RMS, RMS_GATED, L2 };

template <Norm NORM> DEVICE float scale_of(float sum, int group, float eps) {
    float square = NORM == L2 ? sum : sum / (float)group;
    return 1.0f / sqrtf(square + eps);
}

template <Norm NORM> DEVICE float normed(float x, float scale, const float *w, const float *z, int col) {
    if (NORM == L2) return x * scale;
    float y = x * scale * w[col];
    return NORM == RMS ? y : y * z[col] * sigmoid(z[col]);
}

struct NormParams {
    Rows x, y;
    // Only of the gated norm.
    Rows z;
    Count n;
    const float *w;
    // The result in q8 or as panels as well, or null; only rms_norm_block with one group a row. y may be null then.
    i8 *quants;
    float *scales;
    Panels panels;
    u32 group, n_groups;
    float eps;
    u32 unused;
};

template <Norm NORM> DEVICE void norm_by_warp(const NormParams &p) {
    int n_groups = (int)p.n_groups, group = (int)p.group, lane = threadIdx.x % 32;
    int idx = blockIdx.x * 8 + threadIdx.x / 32, row = idx / n_groups, start = idx % n_groups * group;
    pdl_launch();
    const int n_rows = p.n.get();
    pdl_wait();
    if (row >= n_rows) return;
    const float *x = p.x.row(row) + start, *z = NORM == RMS_GATED ? p.z.row(row) + start : nullptr;
    float *y = p.y.row(row) + start, sum = 0.0f;
    if (NORM == RMS_GATED) {
        // A lane holds the sum of a piece: there are at most four.
#pragma unroll 1
        for (int start = 0; start < group; start += 128) {
            float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            int col = start + 4 * lane;
            if (col < group) v.x = x[col];
            if (col + 1 < group) v.y = x[col + 1];
            if (col + 2 < group) v.z = x[col + 2];
            if (col + 3 < group) v.w = x[col + 3];
            float piece = piece_sum(v);
            if (lane == start / 128) sum = piece;
        }
    } else {
        for (int col = lane; col < group; col += 32) sum = fmaf(x[col], x[col], sum);
    }
    float scale = scale_of<NORM>(warp_sum(sum), group, p.eps);
    for (int col = lane; col < group; col += 32) y[col] = normed<NORM>(x[col], scale, p.w, z, col);
}

ZINC_KERNEL(256, 1) rms_norm_warp(ZINC_PARAM NormParams p) { norm_by_warp<RMS>(p); }
ZINC_KERNEL(256, 1) rms_norm_gated_warp(ZINC_PARAM NormParams p) { norm_by_warp<RMS_GATED>(p); }
ZINC_KERNEL(256, 1) l2_norm_warp(ZINC_PARAM NormParams p) { norm_by_warp<L2>(p); }

ZINC_KERNEL(1024, 1) rms_norm_block(ZINC_PARAM NormParams p) {
    ZINC_STATIC_SHARED(float, places, ROW_PLACES);
    ZINC_STATIC_SHARED(float, maxima, 32);
    int n_groups = (int)p.n_groups, group = (int)p.group;
    int row = (int)blockIdx.x / n_groups, start = (int)blockIdx.x % n_groups * group;
    pdl_launch();
    const int n_rows = p.n.get();
    pdl_wait();
    if (row >= n_rows) return;
    const float *x = p.x.row(row) + start;
    float *y = p.y.data == nullptr ? nullptr : p.y.row(row) + start;
    // A thread has four neighbours at a time.
    const int first = 4 * threadIdx.x, step = 4 * blockDim.x;
    const bool packs = p.panels.data != nullptr;
    float most = 0.0f;
    float4 held[2];
    auto load = [&](int col) {
        float v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = col + i < group ? x[col + i] : 0.0f;
        return make_float4(v[0], v[1], v[2], v[3]);
    };
    const float scale = row_factor(row_square_sum(group, held, places, load), group, p.eps);
    for (int col = first; packs && col < group; col += step)
        for (int i = 0; i < 4; i++)
            if (col + i < group) most = fmaxf(most, fabsf(x[col + i] * p.w[col + i]));
    // The largest result up to rounding, which is near enough for the exponent.
    const int exponent = packs ? panel_exponent(block_max(most, maxima) * scale) : 0;
    if (packs && threadIdx.x == 0) p.panels.factors[row] = power_of_two(exponent);
#pragma unroll 1
    for (int col = first; col - first < group; col += step) {
        float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (col + i < group) {
                v[i] = normed<RMS>(x[col + i], scale, p.w, nullptr, col + i);
                if (y != nullptr) y[col + i] = v[i];
            }
        if (p.quants != nullptr) write_q8(v, col < group, p.quants, p.scales, (u64)row * group + col);
        if (packs && col < div_up(group, PANEL_PAIR) * PANEL_PAIR) write_panel(p.panels, row, col, v, power_of_two(-exponent));
    }
}
