//! The kernels: plain functions on slices, generic over [`crate::simd::Simd`].

pub(crate) mod act;
pub(crate) mod attention;
pub(crate) mod cache;
pub(crate) mod conv;
pub(crate) mod delta_net;
pub(crate) mod direct;
pub(crate) mod elementwise;
pub(crate) mod experts;
pub(crate) mod format;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod panel;
// Loops there index several arrays of registers at once.
#[allow(clippy::needless_range_loop)]
pub(crate) mod tile;
pub(crate) mod top_k;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests;

/// Some columns of rows that lie `stride` elements apart.
#[derive(Clone, Copy)]
pub(crate) struct Cols<'a> {
    pub data: &'a [f32],
    pub stride: usize,
    pub first: usize,
    pub len: usize,
}

impl<'a> Cols<'a> {
    #[inline(always)]
    fn row(&self, row: usize) -> &'a [f32] {
        &self.data[row * self.stride + self.first..][..self.len]
    }
}
