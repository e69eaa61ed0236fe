//! The kernels: plain functions on slices, generic over [`crate::simd::Simd`].

pub(crate) mod act;
pub(crate) mod attention;
pub(crate) mod cache;
pub(crate) mod direct;
pub(crate) mod elementwise;
pub(crate) mod format;
pub(crate) mod matmul;
pub(crate) mod panel;
// Loops there index several arrays of registers at once.
#[allow(clippy::needless_range_loop)]
pub(crate) mod tile;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests;
