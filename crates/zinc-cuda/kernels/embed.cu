// Embed: y[t] = table[ids[t]] * scale, one kernel for each format of the table.
//
// table: rows of row_bytes bytes: planes (formats.cuh), or floats as in the file. ids: one for each row.
// Launch: grid (ceil(cols / 256), rows), 256 threads; a thread makes one element.
// Moves a row of the table and 4 bytes per element; bound by the launch in decode, by writing y in prefill.
#include "formats.cuh"

struct EmbedParams {
    Rows y;
    Count n;
    const u8 *table;
    const int *ids;
    u64 row_bytes;
    float scale;
    u32 unused;
};

struct F32Table {
    DEVICE float at(const u8 *row, u32, u32 col) { return ((const float *)row)[col]; }
};
struct F16Table {
    DEVICE float at(const u8 *row, u32, u32 col) { return f16_to_f32(((const u16 *)row)[col]); }
};
struct Bf16Table {
    DEVICE float at(const u8 *row, u32, u32 col) { return bf16_to_f32(((const u16 *)row)[col]); }
};
template <class F> struct PlaneTable {
    DEVICE float at(const u8 *row, u32 cols, u32 col) {
        Block32 block;
        load<F>(planes_of<F>(row, cols / 32), col / 32, block);
        return value_of<F>(block, col % 32);
    }
};

template <class Table> DEVICE void embed(const EmbedParams &p) {
    int col = blockIdx.x * 256 + threadIdx.x, row = blockIdx.y;
    pdl_launch();
    pdl_wait();
    if (row >= p.n.get() || col >= (int)p.y.cols) return;
    const u8 *from = p.table + (u64)p.ids[row] * p.row_bytes;
    p.y.row(row)[col] = __fmul_rn(Table::at(from, p.y.cols, col), p.scale);
}

#define EMBED(Table, name)                                                                          \
    ZINC_KERNEL(256, 1) embed_##name(ZINC_PARAM EmbedParams p) { embed<Table>(p); }
EMBED(F32Table, f32)
EMBED(F16Table, f16)
EMBED(Bf16Table, bf16)
#define EMBED_PLANES(F, name) EMBED(PlaneTable<F>, name)
ZINC_FORMATS(EMBED_PLANES)
