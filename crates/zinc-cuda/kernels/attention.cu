// Attention in f32 (attention_rows.cuh), and what makes caches f16 for many rows.
#include "attention_rows.cuh"

ZINC_KERNEL(128, 1) attention_f32(ZINC_PARAM AttentionParams p) { attend<F32Cache>(p); }
ZINC_KERNEL(128, 1) attention_f16(ZINC_PARAM AttentionParams p) { attend<F16Cache>(p); }
ZINC_KERNEL(128, 1) attention_bf16(ZINC_PARAM AttentionParams p) { attend<Bf16Cache>(p); }
ZINC_KERNEL(128, 1) attention_f8_e4m3(ZINC_PARAM AttentionParams p) { attend<F8Cache>(p); }
ZINC_KERNEL(128, 1) attention_q8_0(ZINC_PARAM AttentionParams p) { attend<Q8_0Cache>(p); }
ZINC_KERNEL(128, 1) attention_q4_0(ZINC_PARAM AttentionParams p) { attend<Q4_0Cache>(p); }

// ---- 8-bit and quantised caches for many rows -----------------------------------------------------------------------
//
// attention_widen_<type>: the keys and values that a step's rows see, rounded to f16, where attention_prefill reads them:
// in a cache of one layer with the same rows. Launch: grid (positions / 64, sequences, 2 for keys and values; of latent
// attention for keys and ropes), 128 threads, a block of 32 elements at a time. Bytes moved: three times those of the
// cache, more for q4_0.

struct WidenParams {
    AttentionParams base;
    uint4 *k, *v;
};

// Pairs of f16 from a block of 32.
DEVICE void widen_block(const u8 *from, u32 (&to)[16], Q8_0Cache) {
    const u16 *halves = (const u16 *)from;
    float scale = f16_to_f32(halves[0]);
#pragma unroll
    for (int i = 0; i < 16; i++) {
        u16 pair = halves[1 + i];
        to[i] = pack_f16((i8)pair * scale, (i8)(pair >> 8) * scale);
    }
}
DEVICE void widen_block(const u8 *from, u32 (&to)[16], Q4_0Cache) {
    const u16 *halves = (const u16 *)from;
    float scale = f16_to_f32(halves[0]);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int four = halves[1 + i];
        to[i] = pack_f16(((four & 15) - 8) * scale, ((four >> 8 & 15) - 8) * scale);
        to[8 + i] = pack_f16(((four >> 4 & 15) - 8) * scale, ((four >> 12) - 8) * scale);
    }
}

DEVICE void widen_block(const u8 *from, u32 (&to)[16], F8Cache) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint4 codes = ((const uint4 *)from)[i];
        u32 words[4] = {codes.x, codes.y, codes.z, codes.w}, pairs[2];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            e4m3_to_f16(words[j], pairs);
            to[8 * i + 2 * j] = pairs[0], to[8 * i + 2 * j + 1] = pairs[1];
        }
    }
}

template <class Cache, int BYTES> DEVICE void widen(const WidenParams &params) {
    const AttentionParams &p = params.base;
    ZINC_STATIC_SHARED(int, bounds, 8);
    int seq = blockIdx.y, warp = threadIdx.x / 32, n = p.n.get();
    pdl_launch();
    pdl_wait();
    // The last key that the sequence's rows see, and minus the first one.
    int end = 0, before = -0x7fffffff;
    for (int i = threadIdx.x; i < n; i += 128) {
        if (p.seq_of[i] != seq) continue;
        int position = p.positions[i];
        end = max(end, position + 1);
        before = max(before, p.window > 0 ? -max(0, position + 1 - (int)p.window) : 0);
    }
#pragma unroll
    for (int bit = 16; bit > 0; bit /= 2) {
        end = max(end, __shfl_xor_sync(FULL_WARP, end, bit));
        before = max(before, __shfl_xor_sync(FULL_WARP, before, bit));
    }
    bounds[warp] = end;
    bounds[4 + warp] = before;
    __syncthreads();
    for (int i = 0; i < 4; i++) {
        end = max(end, bounds[i]);
        before = max(before, bounds[4 + i]);
    }
    bool is_rope = blockIdx.z > 0 && p.rope_dim > 0;
    const u8 *cache = (const u8 *)(is_rope ? p.cache_rope : blockIdx.z ? p.cache_v : p.cache_k);
    uint4 *wide = blockIdx.z ? params.v : params.k;
    const int *pages = p.pages + (i64)seq * p.pages_per_seq;
    int start = blockIdx.x * KEY_BLOCK, first = max(start, -before), n_keys = min(start + KEY_BLOCK, end) - first;
    int n_blocks = (int)(is_rope ? p.rope_dim / 32 : p.n_kv_heads * p.k_dim / 32);
#pragma unroll 1
    for (int i = threadIdx.x; i < n_keys * n_blocks; i += 128) {
        int row = cache_row(pages, first + i / n_blocks, p.page_size, p.pages_per_seq);
        i64 block = (i64)row * n_blocks + i % n_blocks;
        u32 pairs[16];
        widen_block(cache + block * BYTES, pairs, Cache());
#pragma unroll
        for (int j = 0; j < 4; j++)
            wide[4 * block + j] = make_uint4(pairs[4 * j], pairs[4 * j + 1], pairs[4 * j + 2], pairs[4 * j + 3]);
    }
}

ZINC_KERNEL(128, 1) attention_widen_f8_e4m3(ZINC_PARAM WidenParams p) { widen<F8Cache, 32>(p); }
ZINC_KERNEL(128, 1) attention_widen_q8_0(ZINC_PARAM WidenParams p) { widen<Q8_0Cache, 34>(p); }
ZINC_KERNEL(128, 1) attention_widen_q4_0(ZINC_PARAM WidenParams p) { widen<Q4_0Cache, 18>(p); }
