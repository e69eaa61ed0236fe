// The rotation of a pair, for all kernels that turn queries and keys: the same bits everywhere.
#pragma once
#include "zinc.cuh"

struct Turn {
    float sine, cosine;
};

// The angle is rounded to f32, as the definition says; the factor on cos and sin is the table row's last column.
DEVICE Turn turn_of(int position, const float *table_row, int pair, int half) {
    Turn turn;
    sincosf(__fmul_rn((float)position, table_row[pair]), &turn.sine, &turn.cosine);
    turn.sine *= table_row[half];
    turn.cosine *= table_row[half];
    return turn;
}

DEVICE float2 turned(float a, float b, Turn turn) {
    return make_float2(fmaf(a, turn.cosine, -__fmul_rn(b, turn.sine)), fmaf(a, turn.sine, __fmul_rn(b, turn.cosine)));
}
