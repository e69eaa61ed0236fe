// A ring of a warp's own in shared memory, through which pieces of memory come in order, STAGES of them under way.
//
// Bulk copies where the card has them (sm_90): one lane issues a whole part of a piece, and a barrier in shared memory
// counts its bytes. Older cards copy 16 bytes a lane. On the host both are tried.
#pragma once
#include "bulk.cuh"
#include "ptx.cuh"

#define STAGES 2

// One part of each piece, the lane's own; lanes from n_parts on have none.
struct Part {
    const u8 *from; // next
    u32 to;         // in a stage, bytes
    u32 n_bytes;    // of a full piece
};

struct Ring {
    // Bytes from the start of the dynamic shared memory: the stage that is next, the first one, behind the last one.
    u32 at, first, end, stage_bytes;
    u32 base, barrier; // addresses of the dynamic shared memory and of the stage's barrier
    u32 n_parts, parity;

    // All lanes; `shared` is the dynamic shared memory.
    __device__ __forceinline__ void init(u8 *shared, u32 start, u32 n_bytes, u32 barriers_at, u32 parts) {
        at = first = start, stage_bytes = n_bytes, end = start + STAGES * n_bytes, n_parts = parts;
        // The first time round is that of the copies.
        parity = 1;
        base = shared_address(shared), barrier = base + barriers_at;
        keep(base), keep(first), keep(end), keep(stage_bytes), keep(n_parts);
        if (has_bulk_copies() && threadIdx.x % 32 == 0) {
#pragma unroll
            for (u32 i = 0; i < STAGES; i++) barrier_init(barrier + 8 * i, parts);
            barriers_ready();
        }
        __syncwarp();
    }

    // Starts copying `n_bytes` of the lane's part to the stage, which nobody reads any more; all lanes.
    __device__ __forceinline__ void copy(u8 *shared, const Part &part, u32 n_bytes) const {
        u32 to = at + part.to;
        if (has_bulk_copies()) {
            if (threadIdx.x % 32 < n_parts) {
                barrier_expect(barrier, n_bytes);
                bulk_copy(base + to, part.from, n_bytes, barrier);
            }
            return;
        }
        for (u32 i = 0; i < n_parts; i++) {
            const u8 *from = (const u8 *)__shfl_sync(FULL_WARP, (u64)part.from, i);
            u8 *start = shared + __shfl_sync(FULL_WARP, to, i);
            u32 stop = __shfl_sync(FULL_WARP, n_bytes, i);
            for (u32 byte = threadIdx.x % 32 * 16; byte < stop; byte += 512) copy_async_16(start + byte, from + byte);
        }
    }

    // After each copy, and instead of one where none is left.
    __device__ __forceinline__ void commit() const {
        if (!has_bulk_copies()) copy_async_commit();
    }

    // Waits for the piece in the stage; all lanes.
    __device__ __forceinline__ void wait() const {
        if (has_bulk_copies()) barrier_wait(barrier, parity);
        else copy_async_wait<STAGES - 1>();
        __syncwarp();
    }

    // To the next stage. In order: a copy for each stage and a step; then, as often as there are pieces, wait, read,
    // __syncwarp(), copy, step.
    __device__ __forceinline__ void step() {
        at += stage_bytes, barrier += 8;
        if (at == end) at = first, barrier -= 8 * STAGES, parity ^= 1;
    }
};
