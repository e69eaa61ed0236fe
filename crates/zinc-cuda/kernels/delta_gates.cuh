// Decay and step size of gated DeltaNet's heads.
#pragma once
#include "zinc.cuh"

// Rows of a number for each head; a_log and dt_bias have one row.
struct Gates {
    Rows a, b, g, beta;
    const float *a_log, *dt_bias;

    // g = a_log * softplus(a + dt_bias).
    __device__ __forceinline__ float log_decay(int row, int head) const {
        float x = a.row(row)[head] + dt_bias[head];
        // ln(1 + e^x) without overflow.
        return a_log[head] * (fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))));
    }

    // beta = sigmoid(b).
    __device__ __forceinline__ float step_size(int row, int head) const { return sigmoid(b.row(row)[head]); }
};
