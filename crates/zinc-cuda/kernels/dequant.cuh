// What the bytes of a block mean, element by element: the formats of GGUF files as zinc-quant defines them, bit
// for bit. Every product is rounded before it is added (no contraction to fused operations).
//
// A format is a type with LEN elements in BYTES bytes and `static float at(const u8 *block, int i)`.
#pragma once
#include "zinc.cuh"

// Blocks begin at even addresses, except those of MXFP4.
DEVICE u16 load_u16(const u8 *at) { return *(const u16 *)at; }
DEVICE float load_f16(const u8 *at) { return f16_to_f32(load_u16(at)); }

// Element i of 32 four-bit numbers in 16 bytes: low halves first.
DEVICE int nibble(const u8 *qs, int i) { return qs[i % 16] >> 4 * (i / 16) & 15; }

struct F32Format {
    enum { LEN = 1, BYTES = 4 };
    DEVICE float at(const u8 *block, int) { return *(const float *)block; }
};
struct F16Format {
    enum { LEN = 1, BYTES = 2 };
    DEVICE float at(const u8 *block, int) { return load_f16(block); }
};
struct Bf16Format {
    enum { LEN = 1, BYTES = 2 };
    DEVICE float at(const u8 *block, int) { return bf16_to_f32(load_u16(block)); }
};
struct Q4_0Format {
    enum { LEN = 32, BYTES = 18 };
    DEVICE float at(const u8 *block, int i) {
        return __fmul_rn((float)(nibble(block + 2, i) - 8), load_f16(block));
    }
};
struct Q4_1Format {
    enum { LEN = 32, BYTES = 20 };
    DEVICE float at(const u8 *block, int i) {
        return __fadd_rn(__fmul_rn((float)nibble(block + 4, i), load_f16(block)), load_f16(block + 2));
    }
};
struct Q5_0Format {
    enum { LEN = 32, BYTES = 22 };
    DEVICE float at(const u8 *block, int i) {
        u32 high = load_u16(block + 2) | (u32)load_u16(block + 4) << 16;
        int q = nibble(block + 6, i) | (int)(high >> i & 1) << 4;
        return __fmul_rn((float)(q - 16), load_f16(block));
    }
};
struct Q5_1Format {
    enum { LEN = 32, BYTES = 24 };
    DEVICE float at(const u8 *block, int i) {
        u32 high = load_u16(block + 4) | (u32)load_u16(block + 6) << 16;
        int q = nibble(block + 8, i) | (int)(high >> i & 1) << 4;
        return __fadd_rn(__fmul_rn((float)q, load_f16(block)), load_f16(block + 2));
    }
};
struct Q8_0Format {
    enum { LEN = 32, BYTES = 34 };
    DEVICE float at(const u8 *block, int i) {
        return __fmul_rn((float)(i8)block[2 + i], load_f16(block));
    }
};

// Scale and minimum of group 0..8 of a Q4_K or Q5_K block, from its 12 packed bytes.
DEVICE void scale_min(const u8 *scales, int group, int &scale, int &min) {
    if (group < 4) {
        scale = scales[group] & 63;
        min = scales[group + 4] & 63;
    } else {
        scale = (scales[group + 4] & 15) | scales[group - 4] >> 6 << 4;
        min = scales[group + 4] >> 4 | scales[group] >> 6 << 4;
    }
}

struct Q4_KFormat {
    enum { LEN = 256, BYTES = 144 };
    DEVICE float at(const u8 *block, int i) {
        int group = i / 32, scale, min;
        scale_min(block + 4, group, scale, min);
        int q = block[16 + 32 * (group / 2) + i % 32] >> 4 * (group % 2) & 15;
        float d = __fmul_rn(load_f16(block), (float)scale), m = __fmul_rn(load_f16(block + 2), (float)min);
        return __fsub_rn(__fmul_rn(d, (float)q), m);
    }
};
struct Q5_KFormat {
    enum { LEN = 256, BYTES = 176 };
    DEVICE float at(const u8 *block, int i) {
        int group = i / 32, scale, min;
        scale_min(block + 4, group, scale, min);
        int low = block[48 + 32 * (group / 2) + i % 32] >> 4 * (group % 2) & 15;
        int high = block[16 + i % 32] >> group & 1;
        float d = __fmul_rn(load_f16(block), (float)scale), m = __fmul_rn(load_f16(block + 2), (float)min);
        return __fsub_rn(__fmul_rn(d, (float)(low | high << 4)), m);
    }
};
struct Q6_KFormat {
    enum { LEN = 256, BYTES = 210 };
    DEVICE float at(const u8 *block, int i) {
        // Halves of 128, each four runs of 32.
        int half = i / 128, run = i / 32 % 4, l = i % 32;
        int low = block[64 * half + 32 * (run % 2) + l] >> 4 * (run / 2) & 15;
        int high = block[128 + 32 * half + l] >> 2 * run & 3;
        float scale = __fmul_rn(load_f16(block + 208), (float)(i8)block[192 + i / 16]);
        return __fmul_rn(scale, (float)((low | high << 4) - 32));
    }
};

// Twice the value of an E2M1 code.
DEVICE int fp4_value(int code) {
    // 0 1 2 3 4 6 8 12, four bits each.
    int magnitude = (int)(0xc8643210u >> 4 * (code & 7) & 15);
    return code & 8 ? -magnitude : magnitude;
}
struct Mxfp4Format {
    enum { LEN = 32, BYTES = 17 };
    // 2^(e - 128).
    DEVICE float half_scale(int e) {
        return __uint_as_float(e == 0 ? 0x00200000u : e == 1 ? 0x00400000u : (u32)(e - 1) << 23);
    }
    DEVICE float at(const u8 *block, int i) {
        return __fmul_rn((float)fp4_value(nibble(block + 1, i)), half_scale(block[0]));
    }
};

// -127 -104 -83 -65 -49 -35 -22 -10 | 1 13 25 38 53 69 89 113: a byte of one of four words.
DEVICE int iq4_value(int code) {
    u32 word = code & 8 ? (code & 4 ? 0x71594535u : 0x26190d01u) : (code & 4 ? 0xf6eaddcfu : 0xbfad9881u);
    return (i8)(word >> 8 * (code & 3));
}
struct Iq4NlFormat {
    enum { LEN = 32, BYTES = 18 };
    DEVICE float at(const u8 *block, int i) {
        return __fmul_rn(load_f16(block), (float)iq4_value(nibble(block + 2, i)));
    }
};
struct Iq4XsFormat {
    enum { LEN = 256, BYTES = 136 };
    DEVICE float at(const u8 *block, int i) {
        int group = i / 32;
        int low = block[4 + group / 2] >> 4 * (group % 2) & 15;
        int high = load_u16(block + 2) >> 2 * group & 3;
        float scale = __fmul_rn(load_f16(block), (float)((low | high << 4) - 32));
        return __fmul_rn(scale, (float)iq4_value(nibble(block + 8 + 16 * group, i % 32)));
    }
};

// Invokes FORMAT(type, name) for every format.
#define ZINC_ALL_FORMATS(FORMAT)                                                                    \
    FORMAT(F32Format, f32)                                                                          \
    FORMAT(F16Format, f16)                                                                          \
    FORMAT(Bf16Format, bf16)                                                                        \
    FORMAT(Q4_0Format, q4_0)                                                                        \
    FORMAT(Q4_1Format, q4_1)                                                                        \
    FORMAT(Q5_0Format, q5_0)                                                                        \
    FORMAT(Q5_1Format, q5_1)                                                                        \
    FORMAT(Q8_0Format, q8_0)                                                                        \
    FORMAT(Q4_KFormat, q4_k)                                                                        \
    FORMAT(Q5_KFormat, q5_k)                                                                        \
    FORMAT(Q6_KFormat, q6_k)                                                                        \
    FORMAT(Mxfp4Format, mxfp4)                                                                      \
    FORMAT(Iq4NlFormat, iq4_nl)                                                                     \
    FORMAT(Iq4XsFormat, iq4_xs)
