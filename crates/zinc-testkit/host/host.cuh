// CUDA's language on the host: enough of it to run a kernel as plain C++, one fiber per thread.
//
// A thread runs until it meets a barrier, a warp function or its end; then the next one runs, in the order of
// the schedule. So a kernel that lacks a barrier gives another result under at least one schedule. Shared
// memory holds NaNs when a block starts. Blocks run one after another, also in the order of the schedule:
// what a block waits for must not come from a later one.
//
// Warp functions take the full mask and every lane of the warp.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#define __device__
#define __host__
#define __global__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __restrict__
#define __CUDA_ARCH__ 900

struct dim3 {
    unsigned x, y, z;
};

namespace zh {
struct Thread {
    dim3 thread, block;
    unsigned lane, warp, n_collectives;
};
struct Launch {
    dim3 grid, threads;
};
// The running thread; kernels run on one thread of the host at a time.
extern thread_local Thread *current;
extern thread_local Launch launch;

void sync_threads();
void sync_warp();
// Puts n bytes into the running lane's place, waits for the warp, and returns the places of its lanes, 64
// bytes apart. They stay as they are until the warp's second next exchange.
const unsigned char *exchange(const void *value, size_t n);
unsigned char *shared(const void *key, size_t n);
unsigned char *dynamic_shared();
size_t dynamic_shared_bytes();
// Ends the launch with an error.
[[noreturn]] void fail(const char *format, ...);

void copy_later(void *to, const void *from, unsigned n, unsigned n_valid);
void copy_commit();
void copy_wait(unsigned n_pending);

// Named barriers of `n` threads.
void sync_group(unsigned id, unsigned n);

// Barriers in shared memory that count arrivals and bytes, at an offset in shared memory. Bytes of bulk copies may be
// expected when a thread arrives. A bulk copy is done at once, or as late as the barrier's readers allow.
// One schedule does without, as cards before sm_90 do.
bool has_bulk_copies();
void barrier_init(unsigned at, unsigned n);
void barrier_arrive(unsigned at, unsigned n_expected_bytes);
void barrier_wait(unsigned at, unsigned parity);
void bulk_copy(unsigned to, const void *from, unsigned n, unsigned barrier);

// The products of wgmma for the running lane (wgmma.cuh), done when they are waited for: then shared memory is read and
// `d` changed, and `d` must still be there.
void multiply_later(float *d, const unsigned *a, uint64_t b, unsigned n);
void products_commit();
void products_wait(unsigned n_pending);

template <class T> T lane_value(const unsigned char *places, unsigned lane) {
    T value;
    std::memcpy(&value, places + 64 * lane, sizeof(T));
    return value;
}
} // namespace zh

#define threadIdx (zh::current->thread)
#define blockIdx (zh::current->block)
#define blockDim (zh::launch.threads)
#define gridDim (zh::launch.grid)

#define __launch_bounds__(...)
#define ZINC_KERNEL(threads, blocks) extern "C" void
#define ZINC_PARAM const
#define ZINC_STATIC_SHARED(type, name, n)                                                           \
    static char name##_key;                                                                         \
    type *name = reinterpret_cast<type *>(zh::shared(&name##_key, sizeof(type) * (n)))
#define ZINC_SHARED(name) unsigned char *name = zh::dynamic_shared()
#define ZINC_ASSERT(condition)                                                                      \
    do {                                                                                            \
        if (!(condition)) zh::fail("%s:%d: %s does not hold", __FILE__, __LINE__, #condition);      \
    } while (0)

// 16-bit floats, as far as kernels use CUDA's own names for them.
struct __half {
    uint16_t bits;
};
static inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
static inline uint16_t __half_as_ushort(__half value) { return value.bits; }
float __half2float(__half value);
__half __float2half_rn(float value);

struct float2 {
    float x, y;
};
struct __attribute__((aligned(16))) float4 {
    float x, y, z, w;
};
struct __attribute__((aligned(8))) uint2 {
    unsigned x, y;
};
struct __attribute__((aligned(16))) uint4 {
    unsigned x, y, z, w;
};
struct __attribute__((aligned(8))) int2 {
    int x, y;
};
struct __attribute__((aligned(16))) int4 {
    int x, y, z, w;
};
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

static inline void __syncthreads() { zh::sync_threads(); }
static inline void zh_check_mask(unsigned mask) {
    if (mask != 0xffffffffu) zh::fail("a warp function with the mask %08x", mask);
}
static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    zh_check_mask(mask);
    zh::sync_warp();
}
template <class T> static inline T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    zh_check_mask(mask);
    unsigned lane = zh::current->lane;
    const unsigned char *all = zh::exchange(&value, sizeof(T));
    return zh::lane_value<T>(all, (lane & ~(width - 1)) | (from & (width - 1)));
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    zh_check_mask(mask);
    unsigned lane = zh::current->lane, other = lane ^ bits;
    const unsigned char *all = zh::exchange(&value, sizeof(T));
    // As the hardware has it: a lane of a later part is out of reach, one of an earlier part is not.
    return zh::lane_value<T>(all, other / width > lane / width ? lane : other);
}
template <class T> static inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    zh_check_mask(mask);
    unsigned lane = zh::current->lane, other = lane + by;
    const unsigned char *all = zh::exchange(&value, sizeof(T));
    return zh::lane_value<T>(all, lane % width + by >= (unsigned)width ? lane : other);
}
template <class T> static inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    zh_check_mask(mask);
    unsigned lane = zh::current->lane;
    const unsigned char *all = zh::exchange(&value, sizeof(T));
    return zh::lane_value<T>(all, lane % width < by ? lane : lane - by);
}
static inline unsigned __ballot_sync(unsigned mask, int value) {
    zh_check_mask(mask);
    const unsigned char *all = zh::exchange(&value, sizeof value);
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; lane++) bits |= (zh::lane_value<int>(all, lane) != 0 ? 1u : 0u) << lane;
    return bits;
}
static inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
    zh_check_mask(mask);
    const unsigned char *all = zh::exchange(&value, sizeof value);
    for (unsigned lane = 0; lane < 32; lane++) {
        unsigned other = zh::lane_value<unsigned>(all, lane);
        if (other > value) value = other;
    }
    return value;
}
static inline int __any_sync(unsigned mask, int value) { return __ballot_sync(mask, value) != 0; }
static inline int __all_sync(unsigned mask, int value) { return __ballot_sync(mask, value) == 0xffffffffu; }
template <class T> static inline unsigned __match_any_sync(unsigned mask, T value) {
    zh_check_mask(mask);
    const unsigned char *all = zh::exchange(&value, sizeof value);
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; lane++) bits |= (zh::lane_value<T>(all, lane) == value ? 1u : 0u) << lane;
    return bits;
}
int __syncthreads_or(int value);
int __syncthreads_and(int value);
int __syncthreads_count(int value);

// Threads of the host take turns, so a plain operation is atomic.
template <class T, class F> static inline T zh_atomic(T *at, F change) {
    T old = *at;
    *at = change(old);
    return old;
}
template <class T> static inline T atomicAdd(T *at, T value) {
    static_assert(std::is_integral<T>::value, "sums of floats in the order of arrival are not reproducible");
    return zh_atomic(at, [=](T old) { return (T)(old + value); });
}
template <class T> static inline T atomicMax(T *at, T value) {
    return zh_atomic(at, [=](T old) { return old > value ? old : value; });
}
template <class T> static inline T atomicMin(T *at, T value) {
    return zh_atomic(at, [=](T old) { return old < value ? old : value; });
}
template <class T> static inline T atomicExch(T *at, T value) {
    return zh_atomic(at, [=](T) { return value; });
}
template <class T> static inline T atomicOr(T *at, T value) {
    return zh_atomic(at, [=](T old) { return (T)(old | value); });
}
template <class T> static inline T atomicCAS(T *at, T expected, T value) {
    return zh_atomic(at, [=](T old) { return old == expected ? value : old; });
}
static inline unsigned atomicInc(unsigned *at, unsigned last) {
    return zh_atomic(at, [=](unsigned old) { return old >= last ? 0 : old + 1; });
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}

template <class T> static inline T __ldg(const T *at) { return *at; }
template <class T> static inline T __ldcs(const T *at) { return *at; }
template <class T> static inline T __ldcg(const T *at) { return *at; }
template <class T> static inline void __stcg(T *at, T value) { *at = value; }

template <class To, class From> static inline To zh_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    std::memcpy(&to, &value, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float x) { return zh_bits<unsigned>(x); }
static inline int __float_as_int(float x) { return zh_bits<int>(x); }
static inline float __uint_as_float(unsigned x) { return zh_bits<float>(x); }
static inline float __int_as_float(int x) { return zh_bits<float>(x); }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return std::sqrt(a); }
static inline float __fdividef(float a, float b) { return a / b; }
// The C library has functions of these names.
#define __expf(x) std::exp((float)(x))
#define __logf(x) std::log((float)(x))
static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline int __float2int_rn(float x) { return (int)std::nearbyint(x); }
static inline int __float2int_rz(float x) { return (int)x; }
static inline unsigned __float2uint_rz(float x) { return (unsigned)x; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned which) {
    uint64_t bytes = (uint64_t)b << 32 | a;
    unsigned y = 0;
    for (int i = 0; i < 4; i++) {
        unsigned nibble = which >> 4 * i & 15;
        unsigned byte = bytes >> 8 * (nibble & 7) & 255;
        if (nibble & 8) byte = byte & 128 ? 255 : 0;
        y |= byte << 8 * i;
    }
    return y;
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return (unsigned)(((uint64_t)high << 32 | low) >> (by & 31));
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return (unsigned)((((uint64_t)high << 32 | low) << (by & 31)) >> 32);
}
static inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += (int)(int8_t)(a >> 8 * i) * (int)(int8_t)(b >> 8 * i);
    return c;
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 4; i++) c += (a >> 8 * i & 255) * (b >> 8 * i & 255);
    return c;
}
static inline unsigned __vsub4(unsigned a, unsigned b) {
    unsigned y = 0;
    for (int i = 0; i < 4; i++) y |= (((a >> 8 * i) - (b >> 8 * i)) & 255) << 8 * i;
    return y;
}
static inline unsigned __vsubss4(unsigned a, unsigned b) {
    unsigned y = 0;
    for (int i = 0; i < 4; i++) {
        int d = (int)(int8_t)(a >> 8 * i) - (int)(int8_t)(b >> 8 * i);
        d = d > 127 ? 127 : d < -128 ? -128 : d;
        y |= ((unsigned)d & 255) << 8 * i;
    }
    return y;
}
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static inline long long min(long long a, long long b) { return a < b ? a : b; }
static inline long long max(long long a, long long b) { return a > b ? a : b; }
