// The first launch of a step with few inputs: waits for its turn and brings them from the machine's memory.
//
// A step may be queued before it is known (`src/exec.rs`). Its turn has come when the host has written its inputs to
// the slot of the turn and then the turn's number to `go`. A turn that does not come in time, or one that the host gives
// up by writing a header without rows, is a step without rows. Whether it waited in vain is told in `fate`, one word a slot, so that
// host and card agree: the card says LEAVING, looks at `go` a last time, and says what it does.
//
// Launch: one block of 256 threads, alone: what follows may read inputs before its own wait, so nothing may follow
// early. Bytes moved: the inputs, over the bus. Bound: the bus, there and back for `go` and for the inputs, 2 to 3 us.
#include "system.cuh"

// Of a turn; 0 until it is known.
enum { GOES = 1, LEAVING = 2, LEFT = 3 };

struct StepBeginParams {
    // In the machine's memory: the newest turn that may go on, words of slots, inputs of slots.
    const u32 *go;
    u32 *fate;
    const u8 *from;
    // On the card: turns that there were, and the step's inputs, with their header.
    u32 *turns;
    u8 *to;
    // Most to wait.
    u64 nanoseconds;
    // Bytes of a slot.
    u32 stride, n_slots;
};

// What one thread tells the others.
struct Begun {
    u32 slot, n_bytes;
};

DEVICE bool has_come(const u32 *go, u32 turn) { return (int)(load_from_host(go) - turn) >= 0; }

DEVICE bool wait_for(const StepBeginParams &p, u32 turn) {
    u64 begin = nanoseconds_now();
    while (!has_come(p.go, turn))
        if (nanoseconds_now() - begin > p.nanoseconds) {
            store_to_host(p.fate + turn % p.n_slots, LEAVING);
            return has_come(p.go, turn);
        }
    return true;
}

ZINC_KERNEL(256, 1) step_begin(ZINC_PARAM StepBeginParams p) {
    ZINC_STATIC_SHARED(Begun, begun, 1);
    pdl_wait();
    if (threadIdx.x == 0) {
        u32 turn = *p.turns + 1;
        *p.turns = turn;
        u32 slot = turn % p.n_slots;
        bool goes = wait_for(p, turn);
        // The fourth word of a header.
        u32 n_bytes = goes ? load_anew((const uint4 *)(p.from + (u64)slot * p.stride)).w : 0;
        if (!goes) *(uint4 *)p.to = make_uint4(0, 0, 0, 0);
        *begun = {slot, n_bytes};
    }
    __syncthreads();
    if (threadIdx.x == 0) store_to_host(p.fate + begun->slot, begun->n_bytes > 0 ? GOES : LEFT);
    const uint4 *from = (const uint4 *)(p.from + (u64)begun->slot * p.stride);
    for (u32 i = threadIdx.x; i < begun->n_bytes / 16; i += 256) ((uint4 *)p.to)[i] = load_anew(from + i);
}
