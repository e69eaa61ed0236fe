//! Steering an answer from outside: grammars, schemas, thinking budgets, choices.
//!
//! A [`Steer`] belongs to one request. Before a token is chosen it says what is [`Allowed`], and
//! afterwards it is told which token joined the text. The engine knows nothing of what it enforces.

use std::error::Error;

/// What may come next in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed<'a> {
    /// Every token, those that end the generation included.
    Any,
    /// The tokens whose bit is set: bit `id % 32` of word `id / 32`. Ids past the last word are not
    /// allowed. Tokens that end the generation are allowed like any other: where their bit is set.
    Mask(&'a [u32]),
    /// This token, whatever the logits say: spliced text.
    Forced(u32),
    /// Nothing: the text is complete.
    End,
}

/// Says what may come next in the text of one request.
pub trait Steer: Send {
    /// What may come next. It may be asked again before a token joins the text, so an answer that is
    /// dear to compute is worth keeping until then. In steady state it should allocate nothing.
    ///
    /// # Errors
    /// Ends this request with [`Event::Failed`](crate::Event::Failed); others go on.
    fn next(&mut self) -> Result<Allowed<'_>, SteerError>;

    /// The token that joined the text, or ends it.
    ///
    /// # Errors
    /// As [`Steer::next`].
    fn accept(&mut self, id: u32) -> Result<(), SteerError>;
}

/// Why a text cannot be steered any further.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// The answer cannot go on: nothing that the constraint allows can follow.
    #[error("the constraint on the answer cannot be met: {0}")]
    Stuck(String),
    /// Limits of the constraint's own, such as time or size, were exceeded.
    #[error("the constraint on the answer takes too much: {0}")]
    TooLarge(String),
    /// The token is not in the vocabulary.
    #[error("the constraint forces token {id}; the model's ids are below {n_vocab}")]
    TokenId {
        /// The token.
        id: u32,
        /// Rows of the model's embedding.
        n_vocab: u32,
    },
    /// Anything else.
    #[error(transparent)]
    Other(Box<dyn Error + Send + Sync>),
}
