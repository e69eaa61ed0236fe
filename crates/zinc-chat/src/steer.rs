//! Steering an answer; a local copy of the engine's trait.

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
    /// What may come next; may be asked again before a token joins the text.
    ///
    /// # Errors
    /// Ends the request.
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
}
