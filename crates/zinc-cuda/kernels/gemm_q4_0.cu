// Products of many rows with Q4_0 weights on a Hopper card: see gemm.cuh.
#include "gemm.cuh"

GEMM(Q4_0, q4_0)
