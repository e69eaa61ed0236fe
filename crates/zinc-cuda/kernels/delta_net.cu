// CausalConv1d and GatedDeltaNet with states in slots, as zinc-plan's delta_net says.
//
// The rows of a sequence are neighbours and sequences follow each other in order, so a block finds its sequence's
// rows by counting. A sequence goes on from slot from[s], or from zeros when its first row has position 0; the
// state after its last row goes to slots[s], the state after row t also to saves[t] unless that is -1. All reads of
// a state come before its writes: both are done by the same thread.
#include "ptx.cuh"

struct Recurrence {
    const int *positions, *seq_of, *from, *slots, *saves;
    float *state;
    // Rows of the step and sequences.
    Count rows, seqs;
};

// Rows of sequence `seq`: first one and how many. The same in all lanes.
DEVICE int2 rows_of(const Recurrence &r, int seq) {
    int n = r.rows.get(), lane = threadIdx.x % 32, before = 0, mine = 0;
    if (r.seqs.get() == 1) return make_int2(0, seq == 0 ? n : 0);
#pragma unroll 4
    for (int i = lane; i < n; i += 32) {
        int of = r.seq_of[i];
        before += of < seq;
        mine += of == seq;
    }
#pragma unroll
    for (int bit = 16; bit > 0; bit /= 2) {
        before += __shfl_xor_sync(FULL_WARP, before, bit);
        mine += __shfl_xor_sync(FULL_WARP, mine, bit);
    }
    return make_int2(before, mine);
}

// ---- convolution -------------------------------------------------------------------------------------------------

#define CONV_ROWS 32
#define MOST_TAPS 8

struct ConvParams {
    Rows x, y;
    Recurrence r;
    // [cols][n_taps].
    const float *taps;
    u32 n_taps, unused;
};

// y = silu(sum_i taps[c][i] x[t - n_taps + 1 + i][c]); the state is the last n_taps - 1 rows of x, oldest first.
// Launch: grid (ceil(cols / 128), ceil(rows / 32), sequences), 128 threads; a thread makes one column of up to 32
// rows of a sequence. The blocks of a sequence's first rows, which read its old state, write all new ones.
// Reads x once, writes y once: bound by memory in prefill, by latency in decode.
ZINC_KERNEL(128, 1) causal_conv1d(ZINC_PARAM ConvParams p) {
    int cols = (int)p.x.cols, n_before = (int)p.n_taps - 1, seq = blockIdx.z;
    // Lanes past the last column repeat it, and write nothing.
    int own_col = blockIdx.x * 128 + threadIdx.x, col = min(own_col, cols - 1);
    bool is_inside = own_col < cols;
    pdl_launch();
    pdl_wait();
    if (seq >= p.r.seqs.get()) return;
    int2 run = rows_of(p.r, seq);
    int first = blockIdx.y * CONV_ROWS;
    if (first >= run.y) return;
    bool is_new = p.r.positions[run.x] == 0;
    const float *old = p.r.state + (i64)p.r.from[seq] * n_before * cols + col;
    // Row `idx` of the sequence in this step; what came before is in the state.
    auto x_at = [&](int idx) {
        if (idx >= 0) return p.x.row(run.x + idx)[col];
        return is_new ? 0.0f : old[(i64)(idx + n_before) * cols];
    };
    float taps[MOST_TAPS], window[MOST_TAPS], early[MOST_TAPS];
#pragma unroll
    for (int i = 0; i < MOST_TAPS; i++) {
        taps[i] = i <= n_before ? p.taps[(i64)col * p.n_taps + i] : 0.0f;
        window[i] = i < n_before ? x_at(first - n_before + i) : 0.0f;
        early[i] = window[i];
    }
    int end = min(run.y, first + CONV_ROWS);
    for (int start = first; start < end; start += 8) {
        // All loads of eight rows are under way together.
        float x[8];
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = start + i < end ? p.x.row(run.x + start + i)[col] : 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float sum = 0.0f;
#pragma unroll
            for (int tap = 0; tap < MOST_TAPS; tap++) {
                if (tap == n_before) window[tap] = x[i];
                if (tap <= n_before) sum = fmaf(taps[tap], window[tap], sum);
            }
            if (start + i < end && is_inside) p.y.row(run.x + start + i)[col] = sum * sigmoid(sum);
#pragma unroll
            for (int tap = 0; tap + 1 < MOST_TAPS; tap++) window[tap] = window[tap + 1];
        }
    }
    if (blockIdx.y > 0) return;
    // `early` is the old state: from here on slots are written.
    auto store = [&](int slot, int after) {
        float *to = p.r.state + (i64)slot * n_before * cols + col;
#pragma unroll
        for (int i = 0; i < MOST_TAPS; i++) {
            if (i >= n_before) break;
            int idx = after - n_before + 1 + i;
            float value = idx >= 0 ? p.x.row(run.x + idx)[col] : 0.0f;
#pragma unroll
            for (int j = 0; j < MOST_TAPS; j++)
                if (j == idx + n_before && idx < 0) value = early[j];
            if (is_inside) to[(i64)i * cols] = value;
        }
    };
    // Lanes look for saves in 32 rows at a time.
    int lane = threadIdx.x % 32;
#pragma unroll 4
    for (int start = 0; start < run.y; start += 32) {
        int save = start + lane < run.y ? p.r.saves[run.x + start + lane] : -1;
        for (u32 found = __ballot_sync(FULL_WARP, save >= 0); found != 0; found &= found - 1) {
            int at = __ffs(found) - 1;
            store(__shfl_sync(FULL_WARP, save, at), start + at);
        }
    }
    store(p.r.slots[seq], run.y - 1);
}

// ---- gated delta rule --------------------------------------------------------------------------------------------

struct DeltaParams {
    Rows q, k, v, g, beta, y;
    // [slots][n_v_heads][k_dim][v_dim].
    Recurrence r;
    u32 n_k_heads, n_v_heads, k_dim, v_dim, is_tiled;
    float scale;
};

// Rows of the step that are in shared memory together, twice.
#define TILE_ROWS 16

// A tile of one head's operands: of each row k, q, the block's columns of v; then what is one number a row.
template <int K> struct DeltaTile {
    float k[TILE_ROWS][K], q[TILE_ROWS][K], v[TILE_ROWS][32], g[TILE_ROWS], beta[TILE_ROWS];
    int save[TILE_ROWS];
};

// S = e^g S; S += k (beta (v - S^T k))^T; y = scale S^T q, row by row. Columns of S never meet, so they are spread
// over the card: a lane holds K / 4 rows of one column (rows lane / 8 + 4 i), a warp eight columns.
// Launch: grid (ceil(v_dim / 32), n_v_heads, sequences), 128 threads. Decode moves the state twice (in and out) and
// is bound by memory; prefill keeps it in registers, copies the next 16 rows while it computes these, and is bound
// by the latency of a row: two sums over k_dim.
template <int K> struct Delta {
    enum { ROWS = K / 4 };
    const DeltaParams &p;
    int head, k_head, first_col;
    float s[ROWS];

    // Begins to copy the rows first .. end.
    __device__ __forceinline__ void fetch(DeltaTile<K> &tile, int first, int end) const {
        int k_dim = (int)p.k_dim, n_cols = min(32, (int)p.v_dim - first_col);
        for (int i = threadIdx.x; i < TILE_ROWS * K; i += 128) {
            int row = i / K, d = i % K, t = first + row;
            bool valid = t < end && d < k_dim;
            t = min(t, end - 1);
            d = min(d, k_dim - 1);
            copy_async_4(&tile.k[row][i % K], p.k.row(t) + k_head * k_dim + d, valid);
            copy_async_4(&tile.q[row][i % K], p.q.row(t) + k_head * k_dim + d, valid);
        }
        for (int i = threadIdx.x; i < TILE_ROWS * 32; i += 128) {
            int row = i / 32, col = i % 32, t = min(first + row, end - 1);
            copy_async_4(&tile.v[row][col], p.v.row(t) + head * (int)p.v_dim + first_col + min(col, n_cols - 1),
                         first + row < end && col < n_cols);
        }
        if (threadIdx.x < TILE_ROWS) {
            int row = threadIdx.x, t = min(first + row, end - 1);
            copy_async_4(&tile.g[row], p.g.row(t) + head, true);
            copy_async_4(&tile.beta[row], p.beta.row(t) + head, true);
            copy_async_4(&tile.save[row], p.r.saves + t, true);
        }
        copy_async_commit();
    }

    // One row; the result is in every lane of the column.
    __device__ __forceinline__ float step(const DeltaTile<K> &tile, int row) {
        int part = threadIdx.x % 32 / 8, col = threadIdx.x / 32 * 8 + threadIdx.x % 8;
        float decay = expf(tile.g[row]), along[4] = {}, out[4] = {};
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            s[i] *= decay;
            along[i % 4] = fmaf(tile.k[row][part + 4 * i], s[i], along[i % 4]);
        }
        float sum = (along[0] + along[1]) + (along[2] + along[3]);
        sum += __shfl_xor_sync(FULL_WARP, sum, 8);
        sum += __shfl_xor_sync(FULL_WARP, sum, 16);
        float update = tile.beta[row] * (tile.v[row][col] - sum);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            s[i] = fmaf(tile.k[row][part + 4 * i], update, s[i]);
            out[i % 4] = fmaf(tile.q[row][part + 4 * i], s[i], out[i % 4]);
        }
        sum = (out[0] + out[1]) + (out[2] + out[3]);
        sum += __shfl_xor_sync(FULL_WARP, sum, 8);
        return sum + __shfl_xor_sync(FULL_WARP, sum, 16);
    }
};

template <int K> DEVICE void delta_rule(const DeltaParams &p) {
    typedef Delta<K> Work;
    ZINC_STATIC_SHARED(DeltaTile<K>, tiles, 2);
    int lane = threadIdx.x % 32, part = lane / 8, k_dim = (int)p.k_dim, v_dim = (int)p.v_dim;
    int head = blockIdx.y, seq = blockIdx.z, first_col = blockIdx.x * 32;
    int col = first_col + threadIdx.x / 32 * 8 + lane % 8;
    pdl_launch();
    pdl_wait();
    if (seq >= p.r.seqs.get()) return;
    int2 run = rows_of(p.r, seq);
    if (run.y == 0) return;
    bool is_inside = col < v_dim, is_new = p.r.positions[run.x] == 0;
    int k_head = p.is_tiled ? head % (int)p.n_k_heads : head / (int)(p.n_v_heads / p.n_k_heads);
    int end = run.x + run.y;
    Work work = {p, head, k_head, first_col, {}};
    work.fetch(tiles[0], run.x, end);
    i64 of_slot = (i64)p.n_v_heads * k_dim * v_dim, at = (i64)head * k_dim * v_dim + min(col, v_dim - 1);
    const float *old = p.r.state + p.r.from[seq] * of_slot + at;
#pragma unroll
    for (int i = 0; i < Work::ROWS; i++) {
        int row = part + 4 * i;
        work.s[i] = is_new || row >= k_dim ? 0.0f : old[(i64)row * v_dim];
    }
    auto store = [&](int slot) {
        float *to = p.r.state + slot * of_slot + at;
#pragma unroll
        for (int i = 0; i < Work::ROWS; i++) {
            int row = part + 4 * i;
            if (row < k_dim && is_inside) to[(i64)row * v_dim] = work.s[i];
        }
    };
    for (int first = run.x, turn = 0; first < end; first += TILE_ROWS, turn ^= 1) {
        copy_async_wait<0>();
        __syncthreads();
        if (first + TILE_ROWS < end) work.fetch(tiles[turn ^ 1], first + TILE_ROWS, end);
        int n_rows = min(TILE_ROWS, end - first);
        for (int row = 0; row < n_rows; row++) {
            float y = work.step(tiles[turn], row);
            if (part == 0 && is_inside) p.y.row(first + row)[head * v_dim + col] = y * p.scale;
            int save = tiles[turn].save[row];
            if (save >= 0) store(save);
        }
    }
    store(p.r.slots[seq]);
}

ZINC_KERNEL(128, 1) delta_rule_32(ZINC_PARAM DeltaParams p) { delta_rule<32>(p); }
ZINC_KERNEL(128, 1) delta_rule_64(ZINC_PARAM DeltaParams p) { delta_rule<64>(p); }
ZINC_KERNEL(128, 1) delta_rule_128(ZINC_PARAM DeltaParams p) { delta_rule<128>(p); }
