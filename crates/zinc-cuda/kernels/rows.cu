// Elementwise operations and rearrangements of columns, f32 in and out.
//
// Launch of all: grid (ceil(cols of y / 1024), rows), 256 threads; a thread makes four elements 256 apart, so
// that its loads are in flight together. Bound by memory: each operand is read once, y is written once.
#include "act.cuh"
#include "delta_gates.cuh"

// One operand besides y, and what the operation needs of numbers.
struct MapParams {
    Rows x, y;
    Count n;
    const int *rows;
    float factor;
    u32 head_dim, start, len;
};
// Two operands. b_step is 0 where b has one column for all, and its stride 0 where it has one row for all.
struct ZipParams {
    Rows a, b, y;
    Count n;
    u32 b_step, unused;
};

// Runs `make(row, col)` for the block's elements of y.
template <class Make> DEVICE void for_elements(const Rows &y, const Count &n, Make make) {
    int row = blockIdx.y, first = blockIdx.x * 1024 + threadIdx.x, cols = (int)y.cols;
    pdl_launch();
    const int n_rows = n.get();
    pdl_wait();
    if (row >= n_rows) return;
    float value[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (first + 256 * i < cols) value[i] = make(row, first + 256 * i);
    float *to = y.row(row);
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (first + 256 * i < cols) to[first + 256 * i] = value[i];
}

// y[i] = x[rows[i]]; n counts the rows of y.
ZINC_KERNEL(256, 1) gather_rows(ZINC_PARAM MapParams p) {
    for_elements(p.y, p.n, [&](int row, int col) { return p.x.row(p.rows[row])[col]; });
}

// y = x * factor.
ZINC_KERNEL(256, 1) scale(ZINC_PARAM MapParams p) {
    for_elements(p.y, p.n, [&](int row, int col) { return __fmul_rn(p.x.row(row)[col], p.factor); });
}

// y = factor * tanh(x / factor).
ZINC_KERNEL(256, 1) softcap(ZINC_PARAM MapParams p) {
    for_elements(p.y, p.n, [&](int row, int col) { return p.factor * tanhf(p.x.row(row)[col] / p.factor); });
}

// Columns start .. start + len of each head of head_dim columns, side by side in y.
ZINC_KERNEL(256, 1) head_slice(ZINC_PARAM MapParams p) {
    for_elements(p.y, p.n, [&](int row, int col) {
        u32 head = (u32)col / p.len, within = (u32)col % p.len;
        return p.x.row(row)[head * p.head_dim + p.start + within];
    });
}

// y = a + b.
ZINC_KERNEL(256, 1) add(ZINC_PARAM ZipParams p) {
    for_elements(p.y, p.n, [&](int row, int col) { return __fadd_rn(p.a.row(row)[col], p.b.row(row)[col]); });
}

// y = a * b.
ZINC_KERNEL(256, 1) mul(ZINC_PARAM ZipParams p) {
    for_elements(p.y, p.n,
                 [&](int row, int col) { return __fmul_rn(p.a.row(row)[col], p.b.row(row)[col * p.b_step]); });
}

// y = a * sigmoid(b).
ZINC_KERNEL(256, 1) sigmoid_gate(ZINC_PARAM ZipParams p) {
    for_elements(p.y, p.n,
                 [&](int row, int col) { return p.a.row(row)[col] * sigmoid(p.b.row(row)[col * p.b_step]); });
}

// The columns of a, then those of b.
ZINC_KERNEL(256, 1) concat(ZINC_PARAM ZipParams p) {
    int a_cols = (int)p.a.cols;
    for_elements(p.y, p.n, [&](int row, int col) {
        return col < a_cols ? p.a.row(row)[col] : p.b.row(row)[col - a_cols];
    });
}

// y = act(a) * b.
#define GATED_ACT(name)                                                                             \
    ZINC_KERNEL(256, 1) gated_act_##name(ZINC_PARAM ZipParams p) {                                              \
        for_elements(p.y, p.n,                                                                      \
                     [&](int row, int col) { return act_##name(p.a.row(row)[col], p.b.row(row)[col]); }); \
    }
GATED_ACT(silu)
GATED_ACT(gelu_tanh)
GATED_ACT(swiglu_oai)

struct CombineParams {
    Rows x, y;
    Count n;
    const float *weights;
    const int *ids;
    // Of each expert; null when there is none, and ids are not read then.
    const float *scale;
    u32 k, unused;
};

// y = sum over j < k of weights[j] * scale[ids[j]] * x_j, in the order of j; x has k parts of y's width.
ZINC_KERNEL(256, 1) expert_combine(ZINC_PARAM CombineParams p) {
    const int row = blockIdx.y, first = blockIdx.x * 1024 + threadIdx.x, cols = (int)p.y.cols, k = (int)p.k;
    pdl_launch();
    const int n_rows = p.n.get();
    pdl_wait();
    if (row >= n_rows) return;
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 2
    for (int j = 0; j < k; j++) {
        const float *part = p.x.row(row) + (i64)j * cols;
        const i64 at = (i64)row * k + j;
        float weight = p.weights[at];
        if (p.scale != nullptr) weight *= p.scale[p.ids[at]];
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (first + 256 * i < cols) sum[i] = fmaf(weight, part[first + 256 * i], sum[i]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (first + 256 * i < cols) p.y.row(row)[first + 256 * i] = sum[i];
}

struct GatesParams {
    Gates gates;
    Count n;
};

ZINC_KERNEL(256, 1) delta_gates(ZINC_PARAM GatesParams p) {
    for_elements(p.gates.g, p.n, [&](int row, int col) {
        p.gates.beta.row(row)[col] = p.gates.step_size(row, col);
        return p.gates.log_decay(row, col);
    });
}
