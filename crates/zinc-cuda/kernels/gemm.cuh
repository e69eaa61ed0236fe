// y = W x for many rows of x on a Hopper card: quantised weights, activations as panels of f16 (panels.cu).
//
// A block makes a tile of 64 G weight rows (for a pair half of them of the gate and the same of up, in turns of 8) by N
// rows of x, and goes on to the next tile. Each of its G groups of four warps has 64 weight rows: it streams their bytes
// through a ring in shared memory, turns them to f16 in registers, where they are the first operand of wgmma, and keeps
// the results there. The four lanes that share a weight row have one block of 32 each, with its scales, which the order
// of the panels allows. One thread more copies the panels, which all groups share. Results leave through the group's ring.
// No function may be called here that is not inlined: accumulators would be saved around it, and every wgmma waited for.
// The sum of a row goes along k in steps of 16, inside a step as the tensor core has it: its order depends on the
// length of the row alone, whatever N. With splits the row is cut in so many parts that reduce_splits adds.
// Grid (up to one block a multiprocessor), 128 G + 128 threads. Bound: instructions up to 128 rows of x, of which turning
// weights to f16 takes 13 for eight of Q4_K and all else as many again (2 TB/s of weights for 32 rows on an H200); above,
// the tensor cores.
#pragma once
#include "act.cuh"
#include "formats.cuh"
#include "panels.cuh"
#include "ptx.cuh"
#include "wgmma.cuh"

// A further product of the same panels, for single matrices.
struct GemmSegment {
    u64 w;
    const float *bias;
    float *out;
    u32 out_stride, n_out, first_tile, unused; // first_tile: in tiles of rows
};

#define GEMM_MORE 3

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
    u32 n_in, n_out, splits, n_slots, act, rows, n_segments, n_row_tiles, unused;
    GemmSegment more[GEMM_MORE];
};

// 8 blocks of each of a group's 64 rows in the ring: where the planes begin. The 16-byte chunk c of row r of planes of 128
// bytes a row lies at c ^ (r % 2 * 4): two rows are read at a time, four chunks of each.
template <class F> struct Part {
    static constexpr int ROW1 = 8 * F::HIGH, ROW2 = F::SCALE8;
    static constexpr int P1 = 64 * 128, P2 = P1 + 64 * ROW1, P3 = P2 + 64 * ROW2, END = P3 + 64 * 4 * F::SUPER;
};

// Bytes of dynamic shared memory of every variant.
#define GEMM_SHARED (226 * 1024)

// Floats from row to row of x in the results on their way out: no bank conflicts.
#define OUT_PITCH 68

// A variant: most groups of four warps, and what there is in shared memory.
template <class F, int N> struct Layout {
    static constexpr int G = N <= 128 ? 3 : 2, PANELS = N <= 128 ? 2 : 1, STAGE = N * 128 * PANELS;
    // Of a group: DEPTH parts of 64 weight rows, later OUT rows of results at a time.
    static constexpr int PART = Part<F>::END, MOST = (GEMM_SHARED - 1024 - (N <= 64 ? 3 : N <= 128 ? 2 : 3) * STAGE) / G / PART;
    static constexpr int DEPTH = MOST > 4 ? 4 : MOST, RING = DEPTH * PART, OUT = N > 128 ? 128 : N;
    static constexpr int ROOM = (GEMM_SHARED - 1024 - G * RING) / STAGE, STAGES = ROOM > 6 ? 6 : ROOM;
    static_assert(DEPTH >= 2 && STAGES >= 2 && OUT * OUT_PITCH * 4 <= RING, "too little shared memory");
    static_assert(PART % 16 == 0, "planes are copied 16 bytes at a time");
};

// Rows of x of a tile: the matrix that multiplies them, their first group of 8 in the panels, and their number.
struct TokenTile {
    u32 matrix, group, rows;
};

DEVICE TokenTile token_tile(const GemmParams &p, u32 tile, u32 n_token_tiles, u32 n_rows, u32 n) {
    const u32 t = tile / p.splits % n_token_tiles;
    if (p.tiles) {
        const int *entry = p.tiles + 1 + 3 * t;
        return {(u32)entry[0], (u32)entry[1], (u32)entry[2]};
    }
    return {0, t * (n / 8), min(n, n_rows - t * n)};
}

// What a block computes next.
struct Work {
    u64 w0, w1, matrix;
    const float *bias;
    float *out;
    u32 out_stride, n_out, group, rows, first_row, part0, part1, split;
};

DEVICE Work work_of(const GemmParams &p, u32 tile, const TokenTile &of, u32 n_token_tiles, u32 tile_rows, u32 n_parts) {
    Work w;
    w.matrix = of.matrix, w.group = of.group, w.rows = of.rows;
    w.split = tile % p.splits;
    const u32 row_tile = tile / p.splits / n_token_tiles;
    w.w0 = p.w0 + w.matrix * p.matrix_bytes0, w.w1 = p.w1 + w.matrix * p.matrix_bytes1;
    w.bias = p.bias0, w.out = p.out, w.out_stride = p.out_stride, w.n_out = p.n_out;
    u32 first_tile = 0;
#pragma unroll 1
    for (u32 i = 0; i < p.n_segments && row_tile >= p.more[i].first_tile; i++) {
        const GemmSegment &s = p.more[i];
        w.w0 = s.w, w.bias = s.bias, w.out = s.out, w.out_stride = s.out_stride, w.n_out = s.n_out, first_tile = s.first_tile;
    }
    w.first_row = (row_tile - first_tile) * tile_rows;
    w.part0 = n_parts * w.split / p.splits, w.part1 = n_parts * (w.split + 1) / p.splits;
    return w;
}

// Where the weights of a warp go on: eight lanes a row for the long planes, rows 4 i + lane / 8, one for the scales, of row
// lane % 16.
template <class F> struct Source {
    u64 first, second; // the next part of plane 0 of the tile's first rows, of the first eight rows of a warp and of the others
    const u8 *own;     // of plane 2
    u32 rows[4];       // from there to the lane's rows
    u32 to, to1, to2;  // in a part of the ring, of planes 0, 1 and 2
    u32 p1, p3;        // from there to plane 1, and from plane 2 to plane 3

    __device__ __forceinline__ void start(u32 part, u32 n_blocks) {
        const u32 of_p1 = n_blocks * 16, of_p2 = of_p1 + round16(n_blocks * F::HIGH);
        first += part * 128, second += part * 128, own += of_p2 + part * F::SCALE8;
        p1 = of_p1 + part * (8 * F::HIGH - 128u), p3 = round16(n_blocks * F::SCALE8 / 8) + 4 * part - part * F::SCALE8;
    }

    // Copies part c to `ring`, an address, and goes on.
    __device__ __forceinline__ void copy(u32 ring, u32 n_blocks, u32 c) {
        const u32 lane = threadIdx.x & 31, n = n_blocks - 8 * c, piece = lane & 7;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const u8 *from = (const u8 *)((i < 2 ? first : second) + rows[i]);
            if (piece < n) copy_async<16>(ring + to + i * 512, from);
            if (F::HIGH == 16 && piece < n) copy_async<16>(ring + to + Part<F>::P1 + i * 512, from + p1);
            if (F::HIGH && F::HIGH < 16 && piece * 16 < min(n, 8u) * F::HIGH)
                copy_async<16>(ring + to1 + i * 4 * Part<F>::ROW1, from + p1);
        }
        if (lane < 16) {
            copy_async<F::SCALE8 == 8 ? 8 : 16>(ring + to2, own);
            if (F::SCALE8 == 32 && n > 4) copy_async<16>(ring + to2 + 16, own + 16);
            if constexpr (F::SUPER != 0) copy_async<4>(ring + Part<F>::P3 + (to2 - Part<F>::P2) / Part<F>::ROW2 * 4, own + p3);
        }
        first += 128, second += 128, own += F::SCALE8;
        if (F::HIGH) p1 += 8 * F::HIGH - 128u;
        if (F::SUPER) p3 += 4u - F::SCALE8;
    }
};

// Whether q are numbers of two bits of exponent and one of mantissa, whose f16 has eight zeros at the end.
template <class F> struct IsE2M1 {
    static constexpr bool VALUE = false;
};
template <> struct IsE2M1<MXFP4> {
    static constexpr bool VALUE = true;
};

// The eight numbers of a word as upper bytes of f16, elements 4 w .. in x and 16 + 4 w .. in y.
DEVICE void e2m1_bytes(u32 q, u32 &x, u32 &y) {
    // Nibbles 0 .. 3 and 4 .. 7: 0, 0.5, 1, 1.5, 2, 3, 4, 6 by their lower three bits, then their signs.
    const u32 codes = q & 0x77777777u, even = q << 4;
    u32 first = __byte_perm(0x3e3c3800u, 0x46444240u, codes), second = __byte_perm(0x3e3c3800u, 0x46444240u, codes >> 16);
    first = and_or(sign_bytes(q, even, 0x9d8c), 0x80808080u, first);
    second = and_or(sign_bytes(q, even, 0xbfae), 0x80808080u, second);
    x = __byte_perm(first, second, 0x6420), y = __byte_perm(first, second, 0x7531);
}

// What a lane holds of a row for half a part: block t of four.
template <class F> struct Row32 {
    u32 low[4], high[F::HIGH ? F::HIGH / 4 : 1], scale, more;

    // `row` of the group in the ring's part, of which the first half's block is at `first`; `both` are its scales.
    __device__ __forceinline__ void fetch(const u8 *part, u32 first, u32 row, u32 half, u32 both) {
        const u32 b = 4 * half + (threadIdx.x & 3), at = first ^ half * 64;
        const uint4 v = *(const uint4 *)(part + at);
        low[0] = v.x, low[1] = v.y, low[2] = v.z, low[3] = v.w;
        if constexpr (F::HIGH == 16) {
            const uint4 h = *(const uint4 *)(part + Part<F>::P1 + at);
            high[0] = h.x, high[1] = h.y, high[2] = h.z, high[3] = h.w;
        } else {
            fetch_high<F>(part + Part<F>::P1 + row * Part<F>::ROW1, b, high);
        }
        scale = __byte_perm(both, 0, 0x1010), more = __byte_perm(both, 0, 0x3232);
    }

    // Word w as f16: elements 4 w and 4 w + 2, those behind them, and the same of the block's other half. A byte behind
    // 0x64 is 1024 and itself in f16, a high nibble behind 0x54 64 and itself, so taking them and Z away is exact; the
    // scale is rounded to f16 and the product again.
    __device__ __forceinline__ void words(u32 w, u32 (&out)[4]) const {
        u32 x, y;
        if constexpr (IsE2M1<F>::VALUE) {
            e2m1_bytes(low[w], x, y);
            out[0] = __byte_perm(x, 0, 0x2404), out[1] = x & 0xff00ff00u;
            out[2] = __byte_perm(y, 0, 0x2404), out[3] = y & 0xff00ff00u;
        } else if constexpr (F::NIBBLES) {
            const u32 low_zero = 0x64006400 + F::Z * 0x00010001, high_zero = 0x54005400 + F::Z * 0x00100010;
            x = low[w], y = x >> 8;
            out[0] = sub_f16x2(and_or(x, 0x000f000f, 0x64006400), low_zero), out[1] = sub_f16x2(and_or(y, 0x000f000f, 0x64006400), low_zero);
            out[2] = sub_f16x2(and_or(x, 0x00f000f0, 0x54005400), high_zero), out[3] = sub_f16x2(and_or(y, 0x00f000f0, 0x54005400), high_zero);
        } else {
            const u32 zero = 0x64006400 + (F::SIGNED ? 128 : F::Z) * 0x00010001;
            F::words(low[w], high, w, x, y);
            if (F::SIGNED) x ^= 0x80808080u, y ^= 0x80808080u;
            out[0] = sub_f16x2(and_or(x, 0x00ff00ff, 0x64006400), zero), out[1] = sub_f16x2(__byte_perm(x, 0x64006400, 0x5351), zero);
            out[2] = sub_f16x2(and_or(y, 0x00ff00ff, 0x64006400), zero), out[3] = sub_f16x2(__byte_perm(y, 0x64006400, 0x5351), zero);
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            out[i] = F::MIN ? fma_f16x2(out[i], scale, more) : mul_f16x2(out[i], F::TWO && i > 1 ? more : scale);
    }
};

// Bytes t of the words of scales 0 .. 3 and 4 .. 7 of Q4_K and Q5_K, and of their minima: d * scale and -dmin * min of
// blocks t and 4 + t as f16, rounded once as scale_min's are when they are packed.
DEVICE void f16_scale_mins(const u32 s[4], u32 t, u32 (&scales)[2]) {
    const u32 choice = t | (4 + t) << 4, zero = 0x64006400, d = s[0] ^ 0x80000000u;
    const u32 low = __byte_perm(s[1] & 0x3f3f3f3fu, s[2] & 0x3f3f3f3fu, choice);
    const u32 high = __byte_perm((s[3] & 0x0f0f0f0fu) | (s[1] >> 2 & 0x30303030u),
                                 (s[3] >> 4 & 0x0f0f0f0fu) | (s[2] >> 2 & 0x30303030u), choice);
    scales[0] = mul_f16x2(sub_f16x2(__byte_perm(low, 0x64646464u, 0x4140), zero), d);
    scales[1] = mul_f16x2(sub_f16x2(__byte_perm(high, 0x64646464u, 0x4140), zero), d);
}

// Scales of blocks t and 4 + t of part c for a row in the ring: d and m, or both d, of f16 in a word.
template <class F> DEVICE void part_scales(u32 (&scales)[2], const u8 *part, u32 row, u32 c, u32 n_blocks) {
    const u32 t = threadIdx.x & 3;
    const u8 *p2 = part + Part<F>::P2 + row * Part<F>::ROW2, *p3 = part + Part<F>::P3 + row * 4;
    u32 words[F::SCALES];
    if constexpr (F::SCALES == 4) {
        fetch_scales<F>(p2, p3, 0, words);
        f16_scale_mins(words, t, scales);
    } else {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float d0, d1 = 0.0f, m = 0.0f;
            fetch_scales<F>(p2, p3, 4 * i + t, words);
            F::scales(words, 4 * i + t, d0, d1, m);
            // MXFP4's is that of twice the numbers.
            if (IsE2M1<F>::VALUE) d0 *= 2.0f;
            scales[i] = pack_f16_fast(d0, F::TWO ? d1 : m);
        }
    }
#pragma unroll
    for (u32 i = 0; i < 2; i++)
        if (8 * c + 4 * i + t >= n_blocks) scales[i] = 0;
}

DEVICE float4 load4(const float *from) { return *(const float4 *)from; }

// The group's 64 weight rows for the rows of x from `begin` to `end` of the tile, [rows][OUT_PITCH] from `from` on.
// A thread reads what it needs of global memory for COUNT of them together.
template <bool PAIR, u32 COUNT>
DEVICE void write_results(const GemmParams &p, const Work &w, const float *from, u32 begin, u32 end, u32 group, u32 n_rows) {
    constexpr u32 QUADS = PAIR ? 8 : 16, STEP = COUNT * 128 / QUADS;
    const u32 thread = threadIdx.x & 127, x = thread % QUADS, col = w.first_row + group * (PAIR ? 32 : 64) + 4 * x;
    if (col >= w.n_out) return;
    float4 bias = make_float4(0, 0, 0, 0), bias_up = bias;
    // Of one split.
    if (w.bias && w.split == 0) bias = load4(w.bias + w.matrix * w.n_out + col);
    if (PAIR && p.bias1) bias_up = load4(p.bias1 + w.matrix * p.n_out + col);
    // Not unrolled: the code stays small.
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
            u64 in_row = (p.targets ? (u64)(target % p.n_slots) * w.n_out : 0) + col;
            extra[i] = make_float4(0, 0, 0, 0);
            if (p.residual) extra[i] = load4(p.residual + (u64)row * p.residual_stride + in_row);
            if (p.gate) extra[i] = load4(p.gate + (u64)row * p.gate_stride + in_row);
            to[i] = w.out + ((u64)w.split * n_rows + row) * w.out_stride + in_row;
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
        for (int i = 0; i < L::STAGES; i++) barrier_init(full + 8 * i, 1), barrier_init(empty + 8 * i, blockDim.x / 128 - 1);
        barriers_ready();
    }
    __syncthreads();
    const bool pair = p.w1 != 0, grouped = p.tiles != nullptr;
    if (grouped) pdl_wait();
    const u32 n_groups = blockDim.x / 128 - 1, tile_rows = (pair ? 32 : 64) * n_groups;
    const u32 n_steps = div_up(p.n_in, PANEL_PAIR) * 2, n_parts = div_up(n_steps, 4), n_blocks = p.n_in / 32;
    const u32 n_rows = min((u32)p.n.get(), p.rows), n_token_tiles = p.tiles ? p.tiles[0] : div_up(n_rows, N);
    const u32 n_tiles = p.n_row_tiles * n_token_tiles * p.splits;
    // The stage of the next panels, and its parity.
    u32 stage = 0, parity = 0;
    // Registers of the threads that only copy go to those that multiply; a thread begins with 128, or 168.
    if (threadIdx.x >= 128 * n_groups) {
        give_registers<L::G == 3 ? 56 : 40>();
        if (!grouped) pdl_wait();
        if (threadIdx.x > 128 * n_groups) return;
        for (u32 tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
            Work w = work_of(p, tile, token_tile(p, tile, n_token_tiles, n_rows, N), n_token_tiles, tile_rows, n_parts);
            const u64 panel = (u64)p.x.n_groups * 1024;
            const u8 *from = p.x.data + 4 * w.part0 * panel + w.group * 1024;
            for (u32 k = 4 * w.part0; k < min(4 * w.part1, n_steps); k += L::PANELS) {
                barrier_wait(empty + 8 * stage, parity ^ 1);
                barrier_expect(full + 8 * stage, L::STAGE);
#pragma unroll
                for (u32 i = 0; i < L::PANELS; i++, from += panel)
                    bulk_copy(base + stage * L::STAGE + i * N * 128, from, N * 128, full + 8 * stage);
                if (++stage == L::STAGES) stage = 0, parity ^= 1;
            }
        }
    } else {
        take_registers<L::G == 3 ? 152 : 232>();
        const u64 first_panel = wgmma_descriptor(base);
        const u32 group = threadIdx.x >> 7, lane = threadIdx.x & 31, warp = threadIdx.x >> 5 & 3, row0 = warp * 16 + lane / 4;
        const u32 ring_at = base + L::STAGES * L::STAGE + group * L::RING;
        u8 *ring = dynamic + (ring_at - start);
        float *out = (float *)ring;
        const bool leads = (threadIdx.x & 127) == 0;
        Source<F> source;
        source.to = (warp * 16 + lane / 8) * 128 + (((lane & 7) ^ (lane / 8 & 1) * 4) * 16);
        source.to1 = Part<F>::P1 + (warp * 16 + lane / 8) * Part<F>::ROW1 + (lane & 7) * 16;
        source.to2 = Part<F>::P2 + (warp * 16 + lane % 16) * Part<F>::ROW2;
        keep(source.to), keep(source.to2);
        // Where the lane's operands lie in a part: rows row0 and row0 + 8, block lane % 4.
        u32 read = row0 * 128 + (((lane & 3) ^ (row0 & 1) * 4) * 16);
        keep(read);
        bool waits = !grouped;
        TokenTile next = {0, 0, 0};
        if (blockIdx.x < n_tiles) next = token_tile(p, blockIdx.x, n_token_tiles, n_rows, N);
        for (u32 tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
            Work w = work_of(p, tile, next, n_token_tiles, tile_rows, n_parts);
            // Asked for now, the next tile's are there when they are wanted.
            if (tile + gridDim.x < n_tiles) next = token_tile(p, tile + gridDim.x, n_token_tiles, n_rows, N);
            // Row r of the warp in the tile's rows of its matrix, within the weight.
            auto row_of = [&](u32 r) {
                r += group * 64 + warp * 16;
                return min(w.first_row + (pair ? r / 16 * 8 + r % 8 : r), w.n_out - 1) - w.first_row;
            };
            source.first = w.w0 + (u64)w.first_row * p.row_bytes;
            source.second = pair ? w.w1 + (u64)w.first_row * p.row_bytes : source.first;
            source.own = (const u8 *)((lane & 8 ? source.second : source.first) + (u64)row_of(lane % 16) * p.row_bytes);
#pragma unroll
            for (int i = 0; i < 4; i++) source.rows[i] = row_of(4 * i + lane / 8) * (u32)p.row_bytes + (lane & 7) * 16;
            source.start(w.part0, n_blocks);
#pragma unroll
            for (int i = 0; i < L::DEPTH - 1; i++) {
                if (w.part0 + i < w.part1) source.copy(ring_at + i * L::PART, n_blocks, w.part0 + i);
                copy_async_commit();
            }
            // The first weights are under way before the launches before this one are done.
            if (waits) pdl_wait(), waits = false;
            if (grouped && lane <= N / 32) {
                const u32 row = w.group * 8 + min(lane * 32, w.rows - 1);
                prefetch(p.x.factors + row), prefetch(p.targets + row);
            }
            float acc[N / 2];
#pragma unroll
            for (int i = 0; i < N / 2; i++) acc[i] = 0.0f;
            u32 a[2][2][4], slot = 0, last = L::STAGES;
#pragma unroll 1
            for (u32 c = w.part0; c < w.part1; c++) {
                u32 ahead = c + L::DEPTH - 1, to = slot == 0 ? L::DEPTH - 1 : slot - 1;
                if (ahead < w.part1) source.copy(ring_at + to * L::PART, n_blocks, ahead);
                copy_async_commit();
                copy_async_wait<L::DEPTH - 1>();
                __syncwarp();
                const u8 *part = ring + slot * L::PART;
                u32 scales[2][2];
                part_scales<F>(scales[0], part, row0, c, n_blocks);
                part_scales<F>(scales[1], part, row0 + 8, c, n_blocks);
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    if (4 * c + 2 * half >= n_steps) break;
                    Row32<F> rows[2];
                    rows[0].fetch(part, read, row0, half, scales[0][half]);
                    rows[1].fetch(part, read + 1024, row0 + 8, half, scales[1][half]);
#pragma unroll
                    for (u32 word = 0; word < 4; word++) {
                        // Operands of wgmma: the lane's four elements of both rows, first of the block's first half.
                        u32(&operands)[2][4] = a[word & 1];
#pragma unroll
                        for (u32 r = 0; r < 2; r++) {
                            u32 f16[4];
                            rows[r].words(word, f16);
                            operands[0][r] = f16[0], operands[0][2 + r] = f16[1];
                            operands[1][r] = f16[2], operands[1][2 + r] = f16[3];
                        }
                        const u32 in_stage = word % (2 * L::PANELS);
                        if (in_stage == 0) barrier_wait(full + 8 * stage, parity);
                        const u64 panel = first_panel + stage * (L::STAGE / 16) + in_stage / 2 * (N * 8) + word % 2 * 4;
                        wgmma_fence();
                        wgmma<N>(acc, operands[0], panel);
                        wgmma<N>(acc, operands[1], panel + 2);
                        wgmma_commit();
                        // The word before is done: the other operands may be overwritten, and before the first its panels.
                        wgmma_wait<1>();
                        if (in_stage == 0 && leads && last < L::STAGES) barrier_arrive(empty + 8 * last);
                        if (in_stage == 2 * L::PANELS - 1) {
                            last = stage++;
                            if (stage == L::STAGES) stage = 0, parity ^= 1;
                        }
                    }
                }
                __syncwarp();
                slot = slot == L::DEPTH - 1 ? 0 : slot + 1;
            }
            wgmma_wait<0>();
            if (leads) barrier_arrive(empty + 8 * last);
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
                if (pair) write_results<true, 2>(p, w, out, begin, end, group, n_rows);
                else write_results<false, N <= 128 ? 4 : 8>(p, w, out, begin, end, group, n_rows);
            }
            group_barrier(group + 1);
        }
        if (waits) pdl_wait();
    }
}

#define GEMM(F, name)                                                                      \
    ZINC_KERNEL(512, 1) gemm_##name##_32(ZINC_PARAM GemmParams p) { gemm<F, 32>(p); }      \
    ZINC_KERNEL(512, 1) gemm_##name##_64(ZINC_PARAM GemmParams p) { gemm<F, 64>(p); }      \
    ZINC_KERNEL(512, 1) gemm_##name##_128(ZINC_PARAM GemmParams p) { gemm<F, 128>(p); }    \
    ZINC_KERNEL(384, 1) gemm_##name##_256(ZINC_PARAM GemmParams p) { gemm<F, 256>(p); }
