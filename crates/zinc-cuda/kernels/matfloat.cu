// y = W x for weights in F32, F16 or BF16 and activations in f32, any length of rows.
//
// Lane l of a warp has elements l, l + 32, ...; sums of lanes meet in a butterfly: the order of a sum depends on the length
// of the row alone, and both forms give the same bits.
//
// Few rows, pairs of row and expert, and what is not aligned: a warp takes one weight row and up to four rows of x. Grid
// (ceil(n_out / 8), tiles of four rows or pairs). Weights are read once for each tile.
// Many rows: a block of eight warps takes a tile of weight rows x rows of x, each warp a part of up to 8 x 8 in registers.
// Pieces of the rows come to shared memory by asynchronous copies, one to three ahead of the one that is multiplied. Grid
// (tiles of weight rows, tiles of rows); weights are read once for each tile of 8 or 16 rows, x once for each of 1, 16 or
// 32 weight rows, mostly from the second-level cache. Parts of 8 x 8 are bound by f32 arithmetic, and by the loads from
// shared memory alike: 256 x 2048 with 512 rows in 9.3 us on a card of 132 multiprocessors at 1.75 GHz. Parts of 4 x 4
// are for fewer results and 1 x 1 for one output, bound by latency and by memory.
//
// Routers, gates of shared experts and small models.
#include "act.cuh"
#include "ptx.cuh"

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
    static const int SIZE = 4;
    DEVICE float at(const u8 *row, u32 i) { return ((const float *)row)[i]; }
};
struct TypeF16 {
    static const int SIZE = 2;
    DEVICE float at(const u8 *row, u32 i) { return f16_to_f32(((const u16 *)row)[i]); }
};
struct TypeBF16 {
    static const int SIZE = 2;
    DEVICE float at(const u8 *row, u32 i) {
        return bf16_to_f32(((const u16 *)row)[i]);
    }
};

// The result after the sum of matrix `m`, whose bias is at `at`: the second one's is multiplied by the activated first.
DEVICE float add_sum(const MatFloatParams &p, u32 m, float result, float sum, u64 at) {
    const u64 bias = m == 0 ? p.bias0 : p.bias1;
    if (bias) sum = __fadd_rn(sum, ((const float *)bias)[at]);
    return m == 0 ? sum : gated(p.act, result, sum);
}

// The result of column `at` of a row, to memory.
DEVICE void put_result(const MatFloatParams &p, u32 row, u64 at, float result) {
    if (p.gate) result = gated(p.act, ((const float *)(p.gate + row * p.gate_stride))[at], result);
    if (p.residual) result = __fadd_rn(result, ((const float *)(p.residual + row * p.residual_stride))[at]);
    ((float *)(p.out + row * p.out_stride))[at] = result;
}

// ---- few rows ------------------------------------------------------------------------------------------------

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
        result = add_sum(p, m, result, mine, matrix * p.n_out + col);
    }
    if (lane < n) put_result(p, row + lane, (u64)slot * p.n_out + col, result);
}

// ---- many rows -----------------------------------------------------------------------------------------------

// OUTS x ROWS results of a warp, the warps of a block OUT_WARPS side by side; PIECE elements of a row at a time, STAGES
// pieces in shared memory: one that is multiplied, others on their way.
template <class T, int OUTS_, int ROWS_, int OUT_WARPS_, int PIECE_, int STAGES_> struct Tile {
    typedef T Type;
    static const int OUTS = OUTS_, ROWS = ROWS_, OUT_WARPS = OUT_WARPS_, PIECE = PIECE_, STAGES = STAGES_;
    static const int ALL_OUTS = OUTS * OUT_WARPS, ALL_ROWS = ROWS * 8 / OUT_WARPS;
    // Bytes of a piece, and of the pieces of all rows.
    static const int W_BYTES = PIECE * T::SIZE, X_BYTES = PIECE * 4;
    static const int STAGE = ALL_OUTS * W_BYTES + ALL_ROWS * X_BYTES;
};

// What a thread copies of the next piece of N_ROWS rows, BYTES of a row: 16 bytes of every ROWS-th one. What lies past the
// last row or past the end of a row is zero.
template <int N_ROWS, int BYTES> struct Copies {
    static const int CHUNKS = BYTES / 16, ROWS = 256 / CHUNKS;
    const u8 *from;
    u64 stride;
    // Bytes of a row and rows from there on.
    int n_bytes, n_rows;
    __device__ __forceinline__ Copies(u64 rows, u64 stride, int n_rows, int n_bytes)
        : from((const u8 *)rows + threadIdx.x / CHUNKS * stride + threadIdx.x % CHUNKS * 16), stride(stride),
          n_bytes(n_bytes - (int)(threadIdx.x % CHUNKS * 16)), n_rows(n_rows - (int)(threadIdx.x / CHUNKS)) {}
    __device__ __forceinline__ void start(u8 *to) {
#pragma unroll
        for (int i = 0; i < N_ROWS; i += ROWS)
            if (N_ROWS % ROWS == 0 || (int)threadIdx.x / CHUNKS + i < N_ROWS)
                copy_async_16(to + (threadIdx.x + i * CHUNKS) * 16, from + i * stride, n_bytes > 0 && i < n_rows);
        from += BYTES, n_bytes -= BYTES;
    }
};

// Sums over the lanes of the first N values of each, with the bits of warp_sum. In each step the two lanes that meet halve
// the values between them: lane l keeps those with the numbers l * N / 32 + i, in v[i].
template <int N, int BITS = 16, int ALL> DEVICE void sum_lanes(float (&v)[ALL], u32 lane) {
    if (N == 1) v[0] += __shfl_xor_sync(FULL_WARP, v[0], BITS);
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        const bool upper = lane & BITS;
        const float kept = upper ? v[i + N / 2] : v[i], given = upper ? v[i] : v[i + N / 2];
        v[i] = kept + __shfl_xor_sync(FULL_WARP, given, BITS);
    }
    if constexpr (BITS > 1) sum_lanes<(N + 1) / 2, BITS / 2>(v, lane);
}

// Adds the products of a piece; `w` and `x` are the warp's first rows.
template <class L> DEVICE void multiply_piece(float (&sums)[L::OUTS * L::ROWS], const u8 *w, const u8 *x, u32 lane) {
#pragma unroll
    for (int step = 0; step < L::PIECE / 32; step++) {
        const u32 k = 32 * step + lane;
        float a[L::OUTS];
#pragma unroll
        for (int o = 0; o < L::OUTS; o++) a[o] = L::Type::at(w + o * L::W_BYTES, k);
#pragma unroll
        for (int r = 0; r < L::ROWS; r++) {
            const float b = TypeF32::at(x + r * L::X_BYTES, k);
#pragma unroll
            for (int o = 0; o < L::OUTS; o++) sums[r * L::OUTS + o] = fmaf(a[o], b, sums[r * L::OUTS + o]);
        }
    }
}

template <class L> DEVICE void matfloat_many(const MatFloatParams &p) {
    ZINC_STATIC_SHARED(u8, stages, L::STAGES * L::STAGE);
    const int STAGES = L::STAGES;
    const u32 N = L::OUTS * L::ROWS, KEPT = N < 32 ? 1 : N / 32;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 out0 = blockIdx.x * L::ALL_OUTS, row0 = blockIdx.y * L::ALL_ROWS;
    const u32 own_out = warp % L::OUT_WARPS * L::OUTS, own_row = warp / L::OUT_WARPS * L::ROWS;
    pdl_launch();
    const int n_rows = min(p.n.get(), (int)p.rows) - (int)row0, n_outs = (int)(p.n_out - out0);
    if (n_rows <= 0) return pdl_wait();
    const u32 n_pieces = (p.n_in + L::PIECE - 1) / L::PIECE, n_matrices = p.w1 ? 2 : 1;
    float results[KEPT] = {};
#pragma unroll 1
    for (u32 m = 0; m < n_matrices; m++) {
        const u64 first = (m == 0 ? p.w0 : p.w1) + out0 * p.row_bytes;
        Copies<L::ALL_OUTS, L::W_BYTES> of_w(first, p.row_bytes, n_outs, (int)p.n_in * L::Type::SIZE);
        Copies<L::ALL_ROWS, L::X_BYTES> of_x(p.x + row0 * p.x_stride, p.x_stride, n_rows, (int)p.n_in * 4);
        auto start_x = [&](u32 piece) {
            u8 *to = stages + piece % STAGES * L::STAGE + L::ALL_OUTS * L::W_BYTES;
            if (piece < n_pieces) of_x.start(to);
            copy_async_commit();
        };
        auto start_w = [&](u32 piece) {
            if (piece < n_pieces) of_w.start(stages + piece % STAGES * L::STAGE);
        };
        // The pieces of the first matrix are still read.
        if (m == 1) __syncthreads();
#pragma unroll 1
        for (int piece = 0; piece < STAGES - 1; piece++) start_w(piece);
        if (m == 0) pdl_wait();
#pragma unroll 1
        for (int piece = 0; piece < STAGES - 1; piece++) start_x(piece);
        float sums[N] = {};
#pragma unroll 1
        for (u32 piece = 0; piece < n_pieces; piece++) {
            copy_async_wait<STAGES - 2>();
            __syncthreads();
            start_w(piece + STAGES - 1);
            start_x(piece + STAGES - 1);
            const u8 *w = stages + piece % STAGES * L::STAGE, *x = w + L::ALL_OUTS * L::W_BYTES;
            multiply_piece<L>(sums, w + own_out * L::W_BYTES, x + own_row * L::X_BYTES, lane);
        }
        sum_lanes<N>(sums, lane);
#pragma unroll
        for (u32 i = 0; i < KEPT; i++) {
            const u32 out = own_out + (lane * N / 32 + i) % L::OUTS;
            if ((int)out < n_outs) results[i] = add_sum(p, m, results[i], sums[i], out0 + out);
        }
    }
#pragma unroll
    for (u32 i = 0; i < KEPT; i++) {
        const u32 at = lane * N / 32 + i, out = own_out + at % L::OUTS, row = own_row + at / L::OUTS;
        // Of fewer than 32 sums several lanes have each.
        const bool own = N >= 32 || lane % (32 / N) == 0;
        if (own && (int)out < n_outs && (int)row < n_rows) put_result(p, row0 + row, out0 + out, results[i]);
    }
}

ZINC_KERNEL(256, 2) matfloat_f32(ZINC_PARAM MatFloatParams p) { matfloat<TypeF32>(p); }
ZINC_KERNEL(256, 2) matfloat_f16(ZINC_PARAM MatFloatParams p) { matfloat<TypeF16>(p); }
ZINC_KERNEL(256, 2) matfloat_bf16(ZINC_PARAM MatFloatParams p) { matfloat<TypeBF16>(p); }

// By the results of a warp. The tiles are in `lower/linear/float.rs` as well.
#define MANY(name, T)                                                                                            \
    ZINC_KERNEL(256, 2) name##_8x8(ZINC_PARAM MatFloatParams p) { matfloat_many<Tile<T, 8, 8, 4, 128, 2>>(p); }  \
    ZINC_KERNEL(256, 2) name##_4x4(ZINC_PARAM MatFloatParams p) { matfloat_many<Tile<T, 4, 4, 4, 128, 4>>(p); }  \
    ZINC_KERNEL(256, 2) name##_1x1(ZINC_PARAM MatFloatParams p) { matfloat_many<Tile<T, 1, 1, 1, 256, 4>>(p); }
MANY(matfloat_f32, TypeF32)
MANY(matfloat_f16, TypeF16)
MANY(matfloat_bf16, TypeBF16)
