// Products of many rows with Q8_0 weights on a Hopper card: see gemm.cuh.
#include "gemm.cuh"

GEMM(Q8_0, q8_0)
