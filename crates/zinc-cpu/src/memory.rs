//! Raw memory: the arena, the states, and typed views of rows that workers share.
//!
//! The plan proves that nodes between two barriers do not write what another one reads or writes, and the tasks of one
//! node write disjoint rows or columns. The compiler cannot see this, so the views here are unsafe to read and write;
//! their ranges are checked, always.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::MutexGuard;

/// Alignment of every buffer: a cache line.
const ALIGN: usize = 64;

/// Zeroed, aligned bytes that several threads write at disjoint places.
pub(crate) struct Buffer {
    /// What the allocator gave; `start` is the first cache line in it.
    allocation: NonNull<u8>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory is owned and has no thread affinity; all access goes through `Rows`, whose users promise the
// absence of data races.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `None` when there is not that much memory. The system hands out zero pages, touched on first use: only with
    /// an alignment that `calloc` gives by itself, above which the standard library writes the zeros. A cache for
    /// a long context would then cost seconds at start-up and all its memory at once.
    pub(crate) fn new(len: usize) -> Option<Buffer> {
        let len = len.max(ALIGN);
        let layout = Buffer::layout(len)?;
        // SAFETY: the size is not zero.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let skip = allocation.as_ptr().align_offset(ALIGN);
        // SAFETY: `skip` is below ALIGN, and the allocation is ALIGN bytes longer than `len`.
        let start = unsafe { allocation.add(skip) };
        Some(Buffer { allocation, start, len })
    }

    /// A copy of these values; `None` when there is not that much memory.
    pub(crate) fn copy_of<T: Plain>(values: &[T]) -> Option<Buffer> {
        let n_bytes = size_of_val(values);
        let buffer = Buffer::new(n_bytes)?;
        // SAFETY: the buffer is alive and nobody else knows it.
        unsafe { buffer.rows(0, 1, n_bytes, n_bytes).row_mut::<T>(0) }.copy_from_slice(values);
        Some(buffer)
    }

    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len.checked_add(ALIGN)?, 16).ok()
    }

    /// Rows of `row_bytes` bytes, `stride` apart, from byte `offset` on. Panics when the last row ends outside.
    pub(crate) fn rows(
        &self,
        offset: usize,
        n_rows: usize,
        stride: usize,
        row_bytes: usize,
    ) -> Rows {
        let len = if n_rows == 0 { 0 } else { (n_rows - 1) * stride + row_bytes };
        assert!(offset + len <= self.len, "rows lie inside the buffer");
        // SAFETY: just checked.
        let start = unsafe { self.start.as_ptr().add(offset) };
        Rows { start, len, stride, row_bytes }
    }
}

/// Bytes of a state, outside steps. Steps that use states hold the mutex of their store, so whoever holds its guard is
/// alone with them.
pub(crate) struct Quiet<'a> {
    _turn: &'a MutexGuard<'a, ()>,
    rows: Rows,
}

impl Quiet<'_> {
    /// The bytes `range` of a buffer that only steps under `turn`'s mutex touch.
    pub(crate) fn new<'a>(
        turn: &'a MutexGuard<'a, ()>,
        buffer: &'a Buffer,
        range: Range<usize>,
    ) -> Quiet<'a> {
        let n_bytes = range.len();
        Quiet { _turn: turn, rows: buffer.rows(range.start, 1, n_bytes, n_bytes) }
    }

    /// To look at.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the buffer outlives `self`, and nobody writes it while the guard is held.
        unsafe { self.rows.row::<u8>(0) }
    }

    /// To change.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; views of one state are made one after another, see `store.rs`.
        unsafe { self.rows.row_mut::<u8>(0) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(layout) = Buffer::layout(self.len) {
            // SAFETY: allocated with this layout in `new`.
            unsafe { dealloc(self.allocation.as_ptr(), layout) }
        }
    }
}

/// Bytes copied to aligned memory, never written again.
pub(crate) struct AlignedBytes {
    buffer: Buffer,
    len: usize,
}

impl AlignedBytes {
    /// `None` when there is not that much memory.
    pub(crate) fn copy_of(bytes: &[u8]) -> Option<AlignedBytes> {
        Some(AlignedBytes { buffer: Buffer::copy_of(bytes)?, len: bytes.len() })
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the buffer lives as long as `self` and is never written.
        unsafe { self.buffer.rows(0, 1, self.len, self.len).row::<u8>(0) }
    }
}

/// Types that any properly aligned bytes are a value of.
///
/// # Safety
/// No padding, no invalid bit patterns.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: plain numbers.
unsafe impl Plain for u8 {}
// SAFETY: plain numbers.
unsafe impl Plain for u16 {}
// SAFETY: plain numbers.
unsafe impl Plain for i32 {}
// SAFETY: plain numbers.
unsafe impl Plain for f32 {}
// SAFETY: pairs of plain numbers.
unsafe impl Plain for [f32; 2] {}
// SAFETY: plain numbers.
unsafe impl Plain for [f32; 16] {}
// SAFETY: `repr(C)`, three i32.
unsafe impl Plain for crate::kernels::experts::Chunk {}
// SAFETY: `repr(C)`, 36 bytes of numbers without padding.
unsafe impl Plain for crate::kernels::act::ActBlock {}
// SAFETY: `repr(C)`, 292 bytes of numbers without padding.
unsafe impl Plain for crate::kernels::act::ActSuper {}

/// A view of rows in a [`Buffer`] or in borrowed bytes, without their lifetime.
///
/// Whoever makes one keeps the memory alive; whoever reads or writes promises that no other thread writes (or, for
/// writing, touches) the same bytes at the same time.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    start: *mut u8,
    len: usize,
    /// Bytes from row to row.
    pub stride: usize,
    /// Bytes of one row.
    pub row_bytes: usize,
}

// SAFETY: a `Rows` is an address; the promises above are made at each access.
unsafe impl Send for Rows {}
// SAFETY: as above.
unsafe impl Sync for Rows {}

impl Rows {
    /// Contiguous rows of bytes that are only read.
    pub(crate) fn of_bytes(bytes: &[u8], row_bytes: usize) -> Rows {
        Rows { start: bytes.as_ptr().cast_mut(), len: bytes.len(), stride: row_bytes, row_bytes }
    }

    /// One row per `cols` values of `values`, only read.
    pub(crate) fn of_f32(values: &[f32], cols: usize) -> Rows {
        let row_bytes = cols * size_of::<f32>();
        Rows {
            start: values.as_ptr().cast_mut().cast(),
            len: size_of_val(values),
            stride: row_bytes,
            row_bytes,
        }
    }

    #[inline(always)]
    fn check<T: Plain>(&self, bytes: &Range<usize>) -> *mut T {
        assert!(bytes.start <= bytes.end && bytes.end <= self.len, "access inside the rows");
        // SAFETY: just checked.
        let at = unsafe { self.start.add(bytes.start) }.cast::<T>();
        assert!(at.is_aligned(), "rows are aligned to their elements");
        at
    }

    /// The elements of one row.
    ///
    /// # Safety
    /// The memory lives as long as `'a`, and nobody writes the row meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn row<'a, T: Plain>(&self, row: usize) -> &'a [T] {
        let bytes = row * self.stride..row * self.stride + self.row_bytes;
        let at = self.check::<T>(&bytes);
        // SAFETY: `check` covers range and alignment, the caller the rest.
        unsafe { std::slice::from_raw_parts(at, self.row_bytes / size_of::<T>()) }
    }

    /// All elements from the first row to the end of row `n_rows - 1`, gaps between rows included.
    ///
    /// # Safety
    /// As [`Rows::row`], for all rows and the gaps.
    #[inline(always)]
    pub(crate) unsafe fn span<'a, T: Plain>(&self, n_rows: usize) -> &'a [T] {
        let bytes = 0..if n_rows == 0 { 0 } else { (n_rows - 1) * self.stride + self.row_bytes };
        let at = self.check::<T>(&bytes);
        // SAFETY: `check` covers range and alignment, the caller the rest.
        unsafe { std::slice::from_raw_parts(at, bytes.end / size_of::<T>()) }
    }

    /// All elements.
    ///
    /// # Safety
    /// As [`Rows::row`], for all rows and the gaps.
    pub(crate) unsafe fn all<'a, T: Plain>(&self) -> &'a [T] {
        let at = self.check::<T>(&(0..self.len));
        // SAFETY: `check` covers range and alignment, the caller the rest.
        unsafe { std::slice::from_raw_parts(at, self.len / size_of::<T>()) }
    }

    /// Elements `cols` of one row.
    ///
    /// # Safety
    /// As [`Rows::row`], for these elements.
    #[inline(always)]
    pub(crate) unsafe fn cols<'a, T: Plain>(&self, row: usize, cols: Range<usize>) -> &'a [T] {
        let at = self.check_cols::<T>(row, &cols);
        // SAFETY: `check_cols` covers range and alignment, the caller the rest.
        unsafe { std::slice::from_raw_parts(at, cols.len()) }
    }

    #[inline(always)]
    fn check_cols<T: Plain>(&self, row: usize, cols: &Range<usize>) -> *mut T {
        assert!(cols.end * size_of::<T>() <= self.row_bytes, "columns inside the row");
        let start = row * self.stride;
        self.check(&(start + cols.start * size_of::<T>()..start + cols.end * size_of::<T>()))
    }

    /// Elements `cols` of one row, for writing.
    ///
    /// # Safety
    /// The memory lives as long as `'a`, may be written, and nobody else touches these elements meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn cols_mut<'a, T: Plain>(
        &self,
        row: usize,
        cols: Range<usize>,
    ) -> &'a mut [T] {
        let at = self.check_cols::<T>(row, &cols);
        // SAFETY: `check_cols` covers range and alignment, the caller the rest.
        unsafe { std::slice::from_raw_parts_mut(at, cols.len()) }
    }

    /// One row, for writing.
    ///
    /// # Safety
    /// As [`Rows::cols_mut`].
    #[inline(always)]
    pub(crate) unsafe fn row_mut<'a, T: Plain>(&self, row: usize) -> &'a mut [T] {
        // SAFETY: forwarded.
        unsafe { self.cols_mut(row, 0..self.row_bytes / size_of::<T>()) }
    }
}
