// Barriers in shared memory that count bytes, and bulk copies that they count: sm_90 and later. Before, nothing here may
// be called, but it compiles.
#pragma once
#include "zinc.cuh"

// Whether this card has them.
DEVICE bool has_bulk_copies() {
#ifdef ZINC_HOST
    return zh::has_bulk_copies();
#elif __CUDA_ARCH__ >= 900
    return true;
#else
    return false;
#endif
}

#ifdef ZINC_HOST
DEVICE u32 shared_address(const void *at) { return (u32)((const u8 *)at - zh::dynamic_shared()); }
DEVICE void barrier_init(u32 at, u32 n) { zh::barrier_init(at, n); }
DEVICE void barriers_ready() {}
DEVICE void barrier_arrive(u32 at) { zh::barrier_arrive(at, 0); }
DEVICE void barrier_expect(u32 at, u32 n_bytes) { zh::barrier_arrive(at, n_bytes); }
DEVICE void barrier_wait(u32 at, u32 parity) { zh::barrier_wait(at, parity); }
DEVICE void bulk_copy(u32 to, const void *from, u32 n_bytes, u32 barrier) { zh::bulk_copy(to, from, n_bytes, barrier); }
#else
DEVICE u32 shared_address(const void *at) { return (u32)__cvta_generic_to_shared(at); }

#if __CUDA_ARCH__ >= 900
// A barrier of `n` arrivals in shared memory. barriers_ready after the last one, then a barrier of the block.
DEVICE void barrier_init(u32 at, u32 n) { asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(at), "r"(n)); }
DEVICE void barriers_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void barrier_arrive(u32 at) { asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(at) : "memory"); }

// Arrives, and makes the phase wait for so many bytes of bulk copies as well.
DEVICE void barrier_expect(u32 at, u32 n_bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(at), "r"(n_bytes) : "memory");
}

DEVICE void barrier_wait(u32 at, u32 parity) {
    asm volatile("{\n.reg .pred done;\nagain_%=:\nmbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
                 "@!done bra again_%=;\n}" ::"r"(at), "r"(parity)
                 : "memory");
}

// Copies a multiple of 16 bytes to shared memory; the barrier counts them.
DEVICE void bulk_copy(u32 to, const void *from, u32 n_bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(n_bytes), "r"(barrier)
                 : "memory");
}
#else
DEVICE void barrier_init(u32, u32) {}
DEVICE void barriers_ready() {}
DEVICE void barrier_expect(u32, u32) {}
DEVICE void barrier_wait(u32, u32) {}
DEVICE void bulk_copy(u32, const void *, u32, u32) {}
#endif
#endif
