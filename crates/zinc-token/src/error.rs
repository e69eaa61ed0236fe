//! What can go wrong when a tokenizer is built.

use thiserror::Error;

/// Why a vocabulary cannot become a tokenizer. Encoding and decoding themselves never fail.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// A metadata key has a type the tokenizer cannot use.
    #[error("tokenizer metadata: {0}")]
    Metadata(String),
    /// A key without which no tokenizer can be built.
    #[error(
        "`{key}` is missing: this file holds no usable vocabulary \
         (hint: convert the model again, or name a file that includes its tokenizer)"
    )]
    MissingKey {
        /// The GGUF key.
        key: &'static str,
    },
    /// A tokenizer algorithm that zinc does not implement.
    #[error(
        "`tokenizer.ggml.model` is \"{model}\", which zinc does not support \
         (supported: \"gpt2\", \"llama\", \"gemma4\")"
    )]
    UnsupportedModel {
        /// The value of `tokenizer.ggml.model`.
        model: String,
    },
    /// A pre-tokenizer name that zinc does not know; guessing would change the model's input.
    #[error("`tokenizer.ggml.pre` is \"{name}\", which zinc does not know (known: {known})")]
    UnknownPreTokenizer {
        /// The value of `tokenizer.ggml.pre`.
        name: String,
        /// Every known name, separated by commas.
        known: String,
    },
    /// A per-token array does not have one element per token.
    #[error("`{key}` has {found} elements, but the vocabulary has {n_tokens} tokens")]
    ArrayLength {
        /// The GGUF key of the array.
        key: &'static str,
        /// Elements found.
        found: usize,
        /// Elements needed.
        n_tokens: usize,
    },
    /// The vocabulary is empty or too large to number tokens and merges with 32 bits.
    #[error(
        "the vocabulary has {n_tokens} tokens and {n_merges} merges; supported are 1 to 2^28 of each"
    )]
    VocabularySize {
        /// Number of tokens.
        n_tokens: usize,
        /// Number of merges.
        n_merges: usize,
    },
}
