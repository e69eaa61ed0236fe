// States in slots, as zinc-plan's delta_net says.
//
// The rows of a sequence are neighbours and sequences follow each other in order, so a block finds its sequence's
// rows by counting. A sequence goes on from slot from[s], or from zeros when its first row has position 0; the
// state after its last row goes to slots[s], the state after row t also to saves[t] unless that is -1. All reads of
// a state come before its writes: both are done by the same thread. Nothing else in a step writes that state, and
// the step's inputs are uploaded before its first launch; so both are read before the launches before are waited for.
#pragma once
#include "zinc.cuh"

struct Recurrence {
    const int *positions, *seq_of, *from, *slots, *saves;
    float *state;
    // Rows of the step and sequences.
    Count rows, seqs;
};

// Rows of sequence `seq`: first one and how many. The same in all lanes.
DEVICE int2 rows_of(const Recurrence &r, int seq) {
    int n = r.rows.get(), lane = threadIdx.x % 32, before = 0, mine = 0;
    if (r.seqs.get() == 1) return make_int2(0, seq == 0 ? n : 0);
#pragma unroll 4
    for (int i = lane; i < n; i += 32) {
        int of = r.seq_of[i];
        before += of < seq;
        mine += of == seq;
    }
#pragma unroll
    for (int bit = 16; bit > 0; bit /= 2) {
        before += __shfl_xor_sync(FULL_WARP, before, bit);
        mine += __shfl_xor_sync(FULL_WARP, mine, bit);
    }
    return make_int2(before, mine);
}

// Operands of GatedDeltaNet.
struct DeltaParams {
    Rows q, k, v, g, beta, y;
    // [slots][n_v_heads][k_dim][v_dim].
    Recurrence r;
    u32 n_k_heads, n_v_heads, k_dim, v_dim, is_tiled;
    float scale;

    // The key head that goes with a value head.
    __device__ __forceinline__ int key_head(int head) const {
        return is_tiled ? head % (int)n_k_heads : head / (int)(n_v_heads / n_k_heads);
    }
};
