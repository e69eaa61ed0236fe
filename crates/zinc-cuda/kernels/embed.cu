// Embed: y[t] = table[ids[t]] * scale, one kernel for each format of the table.
//
// table: rows of row_bytes bytes, blocks as in the file. ids: one for each row.
// Launch: grid (ceil(cols / 256), rows), 256 threads; a thread makes one element.
// Moves a row of the table and 4 bytes per element; bound by the launch in decode, by writing y in prefill.
#include "dequant.cuh"

struct EmbedParams {
    Rows y;
    Count n;
    const u8 *table;
    const int *ids;
    u64 row_bytes;
    float scale;
    u32 unused;
};

template <class Format> DEVICE void embed(const EmbedParams &p) {
    int col = blockIdx.x * 256 + threadIdx.x, row = blockIdx.y;
    pdl_launch();
    pdl_wait();
    if (row >= p.n.get() || col >= (int)p.y.cols) return;
    const u8 *block = p.table + (u64)p.ids[row] * p.row_bytes + (u64)(col / Format::LEN) * Format::BYTES;
    p.y.row(row)[col] = __fmul_rn(Format::at(block, col % Format::LEN), p.scale);
}

#define EMBED(Format, name)                                                                         \
    ZINC_KERNEL(256, 1) embed_##name(ZINC_PARAM EmbedParams p) { embed<Format>(p); }
ZINC_ALL_FORMATS(EMBED)
