// Quantised weight types as they lie on the card, and how a block of 32 becomes integers with scales.
//
// A row of K weights (K / 32 blocks) is up to four planes one after the other, each rounded up to 16 bytes:
//   plane 0  16 bytes a block: the low four bits, element i in the low and 16 + i in the high nibble of byte i
//            (Q8_0: elements 0..16)
//   plane 1  5-bit types 4 bytes a block: bit 8 b + j is bit 4 of element 4 j + b;
//            6-bit types 8 bytes a block: bits 8 b + 2 j (mod 32), word j / 4, are bits 4, 5 of element 4 j + b;
//            Q8_0 16 bytes: elements 16..32
//   plane 2  scales: f16 d; f16 d, f16 m; e8m0; or the scale bytes of a block of 256 as in the file
//   plane 3  Q6_K: f32 d of each block of 256
// The same numbers are in store.rs (RowLayout). value = d * q + m, q signed or with Z subtracted.
#pragma once
#include "zinc.cuh"

// What a thread holds of a block of 32.
struct Planes {
    const u8 *p0, *p1, *p2, *p3;
};

DEVICE u32 round16(u32 n) { return (n + 15u) & ~15u; }

// The planes of a row of n_blocks blocks that begins at `row`.
template <class F> DEVICE Planes planes_of(const u8 *row, u32 n_blocks) {
    Planes p;
    p.p0 = row;
    p.p1 = p.p0 + n_blocks * 16;
    p.p2 = p.p1 + round16(n_blocks * F::HIGH);
    p.p3 = p.p2 + round16(n_blocks * F::SCALE8 / 8);
    return p;
}

// Integers and scales of 32 weights: value[i] = (q[i] - Z) * d[i / 16] + m.
struct Block32 {
    int q[8];
    float d0, d1, m;
};

DEVICE void nibbles(uint4 w, int q[8]) {
    q[0] = w.x & 0x0f0f0f0f, q[1] = w.y & 0x0f0f0f0f, q[2] = w.z & 0x0f0f0f0f, q[3] = w.w & 0x0f0f0f0f;
    q[4] = (w.x >> 4) & 0x0f0f0f0f, q[5] = (w.y >> 4) & 0x0f0f0f0f, q[6] = (w.z >> 4) & 0x0f0f0f0f,
    q[7] = (w.w >> 4) & 0x0f0f0f0f;
}

DEVICE void fifth_bits(u32 h, int q[8]) {
#pragma unroll
    for (int j = 0; j < 8; j++) q[j] |= (j < 4 ? h << (4 - j) : h >> (j - 4)) & 0x10101010;
}

// Each nibble of w replaced by the byte of a table of 16: four words.
DEVICE void lookup(uint4 w, const u32 table[4], int q[8]) {
    u32 words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
        // __byte_perm takes four selectors of 3 bits: look up in both halves of the table, then choose by bit 3.
        u32 even, odd;
        {
            u32 s = words[j], c = 0x32103210u | ((s & 0x88888888u) >> 1);
            u32 a0 = __byte_perm(table[0], table[1], s & 0x77777777u), b0 = __byte_perm(table[2], table[3], s & 0x77777777u);
            u32 t = (s & 0x77777777u) >> 16;
            u32 a1 = __byte_perm(table[0], table[1], t), b1 = __byte_perm(table[2], table[3], t);
            even = __byte_perm(a0, b0, c), odd = __byte_perm(a1, b1, c >> 16);
        }
        // even holds nibbles 0..3 of the word in order, odd nibbles 4..7: low nibbles are the even ones.
        q[j] = (int)__byte_perm(even, odd, 0x6420), q[j + 4] = (int)__byte_perm(even, odd, 0x7531);
    }
}

// Scale and minimum of group g of the 16 bytes d, dmin, scales of Q4_K and Q5_K. What depends on g alone is constant
// for a thread that keeps its group.
DEVICE void scale_min(uint4 s, u32 g, float &d, float &m) {
    bool low = g < 4;
    u32 shift = 8 * (g & 3), main = low ? 63 : 15, high = low ? 0 : 48;
    u32 scale = ((low ? s.y : s.w) >> shift & main) | (s.y >> (shift + 2) & high);
    u32 min = ((low ? s.z : s.w) >> (low ? shift : shift + 4) & main) | (s.z >> (shift + 2) & high);
    d = f16_to_f32((u16)(s.x & 0xffff)) * (float)scale;
    m = -(f16_to_f32((u16)(s.x >> 16)) * (float)min);
}

// Formats. HIGH: bytes of plane 1 a block; SCALE8: eighths of a byte of plane 2 a block; SUPER: plane 3 is there;
// Z: what is subtracted of each q; TWO: two scales a block; MIN: there is an m. RAW, RAW_LEN: bytes and elements of a
// block in the file.
struct Q4_0 {
    static constexpr int HIGH = 0, SCALE8 = 16, SUPER = 0, Z = 8, RAW = 18, RAW_LEN = 32;
    static constexpr bool TWO = false, MIN = false;
    DEVICE void load(Planes p, u32 b, Block32 &k) {
        nibbles(((const uint4 *)p.p0)[b], k.q);
        k.d0 = f16_to_f32((u16)(((const u16 *)p.p2)[b]));
    }
};
struct Q4_1 {
    static constexpr int HIGH = 0, SCALE8 = 32, SUPER = 0, Z = 0, RAW = 20, RAW_LEN = 32;
    static constexpr bool TWO = false, MIN = true;
    DEVICE void load(Planes p, u32 b, Block32 &k) {
        nibbles(((const uint4 *)p.p0)[b], k.q);
        u32 s = ((const u32 *)p.p2)[b];
        k.d0 = f16_to_f32((u16)(s & 0xffff)), k.m = f16_to_f32((u16)(s >> 16));
    }
};
struct Q5_0 {
    static constexpr int HIGH = 4, SCALE8 = 16, SUPER = 0, Z = 16, RAW = 22, RAW_LEN = 32;
    static constexpr bool TWO = false, MIN = false;
    DEVICE void load(Planes p, u32 b, Block32 &k) {
        nibbles(((const uint4 *)p.p0)[b], k.q);
        fifth_bits(((const u32 *)p.p1)[b], k.q);
        k.d0 = f16_to_f32((u16)(((const u16 *)p.p2)[b]));
    }
};
struct Q5_1 {
    static constexpr int HIGH = 4, SCALE8 = 32, SUPER = 0, Z = 0, RAW = 24, RAW_LEN = 32;
    static constexpr bool TWO = false, MIN = true;
    DEVICE void load(Planes p, u32 b, Block32 &k) {
        nibbles(((const uint4 *)p.p0)[b], k.q);
        fifth_bits(((const u32 *)p.p1)[b], k.q);
        u32 s = ((const u32 *)p.p2)[b];
        k.d0 = f16_to_f32((u16)(s & 0xffff)), k.m = f16_to_f32((u16)(s >> 16));
    }
};
struct Q8_0 {
    static constexpr int HIGH = 16, SCALE8 = 16, SUPER = 0, Z = 0, RAW = 34, RAW_LEN = 32;
    static constexpr bool TWO = false, MIN = false;
    DEVICE void load(Planes p, u32 b, Block32 &k) {
        uint4 low = ((const uint4 *)p.p0)[b], high = ((const uint4 *)p.p1)[b];
        k.q[0] = low.x, k.q[1] = low.y, k.q[2] = low.z, k.q[3] = low.w;
        k.q[4] = high.x, k.q[5] = high.y, k.q[6] = high.z, k.q[7] = high.w;
        k.d0 = f16_to_f32((u16)(((const u16 *)p.p2)[b]));
    }
};
struct Q4_K {
    static constexpr int HIGH = 0, SCALE8 = 16, SUPER = 0, Z = 0, RAW = 144, RAW_LEN = 256;
    static constexpr bool TWO = false, MIN = true;
    DEVICE void load(Planes p, u32 b, Block32 &k) {
        nibbles(((const uint4 *)p.p0)[b], k.q);
        scale_min(((const uint4 *)p.p2)[b >> 3], b & 7, k.d0, k.m);
    }
};
struct Q5_K {
    static constexpr int HIGH = 4, SCALE8 = 16, SUPER = 0, Z = 0, RAW = 176, RAW_LEN = 256;
    static constexpr bool TWO = false, MIN = true;
    DEVICE void load(Planes p, u32 b, Block32 &k) {
        nibbles(((const uint4 *)p.p0)[b], k.q);
        fifth_bits(((const u32 *)p.p1)[b], k.q);
        scale_min(((const uint4 *)p.p2)[b >> 3], b & 7, k.d0, k.m);
    }
};
struct Q6_K {
    static constexpr int HIGH = 8, SCALE8 = 16, SUPER = 1, Z = 32, RAW = 210, RAW_LEN = 256;
    static constexpr bool TWO = true, MIN = false;
    DEVICE void load(Planes p, u32 b, Block32 &k) {
        nibbles(((const uint4 *)p.p0)[b], k.q);
        uint2 h = ((const uint2 *)p.p1)[b];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            k.q[j] |= (j < 2 ? h.x << (4 - 2 * j) : h.x >> (2 * j - 4)) & 0x30303030;
            k.q[j + 4] |= (j < 2 ? h.y << (4 - 2 * j) : h.y >> (2 * j - 4)) & 0x30303030;
        }
        float d = ((const float *)p.p3)[b >> 3];
        k.d0 = d * (float)((const i8 *)p.p2)[2 * b], k.d1 = d * (float)((const i8 *)p.p2)[2 * b + 1];
    }
};
struct MXFP4 {
    static constexpr int HIGH = 0, SCALE8 = 8, SUPER = 0, Z = 0, RAW = 17, RAW_LEN = 32;
    static constexpr bool TWO = false, MIN = false;
    DEVICE void load(Planes p, u32 b, Block32 &k) {
        const u32 table[4] = {0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu};
        lookup(((const uint4 *)p.p0)[b], table, k.q);
        u32 e = p.p2[b];
        k.d0 = __uint_as_float(e > 1 ? (e - 1) << 23 : 0x00200000u << e);
    }
};
struct IQ4_NL {
    static constexpr int HIGH = 0, SCALE8 = 16, SUPER = 0, Z = 0, RAW = 18, RAW_LEN = 32;
    static constexpr bool TWO = false, MIN = false;
    DEVICE void load(Planes p, u32 b, Block32 &k) {
        const u32 table[4] = {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u};
        lookup(((const uint4 *)p.p0)[b], table, k.q);
        k.d0 = f16_to_f32((u16)(((const u16 *)p.p2)[b]));
    }
};
struct IQ4_XS {
    static constexpr int HIGH = 0, SCALE8 = 8, SUPER = 0, Z = 0, RAW = 136, RAW_LEN = 256;
    static constexpr bool TWO = false, MIN = false;
    DEVICE void load(Planes p, u32 b, Block32 &k) {
        const u32 table[4] = {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u};
        lookup(((const uint4 *)p.p0)[b], table, k.q);
        uint2 s = ((const uint2 *)p.p2)[b >> 3];
        u32 g = b & 7;
        u32 scale = ((s.y >> (4 * g)) & 15) | (((s.x >> (16 + 2 * g)) & 3) << 4);
        k.d0 = f16_to_f32((u16)(s.x & 0xffff)) * (float)((int)scale - 32);
    }
};

// f(macro) for every quantised format.
#define ZINC_FORMATS(f)                                                                                             \
    f(Q4_0, q4_0) f(Q4_1, q4_1) f(Q5_0, q5_0) f(Q5_1, q5_1) f(Q8_0, q8_0) f(Q4_K, q4_k) f(Q5_K, q5_k) f(Q6_K, q6_k) \
        f(MXFP4, mxfp4) f(IQ4_NL, iq4_nl) f(IQ4_XS, iq4_xs)

// Value i of a block, rounded as in zinc-quant.
template <class F> DEVICE float value_of(const Block32 &k, int i) {
    // No register is indexed by a number that is not known when compiling.
    int word = 0;
#pragma unroll
    for (int j = 0; j < 8; j++)
        if (j == i / 4) word = k.q[j];
    int q = (int)(i8)(word >> (8 * (i % 4))) - F::Z;
    float value = __fmul_rn(F::TWO && i >= 16 ? k.d1 : k.d0, (float)q);
    return F::MIN ? __fadd_rn(value, k.m) : value;
}

// 32 activations of one block in shared memory: 16 + 16 quants in two arrays, and their scale with their sums.
struct Acts32 {
    float d;
    int sums; // sum of the first 16 in the low, of the last 16 in the high half, both signed
};

// Product of a block with 32 activations, without their scale. The integers are exact; the order of the few float
// operations is fixed.
template <class F> DEVICE float dot32(const Block32 &k, int4 x0, int4 x1, Acts32 a) {
    int lo = __dp4a(k.q[0], x0.x, 0), hi = __dp4a(k.q[4], x1.x, 0);
    lo = __dp4a(k.q[1], x0.y, lo), hi = __dp4a(k.q[5], x1.y, hi);
    lo = __dp4a(k.q[2], x0.z, lo), hi = __dp4a(k.q[6], x1.z, hi);
    lo = __dp4a(k.q[3], x0.w, lo), hi = __dp4a(k.q[7], x1.w, hi);
    int s0 = (int)(short)(a.sums & 0xffff), s1 = a.sums >> 16;
    float sum;
    if (F::TWO) {
        sum = fmaf(k.d1, (float)(hi - F::Z * s1), k.d0 * (float)(lo - F::Z * s0));
    } else {
        sum = k.d0 * (float)(lo + hi - F::Z * (s0 + s1));
        if (F::MIN) sum = fmaf(k.m, (float)(s0 + s1), sum);
    }
    return sum;
}
