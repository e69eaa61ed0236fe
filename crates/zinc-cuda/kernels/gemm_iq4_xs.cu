// Products of many rows with IQ4_XS weights on a Hopper card: see gemm.cuh.
#include "gemm.cuh"

GEMM(IQ4_XS, iq4_xs)
