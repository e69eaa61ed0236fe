// The last of several blocks to come does what needs the results of all: no block waits for another one.
#pragma once
#include "zinc.cuh"

// The next number of a counter that comes round to zero behind `last`. What the block did before its last barrier is seen
// by the blocks that get later numbers, behind their next one: one thread's order is cheaper than a fence of all.
DEVICE u32 next_number(u32 *counter, u32 last) {
#ifdef ZINC_HOST
    return atomicInc(counter, last);
#else
    u32 number;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(number) : "l"(counter), "r"(last) : "memory");
    return number;
#endif
}

// Whether this block is the last of `others` + 1; for all of its threads. Results are read with __ldcg then. `flag` is in
// shared memory.
DEVICE bool is_last_block(u32 *counter, u32 others, u32 *flag) {
    __syncthreads();
    if (threadIdx.x == 0) *flag = next_number(counter, others) == others;
    __syncthreads();
    return *flag != 0;
}
