//! zinc-quant
