// KvWrite: row slots[t] of each cache becomes row t of k and v, converted to the cache's type: to the nearest,
// ties to even, for 16- and 8-bit floats; blocks as zinc-quant's reference quantisers make them, bit for bit.
//
// k, v: f32 rows. Caches: rows without gaps. Launch: grid (ceil(units / 64), rows, 2), 64 threads; a thread makes
// one unit: four elements of a float type, or a block of 32. z = 0 writes keys, 1 values.
// Reads 4 bytes per element, writes those of the type; bound by the launch in decode.
#include "fp8.cuh"

struct KvWriteParams {
    Rows k, v;
    Count n;
    const int *slots;
    void *cache_k, *cache_v;
    u64 unused;
};

// `make(x, n, cache, at)` converts n elements at x to the cache's element `at`.
template <class T, int LEN, class Make> DEVICE void write_rows(const KvWriteParams &p, Make make) {
    bool is_key = blockIdx.z == 0;
    int row = blockIdx.y, cols = (int)(is_key ? p.k.cols : p.v.cols), first = (blockIdx.x * 64 + threadIdx.x) * LEN;
    pdl_launch();
    pdl_wait();
    if (row >= p.n.get() || first >= cols) return;
    const float *x = is_key ? p.k.row(row) : p.v.row(row);
    T *cache = (T *)(is_key ? p.cache_k : p.cache_v);
    make(x + first, min(LEN, cols - first), cache, (i64)p.slots[row] * cols + first);
}

ZINC_KERNEL(64, 1) kv_write_f32(ZINC_PARAM KvWriteParams p) {
    write_rows<float, 4>(p, [](const float *x, int n, float *cache, i64 at) {
        for (int i = 0; i < n; i++) cache[at + i] = x[i];
    });
}

ZINC_KERNEL(64, 1) kv_write_f16(ZINC_PARAM KvWriteParams p) {
    write_rows<u16, 4>(p, [](const float *x, int n, u16 *cache, i64 at) {
        for (int i = 0; i < n; i++) cache[at + i] = f32_to_f16(x[i]);
    });
}

ZINC_KERNEL(64, 1) kv_write_bf16(ZINC_PARAM KvWriteParams p) {
    write_rows<u16, 4>(p, [](const float *x, int n, u16 *cache, i64 at) {
        for (int i = 0; i < n; i++) cache[at + i] = f32_to_bf16(x[i]);
    });
}

ZINC_KERNEL(64, 1) kv_write_f8_e4m3(ZINC_PARAM KvWriteParams p) {
    write_rows<u8, 4>(p, [](const float *x, int n, u8 *cache, i64 at) {
        for (int i = 0; i < n; i++) cache[at + i] = f32_to_e4m3(x[i]);
    });
}

ZINC_KERNEL(64, 1) kv_write_q8_0(ZINC_PARAM KvWriteParams p) {
    write_rows<u8, 32>(p, [](const float *x, int, u8 *cache, i64 at) {
        float most = 0.0f;
        for (int i = 0; i < 32; i++) most = fmaxf(most, fabsf(x[i]));
        float d = __fdiv_rn(most, 127.0f), inverse = d == 0.0f ? 0.0f : __fdiv_rn(1.0f, d);
        u8 *block = cache + at / 32 * 34;
        *(u16 *)block = f32_to_f16(d);
        // Half away from zero.
        for (int i = 0; i < 32; i++) block[2 + i] = (u8)(i8)roundf(__fmul_rn(x[i], inverse));
    });
}

ZINC_KERNEL(64, 1) kv_write_q4_0(ZINC_PARAM KvWriteParams p) {
    write_rows<u8, 32>(p, [](const float *x, int, u8 *cache, i64 at) {
        // The first one of the largest magnitude becomes -8.
        float most = 0.0f;
        for (int i = 0; i < 32; i++)
            if (fabsf(x[i]) > fabsf(most)) most = x[i];
        float d = __fdiv_rn(most, -8.0f), inverse = d == 0.0f ? 0.0f : __fdiv_rn(1.0f, d);
        u8 *block = cache + at / 32 * 18;
        *(u16 *)block = f32_to_f16(d);
        for (int i = 0; i < 16; i++) {
            int low = (int)__fadd_rn(__fmul_rn(x[i], inverse), 8.5f);
            int high = (int)__fadd_rn(__fmul_rn(x[i + 16], inverse), 8.5f);
            block[2 + i] = (u8)(min(low, 15) | min(high, 15) << 4);
        }
    });
}
