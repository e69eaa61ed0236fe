// Rope: pair i of each head turns by position * table[variant][i]; cos and sin are multiplied by the last column
// of the table's row. Pairs are neighbours (2i, 2i+1) or halves (i, i + n_dims/2); columns of a head from n_dims on
// are copied.
//
// x, y: rows of n_heads * head_dim floats. table: rows of n_dims/2 + 1 floats. positions, variants: one per row.
// Launch: grid (ceil(n_heads / heads per block), rows), 256 threads: a thread makes the angle of one pair and
// turns it in some heads; heads per block as the lowering says.
// Reads x once and writes y once; the sine and cosine of an angle cost as much as some heads' products.
#include "rope.cuh"

struct RopeParams {
    Rows x, y;
    Count n;
    const int *positions, *variants;
    const float *table;
    u32 n_heads, head_dim, n_dims, is_neox, heads_per_block, unused;
};

ZINC_KERNEL(256, 1) rope(ZINC_PARAM RopeParams p) {
    int row = blockIdx.y, n_dims = (int)p.n_dims, half = n_dims / 2, head_dim = (int)p.head_dim;
    pdl_launch();
    pdl_wait();
    if (row >= p.n.get()) return;
    const float *frequencies = p.table + (i64)p.variants[row] * (half + 1);
    int first_head = blockIdx.x * p.heads_per_block, end = min((int)p.n_heads, first_head + (int)p.heads_per_block);
    const float *x = p.x.row(row);
    float *y = p.y.row(row);
    // The turned pairs of a head, then its other columns.
    int n_jobs = half + head_dim - n_dims;
    int n_lanes = max(1, 256 / n_jobs), lane = (int)threadIdx.x / n_jobs, job = (int)threadIdx.x % n_jobs;
    if (n_jobs > 256) lane = 0, job = threadIdx.x;
    if (lane >= n_lanes) return;
    for (; job < n_jobs; job += 256) {
        if (job >= half) {
            int col = n_dims + job - half;
            for (int head = first_head + lane; head < end; head += n_lanes)
                y[head * head_dim + col] = x[head * head_dim + col];
            continue;
        }
        Turn turn = turn_of(p.positions[row], frequencies, job, half);
        int a = p.is_neox ? job : 2 * job, b = p.is_neox ? job + half : 2 * job + 1;
        for (int head = first_head + lane; head < end; head += n_lanes) {
            float2 result = turned(x[head * head_dim + a], x[head * head_dim + b], turn);
            y[head * head_dim + a] = result.x;
            y[head * head_dim + b] = result.y;
        }
    }
}
