// Matrix products of f32 with the tensor cores, nearly to the precision of f32 (sm_80): each operand is the sum of two
// TF32 numbers, of which the product of the small ones is left out. What is lost is 2^-21 of an operand.
#pragma once
#include "zinc.cuh"

// A number as two of TF32's 11 bits. The tensor cores ignore the bits after those.
struct Tf32Pair {
    u32 high, low;
};

DEVICE Tf32Pair tf32_pair(float x) {
    u32 high = __float_as_uint(x) & 0xffffe000u;
    return {high, __float_as_uint(x - __uint_as_float(high))};
}

#ifdef ZINC_HOST
struct ZhTf32 {
    u32 a[4], b[2];
};
static inline void zh_mma_tf32(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    ZhTf32 mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const unsigned char *all = zh::exchange(&mine, sizeof mine);
    unsigned g = zh::current->lane / 4, t = zh::current->lane % 4;
    auto value = [](u32 bits) { return __uint_as_float(bits & 0xffffe000u); };
    for (unsigned k = 0; k < 8; k++)
        for (unsigned i = 0; i < 4; i++) {
            const ZhTf32 *of_row = (const ZhTf32 *)(all + 64 * (4 * g + k % 4));
            const ZhTf32 *of_column = (const ZhTf32 *)(all + 64 * (4 * (2 * t + i % 2) + k % 4));
            c[i] += value(of_row->a[i / 2 + k / 4 * 2]) * value(of_column->b[k / 4]);
        }
}
#endif

// c += a b: a 16x8 and b 8x8 of TF32, c 16x8 of f32. With g = lane / 4 and t = lane % 4: a[0] row g, column t; a[1] row
// g+8; a[2], a[3] the same rows, column t+4; b[0] row t of column g, b[1] row t+4; c[0] c[1] row g, columns 2t 2t+1;
// c[2] c[3] row g+8.
DEVICE void mma_tf32(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#ifdef ZINC_HOST
    zh_mma_tf32(c, a, b);
#elif __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    // Kernels that come here are not launched on such cards.
    __trap();
#endif
}

// Fragments of operands in shared memory, split.
struct Tf32A {
    u32 high[4], low[4];

    __device__ __forceinline__ void set(int i, float x) {
        Tf32Pair pair = tf32_pair(x);
        high[i] = pair.high;
        low[i] = pair.low;
    }
    // Rows of 8 columns; `at` is the fragment's first element, `stride` floats from row to row. No bank is read twice
    // when stride % 32 is 4.
    __device__ __forceinline__ void load(const float *at, int stride) {
        int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < 4; i++) set(i, at[(g + i % 2 * 8) * stride + t + i / 2 * 4]);
    }
    // The transpose of what lies there, 8 rows of 16 columns, each row times a factor: `factor[i]` of row t + 4 i. No
    // bank is read twice when stride % 32 is 8.
    __device__ __forceinline__ void load_transposed(const float *at, int stride, const float (&factor)[2]) {
        int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < 4; i++) set(i, at[(t + i / 2 * 4) * stride + g + i % 2 * 8] * factor[i / 2]);
    }
};

struct Tf32B {
    u32 high[2], low[2];

    // 8 rows of 8 columns. No bank is read twice when stride % 32 is 8.
    __device__ __forceinline__ void load(const float *at, int stride) {
        int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            Tf32Pair pair = tf32_pair(at[(t + i * 4) * stride + g]);
            high[i] = pair.high;
            low[i] = pair.low;
        }
    }
};

// c[m][n] += a[m] b[n], small products first. A sum's products wait for each other, so those of all sums take turns.
template <int M, int N> DEVICE void mma_split(float (*c)[N][4], const Tf32A (&a)[M], const Tf32B (&b)[N]) {
#pragma unroll
    for (int part = 0; part < 3; part++)
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < N; n++)
                mma_tf32(c[m][n], part == 0 ? a[m].low : a[m].high, part == 1 ? b[n].low : b[n].high);
}
