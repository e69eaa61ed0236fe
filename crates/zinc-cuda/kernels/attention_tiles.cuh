// What attention for tensor cores shares: how keys lie in shared memory and which a row sees.
#pragma once
#include "attention.cuh"
#include "ptx.cuh"

// Below every score; finite, so that differences are.
#define NO_SCORE -1e30f

// Bytes of a row of D f16 numbers in shared memory: eight rows lie in different banks.
#define ROW_BYTES(D) ((D) * 2 + 16)

// Keys that a block takes together.
#define KEYS(D) ((D) > 128 ? 32 : 64)

// In place of a key's place: one that no row sees.
#define NO_KEY 0xffffffffu
