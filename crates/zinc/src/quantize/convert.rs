//! One tensor from its old type to its new one: slab by slab, the rows of a slab by all threads.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Mutex;

use zinc_gguf::TensorEntry;
use zinc_quant::{GgmlType, dequantize, quantize_weights};

use super::importance::n_matrices;
use crate::report;

/// Values of a slab, as f32: what bounds the memory, whatever the size of the tensor.
const SLAB_VALUES: usize = 16 << 20;

/// Values that a thread takes at once.
const PIECE_VALUES: usize = 64 << 10;

/// A tensor to convert.
pub struct Job<'a> {
    /// Name, shape and old type.
    pub tensor: &'a TensorEntry,
    /// Its bytes.
    pub data: &'a [u8],
    /// The new type.
    pub ty: GgmlType,
    /// Mean squared activation of each column, matrix after matrix.
    pub importance: Option<&'a [f32]>,
    /// Threads to use.
    pub n_threads: NonZeroUsize,
}

impl Job<'_> {
    /// Gives the new bytes to `write`, slab after slab in order, with the number of old ones they came from so
    /// far, until it breaks off.
    ///
    /// # Errors
    /// A value that is not finite, or those of `write`.
    pub fn run(
        &self,
        mut write: impl FnMut(&[u8], u64) -> anyhow::Result<ControlFlow<()>>,
    ) -> anyhow::Result<ControlFlow<()>> {
        let row_len = self.tensor.dims[0] as usize;
        let (Some(old_bytes), Some(new_bytes)) =
            (self.tensor.ty.row_bytes(row_len), self.ty.row_bytes(row_len))
        else {
            anyhow::bail!("{}: rows of {row_len} do not fill blocks", self.tensor.name);
        };
        let slab_rows = (SLAB_VALUES / row_len).max(1);
        let mut out = Vec::new();
        let mut n_read = 0;
        for (slab_idx, slab) in self.data.chunks(slab_rows * old_bytes).enumerate() {
            out.resize(slab.len() / old_bytes * new_bytes, 0);
            self.slab(slab, slab_idx * slab_rows, [old_bytes, new_bytes], &mut out)?;
            n_read += slab.len() as u64;
            if write(&out, n_read)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Converts the rows of `slab`, of which the first is row `first_row` of the tensor.
    fn slab(
        &self,
        slab: &[u8],
        first_row: usize,
        [old_bytes, new_bytes]: [usize; 2],
        out: &mut [u8],
    ) -> anyhow::Result<()> {
        let row_len = self.tensor.dims[0] as usize;
        let piece_rows = (PIECE_VALUES / row_len).max(1);
        let pieces =
            slab.chunks(piece_rows * old_bytes).zip(out.chunks_mut(piece_rows * new_bytes));
        let pieces = Mutex::new(pieces.enumerate());
        let broken: Mutex<Option<(usize, anyhow::Error)>> = Mutex::new(None);
        let work = || {
            let mut values = vec![0.0; row_len];
            loop {
                // A thread that panicked ends the program at the end of the scope.
                let piece = pieces.lock().ok().and_then(|mut pieces| pieces.next());
                let Some((piece_idx, (old, new))) = piece else {
                    return;
                };
                let rows = old.chunks(old_bytes).zip(new.chunks_mut(new_bytes));
                for (i, (old, new)) in rows.enumerate() {
                    let row = first_row + piece_idx * piece_rows + i;
                    if let Err(error) = self.row(row, old, &mut values, new) {
                        // Pieces are taken in order, so the first broken row is always found.
                        if let Ok(mut broken) = broken.lock() {
                            match &*broken {
                                Some((earlier, _)) if *earlier < row => (),
                                _ => *broken = Some((row, error)),
                            }
                        }
                        return;
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.n_threads.get() {
                scope.spawn(work);
            }
            work();
        });
        match broken.into_inner() {
            Ok(Some((_, error))) => Err(error),
            _ => Ok(()),
        }
    }

    fn row(
        &self,
        row: usize,
        old: &[u8],
        values: &mut [f32],
        new: &mut [u8],
    ) -> anyhow::Result<()> {
        dequantize(self.tensor.ty, old, values)?;
        if let Some(col) = values.iter().position(|value| !value.is_finite()) {
            let what = format!(
                "tensor {:?} has {} in row {row}, column {col}",
                self.tensor.name, values[col]
            );
            return Err(report::with_hint(what, "the file is damaged or its conversion failed"));
        }
        if let Some(value) =
            values.iter().find(|value| self.ty == GgmlType::F16 && value.abs() >= 65520.0)
        {
            let what = format!(
                "tensor {:?} has {value} in row {row}, more than f16 can hold",
                self.tensor.name
            );
            return Err(report::with_hint(what, "use bf16 for this tensor"));
        }
        let rows_per_matrix = self.rows() / n_matrices(self.tensor);
        let importance =
            self.importance.map(|all| &all[row / rows_per_matrix * values.len()..][..values.len()]);
        quantize_weights(self.ty, values, importance, new)?;
        Ok(())
    }

    fn rows(&self) -> usize {
        self.tensor.dims[1..].iter().product::<u64>() as usize
    }
}
