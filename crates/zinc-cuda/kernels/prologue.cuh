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
// How a kernel uses it: a `Prologue` among its parameters (`lower::prologue::Prologue` in Rust). All threads of the
// block call
//
//   u32 touched = touch_weights(p);   as early as they like
//   pdl_wait();
//   keep(touched);
//   make_values(p, row, first, n, [&](u32 col, const float (&v)[4], bool inside) { ... });
//
// for columns first .. first + n of a row, n a multiple of 32; a norm takes the whole row. It is called by whole warps,
// for the four columns from `first + col` on of each lane, whose neighbour has the next four; eight lanes from a
// multiple of 8 on have a block of 32 columns and are inside or outside together. Then a barrier, before values that
// other threads were given are read. `put_q8` puts them into shared memory where products read them.
// The block has a power of two of warps, at most 8, and calls it once (or with barriers between). For long rows each
// thread has four loads of 16 bytes in flight; a row of 4096 is read once. About 1 us, bound by latency.
#pragma once
#include "formats.cuh"
#include "q8.cuh"

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

// Groups up to this length are summed by a warp, longer ones by a block: `LONGEST_OF_WARP` of lower/rows.rs.
#define LONGEST_OF_WARP 512

// Weights of a norm come from memory, not from the launch before: a load of each line of 128 bytes has them in the
// cache when that is done. What it returns is only to be kept.
DEVICE u32 touch_weights(const Prologue &p) {
    u32 at = threadIdx.x * 32;
    bool is_norm = p.kind == NORM || p.kind == GATED_NORM;
    return is_norm && at < p.group ? __float_as_uint(p.w[at]) : 0;
}

DEVICE float4 load_four(const float *from, bool inside) {
    return inside ? *(const float4 *)from : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

DEVICE float squares(float sum, float4 v) {
    return fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
}

// The factor of a group, as norm.cu has it.
DEVICE float norm_factor(float sum, u32 group, float eps) { return 1.0f / sqrtf(sum / (float)(int)group + eps); }

// Sum of the squares of a long row as rms_norm_block has it, which launches a thread for each four columns, but at most
// 1024: a thread here stands for several of those. Where the row has no more than four pieces for each thread, they are
// left in `x`.
DEVICE float square_sum(const float *row, u32 n, float4 (&x)[4], float *places) {
    const u32 lane = threadIdx.x % 32, n_warps = blockDim.x / 32;
    u32 n_threads = 256;
    while (n_threads < 1024 && n_threads * 4 < n) n_threads *= 2;
    for (u32 first = threadIdx.x; first < n_threads; first += 4 * blockDim.x) {
        float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (u32 start = 0; start < n; start += 4 * n_threads) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                u32 thread = first + i * blockDim.x, col = start + 4 * thread;
                x[i] = load_four(row + col, thread < n_threads && col < n);
            }
#pragma unroll
            for (u32 i = 0; i < 4; i++) sum[i] = squares(sum[i], x[i]);
        }
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            sum[i] = warp_sum(sum[i]);
            if (lane == 0 && first + i * blockDim.x < n_threads) places[first / 32 + i * n_warps] = sum[i];
        }
    }
    __syncthreads();
    return warp_sum(lane < n_threads / 32 ? places[lane] : 0.0f);
}

// Values of long rows, and of all that are not normalised: a thread has four columns every 4 * blockDim.x.
template <class Put>
DEVICE void make_long(const Prologue &p, const float *row, const float *z, u32 first, u32 n, Put put) {
    ZINC_STATIC_SHARED(float, places, 32);
    const u32 step = 4 * blockDim.x;
    // The weights or the gates of four columns.
    auto load_others = [&](u32 from, float4 (&o)[4]) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 col = from + i * step, at = first + col;
            const float *other = p.kind == NORM ? p.w + col : z + (at / p.z_cols * p.z_step + at % p.z_cols);
            o[i] = load_four(other, p.kind != FLOATS && col < n);
        }
    };
    float4 x[4], o[4];
    float factor = 1.0f;
    bool held = false;
    if (p.kind == NORM) {
        held = n <= 4 * step;
        if (held) load_others(4 * threadIdx.x, o);
        factor = norm_factor(square_sum(row, n, x, places), n, p.eps);
    }
    for (u32 from = 4 * threadIdx.x; from - 4 * threadIdx.x < n; from += 4 * step) {
        if (!held) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) x[i] = load_four(row + from + i * step, from + i * step < n);
            load_others(from, o);
        }
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            float v[4] = {x[i].x, x[i].y, x[i].z, x[i].w};
            const float g[4] = {o[i].x, o[i].y, o[i].z, o[i].w};
#pragma unroll
            for (int k = 0; k < 4; k++) {
                if (p.kind == NORM) v[k] = v[k] * factor * g[k];
                if (p.kind == GATED) v[k] = v[k] * sigmoid(g[k]);
            }
            // Outside or inside for whole warps but the last one.
            u32 col = from + i * step;
            if (col - 4 * (threadIdx.x % 32) < n) put(col, v, col < n);
        }
    }
}

// Values of rows in short groups: as rms_norm_warp and rms_norm_gated_warp have it, a lane sums columns 32 apart.
template <class Put> DEVICE void make_short(const Prologue &p, const float *row, const float *z, u32 n, Put put) {
    constexpr int AT_ONCE = 2;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
    // A load of each line of 128 bytes, so that later rounds find theirs in the cache.
    const u32 line = threadIdx.x * 32;
    u32 touched_x = line < n ? __float_as_uint(row[line]) : 0;
    u32 touched_z = line < n && p.kind == GATED_NORM ? __float_as_uint(z[line]) : 0;
    for (u32 start = warp * p.group; start < n; start += AT_ONCE * n_warps * p.group) {
        float sum[AT_ONCE], factor[AT_ONCE];
        float4 x[AT_ONCE], o[AT_ONCE];
        auto load_values = [&](u32 col) {
#pragma unroll
            for (int g = 0; g < AT_ONCE; g++) {
                u32 at = start + g * n_warps * p.group;
                bool inside = col < p.group && at < n;
                x[g] = load_four(row + at + col, inside);
                o[g] = load_four(z + at + col, p.kind == GATED_NORM && inside);
            }
        };
        load_values(4 * lane);
#pragma unroll
        for (int g = 0; g < AT_ONCE; g++) {
            u32 at = start + g * n_warps * p.group;
            sum[g] = 0.0f;
#pragma unroll 4
            for (u32 col = lane; col < p.group; col += 32) {
                float v = at < n ? row[at + col] : 0.0f;
                sum[g] = fmaf(v, v, sum[g]);
            }
        }
#pragma unroll
        for (int g = 0; g < AT_ONCE; g++) factor[g] = norm_factor(warp_sum(sum[g]), p.group, p.eps);
        for (u32 from = 0; from < p.group; from += 128) {
            u32 col = from + 4 * lane;
            if (from > 0) load_values(col);
            float4 weights = load_four(p.w + col, col < p.group);
            const float w[4] = {weights.x, weights.y, weights.z, weights.w};
#pragma unroll
            for (int g = 0; g < AT_ONCE; g++) {
                u32 at = start + g * n_warps * p.group;
                float v[4] = {x[g].x, x[g].y, x[g].z, x[g].w};
                const float gate[4] = {o[g].x, o[g].y, o[g].z, o[g].w};
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    v[k] = v[k] * factor[g] * w[k];
                    if (p.kind == GATED_NORM) v[k] = v[k] * gate[k] * sigmoid(gate[k]);
                }
                if (at < n) put(at + col, v, col < p.group);
            }
        }
    }
    keep(touched_x), keep(touched_z);
}

// As the head of this file says.
template <class Put> DEVICE void make_values(const Prologue &p, u32 row, u32 first, u32 n, Put put) {
    const float *x = p.x + (u64)row * p.x_stride + first, *z = p.z + (u64)row * p.z_stride;
    bool in_groups = p.kind == GATED_NORM || (p.kind == NORM && p.group <= LONGEST_OF_WARP);
    if (in_groups) make_short(p, x, z + first, n, put);
    else make_long(p, x, z, first, n, put);
}

// Puts values as q8 where `dot32` reads them: the first and the last 16 quants of the block in two arrays, scale and
// sums in a third, at bytes `x1` and `xs`.
DEVICE void put_q8(u8 *shared, u32 x1, u32 xs, u32 col, const float (&v)[4], bool inside) {
    Acts32 s;
    u32 packed = to_q8(v, s.d), lane = threadIdx.x % 8;
    int sum = __dp4a((int)packed, 0x01010101, 0);
    sum += __shfl_xor_sync(FULL_WARP, sum, 1);
    sum += __shfl_xor_sync(FULL_WARP, sum, 2);
    int last = __shfl_xor_sync(FULL_WARP, sum, 4);
    s.sums = (sum & 0xffff) | last << 16;
    if (!inside) return;
    u32 block = col / 32;
    *(u32 *)(shared + (lane < 4 ? 0 : x1) + block * 16 + lane % 4 * 4) = packed;
    if (lane == 0) *(Acts32 *)(shared + xs + block * 8) = s;
}
