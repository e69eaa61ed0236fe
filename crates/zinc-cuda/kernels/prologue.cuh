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
//   values_there();
//   make_values(p, buffer, n, [&](u32 col, const float (&v)[LANE_COLS], bool inside) { ... });
//
// for columns first .. first + n of a row, n a multiple of 32; a norm takes the whole row. It is called by whole warps,
// for the eight columns from `first + col` on of each lane, whose neighbour has the next eight; four lanes from a
// multiple of 4 on have a block of 32 columns and are inside or outside together. Then a barrier, before values that
// other threads were given are read. `put_q8` puts them into shared memory where products read them.
// All that is read is asked for at once; what follows are loops that are not unrolled, for each block issues them: 75
// instructions a warp for 256 columns of FLOATS. About 1 us, bound by instructions; blocks should be few and large.
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

// Columns that a lane has at a time.
#define LANE_COLS 8

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

// Waits for what start_weights and start_values have asked for.
DEVICE void values_there() {
    copy_async_wait<0>();
    __syncthreads();
}

// The columns of each lane, which `load(col, v, inside)` gives, in steps of whole warps.
template <class Load, class Put> DEVICE void for_columns(u32 n, Load load, Put put) {
#pragma unroll 1
    for (u32 col = threadIdx.x * LANE_COLS; col - threadIdx.x % 32 * LANE_COLS < n; col += blockDim.x * LANE_COLS) {
        const bool inside = col < n;
        float v[LANE_COLS];
        load(col, v, inside);
        put(col, v, inside);
    }
}

DEVICE void load_columns(float (&v)[LANE_COLS], const float *from, bool inside) {
    const float4 a = load_four(from, inside), b = load_four(from + 4, inside);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

// As the head of this file says.
template <class Put> DEVICE void make_values(const Prologue &p, const float *buffer, u32 n, Put put) {
    float *partial = partial_sums();
    const float *others = buffer + n;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
    const float share = row_share(p.group);
    if (p.kind == FLOATS) {
        for_columns(n, [&](u32 col, float (&v)[LANE_COLS], bool inside) { load_columns(v, buffer + col, inside); }, put);
        return;
    }
    float factor = 1.0f;
    if (p.kind == NORM || p.kind == GATED_NORM) {
        // A piece is a group, or ROW_PIECE columns of the one group that there is; two of them at a time.
        u32 width = ROW_PIECE, n_pieces = (n + ROW_PIECE - 1) / ROW_PIECE;
        const u32 own = 4 * lane;
        if (p.kind == GATED_NORM) width = p.group, n_pieces = (n + width - 1) / width;
#pragma unroll 1
        for (u32 piece = 2 * warp; piece < n_pieces; piece += 2 * n_warps) {
            u32 col = piece * width + own;
            float a = lane_square_sum(load_four(buffer + col, own < width && col < n));
            float b = lane_square_sum(load_four(buffer + col + width, own < width && col + width < n));
            float sum = two_sums(a, b);
            if (lane % 16 == 0 && piece + lane / 16 < n_pieces) partial[piece + lane / 16] = sum;
        }
        __syncthreads();
        if (p.kind == NORM) factor = row_factor(warp_sum(add_pieces(0.0f, partial, n_pieces)), share, p.eps);
    }
    if (p.kind == NORM) {
        for_columns(
            n,
            [&](u32 col, float (&v)[LANE_COLS], bool inside) {
                float w[LANE_COLS];
                load_columns(v, buffer + col, inside), load_columns(w, others + col, inside);
#pragma unroll
                for (int i = 0; i < LANE_COLS; i++) v[i] = v[i] * factor * w[i];
            },
            put);
        return;
    }
    for_columns(
        n,
        [&](u32 col, float (&v)[LANE_COLS], bool inside) {
            float z[LANE_COLS];
            load_columns(v, buffer + col, inside), load_columns(z, others + col, inside);
            if (p.kind == GATED_NORM) {
                float w[LANE_COLS];
                load_columns(w, p.w + col % p.group, inside);
                const float of_group = row_factor(partial[inside ? col / p.group : 0], share, p.eps);
#pragma unroll
                for (int i = 0; i < LANE_COLS; i++) v[i] = v[i] * of_group * w[i] * z[i];
            }
#pragma unroll
            for (int i = 0; i < LANE_COLS; i++) v[i] = v[i] * sigmoid(z[i]);
        },
        put);
}

// Puts values as q8 where `dot32` reads them: the first and the last 16 quants of the block in two arrays, scale and
// sums in a third, at bytes `x1` and `xs`.
template <class F> DEVICE void put_q8(u8 *shared, u32 x1, u32 xs, u32 col, const float (&v)[LANE_COLS], bool inside) {
    Acts32 s;
    u32 packed[2];
    const u32 lane = threadIdx.x % 4;
    to_q8(v, packed, s.d);
    int sum = __dp4a((int)packed[0], 0x01010101, __dp4a((int)packed[1], 0x01010101, 0));
    sum += __shfl_xor_sync(FULL_WARP, sum, 1);
    s.sums = pack_sums<F>(sum, __shfl_xor_sync(FULL_WARP, sum, 2));
    if (F::TABLE) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            u32 other = __shfl_xor_sync(FULL_WARP, packed[i], 2);
            int first = (int)(lane < 2 ? packed[i] : other), last = (int)(lane < 2 ? other : packed[i]);
            order_acts<F>(first, last);
            packed[i] = (u32)(lane < 2 ? first : last);
        }
    }
    if (!inside) return;
    u32 block = col / 32;
    *(uint2 *)(shared + (lane < 2 ? 0 : x1) + block * 16 + lane % 2 * 8) = make_uint2(packed[0], packed[1]);
    if (lane == 0) *(Acts32 *)(shared + xs + block * 8) = s;
}
