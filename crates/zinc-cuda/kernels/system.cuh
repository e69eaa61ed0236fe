// Memory of the machine as a kernel sees it while the host writes it, and a clock.
#pragma once
#include "zinc.cuh"
#ifdef ZINC_HOST
#include <time.h>
#endif

DEVICE u64 nanoseconds_now() {
#ifdef ZINC_HOST
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (u64)now.tv_sec * 1000000000 + now.tv_nsec;
#else
    u64 now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    return now;
#endif
}

// What the host stored before it stored this word is there for loads after this one.
DEVICE u32 load_from_host(const u32 *at) {
#ifdef ZINC_HOST
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);
#else
    u32 word;
    // Acquire at the scope of the system is sm_70's.
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(word) : "l"(at) : "memory");
    return word;
#endif
}

// Sixteen bytes that the host may have written since they were read last.
DEVICE uint4 load_anew(const uint4 *at) {
#ifdef ZINC_HOST
    return *at;
#else
    return __ldcv(at);
#endif
}

// Visible to the host before any load or store that follows.
DEVICE void store_to_host(u32 *at, u32 word) {
#ifdef ZINC_HOST
    __atomic_store_n(at, word, __ATOMIC_SEQ_CST);
#else
    *(volatile u32 *)at = word;
    __threadfence_system();
#endif
}
