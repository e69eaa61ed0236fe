// TopK: the columns and values of the k largest of each row, falling, the lower column first among equals; what is
// infinite or no number before all others.
//
// Every value becomes a number of its own, `key_of`, so the k-th largest is one number T, and who is among the k
// largest is known from a comparison. Both kernels find a number that is at most T from few of the keys, keep the keys
// that reach it, 1 to 4 k of them unless the row is sorted against them, and give each its place by counting the
// greater ones: no sort, and no order of anything that could show.
//
// top_k_segment  launch: grid (segments of SEGMENT columns, rows), 256 threads. Reads 4 bytes a value, writes 8 k bytes
//                a segment. A row alone is bound by latency: 2 counts over a few hundred numbers in shared memory, about
//                3 us for a vocabulary of 152k (75 blocks); many rows by the same in waves of blocks.
// top_k_merge    launch: grid rows, 1024 threads. Reads the k largest of each segment, 38 kB for that vocabulary.
#include "zinc.cuh"

#define SEGMENT 2048
#define PER_THREAD (SEGMENT / 256)
// Largest k, as in the lowering.
#define MOST_K 64

struct TopKParams {
    Rows x;
    Count n;
    // [rows][n_segments][k] the largest of each segment, 0 where there are fewer; unused with one segment.
    u64 *keys;
    int *ids;
    float *values;
    u32 k, n_segments;
};

// Greater for larger values, and for lower columns among equals; never 0. 0 and -0 are equal.
DEVICE u64 key_of(float value, int col) {
    u32 bits = __float_as_uint(value + 0.0f);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    if ((__float_as_uint(value) & 0x7f800000u) == 0x7f800000u) bits = 0xffffffffu;
    return (u64)bits << 32 | (0xffffffffu - (u32)col);
}

DEVICE void write_place(const TopKParams &p, int row, int place, u64 key) {
    int col = (int)(0xffffffffu - (u32)key);
    p.ids[(i64)row * p.k + place] = col;
    p.values[(i64)row * p.k + place] = p.x.row(row)[col];
}

// How many of keys[0 .. n] are greater than `key`.
DEVICE int n_greater(const u64 *keys, int n, u64 key) {
    int count = 0;
#pragma unroll 8
    for (int i = 0; i < n; i++) count += keys[i] > key;
    return count;
}

ZINC_KERNEL(256, 4) top_k_segment(ZINC_PARAM TopKParams p) {
    ZINC_STATIC_SHARED(u64, maxima, 256);
    ZINC_STATIC_SHARED(u64, kept, SEGMENT);
    ZINC_STATIC_SHARED(u64, least, 1);
    ZINC_STATIC_SHARED(int, n_kept, 1);
    const int row = blockIdx.y, thread = threadIdx.x, first = blockIdx.x * SEGMENT, k = (int)p.k;
    pdl_launch();
    const int n_rows = p.n.get();
    pdl_wait();
    if (row >= n_rows) return;
    const float *x = p.x.row(row);
    float values[PER_THREAD];
    u64 keys[PER_THREAD], most = 0;
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
        int col = first + i * 256 + thread;
        values[i] = col < (int)p.x.cols ? x[col] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
        int col = first + i * 256 + thread;
        keys[i] = col < (int)p.x.cols ? key_of(values[i], col) : 0;
        if (keys[i] > most) most = keys[i];
    }
    maxima[thread] = most;
    if (thread == 0) least[0] = 1, n_kept[0] = 0;
    __syncthreads();
    // The k-th largest of the threads' largest is none of the k largest's betters. Fewer than k: all keys are kept.
    if (most != 0 && n_greater(maxima, 256, most) == k - 1) least[0] = most;
    __syncthreads();
    const u64 from = least[0];
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++)
        if (keys[i] >= from) kept[atomicAdd(n_kept, 1)] = keys[i];
    __syncthreads();
    const int n = n_kept[0];
    const bool alone = p.n_segments == 1;
    u64 *out = p.keys + ((i64)row * p.n_segments + blockIdx.x) * k;
    for (int i = thread; i < n; i += 256) {
        int place = n_greater(kept, n, kept[i]);
        if (place >= k) continue;
        if (alone) write_place(p, row, place, kept[i]);
        else out[place] = kept[i];
    }
    // The last segment may have fewer; a row never has.
    if (!alone && thread >= n && thread < k) out[thread] = 0;
}

ZINC_KERNEL(1024, 1) top_k_merge(ZINC_PARAM TopKParams p) {
    // At most MOST_K segments have a key that is kept, and each has at most MOST_K.
    ZINC_STATIC_SHARED(u64, kept, MOST_K * MOST_K);
    ZINC_STATIC_SHARED(u64, least, 1);
    ZINC_STATIC_SHARED(int, n_kept, 1);
    const int row = blockIdx.x, thread = threadIdx.x, k = (int)p.k, n_segments = (int)p.n_segments;
    pdl_launch();
    const int n_rows = p.n.get();
    pdl_wait();
    if (row >= n_rows) return;
    const u64 *keys = p.keys + (i64)row * n_segments * k;
    if (thread == 0) least[0] = 1, n_kept[0] = 0;
    // The first `depth` of each segment are at least k keys, and their k-th largest is at most that of all.
    const int depth = div_up(k, n_segments), n_first = n_segments * depth;
    for (int i = thread; i < n_first; i += 1024) kept[i] = keys[i / depth * k + i % depth];
    __syncthreads();
    for (int i = thread; i < n_first; i += 1024) {
        u64 key = kept[i];
        if (key != 0 && n_greater(kept, n_first, key) == k - 1) least[0] = key;
    }
    __syncthreads();
    const u64 from = least[0];
    for (int i = thread; i < n_segments * k; i += 1024) {
        u64 key = keys[i];
        if (key >= from) kept[atomicAdd(n_kept, 1)] = key;
    }
    __syncthreads();
    const int n = n_kept[0];
    for (int i = thread; i < n; i += 1024) {
        int place = n_greater(kept, n, kept[i]);
        if (place < k) write_place(p, row, place, kept[i]);
    }
}
