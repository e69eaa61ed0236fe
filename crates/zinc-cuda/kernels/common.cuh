// What every kernel uses: the step header, dependent launch, asynchronous copies, reductions of a warp.
//
// Everything that is not C++ is here or in mma.cuh, in functions with a body for the host: kernels also run as C++,
// one fiber a thread (crates/zinc-testkit), where ZINC_HOST is defined and host.cuh gives threadIdx, shuffles and barriers.
#pragma once

#ifdef ZINC_HOST
#include "host.cuh"
#else
#include <cuda_fp16.h>
#include <stdint.h>
#define ZINC_KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
// The dynamic shared memory of the launch, aligned for 16-byte accesses.
#define ZINC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#define ZINC_PARAM const __grid_constant__
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;

#define FULL_WARP 0xffffffffu

// Starts the inputs of a step; the host writes it. Must match `exec.rs`.
struct StepHeader {
    int counts[3]; // tokens, sequences, wanted rows
    int pad[13];
};

// Actual rows of the dimension that `kind` names: `lower::row_count`; 3 is a fixed dimension, which has `fixed` rows.
__device__ __forceinline__ int actual_rows(u64 header, u32 kind, u32 fixed) {
    if (kind >= 3) return (int)fixed;
    return ((const StepHeader *)header)->counts[kind];
}

// Lets the next launch start while this one runs. First statement of every kernel.
__device__ __forceinline__ void pdl_launch() {
#if !defined(ZINC_HOST) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Waits until the launches before this one are done and their writes are seen. Before touching anything but weights.
__device__ __forceinline__ void pdl_wait() {
#if !defined(ZINC_HOST) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Copies 16 bytes from global to shared memory; both 16-byte aligned. Seen by this thread after copies_wait, by others
// of the warp after __syncwarp as well. On sm_75 the copy is done at once.
__device__ __forceinline__ void copy16(void *shared, const void *global) {
#if !defined(ZINC_HOST) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(shared)), "l"(global));
#else
    *(uint4 *)shared = *(const uint4 *)global;
#endif
}

// Ends a group of copies.
__device__ __forceinline__ void copies_commit() {
#if !defined(ZINC_HOST) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;");
#endif
}

// Waits until at most N groups of this thread are under way.
template <int N> __device__ __forceinline__ void copies_wait() {
#if !defined(ZINC_HOST) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// Sum of four products of signed bytes, plus c.
__device__ __forceinline__ int dot4(int a, int b, int c) {
#ifdef ZINC_HOST
    for (int i = 0; i < 4; i++) c += (int)(i8)(a >> (8 * i)) * (int)(i8)(b >> (8 * i));
    return c;
#else
    return __dp4a(a, b, c);
#endif
}

__device__ __forceinline__ float half_bits(u32 bits) {
    return __half2float(__ushort_as_half((unsigned short)bits));
}

// The same value in all lanes: x of lane 0 + ... in the order of a butterfly, fixed whatever the lane.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(FULL_WARP, x, o);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int o = 16; o; o >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, o));
    return x;
}

// act(gate) * up with the numbers of `lower::activation`: 0 SiLU, 1 GELU (tanh), 2 GPT-OSS. One definition, so that
// fused and unfused operations give the same bits.
__device__ __forceinline__ float gated(u32 act, float gate, float up) {
    if (act == 0) return __fmul_rn(gate / (1.0f + expf(-gate)), up);
    if (act == 1) {
        float inner = 0.79788456080286535588f * (gate + 0.044715f * gate * gate * gate);
        return __fmul_rn(0.5f * gate * (1.0f + tanhf(inner)), up);
    }
    float g = fminf(gate, 7.0f), u = fminf(fmaxf(up, -7.0f), 7.0f);
    return __fmul_rn(g / (1.0f + expf(-1.702f * g)), u + 1.0f);
}
