// Panels (panels.cuh) of rows that lie in memory, of rows in the order of their experts, and sums of parts of products.
#include "panels.cuh"

struct PackParams {
    Rows x;
    Count n;
    Panels to;
    // Columns that are multiplied together; each so many begin a panel of their own, at multiples of `padded`.
    u32 segment, padded;
};

// Values that a thread keeps between finding the largest one and writing, four at a time.
#define KEPT 8

// x f32 [n, k] -> panels. A block a row, k / 4 threads as far as there are. Reads 4 bytes and writes 2 a value (rows of
// more than 16,384 are read twice): bound by memory, 6 us for 512 rows of 12,288.
ZINC_KERNEL(512, 2) pack_panels(ZINC_PARAM PackParams p) {
    ZINC_STATIC_SHARED(float, maxima, 32);
    pdl_launch();
    const int n_rows = p.n.get();
    pdl_wait();
    const int row = blockIdx.x, segment = (int)p.segment, padded = (int)p.padded;
    const int end = (int)p.x.cols / segment * padded, first = 4 * threadIdx.x, step = 4 * blockDim.x;
    if (row >= n_rows) return;
    const float *x = p.x.row(row);
    auto fetch = [&](float (&v)[4], int at) {
        int n = at < padded ? 0 : at / padded, in_segment = at - n * padded, col = n * segment + in_segment;
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = at < end && in_segment + i < segment ? x[col + i] : 0.0f;
    };
    float kept[KEPT][4], most = 0.0f;
#pragma unroll
    for (int j = 0; j < KEPT; j++) fetch(kept[j], first + j * step);
#pragma unroll
    for (int j = 0; j < KEPT; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) most = fmaxf(most, fabsf(kept[j][i]));
    for (int at = first + KEPT * step; at < end; at += step) {
        float v[4];
        fetch(v, at);
#pragma unroll
        for (int i = 0; i < 4; i++) most = fmaxf(most, fabsf(v[i]));
    }
    const int exponent = panel_exponent(block_max(most, maxima));
    const float scale = power_of_two(-exponent);
    if (threadIdx.x == 0) p.to.factors[row] = power_of_two(exponent);
#pragma unroll
    for (int j = 0; j < KEPT; j++)
        if (first + j * step < end) write_panel(p.to, row, first + j * step, kept[j], scale);
    for (int at = first + KEPT * step; at < end; at += step) {
        float v[4];
        fetch(v, at);
        write_panel(p.to, row, at, v, scale);
    }
}

struct PanelTilesParams {
    // As group_experts gives it: where the pairs of each expert begin.
    const int *offsets;
    // [n_experts + 1]: where the rows of each expert begin in its panels, a multiple of 8, and their number.
    int *starts;
    // As gemm.cuh reads them, tiles of `tile` rows.
    int *tiles;
    u32 n_experts, tile;
};

// Lays the pairs of each expert on rows of their own. One block of 32 threads, latency of a few reductions.
ZINC_KERNEL(32, 1) panel_tiles(ZINC_PARAM PanelTilesParams p) {
    pdl_launch();
    pdl_wait();
    int lane = threadIdx.x, n_rows = 0, n_tiles = 0;
    for (int first = 0; first < (int)p.n_experts; first += 32) {
        int expert = first + lane, count = 0;
        if (expert < (int)p.n_experts) count = p.offsets[expert + 1] - p.offsets[expert];
        int padded = div_up(count, 8) * 8, tiles = div_up(count, (int)p.tile), row = padded, tile = tiles;
#pragma unroll
        for (int by = 1; by < 32; by *= 2) {
            int r = __shfl_up_sync(FULL_WARP, row, by), t = __shfl_up_sync(FULL_WARP, tile, by);
            if (lane >= by) row += r, tile += t;
        }
        int start = n_rows + row - padded, at = n_tiles + tile - tiles;
        if (expert < (int)p.n_experts) p.starts[expert] = start;
        for (int i = 0; i < tiles; i++) {
            int *entry = p.tiles + 1 + 3 * (at + i);
            entry[0] = expert, entry[1] = start / 8 + i * (int)p.tile / 8;
            entry[2] = min((int)p.tile, count - i * (int)p.tile);
        }
        n_rows += __shfl_sync(FULL_WARP, row, 31), n_tiles += __shfl_sync(FULL_WARP, tile, 31);
    }
    if (lane == 0) p.starts[p.n_experts] = n_rows, p.tiles[0] = n_tiles;
}

struct GatherPanelsParams {
    const u8 *panels;
    const float *factors;
    u8 *to;
    float *to_factors;
    // Row * n_slots + slot of each row gathered.
    int *targets;
    const int *offsets, *starts, *pairs;
    u32 n_groups, to_groups, n_experts, n_slots;
    // Slot j of a row begins at panel j * slot_panels; so many panels are gathered.
    u32 slot_panels, n_panels;
};

// Rows of panels in the order of the experts. A warp a row: grid ceil(rows / 8), 256 threads. Moves 4 bytes a value.
ZINC_KERNEL(256, 4) gather_panels(ZINC_PARAM GatherPanelsParams p) {
    pdl_launch();
    pdl_wait();
    const int row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= p.starts[p.n_experts]) return;
    // The last expert that begins here or before; experts without rows begin where the next one does.
    int low = 0, high = (int)p.n_experts - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (p.starts[middle] <= row) low = middle;
        else high = middle - 1;
    }
    const int in_expert = row - p.starts[low], pair = p.offsets[low] + in_expert;
    if (pair >= p.offsets[low + 1]) return;
    const u32 target = (u32)p.pairs[pair], from_row = target / p.n_slots, slot = target % p.n_slots;
    if (lane == 0) p.targets[row] = (int)target, p.to_factors[row] = p.factors[from_row];
    const u32 first = slot * p.slot_panels * 8;
    for (u32 c = lane; c < p.n_panels * 8; c += 32) {
        u32 at = first + c;
        const u8 *from = p.panels + ((u64)(at / 8) * p.n_groups + from_row / 8) * 1024 + from_row % 8 * 128;
        u8 *to = p.to + ((u64)(c / 8) * p.to_groups + row / 8) * 1024 + row % 8 * 128;
        *(uint4 *)(to + ((c % 8 ^ row % 8) << 4)) = *(const uint4 *)(from + ((at % 8 ^ from_row % 8) << 4));
    }
}

// Where the columns of a further product of a launch go.
struct SplitSegment {
    float *out;
    u32 out_stride, first_col;
};

#define SPLIT_MORE 3

struct ReduceSplitsParams {
    Count n;
    const float *parts;
    const float *residual;
    float *out;
    u32 out_stride, residual_stride;
    u32 n_out, splits, rows, n_segments;
    SplitSegment more[SPLIT_MORE];
};

// out = sum of parts [splits][rows][n_out] in their order, + residual. Four columns a thread; grid (ceil(n_out / 1024),
// rows). Reads 4 bytes a part and value: bound by memory.
ZINC_KERNEL(256, 4) reduce_splits(ZINC_PARAM ReduceSplitsParams p) {
    pdl_launch();
    pdl_wait();
    const int n_rows = min(p.n.get(), (int)p.rows), row = blockIdx.y, col = (blockIdx.x * 256 + threadIdx.x) * 4;
    if (row >= n_rows || col >= (int)p.n_out) return;
    float4 sum = *(const float4 *)(p.parts + (u64)row * p.n_out + col);
    for (u32 i = 1; i < p.splits; i++) {
        float4 v = *(const float4 *)(p.parts + ((u64)i * n_rows + row) * p.n_out + col);
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    if (p.residual) {
        float4 v = *(const float4 *)(p.residual + (u64)row * p.residual_stride + col);
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    float *out = p.out + (u64)row * p.out_stride + col;
    for (u32 i = 0; i < p.n_segments && col >= (int)p.more[i].first_col; i++)
        out = p.more[i].out + (u64)row * p.more[i].out_stride + col - p.more[i].first_col;
    *(float4 *)out = sum;
}
