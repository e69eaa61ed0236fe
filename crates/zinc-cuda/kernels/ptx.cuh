// Instructions that C++ has no name for, one function each, with a body for the host runner.
#pragma once
#include "zinc.cuh"

// ---- asynchronous copies to shared memory (sm_80; plain copies before) -------------------------------------

// 16 bytes, both ends aligned to 16; zeros when not `valid` (nothing is read then).
DEVICE void copy_async_16(void *to, const void *from, bool valid = true) {
#ifdef ZINC_HOST
    zh::copy_later(to, from, 16, valid ? 16 : 0);
#elif __CUDA_ARCH__ >= 800
    u32 at = (u32)__cvta_generic_to_shared(to);
    int n = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(n) : "memory");
#else
    *(uint4 *)to = valid ? *(const uint4 *)from : make_uint4(0, 0, 0, 0);
#endif
}

// The same for 4 bytes, aligned to 4.
DEVICE void copy_async_4(void *to, const void *from, bool valid = true) {
#ifdef ZINC_HOST
    zh::copy_later(to, from, 4, valid ? 4 : 0);
#elif __CUDA_ARCH__ >= 800
    u32 at = (u32)__cvta_generic_to_shared(to);
    int n = valid ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(at), "l"(from), "r"(n) : "memory");
#else
    *(u32 *)to = valid ? *(const u32 *)from : 0u;
#endif
}

// Ends a group of copies.
DEVICE void copy_async_commit() {
#ifdef ZINC_HOST
    zh::copy_commit();
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most N of this thread's groups are under way.
template <int N> DEVICE void copy_async_wait() {
#ifdef ZINC_HOST
    zh::copy_wait(N);
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// ---- loads of matrix fragments --------------------------------------------------------------------------------

#ifdef ZINC_HOST
template <int N, bool TRANSPOSED> static inline void zh_load_matrix(u32 *to, const void *row) {
    const unsigned char *all = zh::exchange(&row, sizeof row);
    unsigned lane = zh::current->lane;
    for (int i = 0; i < N; i++) {
        u16 pair[2];
        for (int j = 0; j < 2; j++) {
            unsigned r = TRANSPOSED ? lane % 4 * 2 + j : lane / 4, c = TRANSPOSED ? lane / 4 : lane % 4 * 2 + j;
            std::memcpy(&pair[j], zh::lane_value<const u16 *>(all, 8 * i + r) + c, 2);
        }
        to[i] = pair[0] | (u32)pair[1] << 16;
    }
    zh::sync_warp();
}
#endif

// Four 8x8 matrices of 16-bit elements; lane 8 i + r has the address of row r of matrix i.
DEVICE void load_matrix_x4(u32 (&to)[4], const void *row) {
#ifdef ZINC_HOST
    zh_load_matrix<4, false>(to, row);
#else
    u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
#endif
}

// The same, each matrix transposed.
DEVICE void load_matrix_x4_transposed(u32 (&to)[4], const void *row) {
#ifdef ZINC_HOST
    zh_load_matrix<4, true>(to, row);
#else
    u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
#endif
}

// ---- matrix products of a warp --------------------------------------------------------------------------------

#ifdef ZINC_HOST
struct ZhFragments {
    float a[8], b[4];
};
template <class ToF32> static inline void zh_mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, ToF32 to_f32) {
    ZhFragments mine;
    for (int i = 0; i < 8; i++) mine.a[i] = to_f32((u16)(a[i / 2] >> 16 * (i % 2)));
    for (int i = 0; i < 4; i++) mine.b[i] = to_f32((u16)((i < 2 ? b0 : b1) >> 16 * (i % 2)));
    const unsigned char *all = zh::exchange(&mine, sizeof mine);
    unsigned g = zh::current->lane / 4, t = zh::current->lane % 4;
    for (unsigned k = 0; k < 16; k++) {
        // The lane of the column, and which of its elements.
        unsigned lane = k % 8 / 2, part = k / 8 * 2;
        for (unsigned i = 0; i < 4; i++) {
            unsigned row_part = i / 2, column = 2 * t + i % 2;
            const float *of_row = (const float *)(all + 64 * (4 * g + lane));
            const float *of_column = (const float *)(all + 64 * (4 * column + lane)) + 8;
            c[i] += of_row[2 * (part + row_part) + k % 2] * of_column[part + k % 2];
        }
    }
}
#endif

// c += a b: a 16x16 and b 16x8 of f16, c 16x8 of f32. With g = lane / 4 and t = lane % 4:
// a[0] row g, columns 2t 2t+1; a[1] row g+8; a[2], a[3] the same rows, columns 8+2t 9+2t;
// b0 rows 2t 2t+1 of column g; b1 rows 8+2t 9+2t; c[0] c[1] row g, columns 2t 2t+1; c[2] c[3] row g+8.
DEVICE void mma_f16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#ifdef ZINC_HOST
    zh_mma(c, a, b0, b1, f16_to_f32);
#elif __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

#ifdef ZINC_HOST
struct ZhBytes {
    u32 a[4], b[2];
};
// The products of the first `n_k` columns of a fragment, 16 or 32.
static inline void zh_mma_s8(int (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, unsigned n_k) {
    ZhBytes mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const unsigned char *all = zh::exchange(&mine, sizeof mine);
    unsigned g = zh::current->lane / 4, t = zh::current->lane % 4;
    for (unsigned i = 0; i < 4; i++)
        for (unsigned k = 0; k < n_k; k++) {
            unsigned lane = k % 16 / 4, column = 2 * t + i % 2;
            ZhBytes row = zh::lane_value<ZhBytes>(all, 4 * g + lane), col = zh::lane_value<ZhBytes>(all, 4 * column + lane);
            c[i] += (int)(i8)(row.a[i / 2 + k / 16 * 2] >> 8 * (k % 4)) * (int)(i8)(col.b[k / 16] >> 8 * (k % 4));
        }
}
#elif __CUDA_ARCH__ < 800
DEVICE void mma_s8_8x8x16(int &c0, int &c1, u32 a, u32 b) {
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
                 : "+r"(c0), "+r"(c1)
                 : "r"(a), "r"(b));
}
#endif

// c += a b: a 16x32 and b 32x8 of signed bytes, c 16x8 of i32. With g = lane / 4 and t = lane % 4:
// a[0] row g, columns 4t .. 4t+4; a[1] row g+8; a[2], a[3] the same rows, columns 16+4t ..; b0 rows 4t .. of column g;
// b1 rows 16+4t ..; c as for mma_f16.
DEVICE void mma_s8(int (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#ifdef ZINC_HOST
    zh_mma_s8(c, a, b0, b1, 32);
#elif __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    mma_s8_8x8x16(c[0], c[1], a[0], b0), mma_s8_8x8x16(c[2], c[3], a[1], b0);
    mma_s8_8x8x16(c[0], c[1], a[2], b1), mma_s8_8x8x16(c[2], c[3], a[3], b1);
#endif
}

// The same for 16 columns of a: a0, a1 and b as a[0], a[1] and b0 there.
DEVICE void mma_s8_half(int (&c)[4], u32 a0, u32 a1, u32 b) {
#ifdef ZINC_HOST
    u32 a[4] = {a0, a1, 0, 0};
    zh_mma_s8(c, a, b, 0, 16);
#elif __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a0), "r"(a1), "r"(b));
#else
    mma_s8_8x8x16(c[0], c[1], a0, b), mma_s8_8x8x16(c[2], c[3], a1, b);
#endif
}

// Two f32 to a register of two f16, the first in the low half.
DEVICE u32 pack_f16_fast(float low, float high) {
#ifdef ZINC_HOST
    return pack_f16(low, high);
#elif __CUDA_ARCH__ >= 800
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return pack_f16(low, high);
#endif
}
