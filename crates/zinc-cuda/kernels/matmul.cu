// y = W x for many rows of x on integer tensor cores: quantised weights, activations in q8.
//
// A block makes a tile of 128 weight rows (64 of the gate and the same 64 of up for a pair) by 64 rows of x. Each step
// takes four blocks of 32: weights are unpacked to signed bytes in shared memory, products of a block of 32 are exact
// integers, which are scaled and added in f32 in the order of the blocks: the order of every sum depends on the length
// of the row alone. Two buffers: the next weights are read while the tensor cores work on these.
// Grid (ceil(n_out / 128), or / 64 for a pair; tiles of 64 rows, or of pairs grouped by expert; heads), 256 threads.
// Bound: about 12 instructions of scaling for each 16x8x32 product, a third of the tensor cores' rate.
#include "act.cuh"
#include "formats.cuh"
#include "ptx.cuh"

struct MatMulParams {
    Count n;
    u64 w0, w1;
    u64 bias0, bias1;
    u64 quants, scales;
    u64 residual, gate, out;
    u64 offsets, pairs, tiles, n_tiles; // grouping of pairs by expert, or 0
    u64 row_bytes, matrix_bytes0, matrix_bytes1;
    u64 out_stride, residual_stride, gate_stride;
    u32 n_in, n_out;
    u32 x_cols, n_slots, slot_cols;
    u32 act, rows, unused;
};

#define TILE_M 128
#define TILE_N 64
#define STEP 4                 // blocks of 32 a step
#define PITCH (STEP * 32 + 16) // bytes from row to row: no bank conflicts for ldmatrix

struct Buffer {
    u8 w[TILE_M * PITCH];
    u8 x[TILE_N * PITCH];
    float d0[STEP][TILE_M], d1[STEP][TILE_M]; // scales, of both halves of a block
    float m[STEP][TILE_M];
    float xd[STEP][TILE_N], xs[STEP][TILE_N]; // scale, and scale times sum
};

// Where a column of the tile comes from and goes to.
struct Column {
    u32 row, slot;
};

// Subtracts Z of each byte, all below 128.
template <int Z> DEVICE int centred(int q) {
    return Z == 0 ? q : (int)((((u32)q | 0x80808080u) - Z * 0x01010101u) ^ 0x80808080u);
}

// 12582912 as an integer's start makes its float the sum plus 12582912, exactly, while sums stay below 2^22.
#define START 0x4b400000
DEVICE float from_start(int sum) { return __int_as_float(sum) - 12582912.0f; }

template <class F> struct Tile {
    const MatMulParams &p;
    const u8 *w0, *w1;
    u32 n_blocks;

    // Weight row r of the tile: gate and up take turns every 16 rows.
    __device__ __forceinline__ const u8 *weight_row(u32 r) const {
        if (!p.w1) return w0 + (u64)min(blockIdx.x * TILE_M + r, p.n_out - 1) * p.row_bytes;
        u32 row = min(blockIdx.x * (TILE_M / 2) + r / 32 * 16 + r % 16, p.n_out - 1);
        return (r / 16 % 2 ? w1 : w0) + (u64)row * p.row_bytes;
    }

    __device__ __forceinline__ void fetch(Block32 (&k)[2], u32 step) const {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            u32 unit = threadIdx.x + i * 256, r = unit / STEP, b = step * STEP + unit % STEP;
            k[i].d1 = k[i].m = 0.0f;
            load<F>(planes_of<F>(weight_row(r), n_blocks), min(b, n_blocks - 1), k[i]);
            if (b >= n_blocks) k[i].d0 = k[i].d1 = k[i].m = 0.0f;
        }
    }

    __device__ __forceinline__ void store(const Block32 (&k)[2], Buffer *to) const {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            u32 unit = threadIdx.x + i * 256, r = unit / STEP, b = unit % STEP;
            uint4 *at = (uint4 *)(to->w + r * PITCH + b * 32);
            at[0] = make_uint4(centred<F::Z>(k[i].q[0]), centred<F::Z>(k[i].q[1]), centred<F::Z>(k[i].q[2]),
                               centred<F::Z>(k[i].q[3]));
            at[1] = make_uint4(centred<F::Z>(k[i].q[4]), centred<F::Z>(k[i].q[5]), centred<F::Z>(k[i].q[6]),
                               centred<F::Z>(k[i].q[7]));
            to->d0[b][r] = k[i].d0;
            if (F::TWO) to->d1[b][r] = k[i].d1;
            if (F::MIN) to->m[b][r] = k[i].m;
        }
    }

    // Starts copying the activations of a step; their scales and sums are written at once.
    __device__ __forceinline__ void copy_rows(Buffer *to, u32 step, const Column *columns, int n) const {
        const i8 *quants = (const i8 *)p.quants;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            u32 unit = threadIdx.x + i * 256, c = unit / (2 * STEP), part = unit % (2 * STEP);
            bool valid = (int)c < n && step * STEP + part / 2 < n_blocks;
            const i8 *from = quants;
            if (valid) from += (u64)columns[c].row * p.x_cols + columns[c].slot * p.slot_cols + step * STEP * 32 + part * 16;
            copy_async_16(to->x + c * PITCH + part * 16, from, valid);
        }
        copy_async_commit();
        u32 c = threadIdx.x / STEP, b = threadIdx.x % STEP;
        float d = 0.0f, s = 0.0f;
        if ((int)c < n && step * STEP + b < n_blocks) {
            u64 at = (u64)columns[c].row * p.x_cols + columns[c].slot * p.slot_cols + (step * STEP + b) * 32;
            d = ((const float *)p.scales)[at / 32];
            if (F::MIN) {
                int4 x0 = *(const int4 *)(quants + at), x1 = *(const int4 *)(quants + at + 16);
                const int ones = 0x01010101;
                int sum = __dp4a(x0.x, ones, __dp4a(x0.y, ones, __dp4a(x0.z, ones, __dp4a(x0.w, ones, 0))));
                sum = __dp4a(x1.x, ones, __dp4a(x1.y, ones, __dp4a(x1.z, ones, __dp4a(x1.w, ones, sum))));
                s = d * (float)sum;
            }
        }
        to->xd[b][c] = d;
        if (F::MIN) to->xs[b][c] = s;
    }
};

// Adds the products of a step: the warp's 32 weight rows by 32 columns.
template <class F> DEVICE void multiply(const Buffer *from, float (&acc)[2][4][4], int row0, int col0) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    // Not unrolled: registers.
#pragma unroll 1
    for (int b = 0; b < STEP; b++) {
        u32 a[2][4], x[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            load_matrix_x4(a[i], from->w + (row0 + 16 * i + lane % 16) * PITCH + b * 32 + lane / 16 * 16);
            load_matrix_x4(x[i], from->x + (col0 + 16 * i + lane / 16 * 8 + lane % 8) * PITCH + b * 32 + lane / 8 % 2 * 16);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int r = row0 + 16 * i + g;
            float d0[2] = {from->d0[b][r], from->d0[b][r + 8]}, d1[2], m[2];
            if (F::TWO) d1[0] = from->d1[b][r], d1[1] = from->d1[b][r + 8];
            if (F::MIN) m[0] = from->m[b][r], m[1] = from->m[b][r + 8];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int c = col0 + 8 * j + 2 * t;
                float2 xd = *(const float2 *)&from->xd[b][c], xs = make_float2(0.0f, 0.0f);
                if (F::MIN) xs = *(const float2 *)&from->xs[b][c];
                u32 b0 = x[j / 2][j % 2 * 2], b1 = x[j / 2][j % 2 * 2 + 1];
                float part[4];
                int sum[4] = {START, START, START, START};
                if (F::TWO) {
                    int high[4] = {START, START, START, START};
                    mma_s8_half(sum, a[i][0], a[i][1], b0);
                    mma_s8_half(high, a[i][2], a[i][3], b1);
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        part[e] = fmaf(d1[e / 2], from_start(high[e]), d0[e / 2] * from_start(sum[e]));
                } else {
                    mma_s8(sum, a[i], b0, b1);
#pragma unroll
                    for (int e = 0; e < 4; e++) part[e] = d0[e / 2] * from_start(sum[e]);
                }
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    acc[i][j][e] = fmaf(part[e], e % 2 ? xd.y : xd.x, acc[i][j][e]);
                    if (F::MIN) acc[i][j][e] = fmaf(m[e / 2], e % 2 ? xs.y : xs.x, acc[i][j][e]);
                }
            }
        }
    }
}

// Bias, activation and residual of one result, and its place.
DEVICE void finish(const MatMulParams &p, Column column, u64 matrix, u32 col, float value, float up) {
    if (p.bias0) value = __fadd_rn(value, ((const float *)p.bias0)[matrix * p.n_out + col]);
    if (p.w1) {
        if (p.bias1) up = __fadd_rn(up, ((const float *)p.bias1)[matrix * p.n_out + col]);
        value = gated(p.act, value, up);
    }
    u64 at = (u64)column.slot * p.n_out + col, row = column.row;
    if (p.gate) value = gated(p.act, ((const float *)(p.gate + row * p.gate_stride))[at], value);
    if (p.residual) value = __fadd_rn(value, ((const float *)(p.residual + row * p.residual_stride))[at]);
    ((float *)(p.out + row * p.out_stride))[at] = value;
}

template <class F> DEVICE void matmul(const MatMulParams &p) {
    ZINC_SHARED(shared);
    ZINC_STATIC_SHARED(Column, columns, TILE_N);
    pdl_launch();
    pdl_wait();
    Buffer *buffers = (Buffer *)shared;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 first = blockIdx.y * TILE_N, slot = blockIdx.z;
    u64 matrix = slot;
    int n = min(p.n.get(), (int)p.rows) - (int)first;
    if (p.tiles) {
        if ((int)blockIdx.y >= *(const int *)p.n_tiles) return;
        matrix = (u64)((const int *)p.tiles)[2 * blockIdx.y], first = ((const int *)p.tiles)[2 * blockIdx.y + 1];
        n = ((const int *)p.offsets)[matrix + 1] - (int)first;
    }
    n = min(n, TILE_N);
    if (n <= 0) return;
    if (threadIdx.x < TILE_N) {
        Column column = {first + threadIdx.x, slot};
        if (p.tiles && (int)threadIdx.x < n) {
            u32 pair = ((const int *)p.pairs)[first + threadIdx.x];
            column.row = pair / p.n_slots, column.slot = pair % p.n_slots;
        }
        columns[threadIdx.x] = column;
    }
    __syncthreads();
    Tile<F> tile = {p, (const u8 *)p.w0 + matrix * p.matrix_bytes0, (const u8 *)p.w1 + matrix * p.matrix_bytes1,
                    p.n_in / 32};
    const u32 n_steps = (tile.n_blocks + STEP - 1) / STEP;
    float acc[2][4][4];
#pragma unroll
    for (int i = 0; i < 32; i++) acc[i / 16][i / 4 % 4][i % 4] = 0.0f;
    Block32 next[2];
    tile.fetch(next, 0);
    tile.copy_rows(buffers, 0, columns, n);
    tile.store(next, buffers);
    const int row0 = warp / 2 * 32, col0 = warp % 2 * 32;
    for (u32 step = 0; step < n_steps; step++) {
        copy_async_wait<0>();
        __syncthreads();
        const bool more = step + 1 < n_steps;
        Buffer *other = buffers + (step + 1) % 2;
        if (more) {
            tile.fetch(next, step + 1);
            tile.copy_rows(other, step + 1, columns, n);
        }
        multiply<F>(buffers + step % 2, acc, row0, col0);
        if (more) tile.store(next, other);
    }
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int c = col0 + 8 * j + 2 * (lane % 4) + e % 2, r = row0 + lane / 4 + 8 * (e / 2);
            if (c >= n) continue;
            if (p.w1) {
                u32 col = blockIdx.x * (TILE_M / 2) + row0 / 2 + lane / 4 + 8 * (e / 2);
                if (col < p.n_out) finish(p, columns[c], matrix, col, acc[0][j][e], acc[1][j][e]);
            } else {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    u32 col = blockIdx.x * TILE_M + r + 16 * i;
                    if (col < p.n_out) finish(p, columns[c], matrix, col, acc[i][j][e], 0.0f);
                }
            }
        }
}

#define MATMUL(F, name)                                                                                             \
    ZINC_KERNEL(256, 2) matmul_##name(ZINC_PARAM MatMulParams p) { matmul<F>(p); }
ZINC_FORMATS(MATMUL)
