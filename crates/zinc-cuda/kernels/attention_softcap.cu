// Attention with a soft cap on scores: softmax_j(cap * tanh(scale * q k_j / cap)), of all kinds. A module of their own, since
// few models have one and the driver compiles whole modules.
#include "attention_decode.cuh"
#include "attention_prefill.cuh"
#include "attention_rows.cuh"

// Of kernels for any number of rows; those for many have PrefillParams.
struct SoftcapParams {
    AttentionParams base;
    // With the factor log2(e).
    float cap;
    u32 unused;
};

ZINC_KERNEL(128, 1) attention_f32_softcap(ZINC_PARAM SoftcapParams p) { attend<F32Cache, true>(p.base, p.cap); }
ZINC_KERNEL(128, 1) attention_f16_softcap(ZINC_PARAM SoftcapParams p) { attend<F16Cache, true>(p.base, p.cap); }
ZINC_KERNEL(128, 1) attention_bf16_softcap(ZINC_PARAM SoftcapParams p) { attend<Bf16Cache, true>(p.base, p.cap); }
ZINC_KERNEL(128, 1) attention_f8_e4m3_softcap(ZINC_PARAM SoftcapParams p) { attend<F8Cache, true>(p.base, p.cap); }
ZINC_KERNEL(128, 1) attention_q8_0_softcap(ZINC_PARAM SoftcapParams p) { attend<Q8_0Cache, true>(p.base, p.cap); }
ZINC_KERNEL(128, 1) attention_q4_0_softcap(ZINC_PARAM SoftcapParams p) { attend<Q4_0Cache, true>(p.base, p.cap); }

#define DECODE_SOFTCAP(TYPE, CELLS, D, STAGES)                                                             \
    ZINC_KERNEL(128, 1) attention_decode_##TYPE##D##_##STAGES##_softcap(ZINC_PARAM SoftcapParams p) { \
        decode<D, STAGES, CELLS, 0, true>(p.base, p.cap);                                           \
    }
DECODE_SOFTCAP(, F16_CELLS, 64, 3)
DECODE_SOFTCAP(, F16_CELLS, 128, 1)
DECODE_SOFTCAP(q8_0_, Q8_0_CELLS, 64, 2)
DECODE_SOFTCAP(q8_0_, Q8_0_CELLS, 128, 2)
DECODE_SOFTCAP(q8_0_, Q8_0_CELLS, 256, 2)
DECODE_SOFTCAP(f8_e4m3_, F8_CELLS, 64, 3)
DECODE_SOFTCAP(f8_e4m3_, F8_CELLS, 128, 2)
DECODE_SOFTCAP(f8_e4m3_, F8_CELLS, 128, 3)
DECODE_SOFTCAP(f8_e4m3_, F8_CELLS, 256, 2)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
DECODE_SOFTCAP(, F16_CELLS, 128, 2)
DECODE_SOFTCAP(, F16_CELLS, 128, 3)
DECODE_SOFTCAP(, F16_CELLS, 256, 2)
DECODE_SOFTCAP(, F16_CELLS, 256, 3)
#endif

#define PREFILL_SOFTCAP(D, STAGES, WARPS, SPLIT)                                                    \
    ZINC_KERNEL(32 * WARPS, 1) attention_prefill_##D##_##STAGES##_softcap(ZINC_PARAM PrefillParams p) { \
        prefill<D, STAGES, WARPS, SPLIT, 0, true>(p);                                               \
    }
PREFILL_SOFTCAP(64, 2, 4, 1)
PREFILL_SOFTCAP(128, 1, 4, 1)
PREFILL_SOFTCAP(128, 2, 4, 1)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
PREFILL_SOFTCAP(256, 1, 4, 1)
PREFILL_SOFTCAP(256, 2, 4, 1)
#endif
