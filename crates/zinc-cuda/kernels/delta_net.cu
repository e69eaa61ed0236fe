// CausalConv1d and GatedDeltaNet with states in slots, as zinc-plan's delta_net says.
//
// The rows of a sequence are neighbours and sequences follow each other in order, so a block finds its sequence's
// rows by counting. A sequence goes on from slot from[s], or from zeros when its first row has position 0; the
// state after its last row goes to slots[s], the state after row t also to saves[t] unless that is -1. All reads of
// a state come before its writes: both are done by the same thread.
#include "zinc.cuh"

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
    int col = blockIdx.x * 128 + threadIdx.x, cols = (int)p.x.cols, n_before = (int)p.n_taps - 1, seq = blockIdx.z;
    pdl_launch();
    pdl_wait();
    if (seq >= p.r.seqs.get()) return;
    int2 run = rows_of(p.r, seq);
    int first = blockIdx.y * CONV_ROWS;
    if (first >= run.y || col >= cols) return;
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
#pragma unroll 4
    for (int idx = first; idx < end; idx++) {
        float sum = 0.0f, x = p.x.row(run.x + idx)[col];
#pragma unroll
        for (int i = 0; i < MOST_TAPS; i++) {
            if (i == n_before) window[i] = x;
            if (i <= n_before) sum = fmaf(taps[i], window[i], sum);
        }
        p.y.row(run.x + idx)[col] = sum * sigmoid(sum);
#pragma unroll
        for (int i = 0; i + 1 < MOST_TAPS; i++) window[i] = window[i + 1];
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
            to[(i64)i * cols] = value;
        }
    };
    for (int idx = 0; idx < run.y; idx++) {
        int slot = p.r.saves[run.x + idx];
        if (slot >= 0) store(slot, idx);
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

// S = e^g S; S += k (beta (v - S^T k))^T; y = scale S^T q, row by row. Columns of S never meet, so they are spread
// over the card: a lane holds ROWS rows of one column (rows lane / 8 + 4 i), a warp eight columns.
// Launch: grid (ceil(v_dim / 32), n_v_heads, sequences), 128 threads. Decode moves the state twice (in and out) and
// is bound by memory; prefill keeps it in registers and is bound by the latency of a row: two sums over k_dim.
template <int ROWS> DEVICE void delta_rule(const DeltaParams &p) {
    int lane = threadIdx.x % 32, part = lane / 8, k_dim = (int)p.k_dim, v_dim = (int)p.v_dim;
    int col = blockIdx.x * 32 + threadIdx.x / 32 * 8 + lane % 8, head = blockIdx.y, seq = blockIdx.z;
    pdl_launch();
    pdl_wait();
    if (seq >= p.r.seqs.get()) return;
    int2 run = rows_of(p.r, seq);
    if (run.y == 0) return;
    bool is_inside = col < v_dim;
    int k_head = p.is_tiled ? head % (int)p.n_k_heads : head / (int)(p.n_v_heads / p.n_k_heads);
    i64 of_slot = (i64)p.n_v_heads * k_dim * v_dim, at = (i64)head * k_dim * v_dim + min(col, v_dim - 1);
    float s[ROWS];
    bool is_new = p.r.positions[run.x] == 0;
    const float *old = p.r.state + p.r.from[seq] * of_slot + at;
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        int row = part + 4 * i;
        s[i] = is_new || row >= k_dim ? 0.0f : old[(i64)row * v_dim];
    }
    auto store = [&](int slot) {
        float *to = p.r.state + slot * of_slot + at;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            int row = part + 4 * i;
            if (row < k_dim && is_inside) to[(i64)row * v_dim] = s[i];
        }
    };
    // What the next row needs is read while this one is computed.
    float next_k[ROWS], next_q[ROWS], next_v, next_g, next_beta;
    int next_save;
    auto fetch = [&](int t) {
        const float *k = p.k.row(t) + k_head * k_dim, *q = p.q.row(t) + k_head * k_dim;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            int row = part + 4 * i;
            next_k[i] = row < k_dim ? k[row] : 0.0f;
            next_q[i] = row < k_dim ? q[row] : 0.0f;
        }
        next_v = p.v.row(t)[head * v_dim + min(col, v_dim - 1)];
        next_g = p.g.row(t)[head];
        next_beta = p.beta.row(t)[head];
        next_save = p.r.saves[t];
    };
    fetch(run.x);
    for (int t = run.x; t < run.x + run.y; t++) {
        float k[ROWS], q[ROWS], v = next_v, decay = expf(next_g), beta = next_beta;
        int save = next_save;
#pragma unroll
        for (int i = 0; i < ROWS; i++) k[i] = next_k[i], q[i] = next_q[i];
        if (t + 1 < run.x + run.y) fetch(t + 1);
        float along[4] = {};
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            s[i] *= decay;
            along[i % 4] = fmaf(k[i], s[i], along[i % 4]);
        }
        float sum = (along[0] + along[1]) + (along[2] + along[3]);
        sum += __shfl_xor_sync(FULL_WARP, sum, 8);
        sum += __shfl_xor_sync(FULL_WARP, sum, 16);
        float update = beta * (v - sum), out[4] = {};
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            s[i] = fmaf(k[i], update, s[i]);
            out[i % 4] = fmaf(q[i], s[i], out[i % 4]);
        }
        sum = (out[0] + out[1]) + (out[2] + out[3]);
        sum += __shfl_xor_sync(FULL_WARP, sum, 8);
        sum += __shfl_xor_sync(FULL_WARP, sum, 16);
        if (part == 0 && is_inside) p.y.row(t)[head * v_dim + col] = sum * p.scale;
        if (save >= 0) store(save);
    }
    store(p.r.slots[seq]);
}

ZINC_KERNEL(128, 1) delta_rule_32(ZINC_PARAM DeltaParams p) { delta_rule<8>(p); }
ZINC_KERNEL(128, 1) delta_rule_64(ZINC_PARAM DeltaParams p) { delta_rule<16>(p); }
ZINC_KERNEL(128, 1) delta_rule_128(ZINC_PARAM DeltaParams p) { delta_rule<32>(p); }
