// Products of many rows with Q5_0 weights on a Hopper card: see gemm.cuh.
#include "gemm.cuh"

GEMM(Q5_0, q5_0)
