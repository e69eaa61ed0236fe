// Products of many rows with Q5_K weights on a Hopper card: see gemm.cuh.
#include "gemm.cuh"

GEMM(Q5_K, q5_k)
