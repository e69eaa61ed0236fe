// Attention of many rows with the tensor cores: attention_prefill.cuh.
#include "attention_prefill.cuh"

#define PREFILL(D, STAGES, WARPS, SPLIT)                                                            \
    ZINC_KERNEL(32 * WARPS, 1) attention_prefill_##D##_##STAGES(ZINC_PARAM PrefillParams p) {       \
        prefill<D, STAGES, WARPS, SPLIT>(p);                                                        \
    }
#define PREFILL_LATENT(D, STAGES, WARPS, SPLIT, ROPE)                                               \
    ZINC_KERNEL(32 * WARPS, 1) attention_prefill_latent_##D##_##STAGES(ZINC_PARAM PrefillParams p) { \
        prefill<D, STAGES, WARPS, SPLIT, ROPE>(p);                                                  \
    }
PREFILL(32, 2, 4, 1)
PREFILL(64, 2, 4, 1)
PREFILL(96, 1, 4, 1)
PREFILL(96, 2, 4, 1)
PREFILL(128, 1, 4, 1)
PREFILL(128, 2, 4, 1)
PREFILL_LATENT(32, 2, 4, 1, 32)
// Needs more shared memory than a block of sm_75 has.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
PREFILL(256, 1, 4, 1)
PREFILL(256, 2, 4, 1)
PREFILL(512, 1, 4, 2)
PREFILL(512, 2, 8, 2)
PREFILL_LATENT(512, 1, 4, 2, 64)
PREFILL_LATENT(512, 2, 8, 2, 64)
#endif
