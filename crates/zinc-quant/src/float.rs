//! Plain floating point tensors: one element per block.

use half::{bf16, f16};

use crate::fp8::{e4m3_from_f32, e4m3_to_f32};

pub(crate) fn from_f32_bytes(bytes: &[u8], out: &mut [f32]) {
    for (value, raw) in out.iter_mut().zip(bytes.as_chunks().0) {
        *value = f32::from_le_bytes(*raw);
    }
}

/// Rounds to nearest; GGUF allows f64 tensors, no known model has one.
pub(crate) fn from_f64_bytes(bytes: &[u8], out: &mut [f32]) {
    for (value, raw) in out.iter_mut().zip(bytes.as_chunks().0) {
        *value = f64::from_le_bytes(*raw) as f32;
    }
}

pub(crate) fn from_f16_bytes(bytes: &[u8], out: &mut [f32]) {
    for (value, raw) in out.iter_mut().zip(bytes.as_chunks().0) {
        *value = f16::from_le_bytes(*raw).to_f32();
    }
}

pub(crate) fn from_bf16_bytes(bytes: &[u8], out: &mut [f32]) {
    for (value, raw) in out.iter_mut().zip(bytes.as_chunks().0) {
        *value = f32::from_bits(u32::from(u16::from_le_bytes(*raw)) << 16);
    }
}

pub(crate) fn from_e4m3_bytes(bytes: &[u8], out: &mut [f32]) {
    for (value, code) in out.iter_mut().zip(bytes) {
        *value = e4m3_to_f32(*code);
    }
}

pub(crate) fn to_f32_bytes(src: &[f32], out: &mut [u8]) {
    for (value, raw) in src.iter().zip(out.as_chunks_mut().0) {
        *raw = value.to_le_bytes();
    }
}

/// Rounds to nearest, ties to even.
pub(crate) fn to_f16_bytes(src: &[f32], out: &mut [u8]) {
    for (value, raw) in src.iter().zip(out.as_chunks_mut().0) {
        *raw = f16::from_f32(*value).to_le_bytes();
    }
}

/// Rounds to nearest, ties to even.
pub(crate) fn to_bf16_bytes(src: &[f32], out: &mut [u8]) {
    for (value, raw) in src.iter().zip(out.as_chunks_mut().0) {
        *raw = bf16::from_f32(*value).to_le_bytes();
    }
}

/// Rounds to nearest, ties to even; saturates.
pub(crate) fn to_e4m3_bytes(src: &[f32], out: &mut [u8]) {
    for (value, code) in src.iter().zip(out) {
        *code = e4m3_from_f32(*value);
    }
}
