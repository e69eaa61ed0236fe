// CausalConv1d and GatedDeltaNet with states in slots.
#include "delta_gates.cuh"
#include "ptx.cuh"
#include "recurrence.cuh"

// ---- convolution -------------------------------------------------------------------------------------------------

#define CONV_COLS 128
#define CONV_ROWS 32
#define MOST_TAPS 8

struct ConvParams {
    Rows x, y;
    Recurrence r;
    // [cols][n_taps].
    const float *taps;
    // Gates of the same rows, no columns for none: one more block in x makes them.
    Gates gates;
    u32 n_taps;
    // The first n_normed columns of y are normalised in heads of `group`, which divides CONV_COLS.
    u32 n_normed, group;
    float eps;
};

// Heads of the block's columns to y, those before n_normed normalised with the bits of l2_norm_warp.
DEVICE void write_heads(const ConvParams &p, const float *tile, int first_row, int n_rows) {
    int lane = threadIdx.x % 32, group = (int)p.group, n_groups = CONV_COLS / group;
    for (int job = threadIdx.x / 32; job < n_rows * n_groups; job += CONV_COLS / 32) {
        int row = job / n_groups, within = job % n_groups * group, start = blockIdx.x * CONV_COLS + within;
        const float *x = tile + row * CONV_COLS + within;
        float *y = p.y.row(first_row + row) + start, sum = 0.0f;
        for (int col = lane; col < group; col += 32) sum = fmaf(x[col], x[col], sum);
        float scale = 1.0f / sqrtf(warp_sum(sum) + p.eps);
        if (start >= (int)p.n_normed) scale = 1.0f;
        for (int col = lane; col < group; col += 32)
            if (start + col < (int)p.y.cols) y[col] = x[col] * scale;
    }
}

// The states of a column after the rows that are saved, and after the last one, which `window` has where this block had
// it; `early` is the old one.
DEVICE void store_states(const ConvParams &p, int2 run, int slot, int first_save, const float (&early)[MOST_TAPS],
                         const float (&window)[MOST_TAPS]) {
    int cols = (int)p.x.cols, n_before = (int)p.n_taps - 1, lane = threadIdx.x % 32;
    int col = blockIdx.x * CONV_COLS + threadIdx.x;
    auto store = [&](int slot, int after) {
        float *to = p.r.state + (i64)slot * n_before * cols + col;
#pragma unroll
        for (int i = 0; i < MOST_TAPS; i++) {
            if (i >= n_before || col >= cols) break;
            int idx = after - n_before + 1 + i;
            float value = idx >= 0 ? p.x.row(run.x + idx)[col] : 0.0f;
#pragma unroll
            for (int j = 0; j < MOST_TAPS; j++)
                if (j == idx + n_before && idx < 0) value = early[j];
            to[(i64)i * cols] = value;
        }
    };
    // Lanes look for saves in 32 rows at a time.
    for (int start = 0; start < run.y; start += 32) {
        int save = start == 0 ? first_save : start + lane < run.y ? p.r.saves[run.x + start + lane] : -1;
        for (u32 found = __ballot_sync(FULL_WARP, save >= 0); found != 0; found &= found - 1) {
            int at = __ffs(found) - 1;
            store(__shfl_sync(FULL_WARP, save, at), start + at);
        }
    }
    if (run.y > CONV_ROWS) {
        store(slot, run.y - 1);
        return;
    }
    float *to = p.r.state + (i64)slot * n_before * cols + col;
#pragma unroll
    for (int i = 0; i < MOST_TAPS; i++)
        if (i < n_before && col < cols) to[(i64)i * cols] = window[i];
}

// y = silu(sum_i taps[c][i] x[t - n_taps + 1 + i][c]); the state is the last n_taps - 1 rows of x, oldest first.
// What a DeltaNet layer does beside and behind it comes along: y = y / sqrt(sum(y^2) + eps) for the heads of queries
// and keys, and the gates.
// Launch: grid (ceil(cols / 128) and one for gates, ceil(rows / 32), sequences), 128 threads; a thread makes one column
// of up to 32 rows of a sequence. The blocks of a sequence's first rows, which read its old state, write all new ones.
// Reads x once, writes y once: bound by memory in prefill, by latency in decode.
ZINC_KERNEL(CONV_COLS, 1) causal_conv1d(ZINC_PARAM ConvParams p) {
    ZINC_STATIC_SHARED(float, tile, CONV_ROWS * CONV_COLS);
    int cols = (int)p.x.cols, n_before = (int)p.n_taps - 1, seq = blockIdx.z;
    // Lanes past the last column repeat it, and write nothing.
    int own_col = blockIdx.x * CONV_COLS + threadIdx.x, col = min(own_col, cols - 1);
    bool is_inside = own_col < cols;
    pdl_launch();
    // The step's inputs, and the state: this launch alone writes it.
    int2 run = seq < p.r.seqs.get() ? rows_of(p.r, seq) : make_int2(0, 0);
    int first = blockIdx.y * CONV_ROWS, end = min(run.y, first + CONV_ROWS), lane = threadIdx.x % 32;
    if (first >= end || blockIdx.x * CONV_COLS >= cols) {
        pdl_wait();
        int n_heads = (int)p.gates.g.cols;
        for (int i = threadIdx.x; i < (end - first) * n_heads; i += CONV_COLS) {
            int row = run.x + first + i / n_heads, head = i % n_heads;
            float g = p.gates.log_decay(row, head), beta = p.gates.step_size(row, head);
            p.gates.g.row(row)[head] = g;
            p.gates.beta.row(row)[head] = beta;
        }
        return;
    }
    bool goes_on = first == 0 && p.r.positions[run.x] != 0;
    const float *old = p.r.state + (i64)p.r.from[seq] * n_before * cols + col;
    int slot = p.r.slots[seq], first_save = lane < run.y ? p.r.saves[run.x + lane] : -1;
    // What comes before the block's first row: `early` is the old state, from its oldest row on.
    float taps[MOST_TAPS], window[MOST_TAPS], early[MOST_TAPS];
#pragma unroll
    for (int i = 0; i < MOST_TAPS; i++) {
        taps[i] = i <= n_before ? p.taps[(i64)col * p.n_taps + i] : 0.0f;
        early[i] = goes_on && i < n_before ? old[(i64)i * cols] : 0.0f;
    }
    pdl_wait();
#pragma unroll
    for (int i = 0; i < MOST_TAPS; i++)
        window[i] = first > 0 && i < n_before ? p.x.row(run.x + first - n_before + i)[col] : early[i];
    bool has_heads = blockIdx.x * CONV_COLS < p.n_normed;
    for (int start = first; start < end; start += 8) {
        // All loads of eight rows are under way together.
        float x[8];
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = start + i < end ? p.x.row(run.x + start + i)[col] : 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            if (start + i >= end) break;
            float sum = 0.0f;
#pragma unroll
            for (int tap = 0; tap < MOST_TAPS; tap++) {
                if (tap == n_before) window[tap] = x[i];
                if (tap <= n_before) sum = fmaf(taps[tap], window[tap], sum);
            }
            float y = sum * sigmoid(sum);
            if (has_heads) {
                tile[(start + i - first) * CONV_COLS + threadIdx.x] = y;
            } else if (is_inside) {
                p.y.row(run.x + start + i)[col] = y;
            }
#pragma unroll
            for (int tap = 0; tap + 1 < MOST_TAPS; tap++) window[tap] = window[tap + 1];
        }
    }
    if (first == 0) store_states(p, run, slot, first_save, early, window);
    if (has_heads) {
        __syncthreads();
        write_heads(p, tile, run.x + first, end - first);
    }
}

// ---- gated delta rule --------------------------------------------------------------------------------------------

// Rows of the step that are in shared memory together, twice.
#define TILE_ROWS 16

// A tile of one head's operands: of each row k, q, the block's columns of v; then what is one number a row.
template <int K> struct DeltaTile {
    float k[TILE_ROWS][K], q[TILE_ROWS][K], v[TILE_ROWS][32], g[TILE_ROWS], beta[TILE_ROWS];
    int save[TILE_ROWS];
};

// S = e^g S; S += k (beta (v - S^T k))^T; y = scale S^T q, row by row. Columns of S never meet, so they are spread
// over the card: a lane holds K / 4 rows of one column, four neighbours of every 16, and a warp eight columns.
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
        int k_dim = (int)p.k_dim, n_cols = min(32, (int)p.v_dim - first_col), n_rows = min(TILE_ROWS, end - first);
        for (int i = threadIdx.x; i < n_rows * K; i += 128) {
            int row = i / K, d = min(i % K, k_dim - 1), t = first + row;
            bool valid = i % K < k_dim;
            copy_async_4(&tile.k[row][i % K], p.k.row(t) + k_head * k_dim + d, valid);
            copy_async_4(&tile.q[row][i % K], p.q.row(t) + k_head * k_dim + d, valid);
        }
        for (int i = threadIdx.x; i < n_rows * 32; i += 128) {
            int row = i / 32, col = i % 32;
            const float *v = p.v.row(first + row) + head * (int)p.v_dim + first_col;
            copy_async_4(&tile.v[row][col], v + min(col, n_cols - 1), col < n_cols);
        }
        if (threadIdx.x < n_rows) {
            int row = threadIdx.x, t = first + row;
            copy_async_4(&tile.g[row], p.g.row(t) + head);
            copy_async_4(&tile.beta[row], p.beta.row(t) + head);
            copy_async_4(&tile.save[row], p.r.saves + t);
        }
        copy_async_commit();
    }

    // The row of the state that this lane holds as s[i].
    __device__ __forceinline__ static int row_of(int i) { return i / 4 * 16 + threadIdx.x % 32 / 8 * 4 + i % 4; }

    // The elements of a key or query for this lane's rows.
    __device__ __forceinline__ static void load(float (&to)[ROWS], const float *from) {
#pragma unroll
        for (int i = 0; i < ROWS; i += 4) {
            float4 part = *(const float4 *)(from + row_of(i));
            to[i] = part.x, to[i + 1] = part.y, to[i + 2] = part.z, to[i + 3] = part.w;
        }
    }

    // One row; the result is in every lane of the column.
    __device__ __forceinline__ float step(const DeltaTile<K> &tile, int row) {
        int col = threadIdx.x / 32 * 8 + threadIdx.x % 8;
        float decay = expf(tile.g[row]), k[ROWS], q[ROWS], along[4] = {}, out[4] = {};
        load(k, tile.k[row]);
        load(q, tile.q[row]);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            s[i] *= decay;
            along[i % 4] = fmaf(k[i], s[i], along[i % 4]);
        }
        float sum = (along[0] + along[1]) + (along[2] + along[3]);
        sum += __shfl_xor_sync(FULL_WARP, sum, 8);
        sum += __shfl_xor_sync(FULL_WARP, sum, 16);
        float update = tile.beta[row] * (tile.v[row][col] - sum);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            s[i] = fmaf(k[i], update, s[i]);
            out[i % 4] = fmaf(q[i], s[i], out[i % 4]);
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
    int2 run = seq < p.r.seqs.get() ? rows_of(p.r, seq) : make_int2(0, 0);
    if (run.y == 0) {
        pdl_wait();
        return;
    }
    bool is_inside = col < v_dim, is_new = p.r.positions[run.x] == 0;
    int k_head = p.key_head(head);
    int end = run.x + run.y, slot = p.r.slots[seq];
    Work work = {p, head, k_head, first_col, {}};
    i64 of_slot = (i64)p.n_v_heads * k_dim * v_dim, at = (i64)head * k_dim * v_dim + min(col, v_dim - 1);
    const float *old = p.r.state + p.r.from[seq] * of_slot + at;
#pragma unroll
    for (int i = 0; i < Work::ROWS; i++) {
        int row = Work::row_of(i);
        work.s[i] = is_new || row >= k_dim ? 0.0f : old[(i64)row * v_dim];
    }
    pdl_wait();
    work.fetch(tiles[0], run.x, end);
    auto store = [&](int slot) {
        float *to = p.r.state + slot * of_slot + at;
#pragma unroll
        for (int i = 0; i < Work::ROWS; i++) {
            int row = Work::row_of(i);
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
    store(slot);
}

ZINC_KERNEL(128, 1) delta_rule_32(ZINC_PARAM DeltaParams p) { delta_rule<32>(p); }
ZINC_KERNEL(128, 1) delta_rule_64(ZINC_PARAM DeltaParams p) { delta_rule<64>(p); }
ZINC_KERNEL(128, 1) delta_rule_128(ZINC_PARAM DeltaParams p) { delta_rule<128>(p); }
