// Products of many rows with IQ4_NL weights on a Hopper card: see gemm.cuh.
#include "gemm.cuh"

GEMM(IQ4_NL, iq4_nl)
