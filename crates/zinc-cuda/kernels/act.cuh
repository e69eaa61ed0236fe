// The gated activations: act(gate) * up as zinc-plan's Activation defines them.
#pragma once
#include "zinc.cuh"

DEVICE float act_silu(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

// x / 2 * (1 + tanh(u)) is x * sigmoid(2 u).
DEVICE float act_gelu_tanh(float gate, float up) {
    float u = 0.7978845608028654f * (gate + 0.044715f * gate * gate * gate);
    return gate / (1.0f + expf(-2.0f * u)) * up;
}

DEVICE float act_swiglu_oai(float gate, float up) {
    gate = fminf(gate, 7.0f);
    up = fminf(fmaxf(up, -7.0f), 7.0f);
    return gate / (1.0f + expf(-1.702f * gate)) * (up + 1.0f);
}

// By number, as `lower::linear::activation` gives them.
DEVICE float gated(u32 act, float gate, float up) {
    if (act == 0) return act_silu(gate, up);
    return act == 1 ? act_gelu_tanh(gate, up) : act_swiglu_oai(gate, up);
}
