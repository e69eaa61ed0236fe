//! A text cut into pieces of one context each, as perplexity and importance matrices are computed:
//! the same pieces as llama.cpp's tools, so that figures can be compared.

use std::path::Path;

use zinc_engine::Model;
use zinc_token::EncodeOptions;

use crate::{input, model, report};

/// Tokens of a piece when nothing else says: what published figures use.
const N_CTX: u32 = 512;

/// Tokens of a piece for `model`, if it was trained for as many.
pub fn default_n_ctx(model: &Model) -> u32 {
    N_CTX.min(model.config().n_ctx_train)
}

/// Pieces of a text, each computed as a sequence of its own.
pub struct TextChunks {
    /// Token ids, [`TextChunks::n_ctx`] for each piece.
    tokens: Vec<u32>,
    n_ctx: usize,
    /// Takes the place of each piece's first token where the vocabulary begins texts with one.
    bos: Option<u32>,
}

impl TextChunks {
    /// Reads the text at `path` and cuts it into at most `n_chunks_max` pieces of `n_ctx` tokens;
    /// what is left at the end is not used.
    ///
    /// # Errors
    /// The text cannot be read or is shorter than one piece; the model was trained for less.
    pub fn read(
        path: &Path,
        model: &Model,
        n_ctx: u32,
        n_chunks_max: Option<u32>,
    ) -> anyhow::Result<TextChunks> {
        check_context(model, n_ctx)?;
        let text = input::read_text(path)?;
        let options = EncodeOptions { add_special: true, parse_special: false };
        let mut tokens = model.tokenizer().encode(&text, options);
        let n_chunks = tokens.len() / n_ctx as usize;
        if n_chunks == 0 {
            let what = format!(
                "{}: the text has {} tokens, --ctx {n_ctx} needs at least {n_ctx}",
                path.display(),
                tokens.len()
            );
            return Err(report::with_hint(what, "give a longer text, or a smaller --ctx"));
        }
        let n_chunks = n_chunks_max.map_or(n_chunks, |most| n_chunks.min(most as usize));
        tokens.truncate(n_chunks * n_ctx as usize);
        TextChunks::of_tokens(tokens, model, n_ctx)
    }

    /// Pieces of tokens that are there already.
    ///
    /// # Errors
    /// The model was trained for less than `n_ctx` tokens.
    pub fn of_tokens(tokens: Vec<u32>, model: &Model, n_ctx: u32) -> anyhow::Result<TextChunks> {
        check_context(model, n_ctx)?;
        let tokenizer = model.tokenizer();
        let bos = tokenizer.vocab().bos().filter(|_| tokenizer.adds_bos());
        Ok(TextChunks { tokens, n_ctx: n_ctx as usize, bos })
    }

    /// Number of pieces.
    pub fn len(&self) -> usize {
        self.tokens.len() / self.n_ctx
    }

    /// Tokens of a piece.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// All tokens, as the text has them.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The tokens of each piece as the model gets them.
    pub fn iter(&self) -> impl Iterator<Item = Vec<u32>> {
        self.tokens.chunks_exact(self.n_ctx).map(|chunk| {
            let mut chunk = chunk.to_vec();
            if let Some(bos) = self.bos {
                chunk[0] = bos;
            }
            chunk
        })
    }
}

fn check_context(model: &Model, n_ctx: u32) -> anyhow::Result<()> {
    let what = format!("pieces of {n_ctx} tokens");
    model::check_context(model, n_ctx.into(), &what, "give a smaller --ctx")
}
