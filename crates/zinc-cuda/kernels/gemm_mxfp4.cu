// Products of many rows with MXFP4 weights on a Hopper card: see gemm.cuh.
#include "gemm.cuh"

GEMM(MXFP4, mxfp4)
