// y = W x for many rows of x on a Hopper card: quantised weights, activations as panels of f16 (panels.cu).
//
// A block makes a tile of 128 weight rows (for a pair 64 of the gate and the same of up, in turns of 8) by N rows of x,
// and goes on to the next tile. Each of its two groups of four warps has 64 weight rows: it streams their bytes through
// a ring in shared memory, turns them to f16 in registers, where they are the first operand of wgmma, and keeps the
// results there. One thread more copies the panels, which all groups share. Results leave through the group's ring.
// No function may be called here that is not inlined: accumulators would be saved around it, and every wgmma waited for.
// The sum of a row goes along k in steps of 16, inside a step as the tensor core has it: its order depends on the
// length of the row alone, whatever N. With splits the row is cut in so many parts that reduce_splits adds.
// Grid (up to one block a multiprocessor), 384 threads. Bound: turning weights to f16, 12 instructions for
// eight of them, in the registers of every tile of rows of x; 60 % of the tensor cores' rate.
#pragma once
#include "act.cuh"
#include "formats.cuh"
#include "panels.cuh"
#include "ptx.cuh"
#include "wgmma.cuh"

struct GemmParams {
    Count n;
    u64 w0, w1;                    // first matrix; that of up, or 0
    const float *bias0, *bias1;    // a row for each matrix, or null
    Panels x;
    const float *residual;         // added last, or null
    const float *gate;             // results of the gate that were computed before, or null
    float *out;                    // with splits [splits][rows][n_out]
    const int *tiles;              // number of tiles, then (matrix, first group of 8 rows, rows) of each; null: one matrix
    const int *targets;            // row * n_slots + slot of the result of each row of the panels; null: the same row
    u64 row_bytes, matrix_bytes0, matrix_bytes1;
    u32 out_stride, residual_stride, gate_stride; // floats
    u32 n_in, n_out, splits, n_slots, act, rows, unused;
};

// 8 blocks of a row in the ring: the planes' parts one after the other; an odd number of 16 bytes, for the banks.
template <class F> struct Part {
    static constexpr int P1 = 128, P2 = P1 + 8 * F::HIGH, P3 = P2 + (F::SCALE8 < 16 ? 16 : F::SCALE8);
    static constexpr int END = P3 + 16 * F::SUPER, PITCH = END / 16 % 2 ? END : END + 16;
};

// Groups of four warps, each with 64 weight rows of the tile.
#define G 2
// Bytes of dynamic shared memory of every variant.
#define GEMM_SHARED (226 * 1024)

// Floats from row to row of x in the results on their way out: no bank conflicts.
#define OUT_PITCH 68

// Shared memory of a variant.
template <class F, int N> struct Layout {
    static constexpr int STAGE = N * 128, DEPTH = F::HIGH >= 8 ? 3 : 4;
    // Of a group: DEPTH parts of 64 weight rows, later OUT rows of results at a time.
    static constexpr int PART = 64 * Part<F>::PITCH, RING = DEPTH * PART, OUT = N > 128 ? 128 : N;
    static constexpr int ROOM = (GEMM_SHARED - 1024 - G * RING) / STAGE, STAGES = ROOM > 8 ? 8 : ROOM;
    static_assert(STAGES >= 3 && OUT * OUT_PITCH * 4 <= RING, "too little shared memory");
};

// What a block computes next.
struct Work {
    u64 w0, w1, matrix;
    u32 group, rows, first_row, part0, part1, split;
};

DEVICE Work work_of(const GemmParams &p, u32 tile, u32 n_token_tiles, u32 tile_rows, u32 n_rows, u32 n_parts, u32 n) {
    Work w;
    w.split = tile % p.splits, tile /= p.splits;
    u32 t = tile % n_token_tiles;
    w.first_row = tile / n_token_tiles * tile_rows;
    w.matrix = 0;
    if (p.tiles) {
        const int *entry = p.tiles + 1 + 3 * t;
        w.matrix = entry[0], w.group = entry[1], w.rows = entry[2];
    } else {
        w.group = t * (n / 8), w.rows = min(n, n_rows - t * n);
    }
    w.w0 = p.w0 + w.matrix * p.matrix_bytes0, w.w1 = p.w1 + w.matrix * p.matrix_bytes1;
    w.part0 = n_parts * w.split / p.splits, w.part1 = n_parts * (w.split + 1) / p.splits;
    return w;
}

// Copies part c of the warp's 16 rows: eight lanes a row for the long planes, one for the scales.
template <class F> DEVICE void copy_part(u8 *ring, const u8 *const (&rows)[4], const u8 *own, u32 n_blocks, u32 c) {
    const u32 lane = threadIdx.x & 31, first = 8 * c, n = min(8u, n_blocks - first), piece = lane & 7;
    const u32 p1 = n_blocks * 16, p2 = p1 + round16(n_blocks * F::HIGH), p3 = p2 + round16(n_blocks * F::SCALE8 / 8);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u8 *to = ring + (4 * i + lane / 8) * Part<F>::PITCH;
        if (piece < n) copy_async_16(to + piece * 16, rows[i] + (first + piece) * 16, true);
        if (F::HIGH && piece * 16 < n * F::HIGH)
            copy_async_16(to + Part<F>::P1 + piece * 16, rows[i] + p1 + first * F::HIGH + piece * 16, true);
    }
    if (lane >= 16) return;
    u8 *to = ring + lane * Part<F>::PITCH;
    if constexpr (F::SCALE8 == 8) {
        copy_async_8(to + Part<F>::P2, own + p2 + first);
    } else {
        copy_async_16(to + Part<F>::P2, own + p2 + first * F::SCALE8 / 8, true);
        if (F::SCALE8 == 32 && n > 4) copy_async_16(to + Part<F>::P2 + 16, own + p2 + first * 4 + 16, true);
    }
    if constexpr (F::SUPER != 0) copy_async_4(to + Part<F>::P3, own + p3 + 4 * c);
}

// The weights of a word of q: four elements to two words of f16. A byte behind 0x64 is 1024 and itself in f16, so
// taking 1024 and Z away is exact; the scale is rounded to f16 and the product again.
template <class F> DEVICE void to_f16(u32 q, u32 scale, u32 min, u32 &low, u32 &high) {
    const u32 z = 0x6400 + (F::SIGNED ? 128 : F::Z), zero = z | z << 16;
    if (F::SIGNED) q ^= 0x80808080u;
    u32 a = sub_f16x2(__byte_perm(q, 0x64646464u, 0x4140), zero), b = sub_f16x2(__byte_perm(q, 0x64646464u, 0x4342), zero);
    low = F::MIN ? fma_f16x2(a, scale, min) : mul_f16x2(a, scale);
    high = F::MIN ? fma_f16x2(b, scale, min) : mul_f16x2(b, scale);
}

// Scales of blocks 2 t and 2 t + 1 of part c for two rows in the ring: d and m, or both d, of f16 in a word.
template <class F> DEVICE void part_scales(u32 (&scales)[2][2], const u8 *row0, const u8 *row1, u32 c, u32 n_blocks) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const u8 *at = r ? row1 : row0;
            u32 words[F::SCALES], b = 2 * (threadIdx.x & 3) + i;
            fetch_scales<F>(at + Part<F>::P2, at + Part<F>::P3, b, words);
            float d0, d1 = 0.0f, m = 0.0f;
            F::scales(words, b, d0, d1, m);
            scales[r][i] = 8 * c + b < n_blocks ? pack_f16_fast(d0, F::TWO ? d1 : m) : 0;
        }
    }
}

// Block b of a part for two rows, as two operands of wgmma: lane t of four has elements 4 t .. and 16 + 4 t ...
template <class F> DEVICE void block_operands(u32 (*a)[4], const u8 *row0, const u8 *row1, u32 b, const u32 (&scales)[2][2]) {
    const u32 t = threadIdx.x & 3;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const u8 *at = r ? row1 : row0;
        u32 word = ((const u32 *)at)[4 * b + t], high[F::HIGH ? F::HIGH / 4 : 1], x, y;
        if constexpr (F::HIGH == 16) {
            high[0] = ((const u32 *)(at + Part<F>::P1))[4 * b + t];
            F::words(word, high, 0, x, y);
        } else {
            fetch_high<F>(at + Part<F>::P1, b, high);
            F::words(word, high, t, x, y);
        }
        u32 both = __shfl_sync(FULL_WARP, scales[r][b & 1], b / 2, 4);
        u32 first = __byte_perm(both, 0, 0x1010), second = __byte_perm(both, 0, 0x3232);
        to_f16<F>(x, first, second, a[0][r], a[0][2 + r]);
        to_f16<F>(y, F::TWO ? second : first, second, a[1][r], a[1][2 + r]);
    }
}

DEVICE float4 load4(const float *from) { return *(const float4 *)from; }

// The group's 64 weight rows for the rows of x from `begin` to `end` of the tile, [rows][OUT_PITCH] from `from` on.
template <bool PAIR>
DEVICE void write_results(const GemmParams &p, const Work &w, const float *from, u32 begin, u32 end, u32 group, u32 n_rows) {
    constexpr u32 QUADS = PAIR ? 8 : 16, STEP = PAIR ? 32 : 64, COUNT = STEP * QUADS / 128;
    const u32 thread = threadIdx.x & 127, x = thread % QUADS, col = w.first_row + group * (PAIR ? 32 : 64) + 4 * x;
    if (col >= p.n_out) return;
    float4 bias = make_float4(0, 0, 0, 0), bias_up = bias;
    if (p.bias0) bias = load4(p.bias0 + w.matrix * p.n_out + col);
    if (PAIR && p.bias1) bias_up = load4(p.bias1 + w.matrix * p.n_out + col);
    // Not unrolled: what a step reads of global memory is read together, and the code stays small.
#pragma unroll 1
    for (u32 first = begin + thread / QUADS; first < end; first += STEP) {
        float factor[COUNT];
        float4 extra[COUNT];
        float *to[COUNT];
#pragma unroll
        for (u32 i = 0; i < COUNT; i++) {
            u32 t = first + i * (128 / QUADS), at = w.group * 8 + t;
            to[i] = nullptr;
            if (t >= end) continue;
            factor[i] = p.x.factors[at];
            u32 target = p.targets ? (u32)p.targets[at] : at, row = p.targets ? target / p.n_slots : target;
            u64 in_row = (p.targets ? (u64)(target % p.n_slots) * p.n_out : 0) + col;
            extra[i] = make_float4(0, 0, 0, 0);
            if (p.residual) extra[i] = load4(p.residual + (u64)row * p.residual_stride + in_row);
            if (p.gate) extra[i] = load4(p.gate + (u64)row * p.gate_stride + in_row);
            to[i] = p.out + ((u64)w.split * n_rows + row) * p.out_stride + in_row;
        }
#pragma unroll
        for (u32 i = 0; i < COUNT; i++) {
            if (!to[i]) continue;
            const float *at = from + (first - begin + i * (128 / QUADS)) * OUT_PITCH;
            float f = factor[i];
            float4 v, e = extra[i];
            if (PAIR) {
                float4 g = load4(at + x / 2 * 16 + x % 2 * 4), u = load4(at + x / 2 * 16 + 8 + x % 2 * 4);
                v = make_float4(gated(p.act, fmaf(g.x, f, bias.x), fmaf(u.x, f, bias_up.x)),
                                gated(p.act, fmaf(g.y, f, bias.y), fmaf(u.y, f, bias_up.y)),
                                gated(p.act, fmaf(g.z, f, bias.z), fmaf(u.z, f, bias_up.z)),
                                gated(p.act, fmaf(g.w, f, bias.w), fmaf(u.w, f, bias_up.w)));
            } else {
                v = load4(at + 4 * x);
                v = make_float4(fmaf(v.x, f, bias.x), fmaf(v.y, f, bias.y), fmaf(v.z, f, bias.z), fmaf(v.w, f, bias.w));
                if (p.gate) v = make_float4(gated(p.act, e.x, v.x), gated(p.act, e.y, v.y), gated(p.act, e.z, v.z), gated(p.act, e.w, v.w));
                else v = make_float4(v.x + e.x, v.y + e.y, v.z + e.z, v.w + e.w);
            }
            *(float4 *)to[i] = v;
        }
    }
}

template <class F, int N> DEVICE void gemm(const GemmParams &p) {
    typedef Layout<F, N> L;
    ZINC_SHARED(dynamic);
    ZINC_STATIC_SHARED(u64, barriers, 16);
    const u32 start = shared_address(dynamic), base = (start + 1023) & ~1023u;
    const u32 full = shared_address(barriers), empty = full + 8 * L::STAGES;
    pdl_launch();
    if (threadIdx.x == 0) {
        for (int i = 0; i < L::STAGES; i++) barrier_init(full + 8 * i, 1), barrier_init(empty + 8 * i, G);
        barriers_ready();
    }
    __syncthreads();
    pdl_wait();
    const bool pair = p.w1 != 0;
    const u32 tile_rows = pair ? 32 * G : 64 * G, n_row_tiles = div_up(p.n_out, tile_rows);
    const u32 n_steps = div_up(p.n_in, 64), n_parts = div_up(n_steps, 4), n_blocks = p.n_in / 32;
    const u32 n_rows = min((u32)p.n.get(), p.rows), n_token_tiles = p.tiles ? p.tiles[0] : div_up(n_rows, N);
    const u32 n_tiles = n_row_tiles * n_token_tiles * p.splits;
    // Registers of the threads that only copy go to those that multiply; 384 threads begin with 168.
    if (threadIdx.x >= 128 * G) {
        give_registers<40>();
        if (threadIdx.x > 128 * G) return;
        // Steps that the block has taken, in all tiles.
        u32 step = 0;
        for (u32 tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
            Work w = work_of(p, tile, n_token_tiles, tile_rows, n_rows, n_parts, N);
            for (u32 k = 4 * w.part0; k < min(4 * w.part1, n_steps); k++, step++) {
                u32 s = step % L::STAGES;
                barrier_wait(empty + 8 * s, (step / L::STAGES & 1) ^ 1);
                barrier_expect(full + 8 * s, L::STAGE);
                bulk_copy(base + s * L::STAGE, p.x.data + ((u64)k * p.x.n_groups + w.group) * 1024, L::STAGE, full + 8 * s);
            }
        }
    } else {
        take_registers<232>();
        u32 step = 0;
        const u32 group = threadIdx.x >> 7, lane = threadIdx.x & 31, warp = threadIdx.x >> 5 & 3, first_row = group * 64 + warp * 16;
        u8 *group_ring = dynamic + (base - start) + L::STAGES * L::STAGE + group * L::RING;
        u8 *ring = group_ring + warp * 16 * Part<F>::PITCH;
        float *out = (float *)group_ring;
        for (u32 tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
            Work w = work_of(p, tile, n_token_tiles, tile_rows, n_rows, n_parts, N);
            auto row_at = [&](u32 r) {
                u32 row = w.first_row + (pair ? r / 16 * 8 + r % 8 : r);
                return (const u8 *)(pair && (r & 8) ? w.w1 : w.w0) + (u64)min(row, p.n_out - 1) * p.row_bytes;
            };
            const u8 *rows[4], *own = row_at(first_row + lane % 16);
#pragma unroll
            for (int i = 0; i < 4; i++) rows[i] = row_at(first_row + 4 * i + lane / 8);
#pragma unroll
            for (int i = 0; i < L::DEPTH - 1; i++) {
                if (w.part0 + i < w.part1) copy_part<F>(ring + i * L::PART, rows, own, n_blocks, w.part0 + i);
                copy_async_commit();
            }
            float acc[N / 2];
            u32 a[2][2][4], slot = 0;
            bool begun = false;
            for (u32 c = w.part0; c < w.part1; c++) {
                u32 ahead = c + L::DEPTH - 1, to = slot == 0 ? L::DEPTH - 1 : slot - 1;
                if (ahead < w.part1) copy_part<F>(ring + to * L::PART, rows, own, n_blocks, ahead);
                copy_async_commit();
                copy_async_wait<L::DEPTH - 1>();
                __syncwarp();
                const u8 *row0 = ring + slot * L::PART + (lane >> 2) * Part<F>::PITCH, *row1 = row0 + 8 * Part<F>::PITCH;
                u32 scales[2][2], n = min(4u, n_steps - 4 * c);
                part_scales<F>(scales, row0, row1, c, n_blocks);
#pragma unroll
                for (u32 b = 0; b < 8; b++) {
                    if (b >= 2 * n) break;
                    block_operands<F>(a[b & 1], row0, row1, b, scales);
                    u32 s = step % L::STAGES;
                    if (b % 2 == 0) barrier_wait(full + 8 * s, step / L::STAGES & 1);
                    u64 panel = wgmma_descriptor(base + s * L::STAGE) + 4 * (b & 1);
                    wgmma_fence();
                    wgmma<N>(acc, a[b & 1][0], panel, begun);
                    wgmma<N>(acc, a[b & 1][1], panel + 2, 1);
                    wgmma_commit();
                    // The block before is done: the other operands may be overwritten, and its panel after an odd one.
                    wgmma_wait<1>();
                    if (b % 2 == 0 && begun && (threadIdx.x & 127) == 0) barrier_arrive(empty + 8 * ((step - 1) % L::STAGES));
                    begun = true;
                    if (b % 2) step++;
                }
                __syncwarp();
                slot = slot == L::DEPTH - 1 ? 0 : slot + 1;
            }
            wgmma_wait<0>();
            if ((threadIdx.x & 127) == 0) barrier_arrive(empty + 8 * ((step - 1) % L::STAGES));
            copy_async_wait<0>();
            // Results through the ring, which all warps of the group have done with.
#pragma unroll
            for (int half = 0; half < N / L::OUT; half++) {
                const u32 begin = half * L::OUT, end = min(w.rows, begin + L::OUT);
                group_barrier(group + 1);
#pragma unroll
                for (int j = 0; j < L::OUT / 4; j++) {
                    float *at = out + ((j >> 1) * 8 + (lane & 3) * 2 + (j & 1)) * OUT_PITCH + warp * 16 + (lane >> 2);
                    const float *of = acc + half * L::OUT / 2 + (j >> 1) * 4 + (j & 1);
                    at[0] = of[0], at[8] = of[2];
                }
                group_barrier(group + 1);
                if (pair) write_results<true>(p, w, out, begin, end, group, n_rows);
                else write_results<false>(p, w, out, begin, end, group, n_rows);
            }
            group_barrier(group + 1);
        }
    }
}

#define GEMM(F, name)                                                                      \
    ZINC_KERNEL(384, 1) gemm_##name##_64(ZINC_PARAM GemmParams p) { gemm<F, 64>(p); }      \
    ZINC_KERNEL(384, 1) gemm_##name##_128(ZINC_PARAM GemmParams p) { gemm<F, 128>(p); }    \
    ZINC_KERNEL(384, 1) gemm_##name##_256(ZINC_PARAM GemmParams p) { gemm<F, 256>(p); }
