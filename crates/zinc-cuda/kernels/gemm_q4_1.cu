// Products of many rows with Q4_1 weights on a Hopper card: see gemm.cuh.
#include "gemm.cuh"

GEMM(Q4_1, q4_1)
