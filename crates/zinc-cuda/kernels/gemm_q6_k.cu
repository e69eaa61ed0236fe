// Products of many rows with Q6_K weights on a Hopper card: see gemm.cuh.
#include "gemm.cuh"

GEMM(Q6_K, q6_k)
