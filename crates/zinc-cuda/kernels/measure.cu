// What measures the card itself: how fast its memory is read, and a wait that lets launches queue up.
//
// read_words: n words of 16 bytes, each read once. Launch: any grid, 256 threads; a thread has four loads in flight.
// Bytes moved: 16 n. Bound by memory, and by nothing else: its rate is what other kernels are compared with.
// hold: runs for so many nanoseconds. Launch: one block of 32 threads. Moves nothing.
#include "system.cuh"

struct ReadParams {
    const uint4 *data;
    u32 *sink;
    u64 n;
};
struct HoldParams {
    // As large as the host runner wants parameters.
    u64 nanoseconds, unused[2];
};

// What no sum of a measured buffer is: the loads count because any of them may make it.
#define NEVER 0x9e3779b9u

DEVICE u32 folded(uint4 word) { return word.x ^ word.y ^ word.z ^ word.w; }

ZINC_KERNEL(256, 1) read_words(ZINC_PARAM ReadParams p) {
    pdl_launch();
    pdl_wait();
    u64 step = (u64)gridDim.x * blockDim.x, i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    u32 sum = 0;
    for (; i + 3 * step < p.n; i += 4 * step) {
        uint4 a = p.data[i], b = p.data[i + step], c = p.data[i + 2 * step], d = p.data[i + 3 * step];
        sum ^= folded(a) ^ folded(b) ^ folded(c) ^ folded(d);
    }
    for (; i < p.n; i += step) sum ^= folded(p.data[i]);
    if (sum == NEVER) *p.sink = sum;
}

// Without pdl_launch: what follows is to begin when this ends.
ZINC_KERNEL(32, 1) hold(ZINC_PARAM HoldParams p) {
    pdl_wait();
    u64 begin = nanoseconds_now();
    while (nanoseconds_now() - begin < p.nanoseconds) {
    }
}
