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
    u32 first, stage_bytes, barriers; // in shared memory
    u32 n_parts;
    u32 stage, parity; // of the piece that is waited for next

    // All lanes; `shared` is the dynamic shared memory.
    __device__ __forceinline__ void init(u8 *shared, u32 at, u32 n_bytes, u32 barriers_at, u32 parts) {
        first = at, stage_bytes = n_bytes, n_parts = parts, stage = 0, parity = 0;
        barriers = shared_address(shared + barriers_at);
        if (has_bulk_copies() && threadIdx.x % 32 == 0) {
#pragma unroll
            for (u32 i = 0; i < STAGES; i++) barrier_init(barriers + 8 * i, parts);
            barriers_ready();
        }
        __syncwarp();
    }

    // Starts copying `n_bytes` of the lane's part to a stage that nobody reads any more; all lanes.
    __device__ __forceinline__ void copy(u8 *shared, u32 to_stage, const Part &part, u32 n_bytes) const {
        u32 to = first + to_stage * stage_bytes + part.to;
        if (has_bulk_copies()) {
            if (threadIdx.x % 32 < n_parts) {
                barrier_expect(barriers + 8 * to_stage, n_bytes);
                bulk_copy(shared_address(shared + to), part.from, n_bytes, barriers + 8 * to_stage);
            }
            return;
        }
        for (u32 i = 0; i < n_parts; i++) {
            const u8 *from = (const u8 *)__shfl_sync(FULL_WARP, (u64)part.from, i);
            u8 *start = shared + __shfl_sync(FULL_WARP, to, i);
            u32 end = __shfl_sync(FULL_WARP, n_bytes, i);
            for (u32 at = threadIdx.x % 32 * 16; at < end; at += 512) copy_async_16(start + at, from + at);
        }
    }

    // After each copy, and instead of one where none is left.
    __device__ __forceinline__ void commit() const {
        if (!has_bulk_copies()) copy_async_commit();
    }

    // Waits for the next piece; where it lies.
    __device__ __forceinline__ u32 wait() {
        if (has_bulk_copies()) barrier_wait(barriers + 8 * stage, parity);
        else copy_async_wait<STAGES - 1>();
        __syncwarp();
        return first + stage * stage_bytes;
    }

    // To the next piece, after the copy into the stage of this one, which all lanes were done with.
    __device__ __forceinline__ void step() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};
