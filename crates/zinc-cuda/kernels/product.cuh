// What kernels share that multiply rows of activations by two weight rows a warp: rows come through a ring (ring.cuh) in
// whole or in pieces, lane l has blocks l, l + 32, ... of both, and the lanes' sums meet in a butterfly.
#pragma once
#include "formats.cuh"
#include "ring.cuh"

// Bytes of the planes of n blocks of a row, and where each begins.
template <class F> struct PlaneOffsets {
    u32 p1, p2, p3, end;

    __device__ __forceinline__ explicit PlaneOffsets(u32 n_blocks) {
        p1 = n_blocks * 16, p2 = p1 + round16(n_blocks * F::HIGH), p3 = p2 + round16(n_blocks * F::SCALE8 / 8);
        end = p3 + (F::SUPER ? round16(n_blocks / 2) : 0);
    }
};

// How the lanes of a warp copy pieces of two rows: a lane has one plane of one row, or all of a row where it comes whole.
template <class F> struct RowCopy {
    Part part;
    u32 second;   // whether the lane's row is the second
    u32 plane_at; // in a row
    u32 eighths;  // of a byte, of a block

    // How many lanes copy.
    static __device__ __forceinline__ u32 n_parts(u32 piece, u32 n_blocks) {
        return piece == n_blocks ? 2 : 2 * (2 + (F::HIGH != 0) + F::SUPER);
    }

    __device__ __forceinline__ void init(u32 piece, u32 n_blocks) {
        constexpr u32 N_PLANES = 2 + (F::HIGH != 0) + F::SUPER;
        const PlaneOffsets<F> of_piece(piece), of_row(n_blocks);
        const u32 lane = threadIdx.x % 32;
        second = piece == n_blocks ? lane : lane / N_PLANES;
        plane_at = 0, part.to = 0, part.n_bytes = of_piece.end, eighths = 128;
        if (piece != n_blocks) {
            part.n_bytes = of_piece.p1;
            u32 plane = lane % N_PLANES;
            if (F::HIGH && plane == 1)
                part.to = of_piece.p1, plane_at = of_row.p1, part.n_bytes = of_piece.p2 - of_piece.p1, eighths = 8 * F::HIGH;
            if (plane == 1 + (F::HIGH != 0))
                part.to = of_piece.p2, plane_at = of_row.p2, part.n_bytes = of_piece.p3 - of_piece.p2, eighths = F::SCALE8;
            if (F::SUPER && plane == 2 + (F::HIGH != 0))
                part.to = of_piece.p3, plane_at = of_row.p3, part.n_bytes = of_piece.end - of_piece.p3, eighths = 4;
        }
        part.to += second * of_piece.end;
    }

    // Copies the next n blocks to the ring's stage.
    __device__ __forceinline__ void copy(const Ring &ring, u8 *shared, u32 n, u32 piece) {
        ring.copy(shared, part, n == piece ? part.n_bytes : round16(n * eighths / 8));
        part.from += part.n_bytes;
    }
};

// Where the activations of N rows lie in shared memory: first and last 16 quants of each block, then scales and sums.
struct Acts {
    u32 row_bytes, x1, xs;
};

// Adds to the lane's sums the products of a piece of two rows at `from`, blocks `start` .. `start + end` of the row.
template <class F, int N>
DEVICE void add_piece(float (&acc)[2][N], const u8 *shared, const u8 *from, const PlaneOffsets<F> &planes, const Acts &acts,
                      u32 start, u32 end) {
    const u32 lane = threadIdx.x % 32;
#pragma unroll(N == 1 ? 2 : 1)
    for (u32 b = lane; b < end; b += 32) {
        Raw32<F> raw[2];
#pragma unroll
        for (int m = 0; m < 2; m++) {
            const u8 *row = from + m * planes.end;
            raw[m].fetch({row, row + planes.p1, row + planes.p2, row + planes.p3}, b);
        }
#pragma unroll
        for (int r = 0; r < N; r++) {
            const u8 *x = shared + r * acts.row_bytes + (start + b) * 16;
            const int4 x0 = *(const int4 *)x, x1 = *(const int4 *)(x + acts.x1);
            Acts32 s = *(const Acts32 *)(shared + acts.xs + (r * acts.row_bytes / 2 + (start + b) * 8));
#pragma unroll
            for (int m = 0; m < 2; m++) acc[m][r] = fmaf(dot32<F>(raw[m], lane & 7, x0, x1, s), s.d, acc[m][r]);
        }
    }
}
