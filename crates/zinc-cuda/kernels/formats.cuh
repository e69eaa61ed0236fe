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

// Words j and 4 + j of a block from word j of plane 0: four elements a word.
DEVICE void nibbles(u32 low, u32 &a, u32 &b) { a = low & 0x0f0f0f0fu, b = (low >> 4) & 0x0f0f0f0fu; }

// The same with bit 4 of the elements from their word of plane 1.
DEVICE void fifth_bits(u32 high, u32 j, u32 &a, u32 &b) {
    a |= ((high >> j) & 0x01010101u) << 4, b |= ((high >> (4 + j)) & 0x01010101u) << 4;
}

// The byte of each of four numbers with its sign turned.
static __device__ constexpr u32 negative(u32 bytes) {
    u32 y = 0;
    for (int i = 0; i < 32; i += 8) y |= (0u - (bytes >> i & 255u) & 255u) << i;
    return y;
}

// Each nibble of a word replaced by the number that type F has for it.
template <class F> DEVICE void lookup(u32 low, u32 &a, u32 &b) {
    constexpr bool plus = F::FIRST_SIGN > 0;
    constexpr u32 table[4] = {plus ? F::FIRST0 : negative(F::FIRST0), plus ? F::FIRST1 : negative(F::FIRST1),
                              plus ? negative(F::LAST0) : F::LAST0, plus ? negative(F::LAST1) : F::LAST1};
    // __byte_perm takes four selectors of 3 bits: look up in both halves of the table, then choose by bit 3.
    u32 choice = 0x32103210u | ((low & 0x88888888u) >> 1), first = low & 0x77777777u, second = first >> 16;
    u32 even = __byte_perm(__byte_perm(table[0], table[1], first), __byte_perm(table[2], table[3], first), choice);
    u32 odd = __byte_perm(__byte_perm(table[0], table[1], second), __byte_perm(table[2], table[3], second), choice >> 16);
    // even holds nibbles 0..3 of the word in order, odd nibbles 4..7: low nibbles are the even ones.
    a = __byte_perm(even, odd, 0x6420), b = __byte_perm(even, odd, 0x7531);
}

// Scale and minimum of group g of the 16 bytes d, dmin, scales of Q4_K and Q5_K. What depends on g alone is constant
// for a thread that keeps its group.
DEVICE void scale_min(const u32 s[4], u32 g, float &d, float &m) {
    bool low = g < 4;
    u32 shift = 8 * (g & 3), main = low ? 63 : 15, high = low ? 0 : 48;
    u32 scale = ((low ? s[1] : s[3]) >> shift & main) | (s[1] >> (shift + 2) & high);
    u32 min = ((low ? s[2] : s[3]) >> (low ? shift : shift + 4) & main) | (s[2] >> (shift + 2) & high);
    d = f16_to_f32((u16)s[0]) * (float)scale;
    m = -(f16_to_f32((u16)(s[0] >> 16)) * (float)min);
}

// Formats. HIGH: bytes of plane 1 a block; SCALE8: eighths of a byte of plane 2 a block; SCALES: words of scales that a
// block needs, plane 3 included; SUPER: plane 3 is there; Z: what is subtracted of each q; TWO: two scales a block; MIN:
// there is an m; SIGNED: bytes of q are signed; NIBBLES: q is the nibbles of plane 0; TABLE: it is numbers that nibbles
// stand for: FIRST for 0..8, times FIRST_SIGN, and LAST for 8..16, of the other sign, a byte each. RAW, RAW_LEN: bytes and
// elements of a block in the file.
// words: q of elements 4 j .. and 16 + 4 j .. from word j of plane 0 and the block's words of plane 1.
// scales: of block g of 8 from the words that fetch_scales gives.
struct Q4_0 {
    static constexpr int HIGH = 0, SCALE8 = 16, SCALES = 1, SUPER = 0, Z = 8, RAW = 18, RAW_LEN = 32;
    static constexpr bool TWO = false, MIN = false, SIGNED = false, NIBBLES = true, TABLE = false;
    static __device__ __forceinline__ void words(u32 low, const u32 *high, u32 j, u32 &a, u32 &b) {
        nibbles(low, a, b);
    }
    static __device__ __forceinline__ void scales(const u32 *s, u32 g, float &d0, float &d1, float &m) {
        d0 = f16_to_f32((u16)s[0]);
    }
};
struct Q4_1 {
    static constexpr int HIGH = 0, SCALE8 = 32, SCALES = 1, SUPER = 0, Z = 0, RAW = 20, RAW_LEN = 32;
    static constexpr bool TWO = false, MIN = true, SIGNED = false, NIBBLES = true, TABLE = false;
    static __device__ __forceinline__ void words(u32 low, const u32 *high, u32 j, u32 &a, u32 &b) {
        nibbles(low, a, b);
    }
    static __device__ __forceinline__ void scales(const u32 *s, u32 g, float &d0, float &d1, float &m) {
        d0 = f16_to_f32((u16)s[0]), m = f16_to_f32((u16)(s[0] >> 16));
    }
};
struct Q5_0 {
    static constexpr int HIGH = 4, SCALE8 = 16, SCALES = 1, SUPER = 0, Z = 16, RAW = 22, RAW_LEN = 32;
    static constexpr bool TWO = false, MIN = false, SIGNED = false, NIBBLES = false, TABLE = false;
    static __device__ __forceinline__ void words(u32 low, const u32 *high, u32 j, u32 &a, u32 &b) {
        nibbles(low, a, b);
        fifth_bits(high[0], j, a, b);
    }
    static __device__ __forceinline__ void scales(const u32 *s, u32 g, float &d0, float &d1, float &m) {
        d0 = f16_to_f32((u16)s[0]);
    }
};
struct Q5_1 {
    static constexpr int HIGH = 4, SCALE8 = 32, SCALES = 1, SUPER = 0, Z = 0, RAW = 24, RAW_LEN = 32;
    static constexpr bool TWO = false, MIN = true, SIGNED = false, NIBBLES = false, TABLE = false;
    static __device__ __forceinline__ void words(u32 low, const u32 *high, u32 j, u32 &a, u32 &b) {
        nibbles(low, a, b);
        fifth_bits(high[0], j, a, b);
    }
    static __device__ __forceinline__ void scales(const u32 *s, u32 g, float &d0, float &d1, float &m) {
        d0 = f16_to_f32((u16)s[0]), m = f16_to_f32((u16)(s[0] >> 16));
    }
};
struct Q8_0 {
    static constexpr int HIGH = 16, SCALE8 = 16, SCALES = 1, SUPER = 0, Z = 0, RAW = 34, RAW_LEN = 32;
    static constexpr bool TWO = false, MIN = false, SIGNED = true, NIBBLES = false, TABLE = false;
    static __device__ __forceinline__ void words(u32 low, const u32 *high, u32 j, u32 &a, u32 &b) {
        a = low, b = high[j];
    }
    static __device__ __forceinline__ void scales(const u32 *s, u32 g, float &d0, float &d1, float &m) {
        d0 = f16_to_f32((u16)s[0]);
    }
};
struct Q4_K {
    static constexpr int HIGH = 0, SCALE8 = 16, SCALES = 4, SUPER = 0, Z = 0, RAW = 144, RAW_LEN = 256;
    static constexpr bool TWO = false, MIN = true, SIGNED = false, NIBBLES = true, TABLE = false;
    static __device__ __forceinline__ void words(u32 low, const u32 *high, u32 j, u32 &a, u32 &b) {
        nibbles(low, a, b);
    }
    static __device__ __forceinline__ void scales(const u32 *s, u32 g, float &d0, float &d1, float &m) {
        scale_min(s, g, d0, m);
    }
};
struct Q5_K {
    static constexpr int HIGH = 4, SCALE8 = 16, SCALES = 4, SUPER = 0, Z = 0, RAW = 176, RAW_LEN = 256;
    static constexpr bool TWO = false, MIN = true, SIGNED = false, NIBBLES = false, TABLE = false;
    static __device__ __forceinline__ void words(u32 low, const u32 *high, u32 j, u32 &a, u32 &b) {
        nibbles(low, a, b);
        fifth_bits(high[0], j, a, b);
    }
    static __device__ __forceinline__ void scales(const u32 *s, u32 g, float &d0, float &d1, float &m) {
        scale_min(s, g, d0, m);
    }
};
struct Q6_K {
    static constexpr int HIGH = 8, SCALE8 = 16, SCALES = 2, SUPER = 1, Z = 32, RAW = 210, RAW_LEN = 256;
    static constexpr bool TWO = true, MIN = false, SIGNED = false, NIBBLES = false, TABLE = false;
    static __device__ __forceinline__ void words(u32 low, const u32 *high, u32 j, u32 &a, u32 &b) {
        nibbles(low, a, b);
        a |= ((high[0] >> (2 * j)) & 0x03030303u) << 4, b |= ((high[1] >> (2 * j)) & 0x03030303u) << 4;
    }
    static __device__ __forceinline__ void scales(const u32 *s, u32 g, float &d0, float &d1, float &m) {
        float d = __uint_as_float(s[1]);
        d0 = d * (float)(i8)(s[0] & 255), d1 = d * (float)(i8)((s[0] >> 8) & 255);
    }
};
struct MXFP4 {
    static constexpr int HIGH = 0, SCALE8 = 8, SCALES = 1, SUPER = 0, Z = 0, RAW = 17, RAW_LEN = 32;
    static constexpr bool TWO = false, MIN = false, SIGNED = true, NIBBLES = false, TABLE = true;
    static constexpr u32 FIRST0 = 0x03020100, FIRST1 = 0x0c080604, LAST0 = FIRST0, LAST1 = FIRST1;
    static constexpr int FIRST_SIGN = 1;
    static __device__ __forceinline__ void words(u32 low, const u32 *high, u32 j, u32 &a, u32 &b) {
        lookup<MXFP4>(low, a, b);
    }
    static __device__ __forceinline__ void scales(const u32 *s, u32 g, float &d0, float &d1, float &m) {
        d0 = __uint_as_float(s[0] > 1 ? (s[0] - 1) << 23 : 0x00200000u << s[0]);
    }
};
struct IQ4_NL {
    static constexpr int HIGH = 0, SCALE8 = 16, SCALES = 1, SUPER = 0, Z = 0, RAW = 18, RAW_LEN = 32;
    static constexpr bool TWO = false, MIN = false, SIGNED = true, NIBBLES = false, TABLE = true;
    static constexpr u32 FIRST0 = 0x4153687f, FIRST1 = 0x0a162331, LAST0 = 0x26190d01, LAST1 = 0x71594535;
    static constexpr int FIRST_SIGN = -1;
    static __device__ __forceinline__ void words(u32 low, const u32 *high, u32 j, u32 &a, u32 &b) {
        lookup<IQ4_NL>(low, a, b);
    }
    static __device__ __forceinline__ void scales(const u32 *s, u32 g, float &d0, float &d1, float &m) {
        d0 = f16_to_f32((u16)s[0]);
    }
};
struct IQ4_XS {
    static constexpr int HIGH = 0, SCALE8 = 8, SCALES = 2, SUPER = 0, Z = 0, RAW = 136, RAW_LEN = 256;
    static constexpr bool TWO = false, MIN = false, SIGNED = true, NIBBLES = false, TABLE = true;
    static constexpr u32 FIRST0 = IQ4_NL::FIRST0, FIRST1 = IQ4_NL::FIRST1, LAST0 = IQ4_NL::LAST0, LAST1 = IQ4_NL::LAST1;
    static constexpr int FIRST_SIGN = IQ4_NL::FIRST_SIGN;
    static __device__ __forceinline__ void words(u32 low, const u32 *high, u32 j, u32 &a, u32 &b) {
        lookup<IQ4_XS>(low, a, b);
    }
    static __device__ __forceinline__ void scales(const u32 *s, u32 g, float &d0, float &d1, float &m) {
        u32 scale = ((s[1] >> (4 * g)) & 15) | (((s[0] >> (16 + 2 * g)) & 3) << 4);
        d0 = f16_to_f32((u16)s[0]) * (float)((int)scale - 32);
    }
};

// The words of plane 1 of block b.
template <class F> DEVICE void fetch_high(const u8 *p1, u32 b, u32 *high) {
    if constexpr (F::HIGH == 4) high[0] = ((const u32 *)p1)[b];
    if constexpr (F::HIGH == 8) {
        uint2 h = ((const uint2 *)p1)[b];
        high[0] = h.x, high[1] = h.y;
    }
    if constexpr (F::HIGH == 16) {
        uint4 h = ((const uint4 *)p1)[b];
        high[0] = h.x, high[1] = h.y, high[2] = h.z, high[3] = h.w;
    }
}

// The words of scales of block b.
template <class F> DEVICE void fetch_scales(const u8 *p2, const u8 *p3, u32 b, u32 *s) {
    if constexpr (F::SCALES == 4) {
        uint4 v = ((const uint4 *)p2)[b >> 3];
        s[0] = v.x, s[1] = v.y, s[2] = v.z, s[3] = v.w;
    } else if constexpr (F::RAW_LEN == 256 && !F::SUPER) {
        uint2 v = ((const uint2 *)p2)[b >> 3];
        s[0] = v.x, s[1] = v.y;
    } else if constexpr (F::SCALE8 == 32) {
        s[0] = ((const u32 *)p2)[b];
    } else if constexpr (F::SCALE8 == 16) {
        s[0] = ((const u16 *)p2)[b];
    } else {
        s[0] = p2[b];
    }
    if constexpr (F::SUPER) s[1] = ((const u32 *)p3)[b >> 3];
}

// A block as it is loaded.
template <class F> struct Raw32 {
    uint4 low;
    u32 high[F::HIGH ? F::HIGH / 4 : 1], s[F::SCALES];

    __device__ __forceinline__ void fetch(const Planes &p, u32 b) {
        low = ((const uint4 *)p.p0)[b];
        fetch_high<F>(p.p1, b, high);
        fetch_scales<F>(p.p2, p.p3, b, s);
    }

    // Of block g of 8.
    __device__ __forceinline__ void unpack(u32 g, Block32 &k) const {
        F::words(low.x, high, 0, (u32 &)k.q[0], (u32 &)k.q[4]);
        F::words(low.y, high, 1, (u32 &)k.q[1], (u32 &)k.q[5]);
        F::words(low.z, high, 2, (u32 &)k.q[2], (u32 &)k.q[6]);
        F::words(low.w, high, 3, (u32 &)k.q[3], (u32 &)k.q[7]);
        F::scales(s, g, k.d0, k.d1, k.m);
    }
};

// Block b of a row.
template <class F> DEVICE void load(Planes p, u32 b, Block32 &k) {
    Raw32<F> raw;
    raw.fetch(p, b);
    raw.unpack(b & 7, k);
}

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

// 32 activations of one block in shared memory: 16 + 16 quants in two arrays, and their scale with what a format needs of
// their sum: an integer, the same as a float where there is an m, or that of each half (in the low and the high half).
// For types with a table word j of the first array has elements 4 j, 16 + 4 j, 4 j + 1, 17 + 4 j, in the order of the nibbles
// of plane 0, and that of the second one the other four.
struct Acts32 {
    float d;
    u32 sums;
};

template <class F> DEVICE u32 pack_sums(int first, int last) {
    if (F::TWO) return ((u32)first & 0xffffu) | (u32)last << 16;
    return F::MIN ? __float_as_uint((float)(first + last)) : (u32)(first + last);
}

// c + a b for four bytes, those of a unsigned.
DEVICE int dot4_unsigned(u32 a, int b, int c) {
#ifdef ZINC_HOST
    for (int i = 0; i < 4; i++) c += (int)(a >> (8 * i) & 255u) * (int)(i8)(b >> (8 * i));
    return c;
#else
    int d;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
#endif
}

// Byte i is that of the eight of `low` and `high` which nibble i of the last operand's low half names with three bits; with
// the fourth it is the sign of that byte, eight times.
DEVICE u32 bytes_or_signs(u32 low, u32 high, u32 which) {
#ifdef ZINC_HOST
    return __byte_perm(low, high, which);
#else
    u32 y;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(y) : "r"(low), "r"(high), "r"(which));
    return y;
#endif
}

// Words j and 4 + j of the activations of a block as dot32 takes them.
template <class F> DEVICE void order_acts(int &first, int &last) {
    if (!F::TABLE) return;
    u32 a = (u32)first, b = (u32)last;
    first = (int)__byte_perm(a, b, 0x5140), last = (int)__byte_perm(a, b, 0x7362);
}

// Adds to the sums the products of eight numbers of either sign. A number of the other sign is one of the table's whose
// signs are all zeros, and so nothing.
template <class F> DEVICE void dot_table(u32 nibbles, int x0, int x1, int &first, int &last) {
    const u32 others = nibbles ^ 0x88888888u;
    first = __dp4a((int)bytes_or_signs(F::FIRST0, F::FIRST1, nibbles), x0, first);
    last = __dp4a((int)bytes_or_signs(F::LAST0, F::LAST1, others), x0, last);
    first = __dp4a((int)bytes_or_signs(F::FIRST0, F::FIRST1, nibbles >> 16), x1, first);
    last = __dp4a((int)bytes_or_signs(F::LAST0, F::LAST1, others >> 16), x1, last);
}

// Product of block g of 8 with 32 activations, without their scale. The integers are exact; the order of the few float
// operations is fixed.
template <class F> DEVICE float dot32(const Raw32<F> &raw, u32 g, int4 x0, int4 x1, Acts32 a) {
    Block32 k;
    int lo, hi;
    if constexpr (F::NIBBLES) {
        // High nibbles stay where they are, sixteen times as large.
        const u32 mask = 0x0f0f0f0fu;
        lo = __dp4a((int)(raw.low.x & mask), x0.x, 0), hi = dot4_unsigned(raw.low.x & ~mask, x1.x, 0);
        lo = __dp4a((int)(raw.low.y & mask), x0.y, lo), hi = dot4_unsigned(raw.low.y & ~mask, x1.y, hi);
        lo = __dp4a((int)(raw.low.z & mask), x0.z, lo), hi = dot4_unsigned(raw.low.z & ~mask, x1.z, hi);
        lo = __dp4a((int)(raw.low.w & mask), x0.w, lo), hi = dot4_unsigned(raw.low.w & ~mask, x1.w, hi);
        hi >>= 4;
        F::scales(raw.s, g, k.d0, k.d1, k.m);
    } else if constexpr (F::TABLE) {
        lo = hi = 0;
        dot_table<F>(raw.low.x, x0.x, x1.x, lo, hi);
        dot_table<F>(raw.low.y, x0.y, x1.y, lo, hi);
        dot_table<F>(raw.low.z, x0.z, x1.z, lo, hi);
        dot_table<F>(raw.low.w, x0.w, x1.w, lo, hi);
        F::scales(raw.s, g, k.d0, k.d1, k.m);
        return k.d0 * (float)(F::FIRST_SIGN > 0 ? lo - hi : hi - lo);
    } else {
        raw.unpack(g, k);
        lo = __dp4a(k.q[0], x0.x, 0), hi = __dp4a(k.q[4], x1.x, 0);
        lo = __dp4a(k.q[1], x0.y, lo), hi = __dp4a(k.q[5], x1.y, hi);
        lo = __dp4a(k.q[2], x0.z, lo), hi = __dp4a(k.q[6], x1.z, hi);
        lo = __dp4a(k.q[3], x0.w, lo), hi = __dp4a(k.q[7], x1.w, hi);
    }
    if (F::TWO) {
        int s0 = (int)(short)(a.sums & 0xffffu), s1 = (int)a.sums >> 16;
        return fmaf(k.d1, (float)(hi - F::Z * s1), k.d0 * (float)(lo - F::Z * s0));
    }
    if (F::MIN) return fmaf(k.m, __uint_as_float(a.sums), k.d0 * (float)(lo + hi));
    return k.d0 * (float)(lo + hi - F::Z * (int)a.sums);
}
