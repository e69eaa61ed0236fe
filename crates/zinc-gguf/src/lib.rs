//! zinc-gguf
