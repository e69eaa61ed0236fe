// Products of many rows with Q4_K weights on a Hopper card: see gemm.cuh.
#include "gemm.cuh"

GEMM(Q4_K, q4_k)
