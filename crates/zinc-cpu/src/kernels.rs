//! The kernels: plain functions on slices, generic over [`crate::simd::Simd`].

pub(crate) mod act;
pub(crate) mod attention;
pub(crate) mod elementwise;
pub(crate) mod matmul;
pub(crate) mod panel;
pub(crate) mod tile;

#[cfg(test)]
pub(crate) mod tests;
