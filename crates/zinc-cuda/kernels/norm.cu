// RmsNorm:      y = x / sqrt(mean(x^2) + eps) * w      in each group of columns
// RmsNormGated: that times z * sigmoid(z)
// L2Norm:       y = x / sqrt(sum(x^2) + eps)
//
// Rows of n_groups groups of `group` columns, f32; w has `group` elements.
// Launch, short groups (heads): a warp for each group, 256 threads, grid ceil(rows * n_groups / 8).
// Launch, long groups and whole rows: a block for each group, grid rows * n_groups, a warp for each four pieces of 128
// columns (1024 threads at most); the order of the sum is that of row_norm.cuh, whatever the number of threads. Gated
// groups have it too, heads have one of their own.
// A block keeps x and w in registers and reads each once, w while the launch before ends; sum and largest value meet at
// one barrier. Groups of more than 16384 columns, and those of the warps, are read again, from the first-level cache.
// z is read once, y written once; bound by memory in prefill and by latency in decode.
#include "panels.cuh"
#include "q8.cuh"
#include "row_norm.cuh"

enum Norm { RMS, RMS_GATED, L2 };

template <Norm NORM> DEVICE float scale_of(float sum, int group, float eps) {
    return NORM == L2 ? 1.0f / sqrtf(sum + eps) : row_factor(sum, row_share((u32)group), eps);
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

// Pieces of a warp that are kept: idx * n_warps + warp.
#define PIECES 4

// A group of a block. `aligned`: four neighbouring columns may be loaded and stored at once.
struct Group {
    const float *x, *w;
    float *y;
    int n, row;
    bool aligned;
    __device__ __forceinline__ Group(const NormParams &p, int group, int of_row)
        : x(p.x.row(of_row) + group * (int)p.group), w(p.w),
          y(p.y.data == nullptr ? nullptr : p.y.row(of_row) + group * (int)p.group), n((int)p.group), row(of_row),
          aligned(n % 4 == 0 && ((u64)x | (u64)w | (u64)y) % 16 == 0) {}
};

// Columns `col` .. `col + 3` of `n`; zeros past the end.
DEVICE float4 load_any(const float *from, int col, int n) {
    float v[4];
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = col + i < n ? from[col + i] : 0.0f;
    return make_float4(v[0], v[1], v[2], v[3]);
}

// The thread's columns of all pieces.
DEVICE void load_pieces(float4 (&v)[PIECES], const float *from, const Group &g) {
    if (g.aligned) {
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const int col = 4 * (threadIdx.x + i * blockDim.x);
            v[i] = load_four(from + col, col < g.n);
        }
    } else {
#pragma unroll
        for (int i = 0; i < PIECES; i++) v[i] = load_any(from, 4 * (threadIdx.x + i * blockDim.x), g.n);
    }
}

DEVICE float largest(float most, float4 x, float4 w) {
    most = fmaxf(fmaxf(most, fabsf(x.x * w.x)), fabsf(x.y * w.y));
    return fmaxf(fmaxf(most, fabsf(x.z * w.z)), fabsf(x.w * w.w));
}

// The results of four columns of each lane, which lie in a piece of the group.
DEVICE void put_four(const NormParams &p, const Group &g, int col, float4 x, float4 w, float scale, int exponent) {
    const float v[4] = {x.x * scale * w.x, x.y * scale * w.y, x.z * scale * w.z, x.w * scale * w.w};
    if (g.y != nullptr && g.aligned) {
        if (col < g.n) *(float4 *)(g.y + col) = make_float4(v[0], v[1], v[2], v[3]);
    } else if (g.y != nullptr) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (col + i < g.n) g.y[col + i] = v[i];
    }
    if (p.quants != nullptr) write_q8(v, col < g.n, p.quants, p.scales, (u64)g.row * g.n + col);
    if (p.panels.data != nullptr) write_panel(p.panels, g.row, col, v, power_of_two(-exponent));
}

// The largest result up to rounding is near enough for the exponent: `most` is that of x * w.
DEVICE int exponent_of(const NormParams &p, const Group &g, float most, float scale) {
    const int exponent = panel_exponent(most * scale);
    if (threadIdx.x == 0) p.panels.factors[g.row] = power_of_two(exponent);
    return exponent;
}

// A group with more columns than are kept.
DEVICE void norm_long(const NormParams &p, const Group &g, float *places, float *maxima) {
    const int n = g.n, step = 4 * blockDim.x;
    const bool packs = p.panels.data != nullptr;
    float4 held[2];
    const float sum = row_square_sum(n, held, places, [&](int col) { return load_any(g.x, col, n); });
    const float scale = row_factor(sum, row_share(n), p.eps);
    float most = 0.0f;
#pragma unroll 1
    for (int col = 4 * threadIdx.x; packs && col < n; col += step)
        most = largest(most, load_any(g.x, col, n), load_any(g.w, col, n));
    const int exponent = packs ? exponent_of(p, g, block_max(most, maxima), scale) : 0;
    // Warps have pieces as a whole.
#pragma unroll 1
    for (int col = 4 * threadIdx.x; col < div_up(n, ROW_PIECE) * ROW_PIECE; col += step)
        put_four(p, g, col, load_any(g.x, col, n), load_any(g.w, col, n), scale, exponent);
}

ZINC_KERNEL(1024, 1) rms_norm_block(ZINC_PARAM NormParams p) {
    ZINC_STATIC_SHARED(float, places, ROW_PLACES);
    ZINC_STATIC_SHARED(float, maxima, 32);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
    const Group g(p, (int)blockIdx.x % (int)p.n_groups, (int)blockIdx.x / (int)p.n_groups);
    const int n_pieces = div_up(g.n, ROW_PIECE);
    const bool packs = p.panels.data != nullptr, fits = n_pieces <= PIECES * n_warps;
    pdl_launch();
    const int n_rows = p.n.get();
    float4 x[PIECES], w[PIECES];
    if (fits) load_pieces(w, g.w, g);
    pdl_wait();
    if (g.row >= n_rows) return;
    if (!fits) return norm_long(p, g, places, maxima);
    load_pieces(x, g.x, g);
    float part[PIECES], most = 0.0f;
#pragma unroll
    for (int i = 0; i < PIECES; i++) part[i] = piece_sum(x[i]);
    if (packs) {
#pragma unroll
        for (int i = 0; i < PIECES; i++) most = largest(most, x[i], w[i]);
        most = warp_max(most);
        if (lane == 0) maxima[warp] = most;
    }
#pragma unroll
    for (int i = 0; i < PIECES; i++)
        if (lane == 0 && warp + i * n_warps < n_pieces) places[warp + i * n_warps] = part[i];
    __syncthreads();
    const float scale = row_factor(warp_sum(add_pieces(0.0f, places, n_pieces)), row_share(g.n), p.eps);
    const int exponent = packs ? exponent_of(p, g, warp_max(lane < n_warps ? maxima[lane] : 0.0f), scale) : 0;
#pragma unroll
    for (int i = 0; i < PIECES; i++)
        if (warp + i * n_warps < n_pieces)
            put_four(p, g, 4 * (threadIdx.x + i * blockDim.x), x[i], w[i], scale, exponent);
}
