// What comes before a product, made by the product's own blocks: a launch of its own would cost more than all of them
// repeating it.
//
//   QUANTIZED   nothing: the activations are in memory as q8
//   FLOATS      v = x
//   NORM        v = x / sqrt(mean(x^2) + eps) * w       (RmsNorm; a row is one group)
//   GATED_NORM  v = that * z * sigmoid(z)               (RmsNormGated; in groups of columns)
//   GATED       v = x * sigmoid(z)                      (SigmoidGate)
//
// The values have the bits that norm.cu and rows.cu give them, so that it makes no difference who makes them.
//
// How a kernel uses it: a `Prologue` among its parameters (`lower::prologue::Prologue` in Rust), and shared memory of
// `Prologue::n_bytes` there. All threads of the block call
//
//   start_weights(p, buffer);   as early as they like
//   pdl_wait();
//   start_values(p, buffer, row, first, n);
//   make_values(p, buffer, n, [&](u32 col, const float (&v)[4], bool inside) { ... });
//
// for columns first .. first + n of a row, n a multiple of 32; a norm takes the whole row. It is called by whole warps,
// for the four columns from `first + col` on of each lane, whose neighbour has the next four; eight lanes from a
// multiple of 8 on have a block of 32 columns and are inside or outside together. Then a barrier, before values that
// other threads were given are read. `put_q8` puts them into shared memory where products read them.
// All that is read is asked for at once; what follows are loops that are not unrolled, for each block issues them: 100
// instructions a warp for 128 columns. About 1 us, bound by latency; blocks should be few and large.
#pragma once
#include "formats.cuh"
#include "ptx.cuh"
#include "q8.cuh"
#include "row_norm.cuh"

enum PrologueKind { QUANTIZED, FLOATS, NORM, GATED_NORM, GATED };

struct Prologue {
    const float *x, *z, *w;
    u32 x_stride, z_stride; // floats from row to row
    u32 kind;
    u32 group;          // columns normalised together
    u32 z_cols, z_step; // so many columns of z lie side by side, and so many further the next ones
    float eps;
    u32 unused;
};

// Most pieces of a row that is normalised: 128 columns, or a group of fewer.
#define MOST_PIECES 512

// In the buffer: x, then what it is multiplied by, the weights of a row's norm or the gates.
//
// Weights come from memory, not from the launch before.
DEVICE void start_weights(const Prologue &p, float *buffer) {
    if (p.kind != NORM) return;
#pragma unroll 1
    for (u32 at = threadIdx.x * 4; at < p.group; at += blockDim.x * 4) copy_async_16(buffer + p.group + at, p.w + at);
}

DEVICE void start_values(const Prologue &p, float *buffer, u32 row, u32 first, u32 n) {
    const float *x = p.x + (u64)row * p.x_stride + first, *z = p.z + (u64)row * p.z_stride;
    const bool has_z = p.kind == GATED_NORM || p.kind == GATED;
#pragma unroll 1
    for (u32 at = threadIdx.x * 4; at < n; at += blockDim.x * 4) {
        copy_async_16(buffer + at, x + at);
        if (has_z) copy_async_16(buffer + n + at, z + ((first + at) / p.z_cols * p.z_step + (first + at) % p.z_cols));
    }
    copy_async_commit();
}

// One array for all that a kernel makes.
DEVICE float *partial_sums() {
    ZINC_STATIC_SHARED(float, partial, MOST_PIECES);
    return partial;
}

// As the head of this file says.
template <class Put> DEVICE void make_values(const Prologue &p, const float *buffer, u32 n, Put put) {
    float *partial = partial_sums();
    const float *others = buffer + n;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
    const bool is_norm = p.kind == NORM || p.kind == GATED_NORM, has_z = p.kind == GATED_NORM || p.kind == GATED;
    // A piece is a group, or ROW_PIECE columns of the one group that there is.
    const bool in_groups = p.kind == GATED_NORM;
    const u32 width = in_groups ? p.group : ROW_PIECE, n_pieces = (n + width - 1) / width;
    copy_async_wait<0>();
    __syncthreads();
    const u32 own = 4 * lane;
    float factor = 1.0f;
    if (is_norm) {
#pragma unroll 1
        for (u32 piece = warp; piece < n_pieces; piece += n_warps) {
            u32 col = piece * width + own;
            float sum = piece_sum(load_four(buffer + col, own < width && col < n));
            if (lane == 0) partial[piece] = sum;
        }
        __syncthreads();
        if (!in_groups) factor = row_factor(warp_sum(add_pieces(0.0f, partial, n_pieces)), n, p.eps);
    }
#pragma unroll 1
    for (u32 piece = warp; piece < n_pieces; piece += n_warps) {
        u32 col = piece * width + own;
        bool inside = own < width && col < n;
        float4 a = load_four(buffer + col, inside), b = a, c = a;
        if (p.kind != FLOATS) b = c = load_four(others + col, inside);
        if (in_groups) b = load_four(p.w + own, inside), factor = row_factor(partial[piece], p.group, p.eps);
        float v[4] = {a.x, a.y, a.z, a.w};
        const float w[4] = {b.x, b.y, b.z, b.w}, g[4] = {c.x, c.y, c.z, c.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (is_norm) v[i] = v[i] * factor * w[i];
            if (p.kind == GATED_NORM) v[i] = v[i] * g[i];
        }
        if (has_z) {
#pragma unroll
            for (int i = 0; i < 4; i++) v[i] = v[i] * sigmoid(g[i]);
        }
        put(col, v, inside);
    }
}

// Puts values as q8 where `dot32` reads them: the first and the last 16 quants of the block in two arrays, scale and
// sums in a third, at bytes `x1` and `xs`.
template <class F> DEVICE void put_q8(u8 *shared, u32 x1, u32 xs, u32 col, const float (&v)[4], bool inside) {
    Acts32 s;
    u32 packed = to_q8(v, s.d), lane = threadIdx.x % 8;
    int sum = __dp4a((int)packed, 0x01010101, 0);
    sum += __shfl_xor_sync(FULL_WARP, sum, 1);
    sum += __shfl_xor_sync(FULL_WARP, sum, 2);
    s.sums = pack_sums<F>(sum, __shfl_xor_sync(FULL_WARP, sum, 4));
    if (F::TABLE) {
        u32 other = __shfl_xor_sync(FULL_WARP, packed, 4);
        int first = (int)(lane < 4 ? packed : other), last = (int)(lane < 4 ? other : packed);
        order_acts<F>(first, last);
        packed = (u32)(lane < 4 ? first : last);
    }
    if (!inside) return;
    u32 block = col / 32;
    *(u32 *)(shared + (lane < 4 ? 0 : x1) + block * 16 + lane % 4 * 4) = packed;
    if (lane == 0) *(Acts32 *)(shared + xs + block * 8) = s;
}
