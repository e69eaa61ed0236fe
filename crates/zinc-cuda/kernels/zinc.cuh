// What every kernel starts from: names of types, how a kernel and its shared memory are declared, 16-bit floats,
// reductions, and dependent launch. Compiled by NVRTC without any header of the toolkit, and as C++ by the host
// runner (`ZINC_HOST`), whose own header then stands in for the language.
//
//   ZINC_KERNEL(threads, blocks per SM) name(ZINC_PARAM Params p) { body }
//   ZINC_STATIC_SHARED(type, name, n);   an array in shared memory
//   ZINC_SHARED(name);                   unsigned char *: the launch's dynamic shared memory
//
// The grid is sized by the bucket's bounds; the step's actual counts are in its header (Count).
//
// Every block calls pdl_launch(), and pdl_wait() before it touches anything that another launch may, on
// every path: launches of one stream may overlap (programmatic dependent launch), and the wait orders them.
#pragma once

#ifdef ZINC_HOST
#include "host.cuh"
#else
#define ZINC_KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define ZINC_PARAM const __grid_constant__
#define ZINC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#define ZINC_STATIC_SHARED(type, name, n) __shared__ __align__(16) type name[n]
#endif

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef short i16;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#define FULL_WARP 0xffffffffu
#define NEG_INFINITY __uint_as_float(0xff800000u)
#define LOG2_E 1.4426950408889634f

#define DEVICE static __device__ __forceinline__

// ---- dependent launch ------------------------------------------------------------------------------------

DEVICE void pdl_wait() {
#if !defined(ZINC_HOST) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

DEVICE void pdl_launch() {
#if !defined(ZINC_HOST) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// ---- operands ------------------------------------------------------------------------------------------------

// Rows of `cols` floats, `stride` floats from row to row. A view has its base's stride and is aligned to nothing
// but its elements.
struct Rows {
    float *data;
    u32 stride, cols;
    __device__ __forceinline__ float *row(int r) const { return data + (i64)r * stride; }
};

// Actual rows of a dimension in this step: `which` is 0 for tokens, 1 for sequences, 2 for wanted rows, 3 for a
// number that the plan fixes, which the grid has exactly.
struct Count {
    const int *header;
    u32 which, unused;
    __device__ __forceinline__ int get() const { return which < 3 ? header[which] : 0x7fffffff; }
};

// ---- 16-bit floats as bits; rounding to the nearest, ties to even ----------------------------------------

DEVICE float f16_to_f32(u16 bits) {
#ifdef ZINC_HOST
    return __half2float(__ushort_as_half(bits));
#else
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#endif
}

DEVICE u16 f32_to_f16(float value) {
#ifdef ZINC_HOST
    return __half_as_ushort(__float2half_rn(value));
#else
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#endif
}

DEVICE float bf16_to_f32(u16 bits) { return __uint_as_float((u32)bits << 16); }

DEVICE u16 f32_to_bf16(float value) {
    u32 bits = __float_as_uint(value);
    if ((bits & 0x7fffffff) > 0x7f800000u) return (u16)(bits >> 16 | 64);
    return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Two f16 in one register, the first in the low half.
DEVICE u32 pack_f16(float low, float high) { return f32_to_f16(low) | (u32)f32_to_f16(high) << 16; }
DEVICE float low_f16(u32 pair) { return f16_to_f32((u16)pair); }
DEVICE float high_f16(u32 pair) { return f16_to_f32((u16)(pair >> 16)); }

// ---- reductions: the order is fixed, every lane gets the same bits -----------------------------------------

DEVICE float warp_sum(float value) {
#pragma unroll
    for (int bits = 16; bits > 0; bits /= 2) value += __shfl_xor_sync(FULL_WARP, value, bits);
    return value;
}

DEVICE float warp_max(float value) {
#pragma unroll
    for (int bits = 16; bits > 0; bits /= 2) value = fmaxf(value, __shfl_xor_sync(FULL_WARP, value, bits));
    return value;
}

// Sum over the block's threads, for all of them. `places` holds one float for each warp; a barrier must lie
// between two uses of the same places.
DEVICE float block_sum(float value, float *places) {
    int lane = threadIdx.x % 32, n_warps = blockDim.x / 32;
    value = warp_sum(value);
    if (lane == 0) places[threadIdx.x / 32] = value;
    __syncthreads();
    return warp_sum(lane < n_warps ? places[lane] : 0.0f);
}

// ---- elementary functions -----------------------------------------------------------------------------------

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// 2^x; 0 for minus infinity.
DEVICE float exp2_of(float x) {
#ifdef ZINC_HOST
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// 1 / x within a unit in the last place; 0 for infinity.
DEVICE float reciprocal(float x) {
#ifdef ZINC_HOST
    return 1.0f / x;
#else
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// Keeps a number in its register: in long loops the compiler else computes it anew each time, which costs more.
DEVICE void keep(u32 &value) {
#ifndef ZINC_HOST
    asm volatile("" : "+r"(value));
#endif
}

DEVICE int div_up(int a, int b) { return (a + b - 1) / b; }
