// Attention of few rows with the tensor cores: attention_decode.cuh.
#include "attention_decode.cuh"

#define DECODE(D, STAGES)                                                                           \
    ZINC_KERNEL(128, 1) attention_decode_##D##_##STAGES(ZINC_PARAM AttentionParams p) { decode<D, STAGES>(p); }
DECODE(32, 3)
DECODE(64, 3)
DECODE(96, 2)
DECODE(128, 1)
// Need more shared memory than a block of sm_75 has.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
DECODE(128, 2)
DECODE(128, 3)
DECODE(256, 2)
DECODE(256, 3)
DECODE(512, 1)
DECODE(512, 2)
DECODE(512, 3)
#endif

#define DECODE_Q8_0(D)                                                                              \
    ZINC_KERNEL(128, 1) attention_decode_q8_0_##D##_2(ZINC_PARAM AttentionParams p) { decode<D, 2, Q8_0_CELLS>(p); }
DECODE_Q8_0(64)
DECODE_Q8_0(128)
DECODE_Q8_0(256)

#define DECODE_LATENT(D, STAGES, ROPE)                                                              \
    ZINC_KERNEL(128, 1) attention_decode_latent_##D##_##STAGES(ZINC_PARAM AttentionParams p) {      \
        decode<D, STAGES, F16_CELLS, ROPE>(p);                                                      \
    }
DECODE_LATENT(32, 3, 32)
DECODE_LATENT(512, 1, 64)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
DECODE_LATENT(512, 2, 64)
DECODE_LATENT(512, 3, 64)
#endif

#define DECODE_F8_E4M3(D, STAGES)                                                                   \
    ZINC_KERNEL(128, 1) attention_decode_f8_e4m3_##D##_##STAGES(ZINC_PARAM AttentionParams p) {      \
        decode<D, STAGES, F8_CELLS>(p);                                                             \
    }
DECODE_F8_E4M3(64, 3)
DECODE_F8_E4M3(128, 2)
DECODE_F8_E4M3(128, 3)
DECODE_F8_E4M3(256, 2)
