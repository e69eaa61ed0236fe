//! Log-probabilities of a model over a text, saved for comparison with other models.
//!
//! The file begins as the one that `llama-perplexity --kl-divergence-base` writes and reads, so bases
//! can be exchanged. All numbers are little-endian:
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `_logits_` |
//! | 4 | n_ctx: tokens of a chunk |
//! | 4 | n_vocab |
//! | 4 | n_chunks |
//! | 4 n_ctx n_chunks | token ids |
//! | rows | for each chunk the rows of the positions `n_ctx/2 .. n_ctx - 1` |
//! | 8 | `zincnll1`, where the file is ours |
//! | 4 n_rows | f32: minus the log-probability of each row's next token, exactly |
//!
//! A row is f32 `scale`, f32 `min`, then one u16 `code` per token id, and one more that means nothing
//! where n_vocab is odd; log p = min + scale * code. `min` is the least log-probability of the row, but
//! no less than the greatest minus 16; smaller ones are stored as it. That is enough for divergences,
//! which weigh by probability, but not for the perplexity of a model that is sure and wrong: hence
//! the last part, which other programs do not look for. Without it, surprise counts as bounded.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::new_file::NewFile;
use crate::report;
use crate::scores::log_sum_exp;

const MAGIC: &[u8; 8] = b"_logits_";
const NLL_MAGIC: &[u8; 8] = b"zincnll1";
const HEADER_BYTES: u64 = 20;
/// Bytes of `scale` and `min` of a row.
const ROW_HEADER: usize = 8;
/// Range of the stored logarithms.
const LOG_PROB_RANGE: f32 = 16.0;

/// Sizes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Tokens of a chunk.
    pub n_ctx: u32,
    /// Token ids of the model.
    pub n_vocab: u32,
    /// Chunks.
    pub n_chunks: u32,
}

impl Layout {
    /// First position of a chunk whose row is scored: before it, the model has too little context.
    pub fn first_row(n_ctx: usize) -> usize {
        n_ctx / 2
    }

    /// Rows of a chunk; the last token has no successor in it.
    pub fn rows_per_chunk(n_ctx: usize) -> usize {
        n_ctx - 1 - Layout::first_row(n_ctx)
    }

    /// Bytes of a row.
    pub fn row_bytes(self) -> usize {
        ROW_HEADER + 2 * (self.n_vocab as usize).next_multiple_of(2)
    }

    /// Rows of all chunks.
    fn n_rows(self) -> u64 {
        u64::from(self.n_chunks) * Layout::rows_per_chunk(self.n_ctx as usize) as u64
    }

    /// Bytes before the rows.
    fn head_bytes(self) -> u64 {
        HEADER_BYTES + 4 * u64::from(self.n_ctx) * u64::from(self.n_chunks)
    }

    /// Bytes up to the end of the rows, if that is a number at all.
    fn rows_end(self) -> Option<u64> {
        self.n_rows().checked_mul(self.row_bytes() as u64)?.checked_add(self.head_bytes())
    }

    /// Bytes after the rows where the file is ours.
    fn nll_bytes(self) -> u64 {
        NLL_MAGIC.len() as u64 + 4 * self.n_rows()
    }
}

/// Stored log-probabilities of a row.
#[derive(Clone, Copy)]
pub struct SavedRow<'a> {
    scale: f32,
    min: f32,
    codes: &'a [[u8; 2]],
    /// Exact value of the next token, where the file has it.
    nll: Option<f32>,
}

impl<'a> SavedRow<'a> {
    /// Reads a row of `n_vocab` tokens; `None` if its numbers are not finite or the bytes too few.
    pub fn new(bytes: &'a [u8], n_vocab: usize) -> Option<SavedRow<'a>> {
        let (scale, rest) = bytes.split_first_chunk()?;
        let (min, rest) = rest.split_first_chunk()?;
        let (scale, min) = (f32::from_le_bytes(*scale), f32::from_le_bytes(*min));
        let codes = rest.as_chunks().0.get(..n_vocab)?;
        // No probability is larger than 1; the rounding of the greatest may end just above.
        let max = min + scale * f32::from(u16::MAX);
        (scale >= 0.0 && min.is_finite() && max <= 1e-3).then_some(SavedRow {
            scale,
            min,
            codes,
            nll: None,
        })
    }

    /// Log-probability of each token id in turn.
    pub fn log_probs(self) -> impl Iterator<Item = f32> + 'a {
        self.codes.iter().map(move |code| self.value(*code))
    }

    /// Minus the log-probability of the token that follows the row.
    pub fn nll(self, next: u32) -> f32 {
        self.nll.unwrap_or_else(|| -self.value(self.codes[next as usize]))
    }

    fn value(self, code: [u8; 2]) -> f32 {
        self.scale * f32::from(u16::from_le_bytes(code)) + self.min
    }
}

/// The stored form of a row of logits.
pub fn encode_row(logits: &[f32]) -> Vec<u8> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let least = logits.iter().copied().fold(f32::INFINITY, f32::min);
    let min = least.max(max - LOG_PROB_RANGE);
    let scale = (max - min) / f32::from(u16::MAX);
    let min_log_prob = (f64::from(min) - log_sum_exp(logits)) as f32;
    let mut bytes = Vec::with_capacity(ROW_HEADER + 2 * logits.len() + 2);
    bytes.extend(scale.to_le_bytes());
    bytes.extend(min_log_prob.to_le_bytes());
    let per_step = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    // The cast keeps to the range of u16.
    let code = |logit: &f32| ((logit - min) * per_step).round() as u16;
    bytes.extend(logits.iter().flat_map(|logit| code(logit).to_le_bytes()));
    if !logits.len().is_multiple_of(2) {
        bytes.extend([0; 2]);
    }
    bytes
}

/// A file being written.
pub struct Writer {
    path: PathBuf,
    out: NewFile,
    /// Of the rows so far.
    nll: Vec<f32>,
}

impl Writer {
    /// Begins the file with its layout and the tokens of all chunks; `inputs` and `force` are as those
    /// of [`NewFile::create`].
    ///
    /// # Errors
    /// As there.
    pub fn create(
        path: &Path,
        layout: Layout,
        tokens: &[u32],
        inputs: &[&Path],
        force: bool,
    ) -> anyhow::Result<Writer> {
        let n_bytes = layout.rows_end().map_or(u64::MAX, |end| end + layout.nll_bytes());
        let out = NewFile::create(path, inputs, n_bytes, force)?;
        let mut writer = Writer { path: path.to_owned(), out, nll: Vec::new() };
        writer.write(MAGIC)?;
        for value in [layout.n_ctx, layout.n_vocab, layout.n_chunks].iter().chain(tokens) {
            writer.write(&value.to_le_bytes())?;
        }
        Ok(writer)
    }

    /// Appends a row of [`encode_row`], whose next token has the log-probability `-nll`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn row(&mut self, row: &[u8], nll: f64) -> anyhow::Result<()> {
        self.nll.push(nll as f32);
        self.write(row)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.write(NLL_MAGIC)?;
        for nll in std::mem::take(&mut self.nll) {
            self.write(&nll.to_le_bytes())?;
        }
        self.out.finish()
    }

    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.out.write_all(bytes).with_context(|| format!("writing {}", self.path.display()))
    }
}

/// A file being read.
pub struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    layout: Layout,
    tokens: Vec<u32>,
    /// Of each row; empty where the file does not have it.
    nll: Vec<f32>,
    /// Bytes of the rows read last.
    rows: Vec<u8>,
    n_rows_read: usize,
}

impl Reader {
    /// Opens the file and reads all but its rows.
    ///
    /// # Errors
    /// The file cannot be read, is no such file, or is not as long as its sizes say.
    pub fn open(path: &Path) -> anyhow::Result<Reader> {
        let name = || path.display().to_string();
        let file = File::open(path).with_context(name)?;
        let n_bytes = file.metadata().with_context(name)?.len();
        let mut file = BufReader::new(file);
        let mut header = [0; HEADER_BYTES as usize];
        if file.read_exact(&mut header).is_err() || !header.starts_with(MAGIC) {
            let what = format!("{}: not a file of saved logits", path.display());
            return Err(report::with_hint(what, "--save-logits writes one"));
        }
        let (_, sizes) = header.split_at(MAGIC.len());
        let sizes: Vec<u32> =
            sizes.as_chunks().0.iter().map(|raw| u32::from_le_bytes(*raw)).collect();
        let layout = Layout { n_ctx: sizes[0], n_vocab: sizes[1], n_chunks: sizes[2] };
        let Layout { n_ctx, n_vocab, n_chunks } = layout;
        if n_ctx < 3 || n_vocab == 0 || n_chunks == 0 {
            anyhow::bail!(
                "{}: {n_chunks} chunks of {n_ctx} tokens with {n_vocab} logits make no base",
                path.display()
            );
        }
        let rows_end = layout.rows_end();
        let is_ours = rows_end.and_then(|n| n.checked_add(layout.nll_bytes())) == Some(n_bytes);
        if !is_ours && rows_end != Some(n_bytes) {
            let needed = rows_end.map_or("more than any file".into(), |n| n.to_string());
            let what = format!(
                "{}: {n_chunks} chunks of {n_ctx} tokens with {n_vocab} logits take {needed} bytes, \
                 the file has {n_bytes}",
                path.display()
            );
            return Err(report::with_hint(what, "the file is incomplete or damaged; save it anew"));
        }
        // The file is as long as it says, so memory is not taken for what is not there.
        let tokens = words(&mut file, n_ctx as usize * n_chunks as usize, u32::from_le_bytes);
        let mut reader = Reader {
            path: path.to_owned(),
            tokens: tokens.with_context(name)?,
            nll: Vec::new(),
            rows: Vec::new(),
            n_rows_read: 0,
            file,
            layout,
        };
        if is_ours {
            reader.read_nll()?;
        }
        Ok(reader)
    }

    /// Reads what is behind the rows, and comes back to them.
    fn read_nll(&mut self) -> anyhow::Result<()> {
        let name = || self.path.display().to_string();
        let (file, layout) = (&mut self.file, self.layout);
        file.seek(SeekFrom::End(-(layout.nll_bytes() as i64))).with_context(name)?;
        let mut magic = [0; NLL_MAGIC.len()];
        file.read_exact(&mut magic).with_context(name)?;
        self.nll = words(file, layout.n_rows() as usize, f32::from_le_bytes).with_context(name)?;
        file.seek(SeekFrom::Start(layout.head_bytes())).with_context(name)?;
        let is_nll = |nll: &f32| nll.is_finite() && *nll > -1e-3;
        if &magic != NLL_MAGIC || !self.nll.iter().all(is_nll) {
            anyhow::bail!("{}: the part behind the rows is damaged", self.path.display());
        }
        Ok(())
    }

    /// Its sizes.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Token ids of all chunks.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The next `n` rows.
    ///
    /// # Errors
    /// The file cannot be read, or a row holds no log-probabilities.
    pub fn rows(&mut self, n: usize) -> anyhow::Result<Vec<SavedRow<'_>>> {
        let row_bytes = self.layout.row_bytes();
        self.rows.resize(n * row_bytes, 0);
        self.file.read_exact(&mut self.rows).with_context(|| self.path.display().to_string())?;
        let first = self.n_rows_read;
        self.n_rows_read += n;
        let n_vocab = self.layout.n_vocab as usize;
        let row = |(idx, bytes)| {
            let nll = self.nll.get(idx).copied();
            let row = SavedRow::new(bytes, n_vocab).map(|row| SavedRow { nll, ..row });
            let path = self.path.display();
            row.with_context(|| format!("{path}: row {idx} holds no log-probabilities"))
        };
        (first..).zip(self.rows.chunks_exact(row_bytes)).map(row).collect()
    }
}

/// `n` numbers of four bytes.
fn words<T>(file: &mut impl Read, n: usize, decode: fn([u8; 4]) -> T) -> std::io::Result<Vec<T>> {
    let mut raw = vec![0; 4 * n];
    file.read_exact(&mut raw)?;
    Ok(raw.as_chunks().0.iter().map(|raw| decode(*raw)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scores::compare;

    #[test]
    fn rows_survive_up_to_rounding() {
        let logits = [3.0, -2.5, 0.25, 1.0, 2.999];
        let bytes = encode_row(&logits);
        assert_eq!(bytes.len(), Layout { n_ctx: 3, n_vocab: 5, n_chunks: 1 }.row_bytes());
        let row = SavedRow::new(&bytes, 5).unwrap();
        let log_sum = log_sum_exp(&logits) as f32;
        for (found, logit) in row.log_probs().zip(logits) {
            assert!((found - (logit - log_sum)).abs() <= 5.5 / 65535.0, "{found} {logit}");
        }
        let same = compare(&logits, row, 1);
        assert!(same.kl.abs() < 1e-7 && same.same_top, "{same:?}");
        assert!((same.nll - same.nll_base).abs() < 1e-4, "{same:?}");
    }

    #[test]
    fn improbable_tokens_are_stored_at_the_bound() {
        let bytes = encode_row(&[0.0, -40.0, f32::NEG_INFINITY]);
        let row = SavedRow::new(&bytes, 3).unwrap();
        assert_eq!([0, 1, 2].map(|id| row.nll(id).round()), [0.0, 16.0, 16.0]);
        assert_eq!(SavedRow { nll: Some(40.0), ..row }.nll(1), 40.0, "the exact value counts");
        let equal = encode_row(&[7.0; 4]);
        let row = SavedRow::new(&equal, 4).unwrap();
        assert!((row.nll(3) - 4f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn divergence_of_known_distributions() {
        // Base 1/2, 1/2; this 1/4, 3/4.
        let bytes = encode_row(&[0.0, 0.0]);
        let row = SavedRow::new(&bytes, 2).unwrap();
        let found = compare(&[0.0, 3f32.ln()], row, 0);
        let expected = 0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln();
        assert!((found.kl - expected).abs() < 1e-6, "{found:?}");
        assert!((found.p_difference() + 0.25).abs() < 1e-6, "{found:?}");
        assert!(found.same_top, "the base holds both for equal");
        let bytes = encode_row(&[1.0, 0.0]);
        assert!(!compare(&[0.0, 1.0], SavedRow::new(&bytes, 2).unwrap(), 0).same_top);
    }

    #[test]
    fn rows_of_other_numbers_are_refused() {
        let row = |scale: f32, min: f32| {
            let bytes = [&scale.to_le_bytes()[..], &min.to_le_bytes(), &[0; 4]].concat();
            SavedRow::new(&bytes, 2).is_some()
        };
        assert!(row(1e-5, -3.0) && row(0.0, 0.0));
        for (scale, min) in [
            (f32::NAN, 0.0),
            (0.0, f32::NAN),
            (f32::INFINITY, -1.0),
            (0.0, f32::NEG_INFINITY),
            (-1.0, 0.0),
            (1.0, 0.0),
        ] {
            assert!(!row(scale, min), "{scale} {min}");
        }
        assert!(SavedRow::new(&[0; 11], 2).is_none());
    }
}
