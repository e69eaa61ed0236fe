// Repacks quantised rows from the file's blocks to the planes of formats.cuh, while a model is loaded.
//
// One thread a block of 32 of one row; grid (ceil(n_blocks / 128), rows). Reads the file's bytes once, writes as many:
// bound by the copy to the card. Only moves bits: the values are the same.
#include "formats.cuh"

struct RepackParams {
    u64 from, to;
    u32 n_blocks, n_rows;
    u64 row_bytes; // of the planes
};

DEVICE u32 two_bytes(const u8 *p) { return p[0] | (u32)p[1] << 8; }

// The element's bits above the fourth go to the plane of high bits; `high` gives them.
template <class H> DEVICE u32 spread5(H high) {
    u32 h = 0;
#pragma unroll
    for (int i = 0; i < 32; i++) h |= (high(i) & 1u) << (8 * (i % 4) + i / 4);
    return h;
}

DEVICE void copy_bytes(u8 *to, const u8 *from, int n) {
    for (int i = 0; i < n; i++) to[i] = from[i];
}

// The low nibbles of group g of a block of 256 whose 64 elements share 32 bytes.
DEVICE void pair_nibbles(u8 *to, const u8 *qs, u32 g) {
    const u8 *from = qs + 32 * (g / 2);
    u32 shift = 4 * (g % 2);
    for (int i = 0; i < 16; i++) to[i] = (u8)(((from[i] >> shift) & 15) | (((from[i + 16] >> shift) & 15) << 4));
}

template <class F> struct Repack;

template <class F, int D_BYTES> DEVICE void repack_simple(const u8 *raw, Planes p, u32 b) {
    const u8 *from = raw + (u64)b * F::RAW;
    copy_bytes((u8 *)p.p2 + b * D_BYTES, from, D_BYTES);
    from += D_BYTES;
    if (F::HIGH == 4) {
        u32 bits = two_bytes(from) | two_bytes(from + 2) << 16;
        ((u32 *)p.p1)[b] = spread5([=](int i) { return bits >> i; });
        from += 4;
    }
    copy_bytes((u8 *)p.p0 + b * 16, from, 16);
    if (F::HIGH == 16) copy_bytes((u8 *)p.p1 + b * 16, from + 16, 16);
}

template <> struct Repack<Q4_0> {
    DEVICE void block(const u8 *raw, Planes p, u32 b) { repack_simple<Q4_0, 2>(raw, p, b); }
};
template <> struct Repack<Q4_1> {
    DEVICE void block(const u8 *raw, Planes p, u32 b) { repack_simple<Q4_1, 4>(raw, p, b); }
};
template <> struct Repack<Q5_0> {
    DEVICE void block(const u8 *raw, Planes p, u32 b) { repack_simple<Q5_0, 2>(raw, p, b); }
};
template <> struct Repack<Q5_1> {
    DEVICE void block(const u8 *raw, Planes p, u32 b) { repack_simple<Q5_1, 4>(raw, p, b); }
};
template <> struct Repack<Q8_0> {
    DEVICE void block(const u8 *raw, Planes p, u32 b) { repack_simple<Q8_0, 2>(raw, p, b); }
};
template <> struct Repack<IQ4_NL> {
    DEVICE void block(const u8 *raw, Planes p, u32 b) { repack_simple<IQ4_NL, 2>(raw, p, b); }
};
template <> struct Repack<MXFP4> {
    DEVICE void block(const u8 *raw, Planes p, u32 b) { repack_simple<MXFP4, 1>(raw, p, b); }
};
template <> struct Repack<Q4_K> {
    DEVICE void block(const u8 *raw, Planes p, u32 b) {
        const u8 *from = raw + (u64)(b / 8) * Q4_K::RAW;
        pair_nibbles((u8 *)p.p0 + b * 16, from + 16, b % 8);
        copy_bytes((u8 *)p.p2 + b * 2, from + 2 * (b % 8), 2);
    }
};
template <> struct Repack<Q5_K> {
    DEVICE void block(const u8 *raw, Planes p, u32 b) {
        const u8 *from = raw + (u64)(b / 8) * Q5_K::RAW;
        u32 g = b % 8;
        pair_nibbles((u8 *)p.p0 + b * 16, from + 48, g);
        copy_bytes((u8 *)p.p2 + b * 2, from + 2 * g, 2);
        ((u32 *)p.p1)[b] = spread5([=](int i) { return (u32)from[16 + i] >> g; });
    }
};
template <> struct Repack<Q6_K> {
    DEVICE void block(const u8 *raw, Planes p, u32 b) {
        const u8 *from = raw + (u64)(b / 8) * Q6_K::RAW;
        u32 g = b % 8, half = g / 4, run = g % 4;
        const u8 *low = from + 64 * half + 32 * (run % 2), *high = from + 128 + 32 * half;
        u32 shift = 4 * (run / 2);
        u32 h[2] = {0, 0};
        for (int i = 0; i < 16; i++) {
            ((u8 *)p.p0)[b * 16 + i] = (u8)(((low[i] >> shift) & 15) | (((low[i + 16] >> shift) & 15) << 4));
        }
#pragma unroll
        for (int i = 0; i < 32; i++) {
            u32 two = (high[i] >> (2 * run)) & 3;
            h[i / 16] |= two << (8 * (i % 4) + 2 * (i / 4 % 4));
        }
        ((uint2 *)p.p1)[b] = make_uint2(h[0], h[1]);
        copy_bytes((u8 *)p.p2 + b * 2, from + 192 + 2 * g, 2);
        if (g == 0) ((float *)p.p3)[b / 8] = f16_to_f32((u16)two_bytes(from + 208));
    }
};
template <> struct Repack<IQ4_XS> {
    DEVICE void block(const u8 *raw, Planes p, u32 b) {
        const u8 *from = raw + (u64)(b / 8) * IQ4_XS::RAW;
        copy_bytes((u8 *)p.p0 + b * 16, from + 8 + 16 * (b % 8), 16);
        ((u8 *)p.p2)[b] = from[b % 8];
    }
};

template <class F> DEVICE void repack(const RepackParams &p) {
    pdl_launch();
    pdl_wait();
    u32 b = blockIdx.x * 128 + threadIdx.x;
    u64 raw_row = (u64)p.n_blocks * 32 / F::RAW_LEN * F::RAW;
    if (b >= p.n_blocks) return;
    for (u32 row = blockIdx.y; row < p.n_rows; row += gridDim.y) {
        Planes to = planes_of<F>((const u8 *)p.to + (u64)row * p.row_bytes, p.n_blocks);
        Repack<F>::block((const u8 *)p.from + (u64)row * raw_row, to, b);
    }
}

#define REPACK(F, name)                                                                                             \
    ZINC_KERNEL(128, 1) repack_##name(ZINC_PARAM RepackParams p) { repack<F>(p); }
ZINC_FORMATS(REPACK)
