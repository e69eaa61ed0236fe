// Products of many rows with Q5_1 weights on a Hopper card: see gemm.cuh.
#include "gemm.cuh"

GEMM(Q5_1, q5_1)
