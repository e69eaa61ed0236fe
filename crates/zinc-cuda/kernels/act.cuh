// The gated activations: act(gate) * up as zinc-plan's Activation defines them.
#pragma once
#include "zinc.cuh"

// silu: x * sigmoid(x); gelu_tanh: x / 2 * (1 + tanh(u)), which is x * sigmoid(2 u); swiglu_oai: clamped, x *
// sigmoid(1.702 x) and up + 1. By number, as `lower::linear::activation` gives them. One division and one exponential
// for all, so that a kernel holds them once.
DEVICE float gated(u32 act, float gate, float up) {
    if (act == 2) {
        gate = fminf(gate, 7.0f);
        up = fminf(fmaxf(up, -7.0f), 7.0f) + 1.0f;
    }
    float slope = act == 2 ? 1.702f * gate : gate;
    if (act == 1) slope = 2.0f * (0.7978845608028654f * (gate + 0.044715f * gate * gate * gate));
    return gate / (1.0f + expf(-slope)) * up;
}

DEVICE float act_silu(float gate, float up) { return gated(0, gate, up); }
DEVICE float act_gelu_tanh(float gate, float up) { return gated(1, gate, up); }
DEVICE float act_swiglu_oai(float gate, float up) { return gated(2, gate, up); }
